//! Guard 13: commands whose leader is lost are sent again, and each is carried out once. Writers on every member, a fault, and a
//! key of its own for each put: its version says how often it was carried out.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use barque_store_consensus::Guards;
use barque_store_env::sim::{self, NodeId, SimEnv};
use barque_store_env::{Env, Task};
use barque_store_node::{Config, ProposeError, Store};
use barque_store_state::*;
use common::{MS, leads, simulated, start};
use parking_lot::Mutex;

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
/// Of the timing that `simulated` sets.
const LEASE: Duration = Duration::from_millis(250);
const WRITERS: u32 = 4;
const PUTS: u32 = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// At any moment: before it proposed what it was sent, after it appended it, before it answered.
    KillLeader,
    /// It stands still until another leads, and wakes with whatever it held.
    PauseLeader,
    /// The same with the next one, before the first is back.
    PauseTwoInARow,
    /// Leadership goes to another member and comes back, while what a follower sent to the first is held on its way.
    ThereAndBack,
    /// Connections between a follower and the leader break; it leads on.
    BreakConnections,
    /// The same while disks are so slow that commands wait at the leader: several attempts of one, side by side.
    BreakConnectionsOfABusyLeader,
    /// They carry nothing any more, and nobody says so.
    BlackenConnections,
    /// A follower is killed with what it has under way, and starts again at once.
    RestartFollower,
    /// The leader is asked to stop.
    StopLeader,
    /// Leadership is handed over again and again.
    HandOvers,
}

struct Told {
    through: NodeId,
    key: String,
    answer: Result<Outcome, ProposeError>,
}

struct Cluster {
    guards: Guards,
    stores: BTreeMap<NodeId, Store<SimEnv>>,
    tried: Arc<Mutex<Vec<String>>>,
    told: Arc<Mutex<Vec<Told>>>,
}

/// What a run showed.
#[derive(Debug)]
struct Seen {
    /// Keys that were written more than once, or acknowledged and not there as they were acknowledged.
    wrong: Vec<String>,
    /// What was not acknowledged.
    failed: Vec<String>,
    acknowledged: usize,
}

impl Cluster {
    async fn start(guards: Guards) -> Cluster {
        let mut cluster = Cluster {
            guards,
            stores: BTreeMap::new(),
            tried: Arc::default(),
            told: Arc::default(),
        };
        for node in NODES {
            cluster.boot(node).await;
        }
        cluster.leader().await;
        // Every member has met every other, and the membership is committed.
        for node in NODES {
            cluster.writer(node, 99, 1).await.expect("it lives");
        }
        cluster
    }
    async fn boot(&mut self, node: NodeId) {
        let config = Config {
            guards: self.guards,
            ..simulated(node, &NODES, "resend")
        };
        self.stores.insert(node, start(node, config).await);
    }
    fn kill(&mut self, node: NodeId) {
        let store = self.stores.remove(&node);
        sim::kill(node);
        sim::enter(node, || drop(store));
    }
    fn leading(&self) -> Vec<NodeId> {
        let stores = self.stores.iter();
        let leading = stores.filter(|(node, store)| leads(**node, store));
        leading.map(|(node, _)| *node).collect()
    }
    async fn leader(&self) -> NodeId {
        for _ in 0..20_000 {
            if let [leader] = self.leading()[..] {
                return leader;
            }
            sim::sleep(MS).await;
        }
        panic!("no leader in 20 s");
    }
    async fn other_leader(&self, than: &[NodeId]) -> NodeId {
        for _ in 0..20_000 {
            if let Some(leader) = self.leading().iter().find(|node| !than.contains(node)) {
                return *leader;
            }
            sim::sleep(MS).await;
        }
        panic!("no other leader in 20 s");
    }
    /// Puts one key after the other through the member.
    fn writer(&self, node: NodeId, number: u32, puts: u32) -> Task<()> {
        let store = self.stores[&node].clone();
        let (tried, told) = (self.tried.clone(), self.told.clone());
        sim::spawn_on(node, "writer", async move {
            for put in 0..puts {
                let key = format!("{node}/{number}/{put}");
                tried.lock().push(key.clone());
                let command = Command::Put(Put {
                    key: key.clone().into(),
                    ..Put::default()
                });
                let deadline = SimEnv::now() + Duration::from_secs(8);
                let answer = store.propose(command, deadline).await;
                told.lock().push(Told {
                    through: node,
                    key,
                    answer,
                });
                SimEnv::sleep(sim::between(Duration::ZERO, MS * 4)).await;
            }
        })
    }
    fn writers(&self, node: NodeId, from: u32) -> Vec<Task<()>> {
        (from..from + WRITERS)
            .map(|number| self.writer(node, number, PUTS))
            .collect()
    }

    async fn move_leader(&self, from: NodeId, to: NodeId) {
        let (store, id) = (self.stores[&from].clone(), self.stores[&to].ids().0);
        let moving = sim::spawn_on(from, "move", async move {
            let deadline = SimEnv::now() + Duration::from_secs(1);
            store.move_leader(id, deadline).await
        });
        // Whether it came about is seen in who leads.
        let _ = moving.await;
    }

    async fn happens(&mut self, fault: Fault, writers: &mut Vec<Task<()>>) {
        let leader = self.leader().await;
        let [follower, other] = NODES
            .into_iter()
            .filter(|n| *n != leader)
            .collect::<Vec<_>>()[..]
        else {
            unreachable!("three members")
        };
        match fault {
            Fault::KillLeader => self.kill(leader),
            Fault::PauseLeader => sim::pause(leader, 6 * LEASE),
            Fault::PauseTwoInARow => {
                sim::pause(leader, 6 * LEASE);
                let next = self.other_leader(&[leader]).await;
                sim::sleep(sim::between(Duration::ZERO, MS * 20)).await;
                sim::pause(next, 6 * LEASE);
            }
            Fault::ThereAndBack => {
                sim::partition(follower, leader);
                sim::sleep(sim::between(Duration::ZERO, MS * 20)).await;
                self.move_leader(leader, other).await;
                self.move_leader(other, leader).await;
                sim::heal_all();
            }
            Fault::BreakConnections => {
                for _ in 0..8 {
                    sim::break_connections(follower, leader);
                    sim::sleep(sim::between(Duration::ZERO, MS * 30)).await;
                }
            }
            Fault::BreakConnectionsOfABusyLeader => {
                let normal = sim::DiskProfile::default();
                for node in NODES {
                    let sync = (MS * 30, MS * 60);
                    sim::set_disk(node, sim::DiskProfile { sync, ..normal });
                }
                for _ in 0..12 {
                    sim::break_connections(follower, leader);
                    sim::sleep(sim::between(MS, MS * 15)).await;
                }
                for node in NODES {
                    sim::set_disk(node, normal);
                }
            }
            Fault::BlackenConnections => sim::blacken_connections(follower, leader),
            Fault::RestartFollower => {
                self.kill(follower);
                self.boot(follower).await;
                writers.extend(self.writers(follower, WRITERS));
            }
            Fault::StopLeader => {
                let store = self.stores.remove(&leader).expect("it runs");
                let stopped = sim::spawn_on(leader, "stop", async move { store.shutdown().await });
                stopped.await.expect("nobody kills it");
                sim::kill(leader);
            }
            Fault::HandOvers => {
                for _ in 0..4 {
                    let from = self.leader().await;
                    let to = NODES[sim::below(3) as usize];
                    if to != from {
                        self.move_leader(from, to).await;
                    }
                    sim::sleep(sim::between(Duration::ZERO, MS * 20)).await;
                }
            }
        }
    }

    /// Everybody is back and has everything; what became of each key.
    async fn judge(&mut self) -> Seen {
        sim::heal_all();
        for node in NODES {
            if !self.stores.contains_key(&node) {
                self.boot(node).await;
            }
        }
        let mut seen = Seen {
            wrong: Vec::new(),
            failed: Vec::new(),
            acknowledged: 0,
        };
        for (node, store) in &self.stores {
            let reader = store.clone();
            let read = sim::spawn_on(*node, "read", async move {
                let deadline = SimEnv::now() + Duration::from_secs(20);
                reader.read_index(deadline).await
            });
            read.await.expect("it lives").expect("it catches up");
            for key in self.tried.lock().iter() {
                if let Some(kv) = row(store, key)
                    && kv.version != 1
                {
                    let text = format!("{key} was carried out {} times", kv.version);
                    seen.wrong.push(text);
                }
            }
        }
        let store = &self.stores[&NODES[0]];
        for told in self.told.lock().iter() {
            match &told.answer {
                Ok(outcome) => {
                    seen.acknowledged += 1;
                    let there = row(store, &told.key).map(|kv| kv.mod_revision);
                    if there != Some(outcome.revision) || outcome.result.is_err() {
                        seen.wrong
                            .push(format!("{} is at {there:?}, not {outcome:?}", told.key));
                    }
                }
                Err(error) => {
                    let text = format!("{} through {}: {error}", told.key, told.through);
                    seen.failed.push(text);
                }
            }
        }
        seen
    }
}

fn row(store: &Store<SimEnv>, key: &str) -> Option<Arc<KeyValue>> {
    let range = Range {
        range: KeyRange::point(key.to_owned().into()),
        ..Range::default()
    };
    let (_, found) = store.range(&range);
    found.expect("a plain read").kvs.first().cloned()
}

async fn run(fault: Fault, guards: Guards) -> Seen {
    let mut cluster = Cluster::start(guards).await;
    let mut writers: Vec<Task<()>> = NODES
        .iter()
        .flat_map(|node| cluster.writers(*node, 0))
        .collect();
    sim::sleep(sim::between(MS * 20, MS * 60)).await;
    cluster.happens(fault, &mut writers).await;
    for writer in writers {
        // Those of a member that was killed end with it.
        let _ = writer.await;
    }
    cluster.judge().await
}

/// Nothing is carried out twice, and nobody whose member lives is told that it failed.
fn all_are_carried_out_once(fault: Fault, seeds: u64) {
    for seed in 1..=seeds {
        let seen = sim::run(seed, run(fault, Guards::default()));
        assert!(seen.wrong.is_empty(), "seed {seed}: {:?}", seen.wrong);
        assert!(seen.failed.is_empty(), "seed {seed}: {:?}", seen.failed);
        assert!(
            seen.acknowledged > 300,
            "seed {seed}: {}",
            seen.acknowledged
        );
    }
}

#[test]
fn a_leader_is_killed() {
    all_are_carried_out_once(Fault::KillLeader, 12);
}
#[test]
fn a_leader_stands_still_and_wakes_deposed() {
    all_are_carried_out_once(Fault::PauseLeader, 8);
}
#[test]
fn two_leaders_in_a_row_stand_still() {
    all_are_carried_out_once(Fault::PauseTwoInARow, 8);
}
#[test]
fn leadership_comes_back_to_a_member_that_is_still_to_get_old_frames() {
    all_are_carried_out_once(Fault::ThereAndBack, 8);
}
#[test]
fn connections_break_and_the_leader_stays() {
    all_are_carried_out_once(Fault::BreakConnections, 8);
}
/// Both attempts were proposed in one entry.
#[test]
fn two_attempts_that_wait_side_by_side_are_one_command() {
    all_are_carried_out_once(Fault::BreakConnectionsOfABusyLeader, 8);
}
#[test]
fn connections_go_silent_and_the_leader_stays() {
    all_are_carried_out_once(Fault::BlackenConnections, 6);
}
#[test]
fn a_follower_starts_again() {
    all_are_carried_out_once(Fault::RestartFollower, 6);
}
#[test]
fn leadership_is_handed_over_under_load() {
    all_are_carried_out_once(Fault::HandOvers, 8);
}

/// Only the stopping member's own clients are sent elsewhere, and told so; what was under way is answered.
#[test]
fn a_leader_that_is_asked_to_stop_leaves_nothing_open() {
    for seed in 1..=12 {
        let seen = sim::run(seed, run(Fault::StopLeader, Guards::default()));
        assert!(seen.wrong.is_empty(), "seed {seed}: {:?}", seen.wrong);
        let stopped = ProposeError::Stopped.to_string();
        let open: Vec<&String> = seen
            .failed
            .iter()
            .filter(|f| !f.ends_with(&stopped))
            .collect();
        assert!(open.is_empty(), "seed {seed}: {open:?}");
    }
}

/// A follower sends a batch with a command in it that is refused, and the leader is lost. What the follower is told of each.
async fn a_batch_with_a_refusal() -> Vec<Result<Outcome, ProposeError>> {
    let mut cluster = Cluster::start(Guards::default()).await;
    let leader = cluster.leader().await;
    let follower = NODES[sim::below(3) as usize];
    let store = cluster.stores[&follower].clone();
    let compact = Command::Compact {
        revision: Revision(2),
    };
    if follower == leader {
        return Vec::new();
    }
    let told = sim::spawn_on(follower, "batch", async move {
        let deadline = SimEnv::now() + Duration::from_secs(8);
        let compacted = store.propose(compact.clone(), deadline).await;
        compacted.expect("acknowledged").result.expect("done");
        let put = |n: u32| {
            Command::Put(Put {
                key: format!("batch/{n}").into(),
                ..Put::default()
            })
        };
        let commands = [put(1), compact, put(2), put(3)];
        let told = commands.map(|command| store.propose(command, deadline));
        futures::future::join_all(told).await
    });
    sim::sleep(sim::between(Duration::ZERO, MS * 30)).await;
    cluster.kill(leader);
    told.await.expect("the follower lives")
}

/// The refused one made the leader forget the others of its batch, which had been carried out.
#[test]
fn a_refusal_leaves_what_is_known_of_the_rest_of_its_batch() {
    for seed in 1..=60 {
        let told = sim::run(seed, a_batch_with_a_refusal());
        for (at, told) in told.into_iter().enumerate() {
            let outcome = told.unwrap_or_else(|e| panic!("seed {seed}, command {at}: {e}"));
            assert_eq!(outcome.result.is_err(), at == 1, "seed {seed}, {outcome:?}");
        }
    }
}

#[test]
fn guard_13_without_the_look_commands_are_carried_out_twice() {
    let off = Guards {
        resend_once: false,
        ..Guards::default()
    };
    for fault in [
        Fault::KillLeader,
        Fault::PauseLeader,
        Fault::BreakConnections,
    ] {
        let twice = |seed| !sim::run(seed, run(fault, off)).wrong.is_empty();
        assert!((1..=12).any(twice), "{fault:?}: this test shows nothing");
    }
}
