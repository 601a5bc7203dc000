//! etcd's rules that are easy to get wrong, one by one.

use super::*;
use crate::{
    Compare, CompareResult, CompareTarget, MemberId, OpResult, SortOrder, SortTarget, Txn, TxnOp,
    TxnResult,
};

fn txn(m: &mut Member, txn: Txn) -> TxnResult {
    let command = Command::Txn(txn);
    assert_eq!(State::check(&command), Ok(()));
    match m.ok(command) {
        Answer::Txn(result) => result,
        other => panic!("{other:?}"),
    }
}
fn success(ops: Vec<TxnOp>) -> Txn {
    Txn {
        success: ops,
        ..Txn::default()
    }
}
fn compare(range: KeyRange, result: CompareResult, target: CompareTarget) -> Compare {
    Compare {
        range,
        result,
        target,
    }
}
fn point(key: &str) -> KeyRange {
    KeyRange::point(bytes(key))
}
fn holds(m: &Member, compare: Compare) -> bool {
    let txn = Txn {
        compare: vec![compare],
        ..Txn::default()
    };
    assert!(txn.is_read_only());
    m.state.read_txn(&txn).unwrap().succeeded
}

#[test]
fn nothing_done_is_no_revision() {
    let mut m = Member::new();
    assert_eq!(m.state.revision(), Revision(1));
    m.ok(delete("a", ""));
    txn(&mut m, Txn::default());
    txn(&mut m, success(vec![TxnOp::Txn(Txn::default())]));
    assert_eq!(m.state.revision(), Revision(1));
    m.ok(put("a", "1"));
    assert_eq!(m.state.revision(), Revision(2));
}

#[test]
fn versions_and_creation_start_over_after_a_delete() {
    let mut m = Member::new();
    m.ok(put("a", "1"));
    m.ok(put("a", "2"));
    let read = |m: &Member| m.state.range(&range_of("a", "")).unwrap().kvs[0].clone();
    assert_eq!(
        (read(&m).version, read(&m).create_revision),
        (2, Revision(2))
    );
    m.ok(delete("a", ""));
    m.ok(put("a", "3"));
    assert_eq!(
        (read(&m).version, read(&m).create_revision),
        (1, Revision(5))
    );
}

#[test]
fn a_range_with_its_end_before_its_start_is_empty() {
    let mut m = Member::new();
    m.ok(put("b", "1"));
    for end in ["a", "b"] {
        assert!(m.values(&range_of("b", end)).is_empty());
        m.ok(delete("b", end));
    }
    assert_eq!(m.values(&range_of("a", "\0")), ["b=1"]);
    assert!(m.values(&range_of("c", "\0")).is_empty());
}

#[test]
fn limits_cut_and_counts_do_not() {
    let mut m = Member::new();
    for key in ["v", "w", "x", "y", "z"] {
        m.ok(put(key, key));
    }
    let limited = m
        .state
        .range(&Range {
            limit: 2,
            ..range_of("\0", "\0")
        })
        .unwrap();
    assert_eq!(
        (limited.kvs.len(), limited.more, limited.count),
        (2, true, 5)
    );
    let exact = m
        .state
        .range(&Range {
            limit: 5,
            min_mod_revision: 3,
            ..range_of("\0", "\0")
        })
        .unwrap();
    assert_eq!((exact.kvs.len(), exact.more, exact.count), (4, false, 5));
    let counted = m
        .state
        .range(&Range {
            count_only: true,
            limit: 1,
            ..range_of("w", "y")
        })
        .unwrap();
    assert_eq!(
        (counted.kvs.len(), counted.more, counted.count),
        (0, false, 2)
    );
    let keys = m
        .state
        .range(&Range {
            keys_only: true,
            ..range_of("v", "")
        })
        .unwrap();
    assert_eq!(keys.kvs[0].value, "");
    assert_eq!(keys.kvs[0].mod_revision, Revision(2));
}

/// Measured on etcd 3.5.16: without an order, only limit + 1 keys are fetched, and those are sorted by the target.
#[test]
fn a_sort_target_without_an_order_sorts_what_was_fetched() {
    let mut m = Member::new();
    for key in ["sz", "sy", "sx", "sw", "sv"] {
        m.ok(put(key, ""));
    }
    let by_mod = |sort_order| Range {
        limit: 2,
        sort_target: SortTarget::Mod,
        sort_order,
        ..range_of("s", "t")
    };
    assert_eq!(m.values(&by_mod(SortOrder::None)), ["sx=", "sw="]);
    assert_eq!(m.values(&by_mod(SortOrder::Ascend)), ["sz=", "sy="]);
    assert_eq!(m.values(&by_mod(SortOrder::Descend)), ["sv=", "sw="]);
}

#[test]
fn compares_follow_etcd_on_missing_keys_ranges_and_unknown_results() {
    use CompareResult::*;
    let mut m = Member::new();
    m.ok(put("a", "1"));
    m.ok(put("b", "1"));
    m.ok(put("b", "2"));
    let value = |v: &str| CompareTarget::Value(bytes(v));
    assert!(holds(&m, compare(point("a"), Equal, value("1"))));
    assert!(holds(
        &m,
        compare(point("no"), Equal, CompareTarget::Mod(0))
    ));
    assert!(!holds(&m, compare(point("no"), Equal, value(""))));
    assert!(!holds(&m, compare(point("no"), NotEqual, value("x"))));
    assert!(!holds(&m, compare(point("no"), Unknown, value("x"))));
    assert!(holds(&m, compare(point("a"), Unknown, value("x"))));
    let both = interval("a", "c");
    assert!(holds(
        &m,
        compare(both.clone(), Greater, CompareTarget::Version(0))
    ));
    assert!(!holds(
        &m,
        compare(both.clone(), Less, CompareTarget::Version(2))
    ));
    assert!(holds(&m, compare(both, NotEqual, value("0"))));
    let empty = interval("x", "z");
    assert!(holds(&m, compare(empty, Less, CompareTarget::Create(1))));
    assert!(holds(
        &m,
        compare(point("a"), Equal, CompareTarget::Lease(0))
    ));
    assert!(holds(
        &m,
        compare(point("a"), Greater, CompareTarget::Mod(-1))
    ));
}

#[test]
fn inner_compares_see_the_state_before_the_whole_transaction() {
    let mut m = Member::new();
    let result = txn(
        &mut m,
        success(vec![
            TxnOp::Put(put_of("n", "1")),
            TxnOp::Range(range_of("n", "")),
            TxnOp::Txn(Txn {
                compare: vec![compare(
                    point("n"),
                    CompareResult::Equal,
                    CompareTarget::Version(0),
                )],
                success: vec![TxnOp::Range(range_of("n", ""))],
                failure: vec![],
            }),
        ]),
    );
    let OpResult::Range(own) = &result.results[1] else {
        panic!("not a range");
    };
    assert_eq!(own.kvs[0].mod_revision, Revision(2), "own write not read");
    let OpResult::Txn(inner) = &result.results[2] else {
        panic!("not a transaction");
    };
    assert!(inner.succeeded, "the inner compare saw the outer write");
    assert_eq!(
        (result.revision, inner.revision),
        (Revision(2), Revision(0))
    );
}

#[test]
fn a_refused_transaction_leaves_no_trace() {
    let mut m = Member::new();
    m.ok(put("a", "1"));
    m.ok(put("a", "2"));
    m.ok(compact(3));
    let hash = m.state.whole_hash();
    let at = |revision| {
        TxnOp::Range(Range {
            revision: Some(Revision(revision)),
            ..range_of("a", "")
        })
    };
    let ignoring = Put {
        ignore_value: true,
        ..put_of("gone", "")
    };
    let leased = Put {
        lease: LeaseId(9),
        ..put_of("l", "")
    };
    for (bad, refusal) in [
        (at(2), Refusal::Compacted),
        (at(4), Refusal::FutureRevision),
        (TxnOp::Put(ignoring), Refusal::KeyNotFound),
        (TxnOp::Put(leased), Refusal::LeaseNotFound),
    ] {
        let inner = TxnOp::Txn(success(vec![bad]));
        let command = Command::Txn(success(vec![TxnOp::Put(put_of("b", "1")), inner]));
        assert_eq!(m.refused(command), refusal);
        assert_eq!(m.state.whole_hash(), hash, "{refusal:?} left something");
    }
}

#[test]
fn ignoring_keeps_what_is_there() {
    let mut m = Member::new();
    m.ok(grant(3, 10));
    m.ok(put_leased("a", "old", 3));
    m.ok(Command::Put(Put {
        ignore_lease: true,
        ..put_of("a", "new")
    }));
    let read = |m: &Member| m.state.range(&range_of("a", "")).unwrap().kvs[0].clone();
    assert_eq!(read(&m).lease, LeaseId(3));
    m.ok(Command::Put(Put {
        ignore_value: true,
        ..put_of("a", "")
    }));
    assert_eq!(
        (read(&m).lease, &read(&m).value[..]),
        (LeaseId::NONE, &b"new"[..])
    );
    assert!(m.state.lease(LeaseId(3)).unwrap().keys.is_empty());
    let missing = Put {
        ignore_lease: true,
        ..put_of("b", "x")
    };
    assert_eq!(m.refused(Command::Put(missing)), Refusal::KeyNotFound);
}

#[test]
fn requests_are_checked_as_etcd_does() {
    let check = |command| State::check(&command);
    assert_eq!(check(put("", "x")), Err(Refusal::EmptyKey));
    assert_eq!(check(delete("", "\0")), Err(Refusal::EmptyKey));
    assert_eq!(
        State::check_range(&range_of("", "")),
        Err(Refusal::EmptyKey)
    );
    let both = Put {
        ignore_value: true,
        ..put_of("a", "v")
    };
    assert_eq!(check(Command::Put(both)), Err(Refusal::ValueProvided));
    let both = Put {
        ignore_lease: true,
        lease: LeaseId(1),
        ..put_of("a", "v")
    };
    assert_eq!(check(Command::Put(both)), Err(Refusal::LeaseProvided));
    assert_eq!(check(grant(1, 9_000_000_000)), Ok(()));
    assert_eq!(
        check(grant(1, 9_000_000_001)),
        Err(Refusal::LeaseTtlTooLarge)
    );

    let txn = |ops| check(Command::Txn(success(ops)));
    let p = |key| TxnOp::Put(put_of(key, ""));
    let d = |key: &str, end: &str| {
        TxnOp::DeleteRange(DeleteRange {
            range: interval(key, end),
            prev_kv: false,
        })
    };
    let branches = |success, failure| {
        TxnOp::Txn(Txn {
            compare: vec![],
            success,
            failure,
        })
    };
    let reads = |n| {
        (0..n)
            .map(|_| TxnOp::Range(range_of("a", "")))
            .collect::<Vec<_>>()
    };
    assert_eq!(txn(reads(128)), Ok(()));
    assert_eq!(txn(reads(129)), Err(Refusal::TooManyOps));
    assert_eq!(txn(vec![branches(reads(127), vec![])]), Ok(()));
    assert_eq!(
        txn(vec![branches(reads(128), vec![])]),
        Err(Refusal::TooManyOps)
    );
    let duplicate = Err(Refusal::DuplicateKey);
    assert_eq!(txn(vec![p("a"), p("a")]), duplicate);
    assert_eq!(txn(vec![p("b"), d("a", "c")]), duplicate);
    assert_eq!(txn(vec![d("a", "c"), d("a", "c"), p("c")]), Ok(()));
    assert_eq!(txn(vec![branches(vec![p("a")], vec![p("a")])]), Ok(()));
    assert_eq!(txn(vec![branches(vec![p("a")], vec![]), p("a")]), duplicate);
    assert_eq!(
        txn(vec![
            branches(vec![], vec![d("a", "")]),
            branches(vec![p("a")], vec![])
        ]),
        duplicate
    );
    // etcd looks at inner transactions in order, so this way round it sees nothing.
    assert_eq!(
        txn(vec![
            branches(vec![p("a")], vec![]),
            branches(vec![], vec![d("a", "")])
        ]),
        Ok(())
    );
    assert_eq!(txn(vec![d("a", "\0"), p("b")]), Ok(()));
    let empty_compare = Txn {
        compare: vec![compare(
            point(""),
            CompareResult::Equal,
            CompareTarget::Mod(0),
        )],
        ..Txn::default()
    };
    assert_eq!(check(Command::Txn(empty_compare)), Err(Refusal::EmptyKey));
}

#[test]
fn compaction_keeps_what_reads_from_it_on_can_see() {
    let mut m = Member::new();
    m.ok(put("a", "1"));
    m.ok(put("a", "2"));
    m.ok(put("b", "1"));
    m.ok(delete("b", ""));
    m.ok(put("a", "3"));
    let rows = |m: &Member, from: u64| {
        m.state
            .changes(&everything(), Revision(from), 100)
            .map(|c| c.revisions.iter().map(|r| r.revision.0).collect::<Vec<_>>())
    };
    assert_eq!(rows(&m, 0), Ok(vec![2, 3, 4, 5, 6]));
    let bytes = m.state.live_bytes();
    m.ok(compact(5));
    assert!(m.state.live_bytes() < bytes);
    assert_eq!(rows(&m, 4), Err(Refusal::Compacted.into()));
    assert_eq!(rows(&m, 5), Ok(vec![5, 6]), "the delete at the compaction");
    let at = |revision| Range {
        revision: Some(Revision(revision)),
        ..range_of("\0", "\0")
    };
    assert_eq!(m.values(&at(5)), ["a=2"]);
    assert_eq!(m.state.range(&at(4)), Err(Refusal::Compacted.into()));
    assert_eq!(m.state.range(&at(7)), Err(Refusal::FutureRevision.into()));
    assert_eq!(m.refused(compact(5)), Refusal::Compacted);
    assert_eq!(m.refused(compact(7)), Refusal::FutureRevision);
    m.ok(compact(6));
    assert_eq!(rows(&m, 6), Ok(vec![6]));
    let one_row = crate::limits::ROW_OVERHEAD_BYTES + 2;
    assert_eq!(m.state.live_bytes(), one_row, "the old tombstone stayed");
    assert_eq!(m.state.compact_revision(), Revision(6));
}

#[test]
fn history_is_read_in_bounded_pieces_of_whole_revisions() {
    let mut m = Member::new();
    for i in 0..50 {
        m.ok(put(if i % 10 == 0 { "rare" } else { "often" }, "v"));
    }
    for range in [point("rare"), interval("rare", "rarf"), everything()] {
        let mut from = Revision(0);
        let mut found = 0;
        let mut calls = 0;
        while from <= m.state.revision() {
            let piece = m.state.changes(&range, from, 7).unwrap();
            assert!(piece.next > from, "stood still");
            assert!(piece.revisions.len() <= 7);
            found += piece.revisions.len();
            from = piece.next;
            calls += 1;
        }
        let all = range == everything();
        assert_eq!(found, if all { 50 } else { 5 });
        // A key's own history is found without reading the others'.
        assert_eq!(calls, if range.is_point() { 1 } else { 8 });
    }
}

#[test]
fn members_with_equal_state_have_equal_hashes_however_they_came_there() {
    let (mut a, mut b) = (Member::new(), Member::new());
    a.apply(vec![put("x", "1"), put("y", "1"), grant(4, 10)]);
    for command in [put("x", "1"), put("y", "1"), grant(4, 10)] {
        b.ok(command);
    }
    assert_eq!(a.state.whole_hash(), b.state.whole_hash());
    b.ok(put("y", "2"));
    a.ok(put("y", "3"));
    assert_ne!(a.state.whole_hash(), b.state.whole_hash());
}

#[test]
fn the_first_directory_a_member_told_of_stands() {
    let mut member = Member::new();
    let publish = |name: &str, incarnation| {
        vec![Command::MemberPublish {
            member: MemberId(1),
            name: name.into(),
            client_urls: Vec::new(),
            incarnation,
        }]
    };
    let mut told = |name: &str, incarnation| {
        let applied = member.apply(publish(name, incarnation));
        assert_eq!(applied.outcomes[0].result, Ok(Answer::Published));
        let known = &member.state.published()[&MemberId(1)];
        (known.name.clone(), known.incarnation)
    };
    assert_eq!(told("none", 0), ("none".into(), 0));
    assert_eq!(told("first", 7), ("first".into(), 7));
    assert_eq!(told("wiped", 8), ("first".into(), 7));
    assert_eq!(told("forgot", 0), ("first".into(), 7));
    assert_eq!(told("renamed", 7), ("renamed".into(), 7));
}
