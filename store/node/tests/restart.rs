//! A member that was killed and starts again serves its first linearizable read as soon as it has what it lacks: it does not wait
//! until its leader tries to reach it again by itself.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use barque_store_env::Env;
use barque_store_env::sim::{self, NodeId, SimEnv};
use barque_store_node::Store;
use barque_store_state::*;
use common::{MS, leads, on, simulated, start, write};

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
/// Handshakes, one read index, and one append there and back: a dozen messages of a millisecond or two, and some syncs. A heartbeat
/// is 50 ms here, a reconnect waits up to 200 ms, and a replication that has failed 100 ms.
const SOON: Duration = Duration::from_millis(45);

async fn boot(node: NodeId) -> Store<SimEnv> {
    start(node, simulated(node, &NODES, "restart")).await
}

/// From the moment it takes part to its first linearizable read.
async fn first_read(node: NodeId, store: &Store<SimEnv>) -> Duration {
    let begun = sim::elapsed();
    let store = store.clone();
    let read = on(node, async move {
        let deadline = SimEnv::now() + Duration::from_secs(10);
        store.read_index(deadline).await
    });
    read.await.expect("a read index");
    sim::elapsed() - begun
}

async fn a_follower_is_away_for(away: Duration) -> Duration {
    let mut stores = BTreeMap::new();
    for node in NODES {
        stores.insert(node, boot(node).await);
    }
    for (node, store) in &stores {
        write(*node, store, "before").await;
    }
    let leader = NODES
        .into_iter()
        .find(|node| leads(*node, &stores[node]))
        .expect("somebody leads");
    let follower = NODES.into_iter().find(|node| *node != leader);
    let follower = follower.expect("two of them");
    let gone = stores.remove(&follower);
    sim::kill(follower);
    sim::enter(follower, || drop(gone));
    sim::sleep(away).await;
    write(leader, &stores[&leader], "while it was away").await;
    let again = boot(follower).await;
    let took = first_read(follower, &again).await;
    let range = Range {
        range: KeyRange::point("while it was away".into()),
        ..Range::default()
    };
    assert_eq!(again.range(&range).1.expect("a plain read").count, 1);
    took
}

#[test]
fn a_restarted_follower_reads_at_once() {
    for seed in 1..=20 {
        for away in [20, 300, 1500] {
            let took = sim::run(seed, a_follower_is_away_for(MS * away));
            assert!(took < SOON, "seed {seed}, away {away} ms: {took:?}");
        }
    }
}
