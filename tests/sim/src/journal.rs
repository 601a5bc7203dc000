//! What happened in a run: one line per event, counts, and the first violation.

use barque_store_env::sim;
use parking_lot::Mutex;

use crate::faults::{KINDS, Kind};

/// What a run did, for its report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub operations: u64,
    pub acknowledged: u64,
    pub unknown: u64,
    /// Runs in which the search for an order of a register's operations, without their revisions, was given up.
    pub undecided: u64,
    /// Linearizable reads by observers.
    pub observed: u64,
    pub transfers: u64,
    pub watch_events: u64,
    pub reconnects: u64,
    /// Watches that a compaction ended.
    pub compacted_watches: u64,
    pub compactions: u64,
    /// Hashes of one place that two members were asked for and that were equal.
    pub equal_hashes: u64,
    pub leases: u64,
    pub renewals: u64,
    pub expiries: u64,
    pub leaders: u64,
    /// Members that ended, or refused to start, as a fault demanded.
    pub ended: u64,
    /// Starts that took the state anew from another member.
    pub renewed: u64,
    /// Faults that fired, by kind.
    pub faults: Fired,
}

/// How often each kind of fault fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fired(pub [u64; KINDS]);
impl Default for Fired {
    fn default() -> Self {
        Fired([0; KINDS])
    }
}

impl Counts {
    pub fn all_faults(&self) -> u64 {
        self.faults.0.iter().sum()
    }
    pub fn add(&mut self, other: &Counts) {
        let Counts {
            operations,
            acknowledged,
            unknown,
            undecided,
            observed,
            transfers,
            watch_events,
            reconnects,
            compacted_watches,
            compactions,
            equal_hashes,
            leases,
            renewals,
            expiries,
            leaders,
            ended,
            renewed,
            faults,
        } = other;
        self.operations += operations;
        self.acknowledged += acknowledged;
        self.unknown += unknown;
        self.undecided += undecided;
        self.observed += observed;
        self.transfers += transfers;
        self.watch_events += watch_events;
        self.reconnects += reconnects;
        self.compacted_watches += compacted_watches;
        self.compactions += compactions;
        self.equal_hashes += equal_hashes;
        self.leases += leases;
        self.renewals += renewals;
        self.expiries += expiries;
        self.leaders += leaders;
        self.ended += ended;
        self.renewed += renewed;
        for (sum, more) in self.faults.0.iter_mut().zip(faults.0) {
            *sum += more;
        }
    }
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
    pub fn fault(&self, kind: Kind) {
        self.count(|c| c.faults.0[kind as usize] += 1);
    }

    pub fn counts(&self) -> Counts {
        *self.counts.lock()
    }
}
