//! Write transactions: one main revision, one sub-revision per row, all or nothing.
//! Promise: every compare of every level sees the state before the transaction; everything that can be refused is refused
//! before the first row is written; operations see the writes before them.
//! Not here: limits and duplicates (`check`, before proposing).

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::store::Store;
use crate::archive::{ReadError, Unreadable};
use crate::command::*;
use crate::cover::Cover;
use crate::lease::Lessor;
use crate::types::*;

/// A transaction under way. Nothing reads the store beside it, so rows go in at once; [`Write::finish`] makes them a revision.
pub struct Write<'a> {
    store: &'a mut Store,
    lessor: &'a mut Lessor,
    previous: Previous,
    main: Revision,
    events: Vec<Event>,
}

impl<'a> Write<'a> {
    pub fn begin(store: &'a mut Store, lessor: &'a mut Lessor, previous: Previous) -> Self {
        let main = Revision(store.revision.0 + 1);
        Write {
            store,
            lessor,
            previous,
            main,
            events: Vec::new(),
        }
    }

    fn next_row(&self) -> RowId {
        let sub = u32::try_from(self.events.len()).expect("more than 2^32 rows in one revision");
        RowId {
            main: self.main,
            sub,
        }
    }
    /// The newest revision as this transaction sees it.
    fn newest(&self) -> Revision {
        if self.events.is_empty() {
            self.store.revision
        } else {
            self.main
        }
    }

    /// What may refuse a put, asked before it is carried out.
    fn may_put(store: &Store, lessor: &Lessor, put: &Put) -> Result<(), Refusal> {
        if put.lease != LeaseId::NONE && !lessor.contains(put.lease) {
            return Err(Refusal::LeaseNotFound);
        }
        if (put.ignore_value || put.ignore_lease) && store.alive(&put.key).is_none() {
            return Err(Refusal::KeyNotFound);
        }
        Ok(())
    }

    pub fn try_put(&mut self, put: &Put) -> Result<Option<Arc<KeyValue>>, ReadError> {
        Self::may_put(self.store, self.lessor, put)?;
        Ok(self.put(put)?)
    }

    /// `may_put` said yes. Returns the row before, if asked for.
    fn put(&mut self, put: &Put) -> Result<Option<Arc<KeyValue>>, Unreadable> {
        let before = self.store.alive(&put.key);
        let old_lease = before.map_or(LeaseId::NONE, |(_, history)| history.lease);
        let wanted = put.prev_kv || put.ignore_value;
        let prev = match before.and_then(|(key, history)| Some((key, history.alive()?))) {
            Some((key, version)) if wanted => Some(self.store.row(key, version)?),
            _ => None,
        };
        let value = match &prev {
            Some(prev) if put.ignore_value => prev.value.clone(),
            // Copied: the value outlives the entry it came in by far, and must not keep the entry's whole buffer.
            _ => Bytes::copy_from_slice(&put.value),
        };
        let lease = if put.ignore_lease {
            old_lease
        } else {
            put.lease
        };
        let row = self.next_row();
        let event = self.store.put(row, &put.key, value, lease, self.previous)?;
        if old_lease != lease {
            self.lessor.detach(old_lease, &put.key);
            self.lessor.attach(lease, &event.kv.key);
        }
        self.events.push(event);
        Ok(prev.filter(|_| put.prev_kv))
    }

    pub fn delete_range(
        &mut self,
        delete: &DeleteRange,
    ) -> Result<(u64, Vec<Arc<KeyValue>>), Unreadable> {
        let mut doomed = Vec::new();
        let mut rows = Vec::new();
        for (key, history) in self.store.index.scan(&delete.range) {
            if let Some(version) = history.alive() {
                if delete.prev_kv {
                    rows.push(self.store.row(key, version)?);
                }
                doomed.push((key.clone(), history.lease));
            }
        }
        for (key, lease) in &doomed {
            self.delete(key, *lease)?;
        }
        Ok((doomed.len() as u64, rows))
    }

    fn delete(&mut self, key: &Bytes, lease: LeaseId) -> Result<(), Unreadable> {
        let row = self.next_row();
        let event = self.store.delete(row, key, self.previous)?;
        self.lessor.detach(lease, key);
        self.events.push(event);
        Ok(())
    }

    /// Deletes what is alive of `keys`, in the order given.
    pub fn delete_keys(&mut self, keys: impl IntoIterator<Item = Bytes>) -> Result<(), Unreadable> {
        for key in keys {
            if let Some((key, lease)) = self
                .store
                .alive(&key)
                .map(|(key, history)| (key.clone(), history.lease))
            {
                self.delete(&key, lease)?;
            }
        }
        Ok(())
    }

    fn range(&self, range: &Range) -> Result<RangeResult, ReadError> {
        self.store.range(range, self.newest())
    }

    /// Ends the transaction. A transaction that changed nothing is no revision.
    pub fn finish(self) -> Option<RevisionEvents> {
        if self.events.is_empty() {
            return None;
        }
        self.store.revision = self.main;
        Some(RevisionEvents {
            revision: self.main,
            events: self.events.into(),
        })
    }
}

/// A transaction with its compares decided, at every level.
struct Plan<'a> {
    succeeded: bool,
    ops: Vec<Step<'a>>,
}
enum Step<'a> {
    Range(&'a Range),
    Put(&'a Put),
    DeleteRange(&'a DeleteRange),
    Txn(Plan<'a>),
}

fn plan<'a>(store: &Store, txn: &'a Txn) -> Result<Plan<'a>, Unreadable> {
    let mut succeeded = true;
    for compare in &txn.compare {
        if !holds(store, compare)? {
            succeeded = false;
            break;
        }
    }
    let ops = if succeeded {
        &txn.success
    } else {
        &txn.failure
    };
    let step = |op: &'a TxnOp| {
        Ok(match op {
            TxnOp::Range(range) => Step::Range(range),
            TxnOp::Put(put) => Step::Put(put),
            TxnOp::DeleteRange(delete) => Step::DeleteRange(delete),
            TxnOp::Txn(txn) => Step::Txn(plan(store, txn)?),
        })
    };
    Ok(Plan {
        succeeded,
        ops: ops.iter().map(step).collect::<Result<_, Unreadable>>()?,
    })
}

/// True when every key in range compares so. An empty range compares as one key of zeroes, except that no value is no
/// value: comparing it is always false.
fn holds(store: &Store, compare: &Compare) -> Result<bool, Unreadable> {
    let mut any = false;
    for (key, history) in store.index.scan(&compare.range) {
        let Some(version) = history.alive() else {
            continue;
        };
        any = true;
        let ordering = match &compare.target {
            // The only one that may have to read.
            CompareTarget::Value(value) => store.row(key, version)?.value.cmp(value),
            CompareTarget::Version(n) => signed(history.version).cmp(n),
            CompareTarget::Create(n) => signed(history.create_revision.0).cmp(n),
            CompareTarget::Mod(n) => signed(version.id.main.0).cmp(n),
            CompareTarget::Lease(n) => history.lease.0.cmp(n),
        };
        if !is_as_asked(ordering, compare.result) {
            return Ok(false);
        }
    }
    let nothing = match &compare.target {
        CompareTarget::Value(_) => return Ok(any),
        CompareTarget::Version(n)
        | CompareTarget::Create(n)
        | CompareTarget::Mod(n)
        | CompareTarget::Lease(n) => 0.cmp(n),
    };
    Ok(any || is_as_asked(nothing, compare.result))
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn is_as_asked(ordering: Ordering, asked: CompareResult) -> bool {
    match asked {
        CompareResult::Equal => ordering.is_eq(),
        CompareResult::NotEqual => ordering.is_ne(),
        CompareResult::Greater => ordering.is_gt(),
        CompareResult::Less => ordering.is_lt(),
        CompareResult::Unknown => true,
    }
}

/// Refuses what could fail half-way. etcd's order, and clients see which came first: every put of every level, then every
/// range.
fn check(store: &Store, lessor: &Lessor, plan: &Plan<'_>) -> Result<(), Refusal> {
    let mut writes = Writes::default();
    check_puts(store, lessor, plan, &mut writes)?;
    check_ranges(store, plan)
}

fn check_ranges(store: &Store, plan: &Plan<'_>) -> Result<(), Refusal> {
    for step in &plan.ops {
        match step {
            Step::Range(range) => store.readable_in_txn(range.revision)?,
            Step::Txn(inner) => check_ranges(store, inner)?,
            Step::Put(_) | Step::DeleteRange(_) => {}
        }
    }
    Ok(())
}

/// The writes passed so far: what a key's existence looks like to the next operation.
#[derive(Default)]
struct Writes<'a> {
    /// Keys put and not deleted since.
    put: BTreeSet<&'a Bytes>,
    deleted: Cover,
}

fn check_puts<'a>(
    store: &Store,
    lessor: &Lessor,
    plan: &Plan<'a>,
    writes: &mut Writes<'a>,
) -> Result<(), Refusal> {
    for step in &plan.ops {
        match step {
            Step::Range(_) => {}
            Step::DeleteRange(delete) => {
                writes.put.retain(|key| !delete.range.contains(key));
                writes.deleted.add(&delete.range);
            }
            Step::Put(put) => {
                if put.ignore_value || put.ignore_lease {
                    let stood =
                        || store.alive(&put.key).is_some() && !writes.deleted.contains(&put.key);
                    if !writes.put.contains(&put.key) && !stood() {
                        return Err(Refusal::KeyNotFound);
                    }
                }
                if put.lease != LeaseId::NONE && !lessor.contains(put.lease) {
                    return Err(Refusal::LeaseNotFound);
                }
                writes.put.insert(&put.key);
            }
            Step::Txn(inner) => check_puts(store, lessor, inner, writes)?,
        }
    }
    Ok(())
}

fn carry_out(write: &mut Write<'_>, plan: &Plan<'_>) -> Result<TxnResult, ReadError> {
    let mut results = Vec::with_capacity(plan.ops.len());
    for step in &plan.ops {
        results.push(match step {
            Step::Range(range) => OpResult::Range(match write.range(range) {
                Ok(result) => result,
                // `check` has asked whether the revision can be read; half of a transaction is never left behind.
                Err(ReadError::Refused(_)) => RangeResult::default(),
                Err(row) => return Err(row),
            }),
            Step::Put(put) => OpResult::Put {
                prev: write.put(put)?,
            },
            Step::DeleteRange(delete) => {
                let (deleted, prev) = write.delete_range(delete)?;
                OpResult::DeleteRange { deleted, prev }
            }
            Step::Txn(inner) => OpResult::Txn(carry_out(write, inner)?),
        });
    }
    Ok(TxnResult {
        results,
        succeeded: plan.succeeded,
        // Measured: a nested transaction's header carries none. The outermost one's is set when the revision is known.
        revision: Revision(0),
    })
}

/// Carries a transaction out, whole or not at all. (Unreadable: the member has to stop; half of it may have been done.)
pub fn write_txn(
    store: &mut Store,
    lessor: &mut Lessor,
    txn: &Txn,
    previous: Previous,
) -> Result<(TxnResult, Option<RevisionEvents>), ReadError> {
    let plan = plan(store, txn)?;
    check(store, lessor, &plan)?;
    let mut write = Write::begin(store, lessor, previous);
    let mut result = carry_out(&mut write, &plan)?;
    let events = write.finish();
    result.revision = store.revision;
    Ok((result, events))
}

/// Answers a transaction that only reads ([`Txn::is_read_only`]).
pub fn read_txn(store: &Store, txn: &Txn) -> Result<TxnResult, ReadError> {
    let plan = plan(store, txn)?;
    check_ranges(store, &plan)?;
    let mut results = Vec::with_capacity(plan.ops.len());
    for step in &plan.ops {
        let Step::Range(range) = step else {
            panic!("a transaction that writes was to be answered without the log");
        };
        results.push(OpResult::Range(store.range(range, store.revision)?));
    }
    Ok(TxnResult {
        succeeded: plan.succeeded,
        results,
        revision: store.revision,
    })
}
