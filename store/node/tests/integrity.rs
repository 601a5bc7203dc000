//! Members compare their whole states: one that carries something out wrongly is found, the right one is fenced, the others
//! go on, and it returns with a state of theirs when it is started again; and nobody is ever found who did nothing wrong.

mod common;

use std::time::Duration;

use barque_store_env::sim::{self, NodeId, SimEnv};
use barque_store_env::{Disk, Env};
use barque_store_node::{Config, Store};
use barque_store_state::*;
use common::{MS, S, in_member, simulated, start, until};

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
/// What is promised: found within a minute.
const FOUND_WITHIN: Duration = Duration::from_secs(60);

fn config(node: NodeId) -> Config {
    simulated(node, &NODES, "integrity")
}

type Member = (NodeId, Store<SimEnv>);

async fn boot(node: NodeId) -> Member {
    (node, start(node, config(node)).await)
}

fn leads((node, store): &Member) -> bool {
    common::leads(*node, store)
}

/// Three members, the leader first.
async fn three() -> Vec<Member> {
    let mut members = Vec::new();
    for node in NODES {
        members.push(boot(node).await);
    }
    let elected = until(20 * S, || members.iter().any(leads)).await;
    assert!(elected, "a leader");
    members.sort_by_key(|member| !leads(member));
    members
}

/// What a member answers to a command.
async fn propose((node, store): &Member, command: Command) -> Result<Outcome, String> {
    let store = store.clone();
    let proposed = sim::spawn_on(*node, "propose", async move {
        let answer = store.propose(command, SimEnv::now() + 5 * S).await;
        answer.map_err(|e| e.to_string())
    });
    proposed.await.map_err(|_| "it was killed".to_owned())?
}

fn put(key: &str) -> Command {
    Command::Put(Put {
        key: key.to_owned().into(),
        value: "value".into(),
        ..Put::default()
    })
}

/// Until it is acknowledged: whoever led may just have ended.
async fn write(member: &Member, key: &str) {
    for _ in 0..10 {
        if let Ok(outcome) = propose(member, put(key)).await {
            outcome.result.expect("carried out");
            return;
        }
    }
    panic!("{key} was never acknowledged");
}

/// Has this member, and no other, carry out a put wrongly; `by` proposes it.
async fn go_wrong(wrong: &Member, by: &Member) {
    wrong.1.plant_fault();
    write(by, "planted").await;
    let (_, store) = wrong;
    let applied = until(5 * S, || {
        store.range(&point("planted")).1.is_ok_and(|r| r.count == 1)
    });
    assert!(applied.await, "the wrong member has it");
    assert_ne!(store.whole_hash().1, by.1.whole_hash().1);
}

fn point(key: &str) -> Range {
    Range {
        range: KeyRange::point(key.to_owned().into()),
        ..Default::default()
    }
}

/// Why the member ended, and after how long.
async fn end_of((node, store): &Member) -> (String, Duration) {
    let begun = sim::elapsed();
    let store = store.clone();
    let ended = sim::spawn_on(*node, "ending", async move { store.failed().await });
    let why = SimEnv::timeout(5 * FOUND_WITHIN, ended).await;
    let why = why.expect("it is found").expect("nobody kills it");
    (why, sim::elapsed() - begun)
}

fn alarms((_, store): &Member) -> Vec<(MemberId, AlarmCause)> {
    let corrupt = |alarm: &Alarm| {
        assert_eq!(alarm.kind, AlarmKind::Corrupt);
        (alarm.member, alarm.cause)
    };
    store.alarms().iter().map(corrupt).collect()
}

/// The member serves nothing, says why, and is marked.
async fn fenced(wrong: Member, why: &str) -> NodeId {
    let (node, store) = wrong;
    assert!(why.contains("this member's state differs"), "{why}");
    assert!(why.contains("Start it again"), "{why}");
    assert_eq!(store.range(&point("before")).1, Err(Refusal::Stopped));
    sim::kill(node);
    sim::enter(node, || drop(store));
    assert!(is_marked(node).await, "no mark");
    node
}

async fn is_marked(node: NodeId) -> bool {
    let marked = sim::spawn_on(node, "look", async move {
        let mark = in_member("refetch");
        sim::disk(node).exists(&mark).await.expect("readable")
    });
    marked.await.expect("nobody kills it")
}

/// The member is started again by whoever looks after it: it comes back by itself with the others' state, serves, votes and
/// is compared again, and the alarm about it ends.
async fn returns(node: NodeId, others: &[Member]) -> Member {
    let back = boot(node).await;
    assert!(!is_marked(node).await, "still marked");
    let same = until(10 * S, || back.1.whole_hash() == others[0].1.whole_hash());
    assert!(same.await, "it has the others' state");
    write(&back, "returned").await;
    assert_eq!(back.1.range(&point("before")).1.map(|r| r.count), Ok(1));
    for member in others {
        let over = until(3 * FOUND_WITHIN, || member.1.alarms().is_empty());
        assert!(over.await, "{:?}", member.1.alarms());
    }
    // One of the others alone with it is a majority: its vote counts.
    if let [first, second] = others {
        sim::partition(first.0, second.0);
        sim::partition(first.0, node);
        let voted = until(20 * S, || leads(second) || leads(&back)).await;
        assert!(voted, "it votes");
        write(second, "by two").await;
        sim::heal_all();
    }
    back
}

#[test]
fn a_follower_that_differs_is_fenced_within_a_minute_and_the_others_go_on() {
    for seed in 1..=3 {
        sim::run(seed, async move {
            let mut members = three().await;
            write(&members[0], "before").await;
            // Anywhere between two marks.
            sim::sleep(S * (7 * seed as u32)).await;
            let wrong = members.pop().expect("three");
            go_wrong(&wrong, &members[0]).await;
            let (why, took) = end_of(&wrong).await;
            assert!(took <= FOUND_WITHIN, "seed {seed}: {took:?}");
            let expected = [(wrong.1.ids().0, AlarmCause::Fenced)];
            for member in &members {
                let raised = until(10 * S, || alarms(member) == expected).await;
                assert!(raised, "seed {seed}: {:?}", alarms(member));
            }
            let node = fenced(wrong, &why).await;
            for member in &members {
                write(member, "after").await;
            }
            // Two of three: everything goes on, also over the next marks.
            sim::sleep(2 * FOUND_WITHIN).await;
            write(&members[0], "much later").await;
            for member in &members {
                assert_eq!(alarms(member), expected);
            }
            drop(returns(node, &members).await);
        });
    }
}

#[test]
fn a_leader_that_differs_finds_itself_in_the_minority() {
    sim::run(11, async {
        let mut members = three().await;
        write(&members[0], "before").await;
        let wrong = members.remove(0);
        go_wrong(&wrong, &members[0]).await;
        let (why, took) = end_of(&wrong).await;
        assert!(took <= FOUND_WITHIN, "{took:?}");
        let expected = [(wrong.1.ids().0, AlarmCause::Fenced)];
        let node = fenced(wrong, &why).await;
        for member in &members {
            write(member, "after").await;
            assert_eq!(alarms(member), expected);
        }
        drop(returns(node, &members).await);
    });
}

#[test]
fn a_difference_is_found_right_after_a_compaction() {
    sim::run(21, async {
        let mut members = three().await;
        write(&members[0], "before").await;
        let wrong = members.pop().expect("three");
        go_wrong(&wrong, &members[0]).await;
        let compact = Command::Compact {
            revision: members[0].1.revision(),
        };
        let compacted = propose(&members[0], compact).await.expect("acknowledged");
        compacted.result.expect("carried out");
        let (why, took) = end_of(&wrong).await;
        assert!(took <= 5 * S, "{took:?}");
        let node = fenced(wrong, &why).await;
        drop(returns(node, &members).await);
    });
}

#[test]
fn without_a_majority_nothing_is_written_until_there_is_one() {
    sim::run(31, async {
        let mut members = three().await;
        write(&members[0], "before").await;
        let (away, store) = members.pop().expect("three");
        sim::kill(away);
        sim::enter(away, || drop(store));
        let wrong = members.pop().expect("two");
        let right = members.pop().expect("one");
        go_wrong(&wrong, &right).await;
        let undecided = [(MemberId(0), AlarmCause::Undecided)];
        for member in [&right, &wrong] {
            let raised = until(FOUND_WITHIN, || alarms(member) == undecided).await;
            assert!(raised, "{:?}", alarms(member));
            let refused = propose(member, put("refused")).await.expect("an answer");
            assert_eq!(refused.result, Err(Refusal::Corrupt));
        }
        // The third tells who is right.
        let back = boot(away).await;
        let (why, took) = end_of(&wrong).await;
        assert!(took <= FOUND_WITHIN + 10 * S, "{took:?}");
        let expected = [(wrong.1.ids().0, AlarmCause::Fenced)];
        let node = fenced(wrong, &why).await;
        for member in [&right, &back] {
            let over = until(2 * FOUND_WITHIN, || alarms(member) == expected).await;
            assert!(over, "{:?}", alarms(member));
            write(member, "after").await;
        }
        drop(returns(node, &[right, back]).await);
    });
}

/// Writes, transactions, leases that expire, compactions, and members that are killed or lose their power meanwhile.
#[test]
fn nobody_is_accused_who_did_nothing_wrong() {
    for seed in 41..=43 {
        sim::run(seed, async move {
            let mut members = three().await;
            let begun = sim::elapsed();
            let mut compared = [0; 3];
            let mut round = 0u64;
            while sim::elapsed() - begun < 6 * FOUND_WITHIN {
                round += 1;
                let member = &members[sim::below(3) as usize];
                let command = match sim::below(12) {
                    0 => Command::Compact {
                        revision: Revision(member.1.revision().0.saturating_sub(sim::below(5))),
                    },
                    1 => Command::LeaseGrant {
                        id: LeaseId(i64::try_from(round).expect("small")),
                        ttl_s: 1 + sim::below(20),
                    },
                    2 => Command::DeleteRange(DeleteRange {
                        range: KeyRange::prefix(format!("k{}", sim::below(9)).as_bytes()),
                        prev_kv: false,
                    }),
                    _ => {
                        let lease = member.1.leases().first().copied().unwrap_or(LeaseId::NONE);
                        Command::Put(Put {
                            key: format!("k{}", sim::below(99)).into(),
                            value: format!("{round}").into(),
                            lease: if sim::below(3) == 0 {
                                lease
                            } else {
                                LeaseId::NONE
                            },
                            ..Put::default()
                        })
                    }
                };
                // Refused or lost: either is fine.
                drop(propose(member, command).await);
                if sim::below(60) == 0 {
                    let at = sim::below(3) as usize;
                    let (node, store) = members.remove(at);
                    compared[node.0 as usize - 1] += store.figures().integrity_compared;
                    let power = sim::below(2) == 0;
                    if power {
                        sim::power_off(node);
                    } else {
                        sim::kill(node);
                    }
                    sim::enter(node, || drop(store));
                    sim::sleep(MS * 100 * (1 + sim::below(50) as u32)).await;
                    if power {
                        sim::power_on(node);
                    }
                    members.push(boot(node).await);
                }
                sim::sleep(MS * 50).await;
            }
            let mut all: u64 = compared.iter().sum();
            for (node, store) in &members {
                let figures = store.figures();
                all += figures.integrity_compared;
                assert_eq!(figures.integrity_differing, 0, "seed {seed}: {node}");
                assert_eq!(store.alarms(), [], "seed {seed}: {node}");
                assert!(store.range(&point("k1")).1.is_ok(), "seed {seed}: {node}");
            }
            assert!(all > 20, "seed {seed}: only {all} comparisons");
        });
    }
}

#[test]
fn the_cluster_version_is_decided_when_the_last_member_has_told_what_it_can_do() {
    sim::run(51, async {
        let mut members = Vec::new();
        for node in [NODES[0], NODES[1]] {
            members.push(boot(node).await);
        }
        let elected = until(20 * S, || members.iter().any(leads)).await;
        assert!(elected, "a leader");
        write(&members[0], "before").await;
        sim::sleep(5 * S).await;
        for (_, store) in &members {
            assert_eq!(store.status().cluster_version, None);
        }
        members.push(boot(NODES[2]).await);
        for (node, store) in &members {
            let decided = until(5 * S, || {
                store.status().cluster_version == Some(ClusterVersion::NEWEST)
            });
            assert!(decided.await, "{node}");
        }
    });
}
