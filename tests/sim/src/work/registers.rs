//! Clients of the registers: they put, get, swap and delete through every member in turn, with little patience, and write
//! down what they were told and when.

use barque_store_env::sim;
use barque_store_state::{
    Answer, Command, Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, OpResult, Put,
    Range, RangeResult, Txn, TxnOp,
};
use barque_tests_checkers::{Action, Operation};
use bytes::Bytes;

use super::{Desk, OldRead, Unanswered, always, if_succeeded, never, now, of_key, patience};

pub const PREFIX: &str = "reg/";

pub struct Client {
    desk: Desk,
    made: u64,
    /// What it last saw of each register, to swap from.
    last: Vec<Option<u64>>,
}

pub fn key(register: usize) -> String {
    format!("{PREFIX}{register}")
}

/// The digits, and then dots up to the length wanted.
fn text(value: u64, bytes: usize) -> String {
    format!("{value:.<bytes$}")
}

/// The number in a register's text; `None`: it is not of a register.
pub fn digits(text: &str) -> Option<u64> {
    text.trim_end_matches('.').parse().ok()
}

fn found(result: &RangeResult) -> Option<u64> {
    let value = &result.kvs.first()?.value;
    let number = std::str::from_utf8(value).ok().and_then(digits);
    Some(number.expect("the clients write digits and dots"))
}

fn read_only(range: Range) -> Txn {
    Txn {
        success: vec![TxnOp::Range(range)],
        ..Txn::default()
    }
}

fn deleted(answer: &Answer) -> bool {
    matches!(answer, Answer::DeleteRange { deleted, .. } if *deleted > 0)
}

impl Client {
    pub fn new(desk: Desk) -> Self {
        let registers = desk.cluster.plan.work.registers as usize;
        Client {
            desk,
            made: 0,
            last: vec![None; registers],
        }
    }

    /// Works until the run calms down.
    pub async fn run(mut self) {
        let mut turn = self.desk.client as usize;
        while !self.desk.cluster.is_calm() {
            self.desk.pause().await;
            let node = self.desk.next_member(&mut turn);
            self.one(node).await;
        }
    }

    fn put(&self, register: usize, value: u64) -> Put {
        let bytes = self.desk.cluster.plan.work.value_bytes;
        Put {
            key: key(register).into(),
            value: text(value, bytes).into(),
            ..Put::default()
        }
    }

    fn swap(&self, register: usize, expected: Option<u64>, value: u64) -> Txn {
        let bytes = self.desk.cluster.plan.work.value_bytes;
        let target = match expected {
            Some(old) => CompareTarget::Value(Bytes::from(text(old, bytes))),
            None => CompareTarget::Create(0),
        };
        Txn {
            compare: vec![Compare {
                range: KeyRange::point(key(register).into()),
                result: CompareResult::Equal,
                target,
            }],
            success: vec![TxnOp::Put(self.put(register, value))],
            failure: vec![TxnOp::Range(of_key(&key(register)))],
        }
    }

    async fn one(&mut self, node: sim::NodeId) {
        let register = sim::below(self.last.len() as u64) as usize;
        let timeout = patience();
        let called = now();
        let value = self.desk.client + 1_000 * (self.made + 1);
        let expected = self.last[register];
        let (asked, command, writes): (Action, Command, fn(&Answer) -> bool) = match sim::below(20)
        {
            0 => {
                let success = vec![TxnOp::Put(self.put(register, value))];
                let txn = Txn {
                    success,
                    ..Txn::default()
                };
                (Action::Put { value }, Command::Txn(txn), always)
            }
            1..=5 => {
                let put = Command::Put(self.put(register, value));
                (Action::Put { value }, put, always)
            }
            6..=9 => {
                let swap = Action::Cas {
                    expected,
                    value,
                    swapped: false,
                };
                let txn = self.swap(register, expected, value);
                (swap, Command::Txn(txn), if_succeeded)
            }
            10 => {
                let range = KeyRange::point(key(register).into());
                let delete = DeleteRange {
                    range,
                    prev_kv: false,
                };
                let asked = Action::Delete { existed: false };
                (asked, Command::DeleteRange(delete), deleted)
            }
            11..=12 => {
                let txn = read_only(of_key(&key(register)));
                (Action::Get { found: None }, Command::Txn(txn), never)
            }
            _ => {
                self.made += 1;
                return self.get(node, register, called).await;
            }
        };
        self.made += 1;
        let answer = self.desk.propose(node, timeout, command, writes).await;
        let (done, returned) = match answer {
            Err(Unanswered::Refused) => return,
            Err(Unanswered::Unknown) => (asked, None),
            Ok((revision, answer)) => {
                let Some(done) = self.understood(asked, answer) else {
                    return;
                };
                self.witness(node, register, done, revision.0);
                self.learned(register, done, revision);
                (done, Some(now()))
            }
        };
        self.note(register, called, done, returned);
    }

    async fn get(&mut self, node: sim::NodeId, register: usize, called: u64) {
        let range = of_key(&key(register));
        let Some((revision, result)) = self.desk.read(node, patience(), range).await else {
            return;
        };
        match result {
            Ok(result) => {
                let found = found(&result);
                self.witness(node, register, Action::Get { found }, revision.0);
                self.last[register] = found;
                self.note(register, called, Action::Get { found }, Some(now()));
            }
            Err(refusal) => {
                let journal = &self.desk.cluster.journal;
                journal.violation(format!("a read was refused: {refusal}"));
            }
        }
    }

    fn understood(&self, asked: Action, answer: Answer) -> Option<Action> {
        match (asked, answer) {
            (Action::Put { .. }, Answer::Put { .. } | Answer::Txn(_)) => Some(asked),
            (Action::Get { .. }, Answer::Txn(txn)) => match txn.results.first() {
                Some(OpResult::Range(result)) => Some(Action::Get {
                    found: found(result),
                }),
                other => unreachable!("a range was asked for, got {other:?}"),
            },
            (
                Action::Cas {
                    expected, value, ..
                },
                Answer::Txn(txn),
            ) => Some(Action::Cas {
                expected,
                value,
                swapped: txn.succeeded,
            }),
            (Action::Delete { .. }, Answer::DeleteRange { deleted, .. }) => Some(Action::Delete {
                existed: deleted > 0,
            }),
            (asked, other) => {
                let text = format!("{asked:?} was answered {other:?}");
                self.desk.cluster.journal.violation(text);
                None
            }
        }
    }

    /// What an answer says of the register at its revision, or just before it. With the order of all answers
    /// (`check_orders`) it decides alone whether they are linearizable; the search without revisions is the second opinion.
    fn witness(&self, node: sim::NodeId, register: usize, done: Action, revision: u64) {
        let (at, value) = match done {
            Action::Get { found } => (revision, found),
            Action::Put { value } => (revision, Some(value)),
            Action::Delete { .. } => (revision, None),
            Action::Cas {
                swapped: true,
                expected,
                ..
            } => (revision - 1, expected),
            // What it found instead was not what it expected, which the search sees.
            Action::Cas { swapped: false, .. } => return,
        };
        let bytes = self.desk.cluster.plan.work.value_bytes;
        self.desk.told.old_reads.lock().push(OldRead {
            member: node,
            key: key(register),
            revision: at,
            found: value.map(|value| text(value, bytes)),
        });
    }

    fn note(&self, register: usize, called: u64, action: Action, returned: Option<u64>) {
        self.desk.cluster.journal.count(|c| {
            c.operations += 1;
            c.unknown += u64::from(returned.is_none());
        });
        self.desk.told.operations.lock().push(Operation {
            client: self.desk.client,
            key: key(register),
            called,
            returned,
            action,
        });
    }

    fn learned(&mut self, register: usize, action: Action, revision: barque_store_state::Revision) {
        let bytes = self.desk.cluster.plan.work.value_bytes;
        match action {
            Action::Get { found } => self.last[register] = found,
            // Read it again before the next attempt.
            Action::Cas { swapped: false, .. } => {}
            Action::Delete { existed } => {
                self.last[register] = None;
                if existed {
                    self.desk.acknowledged(revision, key(register), None);
                }
            }
            Action::Put { value } | Action::Cas { value, .. } => {
                self.last[register] = Some(value);
                let value = Some(text(value, bytes));
                self.desk.acknowledged(revision, key(register), value);
            }
        }
    }
}
