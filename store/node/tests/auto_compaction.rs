//! History goes by itself, after etcd's two rules, also when the leader is lost half-way.

mod common;

use std::time::Duration;

use barque_store_env::sim::{self, NodeId, SimEnv};
use barque_store_node::{AutoCompaction, Config, Store};
use barque_store_state::Revision;
use common::cluster::Cluster;
use common::{MS, S, simulated};

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
const MINUTE: Duration = Duration::from_secs(60);

async fn cluster(rule: AutoCompaction) -> Cluster {
    let config = move |node| Config {
        auto_compaction: Some(rule),
        // Much time passes here: fewer heartbeats.
        heartbeat: MS * 500,
        election: S * 5,
        ..simulated(node, &NODES, "auto-compaction")
    };
    Cluster::new(&NODES, 30 * S, config).await
}

fn newest(cluster: &Cluster) -> u64 {
    let stores = cluster.members.iter().flatten();
    stores.map(|store| store.revision().0).max().unwrap_or(0)
}

/// Waits until every member that runs has compacted to there, and no further.
async fn compacted(cluster: &Cluster, to: u64, at_most: Duration) {
    let end = sim::elapsed() + at_most;
    loop {
        let stores = cluster.members.iter().flatten();
        let revisions: Vec<u64> = stores.map(|store| store.compact_revision().0).collect();
        if revisions.iter().all(|revision| *revision == to) {
            return;
        }
        assert!(
            sim::elapsed() < end,
            "compacted to {revisions:?} of {}, not to {to}",
            newest(cluster)
        );
        sim::sleep(S).await;
    }
}

#[test]
fn revisions_beyond_those_kept_go_also_when_the_leader_is_killed_half_way() {
    sim::run(1, async {
        let mut cluster = cluster(AutoCompaction::Revision(100)).await;
        cluster.write(250).await;
        let first = newest(&cluster) - 100;
        sim::sleep(MINUTE * 2).await;
        compacted(&cluster, 0, Duration::ZERO).await;
        compacted(&cluster, first, MINUTE * 4).await;

        // Half-way to the next look.
        sim::sleep(MINUTE * 2).await;
        let leader = cluster.leader().await;
        cluster.kill(leader);
        cluster.write(40).await;
        let second = newest(&cluster) - 100;
        assert!(second > first);
        compacted(&cluster, second, MINUTE * 5).await;
        // Who was away hears of it.
        cluster.boot(leader).await;
        compacted(&cluster, second, MINUTE).await;
    });
}

#[test]
fn what_is_older_than_the_retention_goes_and_a_new_leader_does_not_wait_for_another_one() {
    sim::run(2, async {
        let mut cluster = cluster(AutoCompaction::Periodic(MINUTE * 10)).await;
        cluster.write(100).await;
        let old = newest(&cluster);
        sim::sleep(MINUTE * 13).await;
        // The first one, after ten minutes, was to where the members began.
        let kept = |store: &Store<SimEnv>| store.compact_revision() < Revision(10);
        assert!(cluster.members.iter().flatten().all(kept));
        cluster.write(100).await;
        let new = newest(&cluster);

        sim::sleep(MINUTE * 2).await;
        let leader = cluster.leader().await;
        cluster.kill(leader);
        // Who leads now has looked every minute since its start, and has not compacted yet: it does at its next look. The old
        // one would have after 20 minutes.
        compacted(&cluster, old, MINUTE * 2).await;
        compacted(&cluster, new, MINUTE * 12).await;
    });
}
