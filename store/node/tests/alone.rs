//! A cluster that lost its majority for good goes on as one member (`--force-new-cluster`): with all that the member holds, over
//! power cuts, against members that come back, and not while others still run.

mod common;

use std::time::Duration;

use barque_store_env::sim::{self, NodeId, SimEnv};
use barque_store_env::{Disk, Env, File, Open};
use barque_store_node::{Config, Membership, Store};
use barque_store_state::*;
use bytes::Bytes;
use common::{DATA, MS, S, in_member, leads, on, simulated, start, try_start, until, write};
use futures::future::join_all;

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
const NEW: NodeId = NodeId(4);

fn plain(node: NodeId) -> Config {
    simulated(node, &NODES, "alone")
}
fn forced(node: NodeId) -> Config {
    Config {
        force_new_cluster: true,
        ..plain(node)
    }
}

fn kill(node: NodeId, store: Store<SimEnv>) {
    sim::kill(node);
    sim::enter(node, || drop(store));
}

fn has(store: &Store<SimEnv>, key: &str) -> bool {
    let range = Range {
        range: KeyRange::point(key.to_owned().into()),
        ..Range::default()
    };
    store.range(&range).1.expect("a plain read").count == 1
}

/// Three members with ten keys, and these on all of them.
async fn three() -> Vec<Store<SimEnv>> {
    let mut stores = Vec::new();
    for node in NODES {
        stores.push(start(node, plain(node)).await);
    }
    for n in 0..10 {
        write(NODES[0], &stores[0], &format!("key-{n}")).await;
    }
    let everywhere = until(10 * S, || stores.iter().all(|store| has(store, "key-9")));
    assert!(everywhere.await, "the others follow");
    // Members that have not told the state about themselves yet are another story.
    let known = until(10 * S, || {
        let members = stores[1].members();
        members.len() == 3 && members.iter().all(|m| !m.client_urls.is_empty())
    });
    assert!(known.await, "all are known");
    stores
}

/// It leads, nobody else is there, and it has the keys.
async fn is_alone(node: NodeId, store: &Store<SimEnv>) -> Membership {
    let leading = until(10 * S, || leads(node, store));
    assert!(leading.await, "it leads alone");
    let (me, _) = store.ids();
    let members = store.members();
    assert_eq!(members.len(), 1, "{members:?}");
    assert!(members[0].id == me && !members[0].learner);
    assert!((0..10).all(|n| has(store, &format!("key-{n}"))));
    let membership = sim::enter(node, || store.membership());
    let named: Vec<_> = membership.nodes.keys().collect();
    assert_eq!(named, [&me]);
    assert!(membership.settled && !membership.joint);
    membership
}

#[test]
fn one_member_goes_on_alone_and_the_next_starts_change_nothing() {
    sim::run(1, async {
        let stores = three().await;
        for (node, store) in NODES.into_iter().zip(stores) {
            kill(node, store);
        }
        let node = NODES[1];
        let first = start(node, forced(node)).await;
        let membership = is_alone(node, &first).await;
        write(node, &first, "after").await;
        kill(node, first);
        for config in [plain(node), forced(node)] {
            let again = start(node, config).await;
            assert_eq!(is_alone(node, &again).await.at, membership.at);
            assert!(has(&again, "after"));
            sim::power_off(node);
            sim::enter(node, || drop(again));
            sim::power_on(node);
        }
    });
}

/// Whoever led may have written what nobody acknowledged; whoever did not may not know what was: all of it is kept.
#[test]
fn what_was_not_known_to_be_committed_is_kept() {
    sim::run(2, async {
        let mut stores = three().await;
        let led = until(10 * S, || {
            NODES
                .iter()
                .zip(&stores)
                .any(|(node, store)| leads(*node, store))
        });
        assert!(led.await);
        let at = (0..3)
            .find(|at| leads(NODES[*at], &stores[*at]))
            .expect("led");
        let (node, store) = (NODES[at], stores.swap_remove(at));
        for (other, store) in NODES.into_iter().filter(|n| *n != node).zip(stores) {
            sim::kill(other);
            drop(store);
        }
        let put = Command::Put(Put {
            key: "unknown".into(),
            ..Put::default()
        });
        let proposed = store.clone();
        let outcome = on(node, async move {
            proposed.propose(put, SimEnv::now() + 200 * MS).await
        });
        assert!(outcome.await.is_err(), "nobody else has it");
        assert!(!has(&store, "unknown"));
        kill(node, store);
        let alone = start(node, forced(node)).await;
        is_alone(node, &alone).await;
        assert!(has(&alone, "unknown"));
    });
}

/// They are a majority of the old cluster, whose terms go on: they must not take the new one over.
#[test]
fn members_that_come_back_are_told_that_they_were_removed() {
    sim::run(3, async {
        let stores = three().await;
        for (node, store) in NODES.into_iter().zip(stores) {
            kill(node, store);
        }
        let node = NODES[2];
        // Cut off, so that the others lead by themselves and their term grows.
        for other in [NODES[0], NODES[1]] {
            sim::partition(node, other);
        }
        let alone = start(node, forced(node)).await;
        is_alone(node, &alone).await;
        write(node, &alone, "mine").await;
        let back = [
            start(NODES[0], plain(NODES[0])).await,
            start(NODES[1], plain(NODES[1])).await,
        ];
        write(NODES[0], &back[0], "theirs").await;
        for other in [NODES[0], NODES[1]] {
            sim::heal(node, other);
        }
        // The leader hears it first; the other one when that has ended, and there is no leader.
        let ends = NODES.into_iter().zip(back).map(|(other, store)| {
            on(other, async move {
                let told = SimEnv::timeout(20 * S, store.removed()).await;
                told.expect("it is told that it was removed");
                store.shutdown().await;
            })
        });
        join_all(ends).await;
        is_alone(node, &alone).await;
        write(node, &alone, "more").await;
        assert!(has(&alone, "mine") && !has(&alone, "theirs"));
    });
}

#[test]
fn it_grows_again() {
    sim::run(4, async {
        let stores = three().await;
        for (node, store) in NODES.into_iter().zip(stores) {
            kill(node, store);
        }
        let node = NODES[0];
        let alone = start(node, forced(node)).await;
        is_alone(node, &alone).await;
        let store = alone.clone();
        on(node, async move {
            let urls = vec![format!("http://{NEW}:2380")];
            let added = store.member_add(urls, false, SimEnv::now() + 10 * S).await;
            added.expect("there is a leader").expect("it may come");
        })
        .await;
        let joining = Config {
            joins: true,
            ..simulated(NEW, &[node, NEW], "alone")
        };
        let new = start(NEW, joining).await;
        let in_it = until(20 * S, || {
            let membership = sim::enter(NEW, || new.membership());
            membership.voters.len() == 2 && membership.settled && has(&new, "key-9")
        });
        assert!(in_it.await, "it votes, and has the keys");
        // Nobody is forced out by a flag that was left in the unit file.
        kill(node, alone);
        let refused = try_start(node, forced(node)).await.expect("not killed");
        let refused = refused.err().expect("refused").to_string();
        assert!(
            refused.contains("another member of this cluster runs"),
            "{refused}"
        );
        let back = start(node, plain(node)).await;
        write(node, &back, "both").await;
        assert_eq!(back.members().len(), 2);
    });
}

#[test]
fn it_is_refused_without_data_with_damaged_data_and_while_others_run() {
    sim::run(5, async {
        let mut stores = three().await;
        let refused = async |node: NodeId, config: Config| {
            let started = try_start(node, config).await.expect("not killed");
            started.err().expect("refused").to_string()
        };
        let empty = Config {
            force_new_cluster: true,
            ..simulated(NEW, &[NEW], "alone")
        };
        let text = refused(NEW, empty).await;
        assert!(
            text.contains("--force-new-cluster: there is no member's data in"),
            "{text}"
        );
        let left = on(NEW, async { sim::disk(NEW).exists(DATA.as_ref()).await });
        assert!(!left.await.expect("looked"), "nothing was made");

        let node = NODES[2];
        kill(node, stores.pop().expect("three"));
        let text = refused(node, forced(node)).await;
        assert!(
            text.contains("another member of this cluster runs, at "),
            "{text}"
        );
        let back = start(node, plain(node)).await;
        write(node, &back, "well").await;
        let follows = until(10 * S, || has(&stores[0], "well"));
        assert!(follows.await, "it is one of the three as before");

        kill(node, back);
        for (node, store) in NODES.into_iter().zip(stores) {
            kill(node, store);
        }
        on(node, async move {
            let disk = sim::disk(node);
            let mark = disk.open(&in_member("refetch"), Open::CreateNew).await;
            mark.expect("made")
                .write_sync(0, Bytes::new())
                .await
                .expect("written");
        })
        .await;
        let text = refused(node, forced(node)).await;
        assert!(text.contains("needs one that is whole"), "{text}");
    });
}

/// Ended by a power cut at any moment, it is done by the next start with the flag, and has lost nothing. (Cuts within 20 ms:
/// seventeen of forty come before it is done.)
#[test]
fn a_start_that_is_cut_short_is_done_again() {
    for seed in 0..40 {
        sim::run(100 + seed, async move {
            let stores = three().await;
            for (node, store) in NODES.into_iter().zip(stores) {
                kill(node, store);
            }
            let node = NODES[0];
            let cut = Duration::from_micros(500 * seed);
            sim::spawn_on(NEW, "power", async move {
                sim::sleep(cut).await;
                sim::power_off(node);
            });
            let begun = try_start(node, forced(node)).await;
            sim::sleep(cut).await;
            sim::enter(node, || drop(begun));
            sim::power_on(node);
            // Without the flag it is of the old cluster or alone, and nothing between.
            let between = start(node, plain(node)).await;
            sim::sleep(S).await;
            assert!([1, 3].contains(&between.members().len()));
            assert_eq!(leads(node, &between), between.members().len() == 1);
            kill(node, between);
            let again = start(node, forced(node)).await;
            is_alone(node, &again).await;
            write(node, &again, "after").await;
        });
    }
}
