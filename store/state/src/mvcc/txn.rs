//! Write transactions: one main revision, one sub-revision per row, all or nothing.
//! Promise: every compare of every level sees the state before the transaction; everything that can be refused is refused
//! before the first row is written; operations see the writes before them.
//! Not here: limits and duplicates (`check`, before proposing).

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::index::RowId;
use super::store::Store;
use crate::command::*;
use crate::cover::Cover;
use crate::lease::Lessor;
use crate::types::*;

/// A transaction under way. Nothing reads the store beside it, so rows go in at once; [`Write::finish`] makes them a revision.
pub struct Write<'a> {
    store: &'a mut Store,
    lessor: &'a mut Lessor,
    main: Revision,
    events: Vec<Event>,
}

impl<'a> Write<'a> {
    pub fn begin(store: &'a mut Store, lessor: &'a mut Lessor) -> Self {
        let main = Revision(store.revision.0 + 1);
        Write {
            store,
            lessor,
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
        if (put.ignore_value || put.ignore_lease) && store.latest(&put.key).is_none() {
            return Err(Refusal::KeyNotFound);
        }
        Ok(())
    }

    pub fn try_put(&mut self, put: &Put) -> Result<Option<Arc<KeyValue>>, Refusal> {
        Self::may_put(self.store, self.lessor, put)?;
        Ok(self.put(put))
    }

    /// `may_put` said yes. Returns the row before, if asked for.
    fn put(&mut self, put: &Put) -> Option<Arc<KeyValue>> {
        let prev = self.store.latest(&put.key).cloned();
        let value = match &prev {
            Some(prev) if put.ignore_value => prev.value.clone(),
            // Copied: the value outlives the entry it came in by far, and must not keep the entry's whole buffer.
            _ => Bytes::copy_from_slice(&put.value),
        };
        let old_lease = prev.as_ref().map_or(LeaseId::NONE, |prev| prev.lease);
        let lease = if put.ignore_lease {
            old_lease
        } else {
            put.lease
        };
        let event = self.store.put(self.next_row(), &put.key, value, lease);
        if old_lease != lease {
            self.lessor.detach(old_lease, &put.key);
            self.lessor.attach(lease, &event.kv.key);
        }
        self.events.push(event);
        prev.filter(|_| put.prev_kv)
    }

    pub fn delete_range(&mut self, delete: &DeleteRange) -> (u64, Vec<Arc<KeyValue>>) {
        let doomed: Vec<_> = self
            .store
            .index
            .scan(&delete.range)
            .filter_map(|(_, history)| history.latest.clone())
            .collect();
        for kv in &doomed {
            self.delete(kv);
        }
        let deleted = doomed.len() as u64;
        (deleted, if delete.prev_kv { doomed } else { Vec::new() })
    }

    fn delete(&mut self, kv: &KeyValue) {
        let event = self.store.delete(self.next_row(), &kv.key);
        self.lessor.detach(kv.lease, &kv.key);
        self.events.push(event);
    }

    /// Deletes what is alive of `keys`, in the order given.
    pub fn delete_keys(&mut self, keys: impl IntoIterator<Item = Bytes>) {
        for key in keys {
            if let Some(kv) = self.store.latest(&key).cloned() {
                self.delete(&kv);
            }
        }
    }

    fn range(&self, range: &Range) -> Result<RangeResult, Refusal> {
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

fn plan<'a>(store: &Store, txn: &'a Txn) -> Plan<'a> {
    let succeeded = txn.compare.iter().all(|compare| holds(store, compare));
    let ops = if succeeded {
        &txn.success
    } else {
        &txn.failure
    };
    let step = |op: &'a TxnOp| match op {
        TxnOp::Range(range) => Step::Range(range),
        TxnOp::Put(put) => Step::Put(put),
        TxnOp::DeleteRange(delete) => Step::DeleteRange(delete),
        TxnOp::Txn(txn) => Step::Txn(plan(store, txn)),
    };
    Plan {
        succeeded,
        ops: ops.iter().map(step).collect(),
    }
}

/// True when every key in range compares so. An empty range compares as one key of zeroes, except that no value is no
/// value: comparing it is always false.
fn holds(store: &Store, compare: &Compare) -> bool {
    let mut any = false;
    for (_, history) in store.index.scan(&compare.range) {
        if let Some(kv) = &history.latest {
            any = true;
            if !compares(kv, compare) {
                return false;
            }
        }
    }
    any || (!matches!(compare.target, CompareTarget::Value(_))
        && compares(&KeyValue::default(), compare))
}

fn compares(kv: &KeyValue, compare: &Compare) -> bool {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let ordering = match &compare.target {
        CompareTarget::Version(n) => signed(kv.version).cmp(n),
        CompareTarget::Create(n) => signed(kv.create_revision.0).cmp(n),
        CompareTarget::Mod(n) => signed(kv.mod_revision.0).cmp(n),
        CompareTarget::Value(value) => kv.value.cmp(value),
        CompareTarget::Lease(n) => kv.lease.0.cmp(n),
    };
    match compare.result {
        CompareResult::Equal => ordering.is_eq(),
        CompareResult::NotEqual => ordering.is_ne(),
        CompareResult::Greater => ordering.is_gt(),
        CompareResult::Less => ordering.is_lt(),
        CompareResult::Unknown => true,
    }
}

/// Refuses what could fail half-way, in the order of the operations.
fn check(store: &Store, lessor: &Lessor, plan: &Plan<'_>) -> Result<(), Refusal> {
    let mut writes = Writes::default();
    check_level(store, lessor, plan, &mut writes)
}

/// The writes passed so far: what a key's existence looks like to the next operation.
#[derive(Default)]
struct Writes<'a> {
    /// Keys put and not deleted since.
    put: BTreeSet<&'a Bytes>,
    deleted: Cover,
}

fn check_level<'a>(
    store: &Store,
    lessor: &Lessor,
    plan: &Plan<'a>,
    writes: &mut Writes<'a>,
) -> Result<(), Refusal> {
    for step in &plan.ops {
        match step {
            Step::Range(range) => store.readable(range.revision, store.revision)?,
            Step::DeleteRange(delete) => {
                writes.put.retain(|key| !delete.range.contains(key));
                writes.deleted.add(&delete.range);
            }
            Step::Put(put) => {
                if put.ignore_value || put.ignore_lease {
                    let stood =
                        || store.latest(&put.key).is_some() && !writes.deleted.contains(&put.key);
                    if !writes.put.contains(&put.key) && !stood() {
                        return Err(Refusal::KeyNotFound);
                    }
                }
                if put.lease != LeaseId::NONE && !lessor.contains(put.lease) {
                    return Err(Refusal::LeaseNotFound);
                }
                writes.put.insert(&put.key);
            }
            Step::Txn(inner) => check_level(store, lessor, inner, writes)?,
        }
    }
    Ok(())
}

fn carry_out(write: &mut Write<'_>, plan: &Plan<'_>) -> TxnResult {
    let results = plan.ops.iter().map(|step| match step {
        Step::Range(range) => {
            // `check` has asked whether the revision can be read.
            OpResult::Range(write.range(range).unwrap_or_default())
        }
        Step::Put(put) => OpResult::Put {
            prev: write.put(put),
        },
        Step::DeleteRange(delete) => {
            let (deleted, prev) = write.delete_range(delete);
            OpResult::DeleteRange { deleted, prev }
        }
        Step::Txn(inner) => OpResult::Txn(carry_out(write, inner)),
    });
    TxnResult {
        results: results.collect(),
        succeeded: plan.succeeded,
        // Measured: a nested transaction's header carries none. The outermost one's is set when the revision is known.
        revision: Revision(0),
    }
}

/// Carries a transaction out, whole or not at all.
pub fn write_txn(
    store: &mut Store,
    lessor: &mut Lessor,
    txn: &Txn,
) -> Result<(TxnResult, Option<RevisionEvents>), Refusal> {
    let plan = plan(store, txn);
    check(store, lessor, &plan)?;
    let mut write = Write::begin(store, lessor);
    let mut result = carry_out(&mut write, &plan);
    let events = write.finish();
    result.revision = store.revision;
    Ok((result, events))
}

/// Answers a transaction that only reads ([`Txn::is_read_only`]).
pub fn read_txn(store: &Store, txn: &Txn) -> Result<TxnResult, Refusal> {
    let plan = plan(store, txn);
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
