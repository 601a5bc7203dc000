//! A member whose persisted state is damaged, or marked as not to be used, takes it anew from the others and returns by itself:
//! over power cuts at every step, with a log that goes on and one that was left behind, with a leader and without. A member
//! that has nobody to ask, or whose log is damaged, is refused.

mod common;

use std::path::PathBuf;
use std::time::Duration;

use barque_store_env::sim::{self, NodeId, SimDisk, SimEnv};
use barque_store_env::{Disk, Env, File, Open};
use barque_store_node::{Config, ImageRules, StartError, Store};
use barque_store_state::*;
use common::cluster::Cluster;
use common::{MS, S, in_member, simulated, try_start};

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

/// Little log, and a transfer that takes about half a second.
const SLOW: ImageRules = ImageRules {
    log_kept_min: 20 << 10,
    log_kept_max: 20 << 10,
    log_kept_hard: 1 << 20,
    piece_bytes: 2 << 10,
    bytes_per_second: 200 << 10,
};
const QUICK: ImageRules = ImageRules {
    bytes_per_second: 4 << 20,
    ..SLOW
};

fn config(node: NodeId, nodes: &[NodeId], images: ImageRules) -> Config {
    Config {
        images,
        // Nearly every read goes to the engine.
        value_cache_bytes: 2 << 10,
        ..simulated(node, nodes, "refetch")
    }
}

async fn cluster(members: usize, images: ImageRules) -> Cluster {
    let nodes = &NODES[..members];
    let of = nodes.to_vec();
    Cluster::new(nodes, 30 * S, move |node| config(node, &of, images)).await
}

impl Cluster {
    /// As whoever looks after the member does: it is started again when it says that this helps.
    async fn start_again(&mut self, at: usize) {
        let node = self.nodes[at];
        for _ in 0..3 {
            let started = try_start(node, (self.config)(node)).await;
            match started.expect("nobody kills it") {
                Ok(store) => return self.members[at] = Some(store),
                Err(e) => {
                    let again = e.to_string().contains("Start it again");
                    assert!(again, "{node} starts: {e}");
                    sim::kill(node);
                }
            }
        }
        panic!("{node} does not start");
    }
    async fn refused(&self, at: usize) -> String {
        let node = self.nodes[at];
        let started = try_start(node, (self.config)(node)).await;
        let started = started.expect("nobody kills it");
        started.err().expect("it is refused").to_string()
    }

    /// All have applied everything, are equal and can read every row; fails after a minute. A member that comes upon damage is
    /// started again.
    async fn equal(&mut self) {
        let mut seen = Vec::new();
        for _ in 0..6_000 {
            for at in 0..self.members.len() {
                if self.ended(at).await.is_some() {
                    self.kill(at);
                    self.start_again(at).await;
                }
            }
            seen.clear();
            for (store, node) in self.members.iter().zip(&self.nodes) {
                let hashes = |s: &Store<SimEnv>| (s.whole_hash(), s.hash_kv(None).ok());
                seen.push(sim::enter(*node, || store.as_ref().map(hashes)));
            }
            let whole = |hash: &Option<(_, Option<HashKv>)>| {
                hash.as_ref().is_some_and(|(_, kv)| kv.is_some())
            };
            if seen.iter().all(|hash| whole(hash) && *hash == seen[0]) {
                return;
            }
            sim::sleep(MS * 10).await;
        }
        panic!("the members do not come to the same: {seen:?}");
    }

    /// Why the member has ended by itself, if it has.
    async fn ended(&self, at: usize) -> Option<String> {
        let store = self.members[at].clone()?;
        let failed = async move { SimEnv::timeout(MS, store.failed()).await.ok() };
        let asked = sim::spawn_on(self.nodes[at], "look", failed).await;
        asked.expect("nobody kills it")
    }

    /// A follower that does not run.
    async fn stopped_follower(&mut self) -> usize {
        let away = (self.leader().await + 1) % self.members.len();
        // What it has applied is persisted.
        sim::sleep(MS * 500).await;
        self.kill(away);
        away
    }

    /// On the machine of a member.
    async fn on<T: Send + 'static>(
        &self,
        at: usize,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        common::on(self.nodes[at], work).await
    }
    fn disk(&self, at: usize) -> SimDisk {
        sim::disk(self.nodes[at])
    }
    async fn is_marked(&self, at: usize) -> bool {
        let disk = self.disk(at);
        let looked = async move { disk.exists(&in_member("refetch")).await.expect("readable") };
        self.on(at, looked).await
    }
    /// As whoever looks after the member may do as well.
    async fn mark(&self, at: usize) {
        let disk = self.disk(at);
        let marked = async move {
            let path = in_member("refetch");
            disk.open(&path, Open::CreateNew).await.expect("made");
            disk.sync_dir(&in_member("")).await.expect("synced");
        };
        self.on(at, marked).await;
    }
    /// Files of the directory with this ending, in order.
    async fn files(&self, at: usize, dir: &'static str, ending: &'static str) -> Vec<PathBuf> {
        let disk = self.disk(at);
        let listed = async move {
            let dir = in_member(dir);
            let mut names = disk.list(&dir).await.expect("readable");
            names.retain(|name| name.ends_with(ending));
            names.sort();
            names.iter().map(|name| dir.join(name)).collect()
        };
        self.on(at, listed).await
    }
    /// Changes the byte that comes so far behind the beginning of the file, or its middle.
    async fn damage(&self, at: usize, path: PathBuf, offset: Option<u64>) {
        let disk = self.disk(at);
        let changed = async move {
            let file = disk.open(&path, Open::ReadWrite).await.expect("opened");
            let len = file.len().await.expect("told");
            let offset = offset.unwrap_or(len / 2);
            let byte = file.read_at(offset, 1).await.expect("read");
            let other = vec![byte[0] ^ 1];
            file.write_sync(offset, other.into())
                .await
                .expect("written");
        };
        self.on(at, changed).await;
    }
}

#[test]
fn a_marked_member_takes_the_state_anew_and_goes_on_behind_its_log() {
    for seed in 1..=3 {
        sim::run(seed, async move {
            let mut cluster = cluster(3, SLOW).await;
            cluster.write(400).await;
            let away = cluster.stopped_follower().await;
            // It comes back at once, or when the log has left it behind.
            if seed % 2 == 0 {
                cluster.write(500).await;
            }
            cluster.mark(away).await;
            cluster.start_again(away).await;
            assert!(!cluster.is_marked(away).await);
            cluster.write(100).await;
            cluster.equal().await;
            // It lasts, and its vote counts: with it and one other there is a leader.
            cluster.cut_power(away);
            cluster.start_again(away).await;
            let other = (0..3).find(|at| *at != away).expect("three");
            cluster.kill(other);
            cluster.write(20).await;
            cluster.start_again(other).await;
            cluster.equal().await;
        });
    }
}

#[test]
fn a_member_with_damaged_rows_comes_back_by_itself() {
    let mut anew = 0;
    for seed in 1..=12 {
        anew += sim::run(seed, async move {
            let mut cluster = cluster(3, QUICK).await;
            cluster.write(400).await;
            let away = cluster.stopped_follower().await;
            for _ in 0..1 + sim::below(4) {
                let flipped = sim::flip_bit(NODES[away], "/rows/");
                assert!(flipped.is_some(), "it has rows");
            }
            cluster.write(30).await;
            cluster.start_again(away).await;
            cluster.write(30).await;
            cluster.equal().await;
            let store = cluster.members[away].as_ref().expect("it runs");
            u32::from(store.is_renewed())
        });
    }
    // Some bits are of rows that nobody needs, or in what was never written.
    assert!(anew >= 4, "only {anew} of 12 took the state anew");
}

#[test]
fn every_file_of_the_rows_can_be_lost() {
    for (seed, lost) in (1..).zip(["segment", "removed", "place"]) {
        sim::run(seed, async move {
            let mut cluster = cluster(3, QUICK).await;
            cluster.write(400).await;
            let away = cluster.stopped_follower().await;
            let segments = cluster.files(away, "rows", ".seg").await;
            let first = segments[0].clone();
            match lost {
                "segment" => cluster.damage(away, first, Some(20)).await,
                "removed" => {
                    let disk = cluster.disk(away);
                    let removed = async move {
                        disk.remove(&first).await.expect("removed");
                        disk.sync_dir(&in_member("rows")).await.expect("synced");
                    };
                    cluster.on(away, removed).await;
                }
                // Which of the two directories has the state cannot be told.
                _ => {
                    cluster.mark(away).await;
                    cluster.start_again(away).await;
                    cluster.equal().await;
                    cluster.kill(away);
                    let current = in_member("rows.current");
                    cluster.damage(away, current, None).await;
                }
            }
            cluster.start_again(away).await;
            assert!(!cluster.is_marked(away).await);
            cluster.write(30).await;
            cluster.equal().await;
        });
    }
}

#[test]
fn a_member_that_comes_upon_damage_while_it_serves_ends_and_comes_back() {
    let mut ended = 0;
    for seed in 1..=6 {
        ended += sim::run(seed, async move {
            let mut cluster = cluster(3, QUICK).await;
            cluster.write(400).await;
            sim::sleep(MS * 500).await;
            let victim = (cluster.leader().await + usize::from(seed % 2 == 0)) % 3;
            for _ in 0..10 {
                sim::flip_bit(NODES[victim], "/rows/").expect("it has rows");
            }
            let store = cluster.members[victim].clone().expect("it runs");
            // Whoever reads all of it.
            let refused = store.hash_kv(None).is_err();
            drop(store);
            if refused {
                sim::sleep(S).await;
                let why = cluster.ended(victim).await.expect("it has ended");
                assert!(why.contains("Start it again"), "{why}");
                assert!(why.contains("offset"), "{why}");
                assert!(cluster.is_marked(victim).await);
                cluster.kill(victim);
                cluster.start_again(victim).await;
            }
            cluster.write(30).await;
            cluster.equal().await;
            u32::from(refused)
        });
    }
    assert!(ended >= 2, "only {ended} of 6 came upon it");
}

/// Cuts the member's power so long after it began to take the state anew; whether it still had the mark then, and how long it took
/// without a cut.
async fn cut_at(cut: Option<Duration>) -> (bool, Duration) {
    let mut cluster = cluster(3, QUICK).await;
    cluster.write(400).await;
    let away = cluster.stopped_follower().await;
    cluster.write(300).await;
    cluster.mark(away).await;
    let begun = sim::elapsed();
    let Some(cut) = cut else {
        cluster.start_again(away).await;
        return (false, sim::elapsed() - begun);
    };
    let node = NODES[away];
    let (config, disk, net) = ((cluster.config)(node), sim::disk(node), sim::net(node));
    let starting = sim::spawn_on(node, "member", Store::<SimEnv>::start(config, disk, net));
    sim::sleep(cut).await;
    cluster.cut_power(away);
    drop(starting);
    let marked = cluster.is_marked(away).await;
    cluster.start_again(away).await;
    assert!(!cluster.is_marked(away).await);
    cluster.write(20).await;
    cluster.equal().await;
    cluster.cut_power(away);
    cluster.start_again(away).await;
    cluster.write(5).await;
    cluster.equal().await;
    (marked, Duration::ZERO)
}

#[test]
fn a_power_cut_at_any_step_is_survived() {
    let seed = 5;
    let (_, took) = sim::run(seed, cut_at(None));
    for n in 1..=16 {
        sim::run(seed, cut_at(Some(took * n / 16)));
    }
    // Around the exchange itself, finely.
    let exchange = took.saturating_sub(MS * 25);
    let (mut before, mut after) = (0, 0);
    for n in 0..60 {
        match sim::run(seed, cut_at(Some(exchange + MS * n / 2))) {
            (true, _) => before += 1,
            (false, _) => after += 1,
        }
    }
    assert!(before > 3 && after > 3, "{before} before, {after} after");
}

#[test]
fn a_transfer_goes_on_over_broken_connections_and_another_leader() {
    for seed in 1..=3 {
        sim::run(seed, async move {
            let mut cluster = cluster(3, SLOW).await;
            cluster.write(400).await;
            let away = cluster.stopped_follower().await;
            cluster.mark(away).await;
            let node = NODES[away];
            let config = (cluster.config)(node);
            let start = Store::<SimEnv>::start(config, sim::disk(node), sim::net(node));
            let starting = sim::spawn_on(node, "member", start);
            sim::sleep(MS * 200).await;
            let leader = cluster.leader().await;
            sim::break_connections(node, NODES[leader]);
            sim::sleep(MS * 700).await;
            // The other one cannot lead alone: it waits for this member or for the leader.
            cluster.kill(leader);
            sim::sleep(2 * S).await;
            cluster.start_again(leader).await;
            let started = starting.await.expect("nobody kills it");
            cluster.members[away] = Some(started.expect("it starts"));
            cluster.write(20).await;
            cluster.equal().await;
        });
    }
}

/// Its own rows, of no use to anybody, took the room for ever.
#[test]
fn rows_that_are_not_to_be_used_make_room_for_those_that_come() {
    sim::run(1, async {
        let mut cluster = cluster(3, QUICK).await;
        cluster.write(400).await;
        let away = cluster.stopped_follower().await;
        cluster.mark(away).await;
        // As much as is kept free in any case: no room for the state on top of it. The simulated disk stays as full, whatever
        // is removed.
        let full = barque_store_env::Space {
            free: 128 << 20,
            total: 2 << 30,
        };
        let node = NODES[away];
        sim::set_disk_space(node, Some(full));
        let config = (cluster.config)(node);
        let starting = sim::spawn_on(sim::HARNESS, "start", try_start(node, config));
        let end = sim::elapsed() + 10 * S;
        while !cluster.files(away, "rows", ".seg").await.is_empty() {
            assert!(sim::elapsed() < end, "they stay");
            sim::sleep(MS * 50).await;
        }
        sim::set_disk_space(node, None);
        let started = starting.await.expect("nobody kills it");
        let started = started.expect("nobody kills it");
        let store = started.unwrap_or_else(|e| panic!("{node} starts: {e}"));
        cluster.members[away] = Some(store);
        cluster.equal().await;
    });
}

#[test]
fn a_majority_that_lost_its_state_takes_it_from_the_one_that_has_it() {
    for seed in 1..=3 {
        sim::run(seed, async move {
            let mut cluster = cluster(3, QUICK).await;
            cluster.write(400).await;
            sim::sleep(S).await;
            let whole = (cluster.leader().await + usize::from(seed % 2 == 0)) % 3;
            let mut starting = Vec::new();
            for at in (0..3).filter(|at| *at != whole) {
                cluster.kill(at);
                cluster.mark(at).await;
                let node = NODES[at];
                let config = (cluster.config)(node);
                let start = Store::<SimEnv>::start(config, sim::disk(node), sim::net(node));
                starting.push((at, sim::spawn_on(node, "member", start)));
            }
            for (at, started) in starting {
                let started = SimEnv::timeout(60 * S, started).await.expect("in time");
                let started = started.expect("nobody kills it").expect("it starts");
                cluster.members[at] = Some(started);
            }
            cluster.write(50).await;
            cluster.equal().await;
        });
    }
}

#[test]
fn a_member_alone_is_refused_and_told_what_is_damaged() {
    sim::run(1, async {
        let mut cluster = cluster(1, QUICK).await;
        cluster.write(400).await;
        sim::sleep(S).await;
        cluster.kill(0);
        let segment = cluster.files(0, "rows", ".seg").await.remove(0);
        cluster.damage(0, segment.clone(), Some(20)).await;
        let why = cluster.refused(0).await;
        for part in [".seg", "at offset", "no other member is known"] {
            assert!(why.contains(part), "{why}");
        }
        assert!(!cluster.is_marked(0).await);
        // As it was.
        cluster.damage(0, segment, Some(20)).await;
        cluster.mark(0).await;
        let why = cluster.refused(0).await;
        assert!(why.contains("member/refetch"), "{why}");
        assert!(why.contains("no other member is known"), "{why}");
    });
}

/// An empty file overruled the flags, though the refusal tells to set them.
#[test]
fn the_flags_tell_where_the_others_are_when_the_file_of_peers_names_none() {
    sim::run(1, async {
        let mut cluster = cluster(3, QUICK).await;
        cluster.write(400).await;
        let away = cluster.stopped_follower().await;
        cluster.mark(away).await;
        let (node, disk) = (NODES[away], cluster.disk(away));
        let emptied = async move {
            let lines = "barque-peers 1\n\n";
            let checksum = crc32c::crc32c(lines.as_bytes());
            let path = in_member("peers");
            disk.remove(&path).await.expect("removed");
            let file = disk.open(&path, Open::CreateNew).await.expect("made");
            let text = format!("{lines}checksum {checksum:08x}\n");
            file.write_sync(0, text.into()).await.expect("written");
            disk.sync_dir(&in_member("")).await.expect("synced");
        };
        cluster.on(away, emptied).await;
        let alone = try_start(node, config(node, &[node], QUICK)).await;
        let refused = alone.expect("nobody kills it").err();
        let why = refused.expect("it is refused").to_string();
        assert!(why.contains("by --initial-cluster"), "{why}");
        cluster.start_again(away).await;
        assert!(!cluster.is_marked(away).await);
        cluster.write(30).await;
        cluster.equal().await;
    });
}

#[test]
fn a_damaged_log_is_refused_all_the_same() {
    sim::run(1, async {
        let mut cluster = cluster(3, QUICK).await;
        cluster.write(400).await;
        let away = cluster.stopped_follower().await;
        let log = cluster.files(away, "wal", ".wal").await.remove(0);
        cluster.damage(away, log, Some(300)).await;
        for marked in [false, true] {
            if marked {
                cluster.mark(away).await;
            }
            let why = cluster.refused(away).await;
            assert!(why.contains("the log is corrupt"), "{why}");
            assert!(why.contains(".wal at offset"), "{why}");
        }
        // The others go on.
        cluster.write(20).await;
    });
}

/// Its process ended as one that had failed, where one that hears it later ends with success.
#[test]
fn a_marked_member_that_was_removed_ends_as_removed_and_not_as_failed() {
    sim::run(1, async {
        let mut cluster = cluster(3, QUICK).await;
        cluster.write(100).await;
        let away = cluster.stopped_follower().await;
        cluster.mark(away).await;
        let leader = cluster.leader().await;
        let store = cluster.members[leader].clone().expect("it leads");
        let url = format!("http://{}:2380", NODES[away]);
        let removed = async move {
            let members = store.members();
            let gone = members.iter().find(|m| m.peer_urls.contains(&url));
            let id = gone.expect("a member").id;
            let deadline = SimEnv::now() + 5 * S;
            let change = MemberChange::Remove { id };
            store
                .member_change(change, deadline)
                .await
                .map(|r| r.is_ok())
        };
        assert!(cluster.on(leader, removed).await.expect("answered"));
        // Raft goes without it a moment later.
        sim::sleep(2 * S).await;
        let node = NODES[away];
        let started = try_start(node, (cluster.config)(node)).await;
        match started.expect("nobody kills it").err() {
            Some(StartError::Removed(why)) => {
                assert!(why.contains("was removed from the cluster"), "{why}");
            }
            other => panic!("it ends otherwise: {other:?}"),
        }
    });
}
