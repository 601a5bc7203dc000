//! Markdown of the scenarios' reports: the same head, rows of both sides with how many times better Barque is, and bars.

use std::fmt::Write;

use crate::find::Programs;
use crate::machine::Machine;

/// How servers are run where nothing else is said.
pub const DEFAULT_FLAGS: &str = "default flags";

/// Whether more of a figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    More,
    Less,
}

/// A figure's name, and how it is got from what was measured.
pub type Named<T, U> = (&'static str, fn(&T) -> U);

pub struct Table {
    out: String,
}

impl Table {
    /// `flags`: those of both sides, in words.
    pub fn new(what: &str, machine: &Machine, programs: &Programs, flags: &str) -> Table {
        let mut out = String::new();
        let both = format!("{} / {}", programs.barque_version, programs.etcd_version);
        write!(
            out,
            "{what}\nmachine: {machine}\nagainst each other: {both} ({flags})\n\n\
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

    /// Median, nine tenths and most of trials of which less is better.
    pub fn spread(&mut self, name: &str, barque: &[f64], etcd: &[f64]) {
        let figures = |values: &[f64]| {
            [
                ("median", median(values.to_vec())),
                ("p90", quantile(values, 0.9)),
                ("most", most(values)),
            ]
        };
        for ((which, barque), (_, etcd)) in figures(barque).into_iter().zip(figures(etcd)) {
            self.both(&format!("{name}, {which}"), barque, etcd, Better::Less);
        }
    }

    /// What is asked of Barque: to stay at or below `most`, which `how` explains.
    pub fn bar(&mut self, name: &str, barque: f64, most: f64, how: &str) {
        let verdict = match (barque.is_nan() || most.is_nan(), barque <= most) {
            (true, _) => "not measured",
            (false, true) => "kept",
            (false, false) => "missed",
        };
        let row = format!("at most {} ({verdict})", figure(most));
        self.row(&format!("bar: {name}, {how}"), &row, "", "");
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
        v if v.is_nan() => "-".into(),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// NaN, which a table shows as a dash, of nothing; so are `most` and `quantile`.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

pub fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::max)
}

/// The least value that so large a part of them does not exceed.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
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
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn the_most_and_the_quantiles_of_few_values() {
        let ten: Vec<f64> = (1..=10).rev().map(f64::from).collect();
        assert_eq!(
            (most(&ten), quantile(&ten, 0.9), quantile(&ten, 0.91)),
            (10.0, 9.0, 10.0)
        );
        assert!(most(&[]).is_nan() && quantile(&[], 0.9).is_nan());
    }

    #[test]
    fn a_bar_is_kept_missed_or_not_measured() {
        let mut table = Table { out: String::new() };
        table.bar("gap", 99.0, 100.0, "ms");
        table.bar("gap", 101.0, 100.0, "ms");
        table.bar("gap", 1.0, f64::NAN, "0.8 of etcd's");
        let verdicts = [
            "at most 100 (kept)",
            "at most 100 (missed)",
            "at most - (not measured)",
        ];
        for verdict in verdicts {
            assert!(table.out.contains(verdict), "{}", table.out);
        }
    }
}
