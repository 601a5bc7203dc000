//! What all clients of a run share: the clock, where members are, what they were told, and the violations seen so far.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use barque_tests_checkers::{Acknowledged, Life, Operation, Placed};
use parking_lot::Mutex;

use crate::history::{Plain, Row};
use crate::limits::{ERRORS_MAX, REQUEST, REQUEST_SHORT, VIOLATIONS_MAX};

/// A reading of keys that must equal the state at its revision.
#[derive(Clone, Debug)]
pub struct Sample {
    pub revision: u64,
    /// Key and end, as in a request.
    pub range: (Vec<u8>, Vec<u8>),
    pub limit: u64,
    pub count: u64,
    pub rows: Vec<Row>,
}

/// A HashKV answer.
#[derive(Clone, Copy, Debug)]
pub struct HashSample {
    pub member: usize,
    pub revision: u64,
    /// -1 before the first compaction.
    pub compacted: i64,
    pub hash: u32,
    /// The highest compaction that was acknowledged when it was asked for.
    pub acknowledged_compaction: u64,
}

/// A range that was deleted in one request, and how many keys the answer said.
#[derive(Clone, Debug)]
pub struct Cleared {
    pub revision: u64,
    pub prefix: String,
    pub deleted: u64,
}

#[derive(Default)]
pub struct Told {
    pub operations: Vec<Operation>,
    pub placed: Vec<Placed>,
    pub acknowledged: Vec<Acknowledged<Plain>>,
    /// Numbers of values whose write nobody confirmed.
    pub unknown_values: BTreeSet<u64>,
    /// Deletions, revocations, grants without an answer.
    pub unknown_others: u64,
    pub samples: Vec<Sample>,
    pub hashes: Vec<HashSample>,
    pub cleared: Vec<Cleared>,
    pub lives: Vec<Life>,
    pub compactions_asked: BTreeSet<u64>,
    pub compactions_acknowledged: u64,
    pub reconnects: u64,
    /// Answers that do not ask the leader (HashKV, serializable reads) of a member that had not yet caught up with what was already
    /// acknowledged: allowed, and worth knowing.
    pub behind: u64,
    /// What requests without a known outcome ended with, and how many.
    pub errors: BTreeMap<String, u64>,
    violations: Vec<String>,
    violations_more: usize,
}

pub struct Journal {
    began: Instant,
    pub endpoints: Vec<String>,
    calm: AtomicBool,
    stopped: AtomicBool,
    pub told: Mutex<Told>,
    pub register_operations: AtomicU64,
    /// How many values each client may have written, by its number.
    pub made: Vec<AtomicU64>,
    /// The highest compaction asked for, and acknowledged.
    pub compaction_asked: AtomicU64,
    pub compaction_acknowledged: AtomicU64,
    /// A revision that surely exists.
    pub known_revision: AtomicU64,
    /// Writes acknowledged so far, when the last one was, and the longest time without one since that was last asked for.
    writes: AtomicU64,
    wrote_at: AtomicU64,
    gap: AtomicU64,
}

impl Journal {
    pub fn new(endpoints: Vec<String>, clients: usize) -> Self {
        Journal {
            began: Instant::now(),
            endpoints,
            calm: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            told: Mutex::default(),
            register_operations: AtomicU64::new(0),
            made: (0..clients).map(|_| AtomicU64::new(0)).collect(),
            compaction_asked: AtomicU64::new(0),
            compaction_acknowledged: AtomicU64::new(0),
            known_revision: AtomicU64::new(1),
            writes: AtomicU64::new(0),
            wrote_at: AtomicU64::new(0),
            gap: AtomicU64::new(0),
        }
    }

    /// Nanoseconds since the run began.
    pub fn now(&self) -> u64 {
        nanos(self.began.elapsed())
    }

    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::SeqCst)
    }
    /// No more new work.
    pub fn calm_down(&self) {
        self.calm.store(true, Ordering::SeqCst);
    }
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }
    /// No more watching either.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// How long a client waits now. With several members a client that waits for a dead one is of no use while there is load.
    pub fn patience(&self) -> Duration {
        if self.endpoints.len() > 1 && !self.is_calm() {
            REQUEST_SHORT
        } else {
            REQUEST
        }
    }

    /// A write was acknowledged just now.
    pub fn wrote(&self) {
        let now = self.now();
        let before = self.wrote_at.swap(now, Ordering::SeqCst);
        let gap = now.saturating_sub(before);
        self.gap.fetch_max(gap, Ordering::SeqCst);
        self.writes.fetch_add(1, Ordering::SeqCst);
    }

    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    /// The longest time without an acknowledged write since this was last asked, the one that has not ended included.
    pub fn take_gap(&self) -> Duration {
        let now = self.now();
        let open = now.saturating_sub(self.wrote_at.swap(now, Ordering::SeqCst));
        let closed = self.gap.swap(0, Ordering::SeqCst);
        Duration::from_nanos(open.max(closed))
    }

    /// Counts a request that ended without a known outcome.
    pub fn went_wrong(&self, how: &str) {
        let mut told = self.told.lock();
        let known = told.errors.contains_key(how) || told.errors.len() < ERRORS_MAX;
        let how = if known { how } else { "others" };
        *told.errors.entry(how.to_owned()).or_default() += 1;
    }

    pub fn saw_revision(&self, revision: u64) {
        self.known_revision.fetch_max(revision, Ordering::SeqCst);
    }

    /// Something that must never happen.
    pub fn violation(&self, what: impl Into<String>) {
        let mut told = self.told.lock();
        if told.violations.len() < VIOLATIONS_MAX {
            told.violations.push(what.into());
        } else {
            told.violations_more += 1;
        }
    }

    pub fn violations(&self) -> Vec<String> {
        let told = self.told.lock();
        let mut all = told.violations.clone();
        if told.violations_more > 0 {
            all.push(format!("and {} more", told.violations_more));
        }
        all
    }
}

pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
