//! Writing clients: registers that all fight for, keys of their own, transactions over several keys, ranges deleted at once.
//! They write down what they were told and when; a request without an answer has an unknown outcome.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use barque_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use barque_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, TxnRequest, TxnResponse, request_op::Request,
    response_op::Response as OpResponse,
};
use barque_tests_checkers::{Acknowledged, Action, Operation, Placed};

use crate::chance::Chance;
use crate::history::{Plain, Row};
use crate::journal::{Cleared, Journal, Sample};
use crate::limits::{GENERATION_OPERATIONS, GENERATIONS_KEPT, THINK};
use crate::line::{Line, Outcome};
use crate::member::kv;
use crate::value;

const REGISTERS: u64 = 5;
/// Keys of a client's own.
const OWN: u64 = 40;

/// The revision of an answer.
pub fn revision(header: &Option<ResponseHeader>) -> u64 {
    header
        .as_ref()
        .map_or(0, |h| u64::try_from(h.revision).unwrap_or(0))
}

pub struct Client {
    id: u64,
    journal: Arc<Journal>,
    line: Line,
    chance: Chance,
    /// What it last saw of a register, to swap from.
    last: Option<(String, Option<u64>)>,
    cleared_to: u64,
    /// Stays at one member and only writes keys of its own.
    pinned: bool,
}

fn put(key: &str, number: u64) -> PutRequest {
    PutRequest {
        key: key.to_owned().into(),
        value: value::value(number),
        ..PutRequest::default()
    }
}

fn point(key: &str) -> RangeRequest {
    RangeRequest {
        key: key.to_owned().into(),
        ..RangeRequest::default()
    }
}

/// The end of the keys with that prefix.
pub fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // Prefixes here end in '/'.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn swap(key: &str, expected: Option<u64>, number: u64) -> TxnRequest {
    let (target, union) = match expected {
        Some(old) => (CompareTarget::Value, TargetUnion::Value(value::value(old))),
        None => (CompareTarget::Create, TargetUnion::CreateRevision(0)),
    };
    TxnRequest {
        compare: vec![Compare {
            result: CompareResult::Equal.into(),
            target: target.into(),
            key: key.to_owned().into(),
            target_union: Some(union),
            ..Compare::default()
        }],
        success: vec![op(Request::RequestPut(put(key, number)))],
        failure: vec![op(Request::RequestRange(point(key)))],
    }
}

impl Client {
    pub fn new(id: u64, seed: u64, journal: Arc<Journal>) -> Self {
        Client {
            id,
            line: Line::new(journal.clone(), id as usize),
            journal,
            chance: Chance::new(seed, id + 1),
            last: None,
            cleared_to: 0,
            pinned: false,
        }
    }

    /// One that stays at a member: while others wait for a member that does not answer, these show whether the rest serve.
    pub fn pinned(id: u64, seed: u64, journal: Arc<Journal>, member: usize) -> Self {
        Client {
            line: Line::pinned(journal.clone(), member),
            pinned: true,
            ..Client::new(id, seed, journal)
        }
    }

    /// Works until the run calms down.
    pub async fn run(mut self) {
        while !self.journal.is_calm() {
            let pause = self.chance.between(Duration::ZERO, THINK);
            tokio::time::sleep(pause).await;
            if self.pinned {
                self.own().await;
                continue;
            }
            match self.chance.below(20) {
                0..=10 => self.register().await,
                11..=14 => self.own().await,
                15..=16 => self.several().await,
                17..=18 => self.read_generation().await,
                _ => self.clear().await,
            }
        }
    }

    fn number(&self) -> u64 {
        let n = self.journal.made[self.id as usize].fetch_add(1, Ordering::SeqCst);
        value::number(self.id, n)
    }

    fn generation(&self) -> u64 {
        self.journal.register_operations.load(Ordering::SeqCst) / GENERATION_OPERATIONS
    }

    async fn register(&mut self) {
        let count = self
            .journal
            .register_operations
            .fetch_add(1, Ordering::SeqCst);
        let register = self.chance.below(REGISTERS);
        let key = format!("r/{:06}/{register}", count / GENERATION_OPERATIONS);
        let Some(channel) = self.line.channel().await else {
            return;
        };
        let mut client = kv(channel);
        let called = self.journal.now();
        match self.chance.below(10) {
            0..=3 => {
                let number = self.number();
                let answer = self.line.outcome(client.put(put(&key, number))).await;
                let told = self.told(answer, |r| (revision(&r.header), true));
                self.written(&key, called, Action::Put { value: number }, told);
            }
            4..=6 => {
                let number = self.number();
                let expected = match &self.last {
                    Some((last, seen)) if *last == key => *seen,
                    _ => None,
                };
                let txn = swap(&key, expected, number);
                let answer = self.line.outcome(client.txn(txn)).await;
                let told = self.told(answer, |r| (revision(&r.header), r.succeeded));
                let swapped = matches!(told, Outcome::Done((_, true)));
                let action = Action::Cas {
                    expected,
                    value: number,
                    swapped,
                };
                self.written(&key, called, action, told);
            }
            7 => {
                let request = DeleteRangeRequest {
                    key: key.clone().into(),
                    ..DeleteRangeRequest::default()
                };
                let answer = self.line.outcome(client.delete_range(request)).await;
                let told = self.told(answer, |r| (revision(&r.header), r.deleted == 1));
                let existed = matches!(told, Outcome::Done((_, true)));
                self.written(&key, called, Action::Delete { existed }, told);
            }
            _ => {
                let answer = self.line.outcome(client.range(point(&key))).await;
                if let Outcome::Done((at, response)) =
                    self.told(answer, |r| (revision(&r.header), r))
                {
                    let rows = self.sample(at, point(&key), &response);
                    let found = rows.first().and_then(|row| row.value);
                    self.last = Some((key.clone(), found));
                    self.placed(called, at, false);
                    self.operation(&key, called, true, Action::Get { found });
                }
            }
        }
    }

    /// Notes a write to a register: carried out at a revision and with effect or not, or unknown.
    fn written(&mut self, key: &str, called: u64, action: Action, told: Outcome<(u64, bool)>) {
        let number = match action {
            Action::Put { value } | Action::Cas { value, .. } => Some(value),
            Action::Delete { .. } | Action::Get { .. } => None,
        };
        match told {
            Outcome::Done((at, effect)) => {
                self.placed(called, at, effect);
                self.operation(key, called, true, action);
                if effect {
                    self.last = Some((key.to_owned(), number));
                    self.acknowledged(at, key, number);
                }
            }
            Outcome::Refused(_) => {}
            Outcome::Unknown => {
                self.operation(key, called, false, action);
                self.unknown(number);
            }
        }
    }

    async fn own(&mut self) {
        let key = format!("b/{}/{:02}", self.id, self.chance.below(OWN));
        let number = self.number();
        let Some(channel) = self.line.channel().await else {
            return;
        };
        let called = self.journal.now();
        let answer = self.line.outcome(kv(channel).put(put(&key, number))).await;
        match self.told(answer, |r| (revision(&r.header), ())) {
            Outcome::Done((at, ())) => {
                self.placed(called, at, true);
                self.acknowledged(at, &key, Some(number));
            }
            Outcome::Refused(_) => {}
            Outcome::Unknown => self.unknown(Some(number)),
        }
    }

    /// Several keys in one transaction, now and then with one deleted: all or none of it, at one revision.
    async fn several(&mut self) {
        let first = self.chance.below(OWN - 3);
        let count = 2 + self.chance.below(2);
        let changes: Vec<Plain> = (first..first + count)
            .map(|n| Plain {
                key: format!("t/{}/{n:02}", self.id).into(),
                value: Some(self.number()),
            })
            .collect();
        let Some(channel) = self.line.channel().await else {
            return;
        };
        let success = changes.iter().map(|c| {
            let number = c.value.expect("puts only");
            op(Request::RequestPut(put(&c.key, number)))
        });
        let txn = TxnRequest {
            success: success.collect(),
            ..TxnRequest::default()
        };
        let called = self.journal.now();
        let answer = self.line.outcome(kv(channel).txn(txn)).await;
        match self.told(answer, |r| (revision(&r.header), ())) {
            Outcome::Done((at, ())) => {
                self.placed(called, at, true);
                for change in changes {
                    self.acknowledged(at, &change.key, change.value);
                }
            }
            Outcome::Refused(_) => {}
            Outcome::Unknown => {
                for change in changes {
                    self.unknown(change.value);
                }
            }
        }
    }

    /// A whole generation of registers, in a transaction or as a range, linearizable or not, limited or not.
    async fn read_generation(&mut self) {
        let generation = self.generation();
        let back = self.chance.below(3).min(generation);
        let prefix = format!("r/{:06}/", generation - back);
        let serializable = self.chance.below(3) == 0;
        let request = RangeRequest {
            key: prefix.clone().into(),
            range_end: prefix_end(&prefix).into(),
            limit: self.chance.below(4) as i64,
            serializable,
            ..RangeRequest::default()
        };
        let Some(channel) = self.line.channel().await else {
            return;
        };
        let mut client = kv(channel);
        let known = self.journal.known_revision.load(Ordering::SeqCst);
        let called = self.journal.now();
        let answer = if !serializable && self.chance.below(3) == 0 {
            let txn = TxnRequest {
                success: vec![op(Request::RequestRange(request.clone()))],
                ..TxnRequest::default()
            };
            match self.line.outcome(client.txn(txn)).await {
                Outcome::Done(txn) => match in_txn(txn) {
                    Some(response) => Outcome::Done(response),
                    None => {
                        self.journal
                            .violation("a transaction's range has no answer");
                        return;
                    }
                },
                Outcome::Refused(status) => Outcome::Refused(status),
                Outcome::Unknown => Outcome::Unknown,
            }
        } else {
            self.line.outcome(client.range(request.clone())).await
        };
        if let Outcome::Done((at, response)) = self.told(answer, |r| (revision(&r.header), r)) {
            self.sample(at, request, &response);
            if !serializable {
                self.placed(called, at, false);
            } else if at < known {
                self.journal.told.lock().behind += 1;
            }
        }
    }

    /// Deletes an old generation at once; the first client's business.
    async fn clear(&mut self) {
        let generation = self.generation();
        if self.id != 0 || self.cleared_to + GENERATIONS_KEPT >= generation {
            return;
        }
        let prefix = format!("r/{:06}/", self.cleared_to);
        let request = DeleteRangeRequest {
            key: prefix.clone().into(),
            range_end: prefix_end(&prefix).into(),
            ..DeleteRangeRequest::default()
        };
        let Some(channel) = self.line.channel().await else {
            return;
        };
        let called = self.journal.now();
        let answer = self.line.outcome(kv(channel).delete_range(request)).await;
        match self.told(answer, |r| (revision(&r.header), r.deleted)) {
            Outcome::Done((at, deleted)) => {
                self.placed(called, at, deleted > 0);
                self.cleared_to += 1;
                self.journal.told.lock().cleared.push(Cleared {
                    revision: at,
                    prefix,
                    deleted: u64::try_from(deleted).unwrap_or(0),
                });
            }
            // Again later: the second time it may find nothing.
            Outcome::Unknown => self.unknown(None),
            Outcome::Refused(_) => {}
        }
    }

    /// What an answer says; a refusal of what is never wrong here is a violation.
    fn told<T, U>(&self, outcome: Outcome<T>, say: impl Fn(T) -> U) -> Outcome<U> {
        match outcome {
            Outcome::Done(response) => Outcome::Done(say(response)),
            Outcome::Refused(status) => {
                self.journal
                    .violation(format!("client {} was refused: {status}", self.id));
                Outcome::Refused(status)
            }
            Outcome::Unknown => Outcome::Unknown,
        }
    }

    fn placed(&self, called: u64, revision: u64, write: bool) {
        let returned = self.journal.now();
        self.journal.saw_revision(revision);
        if write {
            self.journal.wrote();
        }
        self.journal.told.lock().placed.push(Placed {
            client: self.id,
            called,
            returned,
            revision,
            write,
        });
    }

    fn acknowledged(&self, revision: u64, key: &str, value: Option<u64>) {
        let change = Plain {
            key: key.into(),
            value,
        };
        self.journal
            .told
            .lock()
            .acknowledged
            .push(Acknowledged { revision, change });
    }

    fn unknown(&self, number: Option<u64>) {
        let mut told = self.journal.told.lock();
        match number {
            Some(number) => {
                told.unknown_values.insert(number);
            }
            None => told.unknown_others += 1,
        }
    }

    fn operation(&self, key: &str, called: u64, known: bool, action: Action) {
        let returned = known.then(|| self.journal.now());
        self.journal.told.lock().operations.push(Operation {
            client: self.id,
            key: key.to_owned(),
            called,
            returned,
            action,
        });
    }

    fn sample(&self, at: u64, request: RangeRequest, response: &RangeResponse) -> Vec<Row> {
        sample(&self.journal, at, request, response)
    }
}

fn in_txn(txn: TxnResponse) -> Option<RangeResponse> {
    match txn.responses.into_iter().next()?.response? {
        OpResponse::ResponseRange(mut range) => {
            // A range inside a transaction has no header of its own in etcd.
            range.header = txn.header;
            Some(range)
        }
        _ => None,
    }
}

/// Keeps a range's answer for the judge: it must be the state at `at`.
pub fn sample(
    journal: &Journal,
    at: u64,
    request: RangeRequest,
    response: &RangeResponse,
) -> Vec<Row> {
    let mut rows = Vec::with_capacity(response.kvs.len());
    for kv in &response.kvs {
        match Row::of(kv) {
            Ok(row) => rows.push(row),
            Err(why) => journal.violation(format!("read at revision {at}: {why}")),
        }
    }
    journal.told.lock().samples.push(Sample {
        revision: at,
        range: (request.key.to_vec(), request.range_end.to_vec()),
        limit: u64::try_from(request.limit).unwrap_or(0),
        count: u64::try_from(response.count).unwrap_or(0),
        rows: rows.clone(),
    });
    rows
}
