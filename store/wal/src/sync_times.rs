//! How long syncs took, for any thread to read without waiting for the writer, and the complaint about a slow disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use barque_store_env::{Durations, Histogram, Instant};

use crate::limits::{SYNC_SLOW, SYNC_SLOW_PAUSE};

/// What the writer counts in.
#[derive(Debug, Default)]
pub struct SyncClock {
    times: Histogram,
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
        self.times.note(took);
    }
    pub fn read(&self) -> Durations {
        self.times.read()
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
