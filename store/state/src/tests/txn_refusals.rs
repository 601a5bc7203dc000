//! Which of two faults in one transaction is told, and what a negative revision in it means: as etcd 3.5.16 answered.

use super::*;
use crate::{ReadError, Txn, TxnOp};

fn get_at(revision: i64) -> TxnOp {
    TxnOp::Range(Range {
        revision: Some(Revision(revision.cast_unsigned())),
        ..range_of("a", "")
    })
}
fn leased_put(key: &str, lease: i64) -> TxnOp {
    TxnOp::Put(Put {
        lease: LeaseId(lease),
        ..put_of(key, "v")
    })
}
fn txn(success: Vec<TxnOp>) -> Command {
    Command::Txn(Txn {
        success,
        ..Txn::default()
    })
}

#[test]
fn every_put_is_looked_at_before_any_range() {
    let mut m = Member::new();
    m.ok(put("a", "1"));
    let inner = TxnOp::Txn(Txn {
        success: vec![leased_put("b", 7)],
        ..Txn::default()
    });
    for late in [leased_put("b", 7), inner] {
        assert_eq!(
            m.refused(txn(vec![get_at(99), late])),
            Refusal::LeaseNotFound
        );
    }
    assert_eq!(
        m.refused(txn(vec![leased_put("b", 0), get_at(99)])),
        Refusal::FutureRevision
    );
    assert_eq!(m.state.revision(), Revision(2), "no trace");
}

#[test]
fn a_negative_revision_in_a_transaction_is_one_before_the_compaction_mark() {
    let mut m = Member::new();
    m.ok(put("a", "1"));
    let both = |m: &mut Member, revision: i64| {
        let read = Txn {
            success: vec![get_at(revision)],
            ..Txn::default()
        };
        let alone = match m.state.read_txn(&read) {
            Ok(_) => None,
            Err(ReadError::Refused(refusal)) => Some(refusal),
            Err(ReadError::Unreadable(row)) => panic!("{row}"),
        };
        let beside_a_put = m
            .one(txn(vec![get_at(revision), leased_put("b", 0)]))
            .result
            .err();
        assert_eq!(alone, beside_a_put);
        alone
    };
    // The mark stands at -1 until the first compaction.
    assert_eq!(both(&mut m, -1), None);
    assert_eq!(both(&mut m, 0), None);
    assert_eq!(both(&mut m, -2), Some(Refusal::Compacted));
    assert_eq!(both(&mut m, i64::MIN), Some(Refusal::Compacted));
    m.ok(compact(2));
    assert_eq!(both(&mut m, -1), Some(Refusal::Compacted));
    assert_eq!(both(&mut m, 0), None);
}

#[test]
fn a_negative_revision_reads_the_newest_rows() {
    let mut m = Member::new();
    m.ok(put("a", "1"));
    let Answer::Txn(result) = m.ok(txn(vec![leased_put("b", 0), get_at(-1)])) else {
        panic!("a transaction's answer");
    };
    match &result.results[1] {
        crate::OpResult::Range(range) => assert_eq!(range.count, 1),
        other => panic!("{other:?}"),
    }
}
