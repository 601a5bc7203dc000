//! Prometheus' text format ("exposition format"): heads, samples, histograms.
//! Not here: what is on a page (`metrics`).

use std::fmt::Write as _;

use barque_store_env::Durations;

/// Of the text format, as its specification has it.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Default)]
pub(crate) struct Page(String);

impl Page {
    pub fn line(&mut self, text: std::fmt::Arguments<'_>) {
        let written = self
            .0
            .write_fmt(text)
            .and_then(|()| self.0.write_char('\n'));
        debug_assert!(written.is_ok(), "writing into a String cannot fail");
    }
    pub fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }
    pub fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, "gauge", help);
        self.line(format_args!("{name} {value}"));
    }
    pub fn counter(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, "counter", help);
        self.line(format_args!("{name} {value}"));
    }
    /// A gauge of value 1 that says something in a label.
    pub fn fact(&mut self, name: &str, help: &str, label: &str, value: &str) {
        self.head(name, "gauge", help);
        self.line(format_args!("{name}{{{label}=\"{value}\"}} 1"));
    }
    /// The samples of a histogram. `label`: one label as it is written, or nothing.
    pub fn histogram(&mut self, name: &str, label: &str, durations: &Durations) {
        let comma = if label.is_empty() { "" } else { "," };
        let braced = match label {
            "" => String::new(),
            label => format!("{{{label}}}"),
        };
        let mut upto = 0;
        for (bound, count) in durations.bounds_seconds.iter().zip(&durations.buckets) {
            upto += count;
            self.line(format_args!(
                "{name}_bucket{{{label}{comma}le=\"{bound}\"}} {upto}"
            ));
        }
        let (count, sum) = (durations.count, durations.sum_seconds);
        self.line(format_args!(
            "{name}_bucket{{{label}{comma}le=\"+Inf\"}} {count}"
        ));
        self.line(format_args!("{name}_sum{braced} {sum}"));
        self.line(format_args!("{name}_count{braced} {count}"));
    }
    pub fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use barque_store_env::Histogram;

    use super::*;

    #[test]
    fn a_histogram_is_cumulated() {
        let histogram = Histogram::doubling(Duration::from_millis(1), 2);
        for ms in [1, 2, 2, 5] {
            histogram.note(Duration::from_millis(ms));
        }
        let mut page = Page::default();
        page.histogram("a", "To=\"7\"", &histogram.read());
        page.histogram(
            "b",
            "",
            &Histogram::doubling(Duration::from_millis(1), 1).read(),
        );
        assert_eq!(
            page.finish(),
            "a_bucket{To=\"7\",le=\"0.001\"} 1\n\
             a_bucket{To=\"7\",le=\"0.002\"} 3\n\
             a_bucket{To=\"7\",le=\"+Inf\"} 4\n\
             a_sum{To=\"7\"} 0.01\n\
             a_count{To=\"7\"} 4\n\
             b_bucket{le=\"0.001\"} 0\n\
             b_bucket{le=\"+Inf\"} 0\n\
             b_sum 0\n\
             b_count 0\n"
        );
    }
}
