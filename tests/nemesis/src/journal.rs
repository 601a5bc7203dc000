//! What all clients of a run share: the clock, where members are, what they were told, and the violations seen so far.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use barque_tests_checkers::{Acknowledged, Life, Operation, Placed};
use parking_lot::Mutex;

use crate::history::{Plain, Row};
use crate::limits::VIOLATIONS_MAX;

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
