//! Commands that wait to be proposed, and where their answers go.
//! Promise: each command is answered exactly once; what waits is bounded in number and bytes, and what waits for a leader is
//! answered at its deadline. What may have been carried out is never told as refused.
//! Not here: who proposes, forwards and sends again (`worker`), what a command does.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use barque_store_consensus as consensus;
use barque_store_env::Instant;
use barque_store_state::*;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::limits::*;
use crate::space::Gate;
use crate::{Completion, CompletionSink, ProposeError};

/// Where an answer goes.
pub(crate) enum Reply {
    One(oneshot::Sender<Result<Outcome, ProposeError>>),
    Sink {
        token: u64,
        sink: Arc<dyn CompletionSink>,
    },
    /// From a follower, over the peer transport: never forwarded again.
    Peer(oneshot::Sender<Result<Outcome, consensus::ProposeError>>),
}

/// The member that forwarded a command, as it described itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) member: MemberId,
    pub(crate) boot: u64,
    pub(crate) open: u64,
    /// It may be proposed in this term only.
    pub(crate) term: u64,
}

/// The number under which a command is sent, given at its first attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Number {
    pub(crate) number: u64,
    /// Another member's; `None`: this one's.
    pub(crate) from: Option<Asker>,
    /// The entry its sender had applied at that time.
    pub(crate) since: LogIndex,
    /// An attempt may have been appended.
    pub(crate) again: bool,
}

pub(crate) struct Waiting {
    pub(crate) command: Command,
    pub(crate) deadline: Instant,
    pub(crate) reply: Reply,
    pub(crate) number: Option<Number>,
}

impl Waiting {
    pub(crate) fn is_forwarded(&self) -> bool {
        matches!(self.reply, Reply::Peer(_))
    }
    /// Nobody waits for it: the connection it came by has ended, and its sender takes its outcome for unknown.
    fn is_given_up(&self) -> bool {
        matches!(&self.reply, Reply::Peer(sender) if sender.is_closed())
    }
    fn is_late(&self, now: Instant) -> bool {
        self.deadline <= now
    }
    /// Whether it may have been carried out.
    pub(crate) fn is_again(&self) -> bool {
        self.number.is_some_and(|number| number.again)
    }
    /// Its number among this member's own.
    pub(crate) fn own_number(&self) -> Option<u64> {
        let number = self.number.filter(|number| number.from.is_none())?;
        Some(number.number)
    }
    /// A failure in words that are true of all its attempts, not only of the last.
    pub(crate) fn failed(self, failure: Failure) -> (Reply, Result<Outcome, Failure>) {
        let failure = match failure {
            Failure::NotLeader { .. } | Failure::Busy | Failure::Stopped
                if self.is_again() && !self.is_forwarded() =>
            {
                Failure::Forgotten
            }
            failure => failure,
        };
        (self.reply, Err(failure))
    }
}

/// Errors on the way, before they are told apart for the client.
pub(crate) type Failure = consensus::ProposeError;

struct Inner {
    waiting: VecDeque<Waiting>,
    /// Invariant: the sum of `cost` over `waiting`.
    bytes: usize,
    /// Invariant: how many of `waiting` came from another member.
    peers: usize,
    /// Invariant: how many of `waiting` may have been carried out.
    again: usize,
    /// Invariant: this member's own numbers among `waiting`.
    numbers: BTreeSet<u64>,
    /// Taken by the worker, and neither answered nor put back.
    taken: usize,
    /// Nothing new is taken.
    draining: bool,
    closed: bool,
}

impl Inner {
    fn push_back(&mut self, waiting: Waiting) {
        self.account(&waiting);
        self.waiting.push_back(waiting);
    }
    fn push_front(&mut self, waiting: Waiting) {
        self.account(&waiting);
        self.waiting.push_front(waiting);
    }
    fn account(&mut self, waiting: &Waiting) {
        self.bytes += cost(&waiting.command);
        self.peers += usize::from(waiting.is_forwarded());
        self.again += usize::from(waiting.is_again());
        self.numbers.extend(waiting.own_number());
    }
    fn pop_front(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.pop_front()?;
        self.bytes -= cost(&waiting.command);
        self.peers -= usize::from(waiting.is_forwarded());
        self.again -= usize::from(waiting.is_again());
        if let Some(number) = waiting.own_number() {
            self.numbers.remove(&number);
        }
        Some(waiting)
    }
    fn is_full(&self, cost: usize) -> bool {
        self.waiting.len() >= QUEUE_COMMANDS_MAX || self.bytes + cost > QUEUE_BYTES_MAX
    }
    /// Takes out those for which there is an answer, and returns them with it. The others keep their order.
    fn part(
        &mut self,
        mut answer: impl FnMut(&Waiting) -> Option<Failure>,
    ) -> Vec<(Reply, Result<Outcome, Failure>)> {
        let mut out = Vec::new();
        for waiting in self.take_all() {
            match answer(&waiting) {
                Some(failure) => out.push((waiting.reply, Err(failure))),
                None => self.push_back(waiting),
            }
        }
        out
    }
    fn take_all(&mut self) -> VecDeque<Waiting> {
        self.bytes = 0;
        self.peers = 0;
        self.again = 0;
        self.numbers.clear();
        std::mem::take(&mut self.waiting)
    }
}

pub(crate) struct Queue {
    inner: Mutex<Inner>,
    gate: Arc<Gate>,
    arrived: Notify,
    /// Commands of this member that were taken, and not carried out, or nobody knows.
    failed: AtomicU64,
}

impl Queue {
    pub(crate) fn new(gate: Arc<Gate>) -> Self {
        Queue {
            gate,
            inner: Mutex::new(Inner {
                waiting: VecDeque::new(),
                bytes: 0,
                peers: 0,
                again: 0,
                numbers: BTreeSet::new(),
                taken: 0,
                draining: false,
                closed: false,
            }),
            arrived: Notify::new(),
            failed: AtomicU64::new(0),
        }
    }

    /// Takes the commands in order; those that find the queue full or closed are answered at once.
    pub(crate) fn push(&self, commands: impl IntoIterator<Item = Waiting>) {
        let mut refused = Vec::new();
        let mut pruned = false;
        {
            let mut inner = self.inner.lock();
            for waiting in commands {
                let cost = cost(&waiting.command);
                // Connections that break while nothing is taken leave copies behind of what is sent again over new ones.
                if inner.is_full(cost) && waiting.is_forwarded() && !pruned {
                    pruned = true;
                    // Nobody hears the answers.
                    drop(inner.part(|old| old.is_given_up().then_some(Failure::Unknown)));
                }
                if inner.closed || inner.draining {
                    refused.push(waiting.failed(Failure::Stopped));
                } else if !waiting.is_again()
                    && let Some(refusal) = self.gate.refusal(&waiting.command)
                {
                    refused.push((waiting.reply, Ok(refused_outcome(refusal))));
                } else if inner.is_full(cost) {
                    refused.push(waiting.failed(Failure::Busy));
                } else {
                    inner.push_back(waiting);
                }
            }
        }
        self.arrived.notify_one();
        answer(refused);
    }

    /// Puts back what is to be tried (again), in front and in order.
    pub(crate) fn push_front(&self, commands: Vec<Waiting>) {
        let mut refused = Vec::new();
        {
            let mut inner = self.inner.lock();
            inner.taken -= commands.len();
            for waiting in commands.into_iter().rev() {
                if inner.closed {
                    refused.push(waiting.failed(Failure::Stopped));
                } else {
                    inner.push_front(waiting);
                }
            }
        }
        answer(refused);
    }

    /// The next entry's commands.
    pub(crate) fn take(&self) -> Vec<Waiting> {
        let mut inner = self.inner.lock();
        let mut taken = Vec::new();
        let mut bytes = 0;
        while taken.len() < ENTRY_COMMANDS_MAX {
            let Some(next) = inner.waiting.front() else {
                break;
            };
            let cost = cost(&next.command);
            if !taken.is_empty() && bytes + cost > ENTRY_BYTES_MAX {
                break;
            }
            let next = inner.pop_front().expect("front was there");
            if !next.is_given_up() {
                bytes += cost;
                taken.push(next);
            }
        }
        inner.taken += taken.len();
        taken
    }

    /// Answers commands that were taken.
    pub(crate) fn answer(&self, results: Vec<(Reply, Result<Outcome, Failure>)>) {
        self.inner.lock().taken -= results.len();
        self.count_failed(&results);
        answer(results);
    }

    /// Another member's count there.
    fn count_failed(&self, results: &[(Reply, Result<Outcome, Failure>)]) {
        let own = |(reply, result): &&(Reply, Result<Outcome, Failure>)| {
            result.is_err() && !matches!(reply, Reply::Peer(_))
        };
        let failed = results.iter().filter(own).count();
        if failed > 0 {
            self.failed.fetch_add(failed as u64, Ordering::Relaxed);
        }
    }

    /// Commands of this member that were taken, and not carried out, or nobody knows. Those that were refused at once do not count.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Commands that wait to be proposed.
    pub(crate) fn len(&self) -> usize {
        self.inner.lock().waiting.len()
    }

    pub(crate) fn holds_peers(&self) -> bool {
        self.inner.lock().peers > 0
    }
    /// Whether something waits that may have been carried out.
    pub(crate) fn holds_again(&self) -> bool {
        self.inner.lock().again > 0
    }
    /// The lowest of this member's own numbers that waits.
    pub(crate) fn lowest(&self) -> Option<u64> {
        self.inner.lock().numbers.first().copied()
    }
    pub(crate) fn is_closed(&self) -> bool {
        self.inner.lock().closed
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.inner.lock().waiting.is_empty()
    }
    /// Resolves when something was pushed, or the queue was closed.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Takes nothing new from now on. What waits or is under way goes on.
    pub(crate) fn drain(&self) {
        self.inner.lock().draining = true;
    }
    /// Nothing waits, and nothing is under way.
    pub(crate) fn is_drained(&self) -> bool {
        let inner = self.inner.lock();
        inner.waiting.is_empty() && inner.taken == 0
    }

    /// Answers what must not wait for a leader: forwarded commands (their own member waits) and those past their deadline.
    /// Returns the earliest deadline that is left.
    pub(crate) fn expire(&self, now: Instant, leader: Option<MemberId>) -> Option<Instant> {
        let mut earliest: Option<Instant> = None;
        let out = self.inner.lock().part(|waiting| {
            if waiting.is_forwarded() {
                return Some(Failure::NotLeader { leader });
            }
            if waiting.is_late(now) {
                return Some(Failure::Timeout);
            }
            earliest = Some(earliest.map_or(waiting.deadline, |e| e.min(waiting.deadline)));
            None
        });
        self.count_failed(&out);
        answer(out);
        earliest
    }

    /// Answers those past their deadline, while what waits can be taken in a moment only.
    pub(crate) fn expire_late(&self, now: Instant) {
        let out = {
            let mut inner = self.inner.lock();
            // It is looked every millisecond, and mostly nothing is late.
            if !inner.waiting.iter().any(|waiting| waiting.is_late(now)) {
                return;
            }
            inner.part(|waiting| waiting.is_late(now).then_some(Failure::Timeout))
        };
        self.count_failed(&out);
        answer(out);
    }

    pub(crate) fn close(&self) {
        let all = {
            let mut inner = self.inner.lock();
            inner.closed = true;
            inner.take_all()
        };
        answer(
            all.into_iter()
                .map(|w| w.failed(Failure::Stopped))
                .collect(),
        );
        self.arrived.notify_one();
    }
}

/// A refusal that needs no entry. Clients see its text and code only.
pub(crate) fn refused_outcome(refusal: Refusal) -> Outcome {
    Outcome {
        revision: Revision::default(),
        result: Err(refusal),
    }
}

/// Bytes a command stands for in the queue's bound.
fn cost(command: &Command) -> usize {
    const FIXED: usize = 64;
    fn ops(ops: &[TxnOp]) -> usize {
        ops.iter()
            .map(|op| match op {
                TxnOp::Put(put) => FIXED + put.key.len() + put.value.len(),
                TxnOp::Range(r) => FIXED + r.range.key.len() + r.range.end.len(),
                TxnOp::DeleteRange(d) => FIXED + d.range.key.len() + d.range.end.len(),
                TxnOp::Txn(inner) => txn(inner),
            })
            .sum()
    }
    fn txn(txn: &Txn) -> usize {
        let compares: usize = txn
            .compare
            .iter()
            .map(|c| {
                FIXED
                    + c.range.key.len()
                    + if let CompareTarget::Value(v) = &c.target {
                        v.len()
                    } else {
                        0
                    }
            })
            .sum();
        FIXED + compares + ops(&txn.success) + ops(&txn.failure)
    }
    match command {
        Command::Put(put) => FIXED + put.key.len() + put.value.len(),
        Command::Txn(t) => txn(t),
        Command::DeleteRange(d) => FIXED + d.range.key.len() + d.range.end.len(),
        Command::LeaseKeepAlive { ids } => FIXED + ids.len() * 8,
        _ => FIXED,
    }
}

/// What a client is told. `NotLeader` and `Timeout` before a proposal mean there was no leader in time.
fn client_error(failure: Failure) -> ProposeError {
    match failure {
        Failure::NotLeader { .. } => ProposeError::NoLeader,
        Failure::Timeout => ProposeError::Timeout,
        Failure::Unknown | Failure::Forgotten => ProposeError::LeaderChanged,
        Failure::Busy => ProposeError::TooManyRequests,
        Failure::Stopped => ProposeError::Stopped,
    }
}

/// Hands answers out; those for one sink leave in one batch, in order.
fn answer(results: Vec<(Reply, Result<Outcome, Failure>)>) {
    let mut open: Option<(Arc<dyn CompletionSink>, Vec<Completion>)> = None;
    for (reply, result) in results {
        match reply {
            // A receiver that is gone has stopped waiting; nobody is left to tell.
            Reply::One(sender) => drop(sender.send(result.map_err(client_error))),
            Reply::Peer(sender) => drop(sender.send(result)),
            Reply::Sink { token, sink } => {
                let completion = Completion {
                    token,
                    result: result.map_err(client_error),
                };
                match &mut open {
                    Some((current, batch)) if Arc::ptr_eq(current, &sink) => batch.push(completion),
                    _ => {
                        if let Some((previous, batch)) = open.replace((sink, vec![completion])) {
                            previous.complete(batch);
                        }
                    }
                }
            }
        }
    }
    if let Some((sink, batch)) = open {
        sink.complete(batch);
    }
}
