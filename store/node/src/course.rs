//! What the worker has under way: batches that were proposed or forwarded, and the numbers of the commands in them.
//! Not here: when a batch is begun, what becomes of its answers (`worker`).

use std::collections::BTreeSet;
use std::pin::Pin;

use barque_store_consensus::Run;
use barque_store_env::Instant;
use barque_store_state::*;
use futures::stream::FuturesUnordered;

use crate::queue::{Failure, Number, Reply, Waiting};

/// A batch on its way, and what became of each of its commands.
pub(crate) type Decision = Pin<Box<dyn Future<Output = Decided> + Send>>;

pub(crate) struct Decided {
    pub(crate) batch: Vec<Waiting>,
    pub(crate) results: Vec<Result<Outcome, Failure>>,
    /// What it counted for under the quota while it was on its way.
    pub(crate) growth: u64,
    /// What the ledger was told when it was proposed here.
    pub(crate) origins: Vec<Origin>,
    /// The lowest of this member's own numbers in it.
    pub(crate) lowest: Option<u64>,
}

impl Decided {
    pub(crate) fn changes_members(&self) -> bool {
        let changes = |waiting: &Waiting| matches!(waiting.command, Command::Members(_));
        self.batch.iter().any(changes)
    }
}

/// What is under way.
pub(crate) struct Course {
    pub(crate) batches: FuturesUnordered<Decision>,
    /// Growth that is proposed here and not known to be applied.
    pub(crate) growing: u64,
    /// A change of members is proposed here and not known to be applied.
    pub(crate) changing: bool,
    /// The number of the command that is sent for the first time next.
    pub(crate) next: u64,
    /// The lowest number of each batch that has any.
    pub(crate) lowest: BTreeSet<u64>,
}

impl Course {
    pub(crate) fn new() -> Self {
        Course {
            batches: FuturesUnordered::new(),
            growing: 0,
            changing: false,
            next: 1,
            lowest: BTreeSet::new(),
        }
    }

    /// Gives numbers to those that have none.
    pub(crate) fn number(&mut self, batch: &mut [Waiting], since: u64) {
        for waiting in batch {
            // A forwarded one without a number is of a program that gives none.
            if waiting.number.is_none() && !matches!(waiting.reply, Reply::Peer(_)) {
                waiting.number = Some(Number {
                    number: self.next,
                    from: None,
                    since: LogIndex(since),
                    again: false,
                });
                self.next += 1;
            }
        }
    }

    /// Notes that these are under way. The lowest of this member's own numbers among them.
    pub(crate) fn begin(&mut self, batch: &[Waiting]) -> Option<u64> {
        let lowest = batch.iter().filter_map(Waiting::own_number).min();
        self.lowest.extend(lowest);
        lowest
    }
}

/// The numbers of a batch that is forwarded. All its commands have one.
pub(crate) fn runs(batch: &[Waiting]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for number in batch.iter().filter_map(|waiting| waiting.number) {
        match runs.last_mut() {
            Some(last)
                if last.first + u64::from(last.count) == number.number
                    && last.again == number.again =>
            {
                last.count += 1;
                last.since = last.since.min(number.since);
            }
            Some(_) | None => runs.push(Run {
                first: number.number,
                count: 1,
                again: number.again,
                since: number.since,
            }),
        }
    }
    runs
}

pub(crate) fn latest(batch: &[Waiting]) -> Instant {
    batch.iter().map(|w| w.deadline).max().unwrap_or(Instant(0))
}
