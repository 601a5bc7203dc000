//! A small cluster for scripted scenes: no clients, no random faults, everything happens when the script says so.
//! The scenes themselves stand in `tests/guards*.rs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use barque_store_consensus::Guards;
use barque_store_env::sim::{self, NodeId, SimEnv};
use barque_store_env::{Disk, Env, File, Open, Task};
use barque_store_node::{Config, Membership, Store, TransferError};
use barque_store_state::{Command, MemberChange, MemberId, Put};

use crate::guards::without;
use crate::work::of_key;

const MS: Duration = Duration::from_millis(1);
pub const HEARTBEAT: Duration = Duration::from_millis(50);
pub const ELECTION: Duration = Duration::from_millis(500);
/// How long a follower waits for a leader it has heard from.
pub const LEASE: Duration = Duration::from_millis(250);

const SEEDS: std::ops::RangeInclusive<u64> = 1..=30;
const DATA: &str = "/var/lib/barque";

/// Runs the scene with these guards off until it goes wrong, and with all guards on, where it must not.
pub fn shows<F: Future<Output = bool>>(off: &[&str], scene: impl Fn(Guards) -> F) {
    let guards = without(off.iter().copied()).expect("names of guards");
    let found = SEEDS
        .into_iter()
        .find(|seed| sim::run(*seed, scene(guards)));
    assert!(
        found.is_some(),
        "without {off:?} nothing goes wrong: this scene shows nothing"
    );
    never(&[], scene);
}

/// With these guards off, or none, the scene goes wrong with no seed.
pub fn never<F: Future<Output = bool>>(off: &[&str], scene: impl Fn(Guards) -> F) {
    let guards = without(off.iter().copied()).expect("names of guards");
    for seed in SEEDS {
        let wrong = sim::run(seed, scene(guards));
        assert!(!wrong, "it goes wrong with seed {seed}, without {off:?}");
    }
}

pub struct Scene {
    guards: Guards,
    adjust: fn(&mut Config),
    /// The first cluster's, and then those that were added.
    nodes: Vec<NodeId>,
    founders: usize,
    stores: BTreeMap<NodeId, Store<SimEnv>>,
}

impl Scene {
    /// Three members, up, with a leader and one write.
    pub async fn three(guards: Guards) -> Scene {
        Scene::with(3, guards, |_| {}).await
    }
    /// So many, with other flags and sizes than usual.
    pub async fn with(members: u32, guards: Guards, adjust: fn(&mut Config)) -> Scene {
        let mut scene = Scene {
            guards,
            adjust,
            nodes: (1..=members).map(NodeId).collect(),
            founders: members as usize,
            stores: BTreeMap::new(),
        };
        for node in scene.nodes.clone() {
            scene.start(node).await.expect("a new member starts");
        }
        assert!(scene.write_somewhere("first").await, "it serves");
        scene
    }

    fn config(&self, node: NodeId) -> Config {
        let at = self.nodes.iter().position(|n| *n == node);
        let at = at.expect("one of the members");
        let named = &self.nodes[..self.founders.max(at + 1)];
        let url = |n: &NodeId| (n.to_string(), vec![peer_url(*n)]);
        let mut config = Config {
            joins: at >= self.founders,
            name: node.to_string(),
            data_dir: DATA.into(),
            cluster_token: "scene".into(),
            listen_peer: "0.0.0.0:2380".into(),
            advertise_client_urls: vec![format!("http://{node}:2379")],
            initial_cluster: named.iter().map(url).collect(),
            heartbeat: HEARTBEAT,
            election: ELECTION,
            progress_interval: Duration::from_secs(1),
            space: Default::default(),
            guards: self.guards,
            engine: Default::default(),
            value_cache_bytes: 1 << 20,
            ..Config::default()
        };
        (self.adjust)(&mut config);
        config
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
    pub fn others<const N: usize>(&self, node: NodeId) -> [NodeId; N] {
        let others: Vec<NodeId> = self.nodes.iter().copied().filter(|n| *n != node).collect();
        others.try_into().expect("there are so many others")
    }
    pub fn id(&self, node: NodeId) -> MemberId {
        self.stores[&node].ids().0
    }

    /// Has another machine added to the cluster, and starts it; the member's id.
    pub async fn add(&mut self, node: NodeId, learner: bool) -> MemberId {
        for _ in 0..100 {
            let leader = self.leader().await;
            let store = self.stores[&leader].clone();
            let add = sim::spawn_on(leader, "add", async move {
                let deadline = SimEnv::now() + Duration::from_secs(2);
                store
                    .member_add(vec![peer_url(node)], learner, deadline)
                    .await
            });
            if let Ok(Ok(Ok((id, _)))) = add.await {
                self.nodes.push(node);
                self.start(node).await.expect("a new member starts");
                return id;
            }
            // The first leader has not told the first members yet.
            sim::sleep(100 * MS).await;
        }
        panic!("{node} may not join");
    }
    /// Whether the leader accepted a change of the members in time.
    pub async fn change(&self, change: MemberChange, time: Duration) -> bool {
        let leader = self.leader().await;
        self.change_at(leader, change, time).await
    }
    /// Whether the change was made in time, when this member is asked for it.
    pub async fn change_at(&self, node: NodeId, change: MemberChange, time: Duration) -> bool {
        let store = self.stores[&node].clone();
        let change = sim::spawn_on(node, "change", async move {
            store.member_change(change, SimEnv::now() + time).await
        });
        let answer = SimEnv::timeout(time + 100 * MS, change).await;
        matches!(answer, Ok(Ok(Ok(Ok(_)))))
    }
    /// Who is to be in the cluster, as this member knows.
    pub fn wanted(&self, node: NodeId) -> Vec<MemberId> {
        let members = self.stores[&node].members();
        members.into_iter().map(|member| member.id).collect()
    }
    pub fn membership(&self, node: NodeId) -> Membership {
        self.stores[&node].membership()
    }
    /// Has the leader hand over to that member.
    pub async fn hand_over(
        &self,
        leader: NodeId,
        to: MemberId,
        time: Duration,
    ) -> Result<(), TransferError> {
        let store = self.stores[&leader].clone();
        let hand_over = sim::spawn_on(leader, "hand over", async move {
            store.move_leader(to, SimEnv::now() + time).await
        });
        hand_over.await.expect("the leader lives")
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
    /// The last entry in the member's log.
    pub fn last_log(&self, node: NodeId) -> u64 {
        self.stores[&node].status().raft_index
    }
    pub fn applied(&self, node: NodeId) -> u64 {
        self.stores[&node].status().applied_index
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
        self.put(node, key, 0, time).await
    }
    /// The same with a value of so many bytes.
    pub async fn put(&self, node: NodeId, key: &str, bytes: usize, time: Duration) -> bool {
        let Some(store) = self.stores.get(&node).cloned() else {
            return false;
        };
        let put = Put {
            key: key.to_owned().into(),
            value: vec![b'v'; bytes].into(),
            ..Put::default()
        };
        let write = sim::spawn_on(node, "write", async move {
            let deadline = SimEnv::now() + time;
            let outcome = store.propose(Command::Put(put), deadline).await;
            outcome.is_ok_and(|outcome| outcome.result.is_ok())
        });
        // A member that is dead or stands still gives no answer at all.
        let answer = SimEnv::timeout(time + 100 * MS, write).await;
        matches!(answer, Ok(Ok(true)))
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
    /// Whether there is a file of that name in the member's data directory.
    pub async fn has_file(&self, node: NodeId, name: &'static str) -> bool {
        let look = async move { sim::disk(node).exists(&in_member(name)).await };
        let there = sim::spawn_on(node, "look", look).await;
        matches!(there, Ok(Ok(true)))
    }
    /// Bytes of the files in that directory of the member's.
    pub async fn bytes_in(&self, node: NodeId, dir: &'static str) -> u64 {
        let look = async move {
            let (disk, dir) = (sim::disk(node), in_member(dir));
            let mut bytes = 0;
            for name in disk.list(&dir).await.unwrap_or_default() {
                if let Ok(file) = disk.open(&dir.join(name), Open::Read).await {
                    bytes += file.len().await.unwrap_or(0);
                }
            }
            bytes
        };
        let bytes = sim::spawn_on(node, "look", look).await;
        bytes.expect("nobody kills it while it looks")
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

fn peer_url(node: NodeId) -> String {
    format!("http://{node}:2380")
}
fn in_member(name: &str) -> PathBuf {
    Path::new(DATA).join("member").join(name)
}
