//! Markdown of the scenarios' reports: the same head, and rows of both sides with how many times better Barque is.

use std::fmt::Write;

use crate::find::Programs;
use crate::machine::Machine;

/// Whether more of a figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    More,
    Less,
}

pub struct Table {
    out: String,
}

impl Table {
    pub fn new(what: &str, machine: &Machine, programs: &Programs) -> Table {
        let mut out = String::new();
        let both = format!("{} / {}", programs.barque_version, programs.etcd_version);
        write!(
            out,
            "{what}\nmachine: {machine}\nagainst each other: {both} (default flags)\n\n\
             | | barque | etcd | barque is |\n|---|---:|---:|---:|\n"
        )
        .expect("a String takes everything");
        Table { out }
    }

    /// A figure of both, with the ratio: above 1 is in Barque's favour, whatever the figure.
    pub fn both(&mut self, name: &str, barque: f64, etcd: f64, better: Better) {
        let advantage = match better {
            Better::More => barque / etcd,
            Better::Less => etcd / barque,
        };
        let ratio = if advantage.is_finite() {
            format!("{advantage:.2}x")
        } else {
            "-".into()
        };
        self.row(name, &figure(barque), &figure(etcd), &ratio);
    }

    pub fn row(&mut self, name: &str, barque: &str, etcd: &str, ratio: &str) {
        let row = format!("| {name} | {barque} | {etcd} | {ratio} |\n");
        self.out.push_str(&row);
    }

    pub fn note(&mut self, text: &str) {
        self.out.push('\n');
        self.out.push_str(text);
        self.out.push('\n');
    }

    pub fn text(self) -> String {
        self.out + "\n\"barque is\" is above 1 where barque is better."
    }
}

/// Three digits that matter.
fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_in_barques_favour_above_one() {
        let mut table = Table { out: String::new() };
        table.both("reads/s", 300.0, 100.0, Better::More);
        table.both("ms", 1.5, 3.0, Better::Less);
        table.both("nothing", 0.0, 0.0, Better::Less);
        let text = table.text();
        assert!(text.contains("| reads/s | 300 | 100 | 3.00x |"), "{text}");
        assert!(text.contains("| ms | 1.50 | 3.00 | 2.00x |"), "{text}");
        assert!(text.contains("| nothing | 0.00 | 0.00 | - |"), "{text}");
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }
}
