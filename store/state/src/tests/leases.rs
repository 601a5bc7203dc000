//! Leases on cluster time.

use std::collections::BTreeMap;

use super::*;

fn keep_alive(ids: &[i64]) -> Command {
    Command::LeaseKeepAlive {
        ids: ids.iter().map(|id| LeaseId(*id)).collect(),
    }
}
fn expire(id: i64, seen: u64) -> Command {
    Command::LeaseExpire {
        id: LeaseId(id),
        deadline_seen: ClusterTime(seen),
    }
}

#[test]
fn revoking_deletes_the_keys_in_order_in_one_revision() {
    let mut m = Member::new();
    m.ok(grant(7, 10));
    for key in ["c", "a", "b", "d"] {
        m.ok(put_leased(key, "v", 7));
    }
    m.ok(put("d", "without the lease now"));
    let keys = m.state.lease(LeaseId(7)).unwrap().keys;
    assert_eq!(keys, [bytes("a"), bytes("b"), bytes("c")]);
    let applied = m.apply(vec![Command::LeaseRevoke { id: LeaseId(7) }]);
    assert_eq!(applied.events.len(), 1, "more than one revision");
    let deleted: Vec<_> = applied.events[0].events.iter().map(|e| &e.kv.key).collect();
    assert_eq!(deleted, ["a", "b", "c"]);
    assert_eq!(m.values(&range_of("\0", "\0")), ["d=without the lease now"]);
    assert_eq!(
        m.refused(Command::LeaseRevoke { id: LeaseId(7) }),
        Refusal::LeaseNotFound
    );
}

#[test]
fn an_empty_lease_ends_without_a_revision() {
    let mut m = Member::new();
    m.ok(grant(1, 10));
    assert_eq!(m.refused(grant(1, 10)), Refusal::LeaseExists);
    let applied = m.apply(vec![Command::LeaseRevoke { id: LeaseId(1) }]);
    assert!(applied.events.is_empty());
    assert_eq!(m.state.revision(), Revision(1));
}

#[test]
fn expiry_loses_to_a_renewal_that_is_earlier_in_the_log() {
    let mut m = Member::new();
    m.ok(grant(1, 10));
    m.ok(put_leased("k", "v", 1));
    let deadline = m.state.next_deadline().unwrap();
    assert_eq!(deadline, ClusterTime(11_000));
    m.now = ClusterTime(11_000);
    assert_eq!(m.state.due(m.now, 9), [(LeaseId(1), deadline)]);
    let applied = m.apply(vec![keep_alive(&[1, 2]), expire(1, deadline.0)]);
    let answers: Vec<_> = applied
        .outcomes
        .iter()
        .map(|o| o.result.clone().unwrap())
        .collect();
    assert_eq!(
        answers,
        [
            Answer::LeaseRenewed {
                ttls_s: vec![Some(10), None]
            },
            Answer::LeaseExpired { removed: false }
        ]
    );
    assert!(m.state.due(m.now, 9).is_empty());
    // And a leader that runs ahead of the log's time does not shorten a life.
    let answer = m.ok(expire(1, 21_000));
    assert_eq!(answer, Answer::LeaseExpired { removed: false });
    m.now = ClusterTime(21_000);
    let applied = m.apply(vec![expire(1, 21_000)]);
    assert_eq!(applied.events[0].events[0].kv.key, "k");
    assert!(m.state.leases().is_empty());
}

#[test]
fn time_never_runs_backwards() {
    let mut m = Member::new();
    m.now = ClusterTime(50_000);
    m.ok(grant(1, 5));
    m.now = ClusterTime(40_000);
    m.ok(keep_alive(&[1]));
    assert_eq!(m.state.time(), ClusterTime(50_000));
    let view = m.state.lease(LeaseId(1)).unwrap();
    assert_eq!(
        (view.deadline, view.granted_ttl_s),
        (ClusterTime(55_000), 5)
    );
}

/// The promise to clients, over random histories with a leader that proposes expiry from stale views.
#[test]
fn no_lease_ends_before_its_last_acknowledged_renewal_and_ttl() {
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let mut m = Member::new();
        let mut promised: BTreeMap<i64, u64> = BTreeMap::new();
        let mut seen: Vec<(LeaseId, ClusterTime)> = Vec::new();
        for _ in 0..400 {
            m.now.0 += dice.below(2_000);
            let id = 1 + dice.below(5) as i64;
            match dice.below(6) {
                0 => {
                    let ttl_s = 1 + dice.below(8);
                    if m.one(grant(id, ttl_s)).result.is_ok() {
                        promised.insert(id, m.now.0 + ttl_s * 1_000);
                    }
                }
                1 | 2 => {
                    let Answer::LeaseRenewed { ttls_s } = m.ok(keep_alive(&[id])) else {
                        panic!("not a renewal");
                    };
                    if let Some(ttl_s) = ttls_s[0] {
                        promised.insert(id, m.now.0 + ttl_s * 1_000);
                    }
                }
                3 => seen = m.state.due(m.now, 3),
                _ => {
                    if let Some((id, deadline)) = seen.pop() {
                        let answer = m.ok(expire(id.0, deadline.0));
                        if answer == (Answer::LeaseExpired { removed: true }) {
                            let until = promised.remove(&id.0).expect("ended twice");
                            assert!(until <= m.now.0, "seed {seed}: {id:?} ended early");
                        }
                    }
                }
            }
            for (id, until) in &promised {
                let view = m.state.lease(LeaseId(*id)).expect("vanished");
                assert!(view.deadline.0 >= *until, "seed {seed}: deadline shortened");
            }
        }
    }
}
