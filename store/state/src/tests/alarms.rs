//! What an alarm refuses, who may take it back, and that it is part of the replicated state.

use super::*;
use crate::wire::*;
use crate::{Alarm, AlarmCause, AlarmKind, MemberId, Txn, TxnOp, growth};

fn alarm(kind: AlarmKind, member: u64, cause: AlarmCause) -> Alarm {
    Alarm {
        kind,
        member: MemberId(member),
        cause,
    }
}
fn clear(kind: AlarmKind, member: u64, only: Option<AlarmCause>) -> Command {
    Command::AlarmClear {
        kind,
        member: MemberId(member),
        only,
    }
}
fn txn(success: Vec<TxnOp>, failure: Vec<TxnOp>) -> Command {
    Command::Txn(Txn {
        success,
        failure,
        ..Txn::default()
    })
}

const FULL: Alarm = Alarm {
    kind: AlarmKind::NoSpace,
    member: MemberId(7),
    cause: AlarmCause::Operator,
};

#[test]
fn without_space_only_growth_is_refused() {
    let mut m = Member::new();
    m.ok(grant(5, 60));
    m.ok(put("a", "1"));
    m.ok(put_leased("leased", "1", 5));
    let before = m.state.revision();
    assert_eq!(m.ok(Command::AlarmRaise(FULL)), Answer::Alarms(vec![FULL]));
    for grows in [
        put("b", "1"),
        grant(6, 60),
        txn(vec![TxnOp::Put(put_of("b", "1"))], vec![]),
        txn(vec![], vec![TxnOp::Put(put_of("b", "1"))]),
        txn(
            vec![TxnOp::Txn(Txn {
                failure: vec![TxnOp::Put(put_of("b", "1"))],
                ..Txn::default()
            })],
            vec![],
        ),
    ] {
        assert_eq!(m.refused(grows.clone()), Refusal::NoSpace, "{grows:?}");
    }
    assert_eq!(
        m.state.revision(),
        before,
        "a refused command changes nothing"
    );
    assert_eq!(m.values(&range_of("a", "z")), ["a=1", "leased=1"]);
    let gone = DeleteRange {
        range: interval("a", ""),
        prev_kv: false,
    };
    m.ok(txn(vec![TxnOp::DeleteRange(gone)], vec![]));
    m.ok(Command::LeaseKeepAlive {
        ids: vec![LeaseId(5)],
    });
    m.ok(Command::LeaseRevoke { id: LeaseId(5) });
    m.ok(delete("leased", ""));
    m.ok(compact(before.0));
    m.ok(clear(AlarmKind::NoSpace, 7, None));
    m.ok(put("b", "1"));
}

#[test]
fn a_corrupt_cluster_writes_nothing_and_still_reads() {
    let mut m = Member::new();
    m.ok(grant(5, 60));
    m.ok(put("a", "1"));
    m.ok(Command::AlarmRaise(FULL));
    m.ok(Command::AlarmRaise(alarm(
        AlarmKind::Corrupt,
        7,
        AlarmCause::Operator,
    )));
    for write in [
        put("b", "1"),
        delete("a", ""),
        compact(1),
        grant(6, 60),
        txn(vec![TxnOp::Range(range_of("a", ""))], vec![]),
        Command::LeaseRevoke { id: LeaseId(5) },
        Command::LeaseExpire {
            id: LeaseId(5),
            deadline_seen: ClusterTime(u64::MAX),
        },
    ] {
        assert_eq!(m.refused(write.clone()), Refusal::Corrupt, "{write:?}");
    }
    assert_eq!(m.values(&range_of("a", "z")), ["a=1"]);
    m.ok(clear(AlarmKind::Corrupt, 7, None));
    assert_eq!(m.refused(put("b", "1")), Refusal::NoSpace);
}

#[test]
fn an_alarm_is_up_as_long_as_one_member_has_it() {
    let mut m = Member::new();
    m.ok(Command::AlarmRaise(alarm(
        AlarmKind::NoSpace,
        1,
        AlarmCause::Quota,
    )));
    m.ok(Command::AlarmRaise(alarm(
        AlarmKind::NoSpace,
        2,
        AlarmCause::Disk,
    )));
    let nothing = Answer::Alarms(Vec::new());
    assert_eq!(m.ok(clear(AlarmKind::Corrupt, 1, None)), nothing);
    assert_eq!(m.ok(clear(AlarmKind::NoSpace, 0, None)), nothing);
    assert_eq!(
        m.ok(clear(AlarmKind::NoSpace, 1, None)),
        Answer::Alarms(vec![alarm(AlarmKind::NoSpace, 1, AlarmCause::Quota)])
    );
    assert_eq!(m.refused(put("a", "1")), Refusal::NoSpace);
    m.ok(clear(AlarmKind::NoSpace, 2, Some(AlarmCause::Disk)));
    m.ok(put("a", "1"));
}

#[test]
fn nobody_takes_back_what_was_raised_for_another_reason() {
    let mut m = Member::new();
    let quota = alarm(AlarmKind::NoSpace, 1, AlarmCause::Quota);
    m.ok(Command::AlarmRaise(quota));
    // Up already: it is answered as it stands.
    let disk = alarm(AlarmKind::NoSpace, 1, AlarmCause::Disk);
    assert_eq!(m.ok(Command::AlarmRaise(disk)), Answer::Alarms(vec![quota]));
    m.ok(clear(AlarmKind::NoSpace, 1, Some(AlarmCause::Disk)));
    assert_eq!(m.state.alarms().iter().collect::<Vec<_>>(), [quota]);
    // An operator's alarm replaces the reason, and then only an operator clears it.
    let operator = alarm(AlarmKind::NoSpace, 1, AlarmCause::Operator);
    m.ok(Command::AlarmRaise(operator));
    m.ok(clear(AlarmKind::NoSpace, 1, Some(AlarmCause::Quota)));
    assert_eq!(m.state.alarms().iter().collect::<Vec<_>>(), [operator]);
}

#[test]
fn alarms_are_part_of_the_hash() {
    let mut hashes = std::collections::BTreeSet::new();
    for raised in [
        None,
        Some(FULL),
        Some(alarm(AlarmKind::Corrupt, 7, AlarmCause::Operator)),
        Some(alarm(AlarmKind::NoSpace, 8, AlarmCause::Operator)),
        Some(alarm(AlarmKind::NoSpace, 7, AlarmCause::Quota)),
    ] {
        let mut m = Member::new();
        m.apply(raised.map(Command::AlarmRaise).into_iter().collect());
        hashes.insert(m.state.whole_hash());
    }
    assert_eq!(hashes.len(), 5);
}

#[test]
fn a_fenced_members_alarm_stands_but_stops_nobody_else() {
    let mut m = Member::new();
    let fenced = alarm(AlarmKind::Corrupt, 7, AlarmCause::Fenced);
    m.ok(Command::AlarmRaise(fenced));
    m.ok(put("a", "1"));
    assert!(fenced.concerns(MemberId(7)) && !fenced.concerns(MemberId(8)));
    // Two members that cannot be told apart stop everybody's writes, whatever else is up.
    let undecided = alarm(AlarmKind::Corrupt, 0, AlarmCause::Undecided);
    m.ok(Command::AlarmRaise(undecided));
    assert_eq!(m.refused(put("a", "2")), Refusal::Corrupt);
    assert!(undecided.concerns(MemberId(8)));
    m.ok(Command::IntegrityMark);
    m.ok(clear(AlarmKind::Corrupt, 0, Some(AlarmCause::Undecided)));
    m.ok(put("a", "3"));
    assert_eq!(m.state.alarms().iter().collect::<Vec<_>>(), [fenced]);
}

#[test]
fn alarm_commands_and_answers_are_read_back() {
    let mut commands = vec![clear(AlarmKind::NoSpace, 3, None)];
    for kind in [AlarmKind::NoSpace, AlarmKind::Corrupt] {
        for cause in [
            AlarmCause::Operator,
            AlarmCause::Quota,
            AlarmCause::Disk,
            AlarmCause::Fenced,
            AlarmCause::Undecided,
        ] {
            commands.push(Command::AlarmRaise(alarm(kind, u64::MAX, cause)));
            commands.push(clear(kind, 0, Some(cause)));
        }
    }
    assert_eq!(
        decode_commands(&encode_commands(&commands)),
        Ok(commands.clone())
    );
    let mut m = Member::new();
    commands.push(put("a", "1"));
    let outcomes = m.apply(commands).outcomes;
    assert_eq!(decode_outcomes(&encode_outcomes(&outcomes)), Ok(outcomes));
}

#[test]
fn growth_is_the_costlier_branch_with_everything_inside() {
    let put_bytes = growth(&put("key", "value"));
    assert_eq!(put_bytes, 256 + 8);
    let one = || TxnOp::Put(put_of("key", "value"));
    let inner = Txn {
        success: vec![one(), one()],
        ..Txn::default()
    };
    let nested = txn(vec![TxnOp::Txn(inner), one()], vec![one()]);
    assert_eq!(growth(&nested), 3 * put_bytes);
    assert_eq!(growth(&delete("a", "b")), 0);
    assert_eq!(
        growth(&txn(vec![TxnOp::Range(range_of("a", ""))], vec![])),
        0
    );
}
