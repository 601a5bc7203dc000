//! Durations counted by their size, for metrics. Atomics without order: whoever counts waits for nobody, and neither does a reader.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts durations in buckets, each twice as wide as the one before.
#[derive(Debug)]
pub struct Histogram {
    first: Duration,
    /// One more than there are bounds: the last takes what is longer than all.
    buckets: Box<[AtomicU64]>,
    nanos: AtomicU64,
}

/// What a [`Histogram`] has counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Durations {
    pub count: u64,
    pub sum_seconds: f64,
    /// Upper bounds of the buckets in seconds, each included, rising.
    pub bounds_seconds: Vec<f64>,
    /// By size, not cumulated: `buckets[i]` took at most `bounds_seconds[i]` and longer than the bound before; one more, the last,
    /// took longer than all bounds. They add up to `count`.
    pub buckets: Vec<u64>,
}

/// With the bounds of etcd's histograms of its disk: 1 ms to 8.192 s.
impl Default for Histogram {
    fn default() -> Self {
        Histogram::doubling(Duration::from_millis(1), 14)
    }
}

impl Histogram {
    /// So many bounds: `first`, then each twice the one before.
    pub fn doubling(first: Duration, bounds: usize) -> Self {
        Histogram {
            first,
            buckets: (0..=bounds).map(|_| AtomicU64::new(0)).collect(),
            nanos: AtomicU64::new(0),
        }
    }

    /// With the bounds of etcd's histogram of round trips to peers: 0.1 ms to 3.2768 s.
    pub fn of_round_trips() -> Self {
        Histogram::doubling(Duration::from_micros(100), 16)
    }

    pub fn note(&self, took: Duration) {
        let bounds = self.buckets.len() - 1;
        let bucket = self.bounds().position(|bound| took <= bound);
        self.buckets[bucket.unwrap_or(bounds)].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub fn read(&self) -> Durations {
        let of = |bucket: &AtomicU64| bucket.load(Ordering::Relaxed);
        let buckets: Vec<u64> = self.buckets.iter().map(of).collect();
        Durations {
            count: buckets.iter().sum(),
            sum_seconds: Duration::from_nanos(of(&self.nanos)).as_secs_f64(),
            bounds_seconds: self.bounds().map(|bound| bound.as_secs_f64()).collect(),
            buckets,
        }
    }

    fn bounds(&self) -> impl Iterator<Item = Duration> {
        let bounds = self.buckets.len() - 1;
        std::iter::successors(Some(self.first), |bound| Some(*bound * 2)).take(bounds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_falls_into_its_bucket() {
        let histogram = Histogram::default();
        for i in 0..14 {
            let bound = Duration::from_millis(1 << i);
            histogram.note(bound);
            histogram.note(bound + Duration::from_nanos(1));
        }
        let read = histogram.read();
        assert_eq!(read.count, 28);
        assert_eq!(read.buckets, [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1]);
        assert_eq!(read.bounds_seconds[..2], [0.001, 0.002]);
        assert_eq!(read.bounds_seconds[13..], [8.192]);
        assert!((read.sum_seconds - 2.0 * 16.383).abs() < 1e-6, "{read:?}");
        let bounds = Histogram::of_round_trips().read().bounds_seconds;
        assert_eq!((bounds[0], bounds[15]), (0.0001, 3.2768));
    }
}
