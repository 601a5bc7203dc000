//! The proposal queue: many clients' commands become few Raft entries.
//! Promise: each command is answered exactly once; it is tried again only while no log id was ever assigned to it;
//! what waits is bounded in number and bytes, and what waits for a leader is answered at its deadline.
//! Not here: what a command does.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use barque_store_consensus::{self as consensus, Consensus};
use barque_store_env::{Env, Instant};
use barque_store_state::*;
use futures::future::Either;
use futures::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::limits::*;
use crate::machine::Machine;
use crate::membership;
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

pub(crate) struct Waiting {
    pub(crate) command: Command,
    pub(crate) deadline: Instant,
    pub(crate) reply: Reply,
}

impl Waiting {
    fn is_forwarded(&self) -> bool {
        matches!(self.reply, Reply::Peer(_))
    }
}

/// Errors on the way, before they are told apart for the client.
type Failure = consensus::ProposeError;

struct Inner {
    waiting: VecDeque<Waiting>,
    /// Invariant: the sum of `cost` over `waiting`.
    bytes: usize,
    /// Invariant: how many of `waiting` came from another member.
    peers: usize,
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
    }
    fn pop_front(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.pop_front()?;
        self.bytes -= cost(&waiting.command);
        self.peers -= usize::from(waiting.is_forwarded());
        Some(waiting)
    }
    fn take_all(&mut self) -> VecDeque<Waiting> {
        self.bytes = 0;
        self.peers = 0;
        std::mem::take(&mut self.waiting)
    }
}

pub(crate) struct Queue {
    inner: Mutex<Inner>,
    gate: Arc<Gate>,
    arrived: Notify,
}

impl Queue {
    pub(crate) fn new(gate: Arc<Gate>) -> Self {
        Queue {
            gate,
            inner: Mutex::new(Inner {
                waiting: VecDeque::new(),
                bytes: 0,
                peers: 0,
                closed: false,
            }),
            arrived: Notify::new(),
        }
    }

    /// Takes the commands in order; those that find the queue full or closed are answered at once.
    pub(crate) fn push(&self, commands: impl IntoIterator<Item = Waiting>) {
        let mut refused = Vec::new();
        {
            let mut inner = self.inner.lock();
            for waiting in commands {
                let cost = cost(&waiting.command);
                if inner.closed {
                    refused.push((waiting.reply, Err(Failure::Stopped)));
                } else if let Some(refusal) = self.gate.refusal(&waiting.command) {
                    refused.push((waiting.reply, Ok(refused_outcome(refusal))));
                } else if inner.waiting.len() >= QUEUE_COMMANDS_MAX
                    || inner.bytes + cost > QUEUE_BYTES_MAX
                {
                    refused.push((waiting.reply, Err(Failure::Busy)));
                } else {
                    inner.push_back(waiting);
                }
            }
        }
        self.arrived.notify_one();
        answer(refused);
    }

    /// Puts back what was never proposed, in front and in order.
    fn push_front(&self, commands: Vec<Waiting>) {
        let mut refused = Vec::new();
        {
            let mut inner = self.inner.lock();
            for waiting in commands.into_iter().rev() {
                if inner.closed {
                    refused.push((waiting.reply, Err(Failure::Stopped)));
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
            bytes += cost;
            taken.push(inner.pop_front().expect("front was there"));
        }
        taken
    }

    /// Commands that wait to be proposed.
    pub(crate) fn len(&self) -> usize {
        self.inner.lock().waiting.len()
    }

    fn holds_peers(&self) -> bool {
        self.inner.lock().peers > 0
    }

    fn is_empty(&self) -> bool {
        self.inner.lock().waiting.is_empty()
    }

    /// Answers what must not wait for a leader: forwarded commands (their own member waits) and those past their deadline.
    /// Returns the earliest deadline that is left.
    fn expire(&self, now: Instant, leader: Option<MemberId>) -> Option<Instant> {
        let mut out = Vec::new();
        let mut earliest = None;
        {
            let mut inner = self.inner.lock();
            for waiting in inner.take_all() {
                if waiting.is_forwarded() {
                    out.push((waiting.reply, Err(Failure::NotLeader { leader })));
                } else if waiting.deadline <= now {
                    out.push((waiting.reply, Err(Failure::Timeout)));
                } else {
                    earliest = Some(
                        earliest.map_or(waiting.deadline, |e: Instant| e.min(waiting.deadline)),
                    );
                    inner.push_back(waiting);
                }
            }
        }
        answer(out);
        earliest
    }

    pub(crate) fn close(&self) {
        let all = {
            let mut inner = self.inner.lock();
            inner.closed = true;
            inner.take_all()
        };
        answer(
            all.into_iter()
                .map(|w| (w.reply, Err(Failure::Stopped)))
                .collect(),
        );
        self.arrived.notify_one();
    }
}

/// A refusal that needs no entry. Clients see its text and code only.
fn refused_outcome(refusal: Refusal) -> Outcome {
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
        Failure::Unknown => ProposeError::LeaderChanged,
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

/// The one task that turns the queue into entries.
pub(crate) struct Worker<E: Env> {
    pub(crate) member: MemberId,
    pub(crate) queue: Arc<Queue>,
    pub(crate) machine: Arc<Machine<E>>,
    pub(crate) consensus: Consensus<E>,
    pub(crate) strict_reconfig: bool,
    pub(crate) election: Duration,
}

/// A batch on its way, and what became of each of its commands.
type Decision = Pin<Box<dyn Future<Output = Decided> + Send>>;

struct Decided {
    batch: Vec<Waiting>,
    results: Vec<Result<Outcome, Failure>>,
    /// What it counted for under the quota while it was on its way.
    growth: u64,
}

impl Decided {
    fn changes_members(&self) -> bool {
        let changes = |waiting: &Waiting| matches!(waiting.command, Command::Members(_));
        self.batch.iter().any(changes)
    }
}

type InFlight = FuturesUnordered<Decision>;

impl<E: Env> Worker<E> {
    pub(crate) async fn run(self) {
        let mut in_flight: InFlight = FuturesUnordered::new();
        // Growth that is proposed here and not known to be applied.
        let mut growing = 0;
        // A change of members is proposed here and not known to be applied.
        let mut changing = false;
        let mut changes = self.consensus.changes();
        // After a refusal: not again before this instant, so that a stale hint does not spin.
        let mut retry_at = None;
        loop {
            if self.queue.inner.lock().closed && in_flight.is_empty() {
                return;
            }
            // Set after a refusal or while nobody leads: look again at a change, at the next deadline, or soon.
            let mut wait_until = retry_at.take().filter(|at| *at > E::now());
            while wait_until.is_none()
                && in_flight.len() < ENTRIES_IN_FLIGHT_MAX
                && !self.queue.is_empty()
            {
                let view = self.consensus.view();
                match view.leader {
                    Some(leader) if leader == self.member && view.leads_until.is_some() => {
                        if let Some(decision) = self.propose(view.term, &mut growing, &mut changing)
                        {
                            in_flight.push(decision);
                        }
                    }
                    Some(leader) if leader != self.member => {
                        if self.queue.holds_peers() {
                            self.queue.expire(E::now(), Some(leader));
                            continue;
                        }
                        in_flight.push(self.forward(leader));
                    }
                    leader => {
                        let soon = E::now() + LEADER_POLL;
                        let earliest = self.queue.expire(E::now(), leader);
                        wait_until = Some(earliest.map_or(soon, |e| e.min(soon)));
                    }
                }
            }
            let arrived = self.queue.arrived.notified();
            let wake = async {
                match wait_until {
                    Some(at) => {
                        let change = changes.changed();
                        futures::pin_mut!(change);
                        // The outcome does not matter: either way the loop looks again.
                        let _ = futures::future::select(change, E::sleep_until(at)).await;
                    }
                    None => arrived.await,
                }
            };
            futures::pin_mut!(wake);
            if in_flight.is_empty() {
                wake.await;
                continue;
            }
            let settled = match futures::future::select(in_flight.next(), wake).await {
                Either::Left((settled, _)) => settled,
                Either::Right(_) => None,
            };
            if let Some(decided) = settled {
                growing -= decided.growth;
                changing &= !decided.changes_members();
                if self.settle(decided.batch, decided.results) {
                    retry_at = Some(E::now() + LEADER_POLL / 5);
                }
            }
        }
    }

    /// The next entry; `None` when all that was to go into it is over the quota.
    fn propose(&self, term: u64, growing: &mut u64, changing: &mut bool) -> Option<Decision> {
        let mut batch = Vec::new();
        let mut refused = Vec::new();
        let mut grows = 0;
        for waiting in self.queue.take() {
            let pending = growing.saturating_add(grows);
            if let Some(refusal) = self.unsafe_change(&waiting.command, changing) {
                refused.push((waiting.reply, Ok(refused_outcome(refusal))));
            } else if self.machine.gate.within_quota(&waiting.command, pending) {
                grows += growth(&waiting.command);
                batch.push(waiting);
            } else {
                refused.push((waiting.reply, Ok(refused_outcome(Refusal::NoSpace))));
            }
        }
        answer(refused);
        if batch.is_empty() {
            return None;
        }
        *growing += grows;
        let time = self.machine.stamp(term, E::now());
        let commands: Vec<Command> = batch.iter().map(|w| w.command.clone()).collect();
        let deadline = latest(&batch);
        let consensus = self.consensus.clone();
        Some(Box::pin(async move {
            let proposed = consensus.propose(Entry { time, commands });
            let results = match E::timeout_at(deadline, proposed).await {
                Ok(Ok(outcomes)) => {
                    assert_eq!(
                        outcomes.len(),
                        batch.len(),
                        "an entry answers each of its commands once"
                    );
                    outcomes.into_iter().map(Ok).collect()
                }
                Ok(Err(failure)) => vec![Err(failure); batch.len()],
                Err(_) => vec![Err(Failure::Unknown); batch.len()],
            };
            Decided {
                batch,
                results,
                growth: grows,
            }
        }))
    }

    /// Why a change of members is not to be proposed now. `changing`: one is on its way already, and the next is decided on
    /// what comes of it.
    fn unsafe_change(&self, command: &Command, changing: &mut bool) -> Option<Refusal> {
        let Command::Members(change) = command else {
            return None;
        };
        if *changing {
            return Some(Refusal::Unhealthy);
        }
        let (machine, consensus) = (&self.machine, &self.consensus);
        let strict = self.strict_reconfig;
        let refusal = membership::refusal(machine, consensus, change, strict, self.election);
        *changing = refusal.is_none();
        refusal
    }

    fn forward(&self, leader: MemberId) -> Decision {
        let batch = self.queue.take();
        let commands: Vec<Command> = batch.iter().map(|w| w.command.clone()).collect();
        let deadline = latest(&batch);
        let consensus = self.consensus.clone();
        Box::pin(async move {
            let results = consensus.forward(leader, commands, deadline).await;
            assert_eq!(
                results.len(),
                batch.len(),
                "a forward answers each command once"
            );
            Decided {
                batch,
                results,
                growth: 0,
            }
        })
    }

    /// Answers what is decided and puts back what was never proposed. Returns whether anything was put back.
    fn settle(&self, batch: Vec<Waiting>, results: Vec<Result<Outcome, Failure>>) -> bool {
        let now = E::now();
        let mut done = Vec::with_capacity(batch.len());
        let mut again = Vec::new();
        for (waiting, result) in batch.into_iter().zip(results) {
            match result {
                Err(Failure::NotLeader { .. })
                    if waiting.deadline > now && !waiting.is_forwarded() =>
                {
                    again.push(waiting)
                }
                result => {
                    // Given up, and no leader has changed that anybody knows of: a client is told what etcd tells it.
                    let given_up = matches!(result, Err(Failure::Unknown))
                        && waiting.deadline <= now
                        && !waiting.is_forwarded();
                    let result = if given_up {
                        Err(Failure::Timeout)
                    } else {
                        result
                    };
                    if result.is_err() && !waiting.is_forwarded() {
                        self.machine
                            .counters
                            .proposals_failed
                            .fetch_add(1, Ordering::Relaxed);
                    }
                    done.push((waiting.reply, result))
                }
            }
        }
        answer(done);
        let retry = !again.is_empty();
        if retry {
            self.queue.push_front(again);
        }
        retry
    }
}

fn latest(batch: &[Waiting]) -> Instant {
    batch.iter().map(|w| w.deadline).max().unwrap_or(Instant(0))
}
