//! A small cluster for scripted scenes: no clients, no random faults, everything happens when the script says so.
//! The scenes themselves stand in `tests/guards.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use barque_store_consensus::Guards;
use barque_store_env::sim::{self, NodeId, SimEnv};
use barque_store_env::{Env, Task};
use barque_store_node::{Config, Store};
use barque_store_state::{Command, Put};

use crate::work::of_key;

const MS: Duration = Duration::from_millis(1);
pub const HEARTBEAT: Duration = Duration::from_millis(50);
pub const ELECTION: Duration = Duration::from_millis(500);
/// How long a follower waits for a leader it has heard from.
pub const LEASE: Duration = Duration::from_millis(250);

pub struct Scene {
    guards: Guards,
    nodes: Vec<NodeId>,
    stores: BTreeMap<NodeId, Store<SimEnv>>,
}

impl Scene {
    /// Three members, up, with a leader and one write.
    pub async fn three(guards: Guards) -> Scene {
        let mut scene = Scene {
            guards,
            nodes: (1..=3).map(NodeId).collect(),
            stores: BTreeMap::new(),
        };
        for node in scene.nodes.clone() {
            scene.start(node).await.expect("a new member starts");
        }
        assert!(scene.write_somewhere("first").await, "it serves");
        scene
    }

    fn config(&self, node: NodeId) -> Config {
        let url = |n: &NodeId| (n.to_string(), vec![format!("http://{n}:2380")]);
        Config {
            name: node.to_string(),
            data_dir: "/var/lib/barque".into(),
            cluster_token: "scene".into(),
            listen_peer: "0.0.0.0:2380".into(),
            advertise_client_urls: vec![format!("http://{node}:2379")],
            initial_cluster: self.nodes.iter().map(url).collect(),
            heartbeat: HEARTBEAT,
            election: ELECTION,
            progress_interval: Duration::from_secs(1),
            space: Default::default(),
            guards: self.guards,
            engine: Default::default(),
            value_cache_bytes: 1 << 20,
            ..Config::default()
        }
    }

    pub async fn start(&mut self, node: NodeId) -> Result<(), String> {
        if !sim::is_powered(node) {
            sim::power_on(node);
        }
        let start = Store::start(self.config(node), sim::disk(node), sim::net(node));
        let started = sim::spawn_on(node, "member", start).await;
        let store = started.expect("nobody kills it while it starts");
        self.stores.insert(node, store.map_err(|e| e.to_string())?);
        Ok(())
    }

    pub fn kill(&mut self, node: NodeId) {
        let store = self.stores.remove(&node);
        sim::kill(node);
        sim::enter(node, || drop(store));
    }
    pub fn cut_power(&mut self, node: NodeId) {
        let store = self.stores.remove(&node);
        sim::power_off(node);
        sim::enter(node, || drop(store));
    }

    pub fn nodes(&self) -> Vec<NodeId> {
        self.nodes.clone()
    }
    pub fn others(&self, node: NodeId) -> [NodeId; 2] {
        let others: Vec<NodeId> = self.nodes.iter().copied().filter(|n| *n != node).collect();
        [others[0], others[1]]
    }

    /// Those that may act as the leader at this instant.
    pub fn leading(&self) -> Vec<NodeId> {
        let leads = |(node, store): (&NodeId, &Store<SimEnv>)| {
            let status = sim::enter(*node, || store.status());
            status.leads_until.map(|_| *node)
        };
        self.stores.iter().filter_map(leads).collect()
    }
    pub fn term(&self, node: NodeId) -> u64 {
        self.stores[&node].status().term
    }
    pub async fn leader(&self) -> NodeId {
        for _ in 0..20_000 {
            if let [leader] = self.leading()[..] {
                return leader;
            }
            sim::sleep(MS).await;
        }
        panic!("no leader in 20 s");
    }

    /// Whether two members may act as the leader at one instant, within this time.
    pub async fn two_lead_within(&self, time: Duration) -> bool {
        let end = sim::elapsed() + time;
        while sim::elapsed() < end {
            if self.leading().len() > 1 {
                return true;
            }
            sim::sleep(MS).await;
        }
        false
    }

    /// Whether the member acknowledged the write in time.
    pub async fn write(&self, node: NodeId, key: &str, time: Duration) -> bool {
        let Some(store) = self.stores.get(&node).cloned() else {
            return false;
        };
        let put = Put {
            key: key.to_owned().into(),
            ..Put::default()
        };
        let write = sim::spawn_on(node, "write", async move {
            let deadline = SimEnv::now() + time;
            store.propose(Command::Put(put), deadline).await
        });
        // A member that is dead or stands still gives no answer at all.
        let answer = SimEnv::timeout(time + 100 * MS, write).await;
        matches!(answer, Ok(Ok(Ok(_))))
    }
    /// Has the member write without waiting for it.
    pub fn begin_write(&self, node: NodeId, n: u32) -> Task<()> {
        let store = self.stores[&node].clone();
        let put = Put {
            key: format!("load/{n}").into(),
            ..Put::default()
        };
        sim::spawn_on(node, "load", async move {
            let deadline = SimEnv::now() + Duration::from_secs(1);
            // Load is all that it is for.
            let _ = store.propose(Command::Put(put), deadline).await;
        })
    }
    /// Whether anybody acknowledged it, within 20 s.
    pub async fn write_somewhere(&self, key: &str) -> bool {
        for _ in 0..20 {
            for node in &self.nodes {
                if self.write(*node, key, Duration::from_millis(300)).await {
                    return true;
                }
            }
        }
        false
    }
    pub fn has(&self, node: NodeId, key: &str) -> bool {
        let range = of_key(key);
        let found = self.stores[&node].range(&range);
        found.1.is_ok_and(|found| found.count == 1)
    }
    /// Waits until the member has applied everything; false: it could not in 10 s.
    pub async fn catch_up(&self, node: NodeId) -> bool {
        let store = self.stores[&node].clone();
        let read = sim::spawn_on(node, "read", async move {
            let deadline = SimEnv::now() + Duration::from_secs(10);
            store.read_index(deadline).await.is_ok()
        });
        read.await.unwrap_or(false)
    }
    /// Whether the member has said that it must end.
    pub async fn has_failed(&self, node: NodeId) -> bool {
        let store = self.stores[&node].clone();
        let failed = sim::spawn_on(node, "look", async move {
            SimEnv::timeout(MS, store.failed()).await.is_ok()
        });
        failed.await.unwrap_or(false)
    }
    /// Whether all states are equal once all have applied the same entries; false as well if they never do within 10 s.
    pub async fn states_agree(&self) -> bool {
        let end = sim::elapsed() + Duration::from_secs(10);
        while sim::elapsed() < end {
            let all: Vec<_> = self
                .stores
                .values()
                .map(|store| store.whole_hash())
                .collect();
            if all.windows(2).all(|two| two[0].0 == two[1].0) {
                return all.windows(2).all(|two| two[0].1 == two[1].1);
            }
            sim::sleep(MS).await;
        }
        false
    }
}
