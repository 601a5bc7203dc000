//! How long syncs took: a histogram that any thread reads without waiting for the writer, and the complaint about a
//! slow disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use barque_store_env::Instant;

use crate::limits::{SYNC_SLOW, SYNC_SLOW_PAUSE};

/// Upper bounds of the buckets in seconds, each included; one more bucket takes what is longer. They are those of
/// `etcd_disk_wal_fsync_duration_seconds`.
pub const SYNC_BOUNDS_SECONDS: [f64; 14] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096,
    8.192,
];
const BUCKETS: usize = SYNC_BOUNDS_SECONDS.len() + 1;

/// How long the batches' fdatasyncs took since the log was opened, the write into the page cache included (both are
/// one step to the disk). Those of filling ahead are not counted: nobody waits for them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SyncTimes {
    pub count: u64,
    pub sum_seconds: f64,
    /// Syncs by duration, not cumulated: `buckets[i]` took at most [`SYNC_BOUNDS_SECONDS`]`[i]` and longer than the
    /// bound before; the last one took longer than all bounds. They add up to `count`.
    pub buckets: [u64; BUCKETS],
}

/// What the writer counts in.
#[derive(Debug, Default)]
pub struct SyncClock {
    nanos: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
    /// When the writer began what it is at; 0: it waits for something to write.
    writing: AtomicU64,
}

impl SyncClock {
    pub fn begin(&self, now: Instant) {
        self.writing.store(now.0.max(1), Ordering::Relaxed);
    }
    pub fn done(&self) {
        self.writing.store(0, Ordering::Relaxed);
    }
    pub fn writing_since(&self) -> Option<Instant> {
        let since = self.writing.load(Ordering::Relaxed);
        (since != 0).then_some(Instant(since))
    }
    pub fn note(&self, took: Duration) {
        let bucket = SYNC_BOUNDS_SECONDS
            .iter()
            .position(|bound| took <= Duration::from_secs_f64(*bound))
            .unwrap_or(BUCKETS - 1);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub fn read(&self) -> SyncTimes {
        let buckets: [u64; BUCKETS] =
            std::array::from_fn(|i| self.buckets[i].load(Ordering::Relaxed));
        SyncTimes {
            count: buckets.iter().sum(),
            sum_seconds: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)).as_secs_f64(),
            buckets,
        }
    }
}

/// Decides when a slow sync is worth a line in the log.
#[derive(Debug, Default)]
pub struct Complaint {
    last: Option<Instant>,
    /// Slow syncs since then that were not reported.
    unreported: u64,
}

impl Complaint {
    /// The number of slow syncs to report, this one included; `None` when nothing is to be said at `now`.
    pub fn note(&mut self, now: Instant, took: Duration) -> Option<u64> {
        if took <= SYNC_SLOW {
            return None;
        }
        self.unreported += 1;
        let early = |last| now.saturating_since(last) < SYNC_SLOW_PAUSE;
        if self.last.is_some_and(early) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unreported))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_falls_into_its_bucket() {
        let clock = SyncClock::default();
        for (i, bound) in SYNC_BOUNDS_SECONDS.iter().enumerate() {
            let bound = Duration::from_secs_f64(*bound);
            assert_eq!(
                bound.as_micros(),
                1_000 << i,
                "powers of two of a millisecond"
            );
            clock.note(bound);
            clock.note(bound + Duration::from_nanos(1));
        }
        let times = clock.read();
        assert_eq!(times.count, 28);
        assert_eq!(times.buckets, [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1]);
        assert!((times.sum_seconds - 2.0 * 16.383).abs() < 1e-6, "{times:?}");
    }

    #[test]
    fn a_slow_disk_is_reported_now_and_then() {
        let mut complaint = Complaint::default();
        let at = |ms: u64| Instant(0) + Duration::from_millis(ms);
        let slow = Duration::from_millis(1_001);
        assert_eq!(complaint.note(at(0), Duration::from_secs(1)), None);
        assert_eq!(complaint.note(at(1), slow), Some(1));
        assert_eq!(complaint.note(at(2_000), slow), None);
        assert_eq!(complaint.note(at(9_999), slow), None);
        assert_eq!(complaint.note(at(10_001), slow), Some(3));
        assert_eq!(complaint.note(at(10_002), slow), None);
    }
}
