//! Guard 5, scripted: one member down, one wiped, the leader cut off. What the two that are left would elect knows
//! nothing of the last acknowledged write.

mod common;

use std::path::Path;
use std::time::Duration;

use barque_store_consensus::Guards;
use barque_store_env::Disk;
use barque_store_env::sim::{self, NodeId, SimEnv};
use barque_store_node::{Config, Store};
use barque_store_state::*;
use common::{DATA, MS, leads, on, simulated, start, until, write};

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

fn config(node: NodeId, guards: Guards) -> Config {
    Config {
        guards,
        ..simulated(node, &NODES, "wiped")
    }
}

async fn boot(node: NodeId, guards: Guards) -> Store<SimEnv> {
    start(node, config(node, guards)).await
}

fn has(store: &Store<SimEnv>, key: &str) -> bool {
    let range = Range {
        range: KeyRange::point(key.to_owned().into()),
        ..Default::default()
    };
    store.range(&range).1.is_ok_and(|found| found.count == 1)
}

async fn wipe(node: NodeId) {
    let remove = async move {
        let (disk, member) = (sim::disk(node), Path::new(DATA).join("member"));
        for dir in [member.join("wal"), member.join("rows"), member] {
            for name in disk.list(&dir).await.expect("a directory") {
                if name != "wal" && name != "rows" {
                    disk.remove(&dir.join(name)).await.expect("removed");
                }
            }
        }
    };
    on(node, remove).await;
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    /// A leader without the acknowledged write.
    Lost,
    /// Nobody was elected; the wiped member stopped and said so, and the others have the write.
    Kept(String),
}

async fn one_down_one_wiped(guards: Guards) -> End {
    let mut stores = Vec::new();
    for node in NODES {
        stores.push((node, boot(node, guards).await));
    }
    let published = until(Duration::from_secs(20), || {
        let known = |store: &Store<SimEnv>| {
            let members = store.members();
            members.iter().all(|m| !m.client_urls.is_empty())
        };
        stores.iter().all(|(_, store)| known(store))
    });
    assert!(published.await, "all members are published");
    let mut leader = None;
    let elected = until(Duration::from_secs(20), || {
        leader = stores.iter().position(|(node, store)| leads(*node, store));
        leader.is_some()
    });
    assert!(elected.await, "a leader");
    let (leading, leader) = stores.remove(leader.expect("elected"));
    let (wiped, wiped_store) = stores.pop().expect("a follower");
    let (down, down_store) = stores.pop().expect("another");
    write(leading, &leader, "before").await;
    let seen = until(Duration::from_secs(20), || has(&down_store, "before"));
    assert!(seen.await, "all know of each other");
    // Its next start applies what it knows to be committed.
    sim::sleep(MS * 500).await;

    sim::kill(down);
    sim::enter(down, || drop(down_store));
    write(leading, &leader, "acknowledged").await;
    sim::kill(wiped);
    sim::enter(wiped, || drop(wiped_store));
    sim::partition(leading, wiped);
    sim::partition(leading, down);
    wipe(wiped).await;
    let down_store = boot(down, guards).await;
    let wiped_store = boot(wiped, guards).await;

    let elected = until(Duration::from_secs(10), || {
        leads(down, &down_store) || leads(wiped, &wiped_store)
    });
    if elected.await {
        assert!(!has(&down_store, "acknowledged"));
        assert!(!has(&wiped_store, "acknowledged"));
        return End::Lost;
    }
    let why = wiped_store.failed().await;
    sim::heal_all();
    let kept = until(Duration::from_secs(20), || has(&down_store, "acknowledged"));
    assert!(kept.await, "the two that kept their directories go on");
    write(down, &down_store, "after").await;
    End::Kept(why)
}

#[test]
fn guard_5_a_wiped_voter_elects_nobody() {
    let off = Guards {
        identity: false,
        ..Guards::default()
    };
    for seed in 1..=10 {
        let without = sim::run(seed, one_down_one_wiped(off));
        assert_eq!(without, End::Lost, "seed {seed}: this test shows nothing");
        let End::Kept(why) = sim::run(seed, one_down_one_wiped(Guards::default())) else {
            panic!("seed {seed}: a leader without an acknowledged write");
        };
        assert!(
            why.contains("a wiped member must not vote"),
            "seed {seed}: {why}"
        );
    }
}
