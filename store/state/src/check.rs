//! What is refused before it is proposed: etcd's checks that need no state, in etcd's order.
//! Promise: what passes here can be written to the log and read back by every member.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::command::*;
use crate::cover::Cover;
use crate::limits::{LEASE_TTL_MAX_S, TXN_DEPTH_MAX, TXN_OPS_MAX};
use crate::types::LeaseId;

pub fn command(command: &Command) -> Result<(), Refusal> {
    match command {
        Command::Put(p) => put(p),
        Command::DeleteRange(d) => key_given(&d.range.key),
        Command::Txn(t) => txn(t),
        Command::LeaseGrant { ttl_s, .. } if *ttl_s > LEASE_TTL_MAX_S => {
            Err(Refusal::LeaseTtlTooLarge)
        }
        Command::LeaseGrant { .. }
        | Command::Compact { .. }
        | Command::LeaseRevoke { .. }
        | Command::LeaseKeepAlive { .. }
        | Command::LeaseExpire { .. }
        | Command::MemberPublish { .. }
        | Command::Members(_)
        | Command::AlarmRaise(_)
        | Command::AlarmClear { .. }
        | Command::IntegrityMark
        | Command::ClusterVersionSet(_) => Ok(()),
    }
}

pub fn range(range: &Range) -> Result<(), Refusal> {
    key_given(&range.range.key)
}

fn key_given(key: &Bytes) -> Result<(), Refusal> {
    if key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    Ok(())
}

fn put(put: &Put) -> Result<(), Refusal> {
    key_given(&put.key)?;
    if put.ignore_value && !put.value.is_empty() {
        return Err(Refusal::ValueProvided);
    }
    if put.ignore_lease && put.lease != LeaseId::NONE {
        return Err(Refusal::LeaseProvided);
    }
    Ok(())
}

pub fn txn(txn: &Txn) -> Result<(), Refusal> {
    level(txn, TXN_OPS_MAX, TXN_DEPTH_MAX)?;
    duplicates(&txn.success)?;
    duplicates(&txn.failure)?;
    Ok(())
}

fn level(txn: &Txn, ops_left: usize, depth_left: usize) -> Result<(), Refusal> {
    let ops = txn
        .compare
        .len()
        .max(txn.success.len())
        .max(txn.failure.len());
    if ops > ops_left || depth_left == 0 {
        return Err(Refusal::TooManyOps);
    }
    for compare in &txn.compare {
        key_given(&compare.range.key)?;
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            TxnOp::Range(r) => range(r)?,
            TxnOp::Put(p) => put(p)?,
            TxnOp::DeleteRange(d) => key_given(&d.range.key)?,
            TxnOp::Txn(inner) => level(inner, ops_left - ops, depth_left - 1)?,
        }
    }
    Ok(())
}

/// Refuses a key that one branch would write twice, or put and delete. The then and else of one inner transaction may
/// name the same key; so may two deletes. The order in which inner transactions are looked at is etcd's, and decides.
fn duplicates(ops: &[TxnOp]) -> Result<(BTreeSet<&Bytes>, Cover), Refusal> {
    let mut deleted = Cover::default();
    for op in ops {
        // A delete "from this key on" is not seen by etcd's check; measured, such a transaction is carried out.
        if let TxnOp::DeleteRange(delete) = op
            && delete.range.end.as_ref() != b"\0"
        {
            deleted.add(&delete.range);
        }
    }
    let mut puts: BTreeSet<&Bytes> = BTreeSet::new();
    for op in ops {
        let TxnOp::Txn(inner) = op else { continue };
        let (then_puts, then_deleted) = duplicates(&inner.success)?;
        let (else_puts, else_deleted) = duplicates(&inner.failure)?;
        for &key in then_puts.union(&else_puts) {
            if puts.contains(key) || deleted.contains(key) {
                return Err(Refusal::DuplicateKey);
            }
        }
        puts.extend(then_puts);
        puts.extend(else_puts);
        deleted.merge(then_deleted);
        deleted.merge(else_deleted);
    }
    for op in ops {
        let TxnOp::Put(put) = op else { continue };
        if deleted.contains(&put.key) || !puts.insert(&put.key) {
            return Err(Refusal::DuplicateKey);
        }
    }
    Ok((puts, deleted))
}

impl Txn {
    /// Only reads, at the top level: answered without the log. Any inner transaction counts as a write, as in etcd.
    pub fn is_read_only(&self) -> bool {
        let reads = |op: &TxnOp| matches!(op, TxnOp::Range(_));
        self.success.iter().all(reads) && self.failure.iter().all(reads)
    }
}
