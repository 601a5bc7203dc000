//! HashKV against figures read off a real etcd 3.5.16 (`etcdctl endpoint hashkv` after the same requests).

use super::*;
use crate::{ReadError, Txn, TxnOp};

fn hash(member: &Member) -> u32 {
    member.state.hash_kv(None).expect("current").hash
}
fn hash_at(member: &Member, at: u64) -> Result<u32, ReadError> {
    member.state.hash_kv(Some(Revision(at))).map(|h| h.hash)
}
fn ops(ops: Vec<TxnOp>) -> Command {
    Command::Txn(Txn {
        success: ops,
        ..Txn::default()
    })
}
fn op(command: Command) -> TxnOp {
    match command {
        Command::Put(put) => TxnOp::Put(put),
        Command::DeleteRange(delete) => TxnOp::DeleteRange(delete),
        other => panic!("{other:?} is no operation"),
    }
}

#[test]
fn equals_etcd_through_puts_leases_compactions_and_emptiness() {
    let mut m = Member::new();
    assert!(!m.state.hash_kv(None).unwrap().compacted);
    for (key, value) in [("a0", "v0"), ("a1", "v1"), ("a2", "v2"), ("a1", "x")] {
        m.ok(put(key, value));
    }
    m.ok(ops(vec![
        op(put("n", "1")),
        op(delete("zzz", "")),
        TxnOp::Txn(Txn::default()),
    ]));
    let by_revision = [
        1084519789, 555139718, 1704830165, 2777973303, 299438542, 3028814771,
    ];
    for (i, expected) in by_revision.into_iter().enumerate() {
        assert_eq!(hash_at(&m, i as u64 + 1), Ok(expected));
    }
    assert_eq!(hash_at(&m, 7), Err(Refusal::FutureRevision.into()));
    m.ok(compact(5));
    assert_eq!(hash(&m), 1769931309);
    assert_eq!(hash_at(&m, 4), Err(Refusal::Compacted.into()));
    for (i, key) in ["sz", "sy", "sx", "sw", "sv"].into_iter().enumerate() {
        m.ok(put(key, &i.to_string()));
    }
    m.ok(grant(-5, 100));
    m.ok(put_leased("l1", "x", -5));
    m.ok(put_leased("sz", "x", -5));
    assert_eq!(hash(&m), 1708976629);
    m.ok(Command::LeaseRevoke { id: LeaseId(-5) });
    assert_eq!(hash(&m), 3053740997);
    m.ok(delete("\0", "\0"));
    assert_eq!(hash(&m), 209307180);
    m.ok(compact(15));
    assert_eq!(hash(&m), 1084519789);
    m.ok(put("new", "1"));
    assert_eq!(hash(&m), 1494329152);
    m.ok(compact(16));
    assert_eq!(hash(&m), 1494329152);
}

#[test]
fn equals_etcd_with_tombstones_at_the_compaction() {
    let mut m = Member::new();
    m.ok(put("k", "1"));
    m.ok(delete("k", ""));
    m.ok(compact(3));
    assert_eq!(hash(&m), 1084519789);
    m.ok(put("j", "1"));
    assert_eq!(hash(&m), 2474213913);
    m.ok(put("k", "2"));
    m.ok(put("k", "3"));
    m.ok(delete("k", ""));
    m.ok(put("m", "1"));
    assert_eq!(hash(&m), 2000130293);
    m.ok(compact(7));
    assert_eq!(hash(&m), 3110988078);
    m.ok(compact(8));
    assert_eq!(hash(&m), 3110988078);
    m.ok(ops(vec![
        op(put("t1", "a")),
        op(put("t0", "b")),
        op(delete("j", "n")),
    ]));
    assert_eq!(hash(&m), 122279517);
}

#[test]
fn equals_etcd_when_one_transaction_writes_a_key_twice() {
    let mut m = Member::new();
    m.ok(compact(0));
    assert_eq!(m.refused(compact(0)), Refusal::Compacted);
    m.ok(compact(1));
    for (key, value) in [("a0", "v0"), ("a1", "v1"), ("a2", "v2"), ("a1", "x")] {
        m.ok(put(key, value));
    }
    m.ok(put("n", "1"));
    let twice = ops(vec![op(delete("a1", "\0")), op(put("a2", "again"))]);
    assert_eq!(State::check(&twice), Ok(()));
    m.ok(twice);
    assert_eq!(hash(&m), 3303359532);
    m.ok(ops(vec![op(put("q", "again")), op(delete("q", "\0"))]));
    assert_eq!(hash(&m), 3001767333);
}
