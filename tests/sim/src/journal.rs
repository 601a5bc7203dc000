//! What happened in a run: one line per event, and the first violation.

use barque_store_env::sim;
use parking_lot::Mutex;

/// What a run did, for its report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub operations: u64,
    pub acknowledged: u64,
    pub unknown: u64,
    pub watch_events: u64,
    pub reconnects: u64,
    pub leaders: u64,
    pub faults: u64,
}

pub struct Journal {
    verbose: bool,
    counts: Mutex<Counts>,
    violation: Mutex<Option<String>>,
}

/// Marks a line at the harness's own place.
pub const HARNESS: &str = "--";

impl Journal {
    pub fn new(verbose: bool) -> Self {
        Journal {
            verbose,
            counts: Mutex::default(),
            violation: Mutex::default(),
        }
    }

    /// One event, at a machine's name. It becomes part of the trace.
    pub fn event(&self, place: impl std::fmt::Display, what: impl AsRef<str>) {
        let what = what.as_ref();
        let digest = what.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        sim::note(digest);
        if self.verbose {
            let ms = sim::elapsed().as_micros() as f64 / 1_000.0;
            println!("{ms:>10.1}  {place:<3} {what}");
        }
    }

    /// Something that must never happen. The first one ends the run.
    pub fn violation(&self, what: impl Into<String>) {
        let what = what.into();
        self.event(HARNESS, format!("✗ {what}"));
        self.violation.lock().get_or_insert(what);
    }

    pub fn violated(&self) -> Option<String> {
        self.violation.lock().clone()
    }

    pub fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock());
    }

    pub fn counts(&self) -> Counts {
        *self.counts.lock()
    }
}
