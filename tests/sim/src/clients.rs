//! Clients of the registers: they put, get and swap through every member in turn, with little patience, and write down
//! what they were told and when.

use std::sync::Arc;
use std::time::Duration;

use barque_store_env::sim;
use barque_store_node::ProposeError;
use barque_store_state::{
    Answer, Command, Compare, CompareResult, CompareTarget, KeyRange, OpResult, Outcome, Put,
    Range, RangeResult, Txn, TxnOp,
};
use barque_tests_checkers::{Acknowledged, Action, Operation};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::cluster::{Cluster, Lost, MEMBERS};

pub const REGISTERS: u64 = 5;
/// The longest a client waits for an answer.
pub const PATIENCE_MAX: Duration = Duration::from_secs(1);
pub const PREFIX: &str = "reg/";

/// A change as watchers and the final history see it: a key and its new value, `None` when deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    pub value: Option<String>,
}

/// All that the clients were told.
#[derive(Default)]
pub struct Told {
    pub operations: Mutex<Vec<Operation>>,
    pub acknowledged: Mutex<Vec<Acknowledged<Change>>>,
}

/// What a client got for one request.
enum Answered {
    /// Carried out, with what the register says.
    Done {
        action: Action,
        revision: u64,
    },
    /// Certainly not carried out.
    Refused,
    Unknown,
}

pub struct Client {
    id: u64,
    cluster: Arc<Cluster>,
    told: Arc<Told>,
    made: u64,
    /// What it last saw of each register, to swap from.
    last: [Option<u64>; REGISTERS as usize],
}

fn key(register: usize) -> String {
    format!("{PREFIX}{register}")
}

fn put(register: usize, value: u64) -> Put {
    Put {
        key: key(register).into(),
        value: value.to_string().into(),
        ..Put::default()
    }
}

fn read(register: usize) -> Range {
    Range {
        range: KeyRange::point(key(register).into()),
        ..Range::default()
    }
}

fn found(result: &RangeResult) -> Option<u64> {
    let value = &result.kvs.first()?.value;
    let text = std::str::from_utf8(value).expect("the clients write digits");
    Some(text.parse().expect("the clients write digits"))
}

fn swap(register: usize, expected: Option<u64>, value: u64) -> Txn {
    let target = match expected {
        Some(old) => CompareTarget::Value(Bytes::from(old.to_string())),
        None => CompareTarget::Create(0),
    };
    Txn {
        compare: vec![Compare {
            range: KeyRange::point(key(register).into()),
            result: CompareResult::Equal,
            target,
        }],
        success: vec![TxnOp::Put(put(register, value))],
        failure: vec![TxnOp::Range(read(register))],
    }
}

impl Client {
    pub fn new(id: u64, cluster: Arc<Cluster>, told: Arc<Told>) -> Self {
        Client {
            id,
            cluster,
            told,
            made: 0,
            last: [None; REGISTERS as usize],
        }
    }

    /// Works until the run calms down.
    pub async fn run(mut self) {
        let mut member = self.id as usize;
        while !self.cluster.is_calm() {
            let pause = sim::between(Duration::from_millis(1), Duration::from_millis(40));
            sim::sleep(pause).await;
            // Every member in turn: the one that is cut off as well.
            member += 1;
            self.one(MEMBERS[member % MEMBERS.len()]).await;
        }
    }

    async fn one(&mut self, node: sim::NodeId) {
        let register = sim::below(REGISTERS) as usize;
        let patience = [
            Duration::from_millis(60),
            Duration::from_millis(200),
            PATIENCE_MAX,
        ];
        let timeout = patience[sim::below(3) as usize];
        let called = sim::elapsed().as_nanos() as u64;
        let value = self.id + 1_000 * (self.made + 1);
        let expected = self.last[register];
        let kind = sim::below(10);
        let (action, answered) = match kind {
            0..=2 => {
                let action = Action::Put { value };
                let command = if kind == 0 {
                    let success = vec![TxnOp::Put(put(register, value))];
                    Command::Txn(Txn {
                        success,
                        ..Txn::default()
                    })
                } else {
                    Command::Put(put(register, value))
                };
                (action, self.propose(node, timeout, command, action).await)
            }
            3..=4 => {
                let action = Action::Cas {
                    expected,
                    value,
                    swapped: false,
                };
                let command = Command::Txn(swap(register, expected, value));
                (action, self.propose(node, timeout, command, action).await)
            }
            5 => {
                let action = Action::Get { found: None };
                let success = vec![TxnOp::Range(read(register))];
                let command = Command::Txn(Txn {
                    success,
                    ..Txn::default()
                });
                (action, self.propose(node, timeout, command, action).await)
            }
            _ => {
                let action = Action::Get { found: None };
                (action, self.read(node, timeout, register).await)
            }
        };
        self.made += 1;
        self.note(register, called, action, answered);
    }

    async fn read(&self, node: sim::NodeId, timeout: Duration, register: usize) -> Answered {
        let answer = self
            .cluster
            .request(node, timeout, async move |store, deadline| {
                store.read_index(deadline).await?;
                Ok::<_, ProposeError>(store.range(&read(register)))
            });
        match answer.await {
            Ok(Ok((revision, Ok(result)))) => Answered::Done {
                action: Action::Get {
                    found: found(&result),
                },
                revision: revision.0,
            },
            Ok(Ok((_, Err(refusal)))) => {
                self.cluster
                    .journal
                    .violation(format!("a read was refused: {refusal}"));
                Answered::Refused
            }
            Ok(Err(_)) | Err(_) => Answered::Refused,
        }
    }

    async fn propose(
        &self,
        node: sim::NodeId,
        timeout: Duration,
        command: Command,
        action: Action,
    ) -> Answered {
        let answer = self
            .cluster
            .request(node, timeout, async move |store, deadline| {
                store.propose(command, deadline).await
            });
        match answer.await {
            Ok(Ok(outcome)) => self.outcome(outcome, action),
            // These two say that it was proposed nowhere.
            Ok(Err(ProposeError::NoLeader | ProposeError::TooManyRequests)) => Answered::Refused,
            Ok(Err(_)) => Answered::Unknown,
            Err(Lost::NotSent) => Answered::Refused,
            Err(Lost::Unknown) => Answered::Unknown,
        }
    }

    fn outcome(&self, outcome: Outcome, asked: Action) -> Answered {
        let revision = outcome.revision.0;
        let action = match (outcome.result, asked) {
            (Ok(Answer::Put { .. }), put) => put,
            (Ok(Answer::Txn(txn)), Action::Get { .. }) => match txn.results.first() {
                Some(OpResult::Range(result)) => Action::Get {
                    found: found(result),
                },
                other => unreachable!("a range was asked for, got {other:?}"),
            },
            (
                Ok(Answer::Txn(txn)),
                Action::Cas {
                    expected, value, ..
                },
            ) => Action::Cas {
                expected,
                value,
                swapped: txn.succeeded,
            },
            (Ok(Answer::Txn(_)), put) => put,
            (other, _) => {
                self.cluster
                    .journal
                    .violation(format!("{asked:?} was answered {other:?}"));
                return Answered::Refused;
            }
        };
        Answered::Done { action, revision }
    }

    fn note(&mut self, register: usize, called: u64, asked: Action, answered: Answered) {
        let (action, returned) = match answered {
            Answered::Refused => return,
            Answered::Unknown => (asked, None),
            Answered::Done { action, revision } => {
                let now = sim::elapsed().as_nanos() as u64;
                self.learned(register, action, revision);
                (action, Some(now))
            }
        };
        self.cluster.journal.count(|c| {
            c.operations += 1;
            c.unknown += u64::from(returned.is_none());
        });
        self.told.operations.lock().push(Operation {
            client: self.id,
            key: key(register),
            called,
            returned,
            action,
        });
    }

    fn learned(&mut self, register: usize, action: Action, revision: u64) {
        let written = match action {
            Action::Get { found } => {
                self.last[register] = found;
                return;
            }
            Action::Delete { .. } => {
                self.last[register] = None;
                return;
            }
            // Read it again before the next attempt.
            Action::Cas { swapped: false, .. } => return,
            Action::Put { value } | Action::Cas { value, .. } => value,
        };
        self.last[register] = Some(written);
        self.cluster.journal.count(|c| c.acknowledged += 1);
        let value = Some(written.to_string());
        let change = Change {
            key: key(register),
            value,
        };
        self.told
            .acknowledged
            .lock()
            .push(Acknowledged { revision, change });
    }
}
