//! Watches that are open on a follower while it takes the leader's state: live ones, ones whose reader is slow, and ones that catch
//! up, see each event once, in order and without a gap; or they end with the revision up to which what they need was compacted.

mod common;

use std::sync::Arc;
use std::time::Duration;

use barque_store_env::Disk;
use barque_store_env::sim::{self, NodeId, SimEnv};
use barque_store_node::{Config, ImageRules, WatchStream};
use barque_store_state::*;
use barque_store_watch::{Delivery, WatchSpec};
use common::cluster::Cluster;
use common::{MS, S, in_member, on, simulated, until};
use parking_lot::Mutex;

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

/// Hardly any log, so that a member that was cut off for a moment is sent the state.
const TIGHT: ImageRules = ImageRules {
    log_kept_min: 4 << 10,
    log_kept_max: 4 << 10,
    log_kept_hard: 4 << 10,
    piece_bytes: 2 << 10,
    bytes_per_second: 100 << 10,
};

async fn cluster() -> Cluster {
    let config = |node| Config {
        images: TIGHT,
        // Most of the history is read from the engine.
        value_cache_bytes: 2 << 10,
        ..simulated(node, &NODES, "watch-install")
    };
    Cluster::new(&NODES, 20 * S, config).await
}

/// A watch of all keys, whose reader may not have begun.
struct Watch {
    node: NodeId,
    spec: WatchSpec,
    stream: Option<WatchStream<SimEnv>>,
    told: Arc<Mutex<Vec<Delivery>>>,
}

impl Watch {
    fn open(cluster: &Cluster, at: usize, start: Option<u64>, prev_kv: bool) -> Self {
        let spec = WatchSpec {
            range: KeyRange {
                key: "\0".into(),
                end: "\0".into(),
            },
            start: start.map(Revision),
            prev_kv,
            ..WatchSpec::default()
        };
        let (node, store) = (NODES[at], cluster.members[at].as_ref().expect("it runs"));
        let stream = sim::enter(node, || {
            let mut stream = store.watch_stream();
            stream.create(None, spec.clone()).expect("created");
            stream
        });
        Watch {
            node,
            spec,
            stream: Some(stream),
            told: Arc::default(),
        }
    }

    /// Begins to read it, with a pause after each time.
    fn read(&mut self, pause: Duration) {
        let mut stream = self.stream.take().expect("it is begun once");
        let told = self.told.clone();
        let reading = async move {
            loop {
                let deliveries = stream.next().await;
                told.lock().extend(deliveries);
                sim::sleep(pause).await;
            }
        };
        drop(sim::spawn_on(self.node, "watch", reading));
    }
    fn reading(mut self, pause: Duration) -> Self {
        self.read(pause);
        self
    }

    /// Its events so far, and how it ended.
    fn seen(&self) -> (Vec<Event>, Option<Delivery>) {
        let (mut events, mut end) = (Vec::new(), None);
        for delivery in self.told.lock().iter().cloned() {
            assert_eq!(end, None, "something came after the end: {delivery:?}");
            match delivery {
                Delivery::Created { .. } | Delivery::Progress { .. } => {}
                Delivery::Events {
                    revision,
                    events: more,
                    ..
                } => {
                    events.extend(
                        more.into_iter()
                            .map(barque_store_watch::WatchEvent::into_event),
                    );
                    assert!(events.last().is_some_and(|e| e.kv.mod_revision <= revision));
                }
                last => end = Some(last),
            }
        }
        (events, end)
    }
    fn last(&self) -> u64 {
        let (events, _) = self.seen();
        events.last().map_or(0, |event| event.kv.mod_revision.0)
    }

    /// The events it should be told, of `all`, from this revision on.
    fn wanted(&self, all: &[Event], from: u64) -> Vec<Event> {
        let wanted = all.iter().filter(|event| event.kv.mod_revision.0 >= from);
        wanted
            .cloned()
            .map(|mut event| {
                event.prev = event.prev.filter(|_| self.spec.prev_kv);
                event
            })
            .collect()
    }
    fn saw_all(&self, all: &[Event], from: u64, what: &str) {
        let (seen, end) = self.seen();
        assert_eq!(end, None, "{what}");
        same(&seen, &self.wanted(all, from), what);
    }
    /// It ended before it missed anything, told where history begins.
    fn was_compacted(&self, all: &[Event], from: u64, compacted: u64, what: &str) {
        let (seen, end) = self.seen();
        let next = seen.last().map_or(from, |e| e.kv.mod_revision.0 + 1);
        let mut wanted = self.wanted(all, from);
        wanted.truncate(seen.len());
        same(&seen, &wanted, what);
        match end {
            Some(Delivery::Compacted {
                compact_revision, ..
            }) => {
                assert!(compact_revision.0 > next, "{what}: it missed nothing");
                assert!(compact_revision.0 <= compacted, "{what}");
            }
            end => panic!("{what}: it ended with {end:?} after {next}"),
        }
    }
}

fn same(seen: &[Event], wanted: &[Event], what: &str) {
    let revisions = |events: &[Event]| -> Vec<u64> {
        events.iter().map(|event| event.kv.mod_revision.0).collect()
    };
    assert_eq!(revisions(seen), revisions(wanted), "{what}");
    assert!(seen == wanted, "{what}: an event differs");
}

impl Cluster {
    fn revision(&self, at: usize) -> u64 {
        let store = self.members[at].as_ref().expect("it runs");
        sim::enter(NODES[at], || store.revision().0)
    }
    fn compacted(&self, at: usize) -> u64 {
        let store = self.members[at].as_ref().expect("it runs");
        sim::enter(NODES[at], || store.compact_revision().0)
    }

    /// Everything that was written, as a live watch of the leader, which never took a state, was told it.
    async fn all_told(&self, watch: &Watch, at: usize) -> Vec<Event> {
        let told = until(20 * S, || {
            (0..3).all(|member| self.revision(member) == self.revision(at))
                && watch.last() == self.revision(at)
        });
        assert!(told.await, "the members do not come to the same");
        // What is on its way to slow readers.
        sim::sleep(2 * S).await;
        let (all, end) = watch.seen();
        assert_eq!(end, None);
        let revisions: Vec<u64> = all.iter().map(|e| e.kv.mod_revision.0).collect();
        assert_eq!(revisions, (2..=self.revision(at)).collect::<Vec<_>>());
        all
    }
}

fn part(at: usize) {
    for other in NODES.iter().filter(|node| **node != NODES[at]) {
        sim::partition(NODES[at], *other);
    }
}

/// The connections come back; waits until the member has taken the state.
async fn takes_the_state(at: usize) {
    assert!(!has_taken(at).await, "it took a state too early");
    // What was written is persisted, and the log purged.
    sim::sleep(MS * 500).await;
    sim::heal_all();
    for _ in 0..10_000 {
        if has_taken(at).await {
            return;
        }
        sim::sleep(MS).await;
    }
    panic!("it is not sent the state");
}

async fn has_taken(at: usize) -> bool {
    let node = NODES[at];
    let looked = async move { sim::disk(node).exists(&in_member("rows.current")).await };
    on(node, looked).await.expect("it is told")
}

#[test]
fn watches_open_across_an_install_see_each_event_once_and_in_order() {
    for seed in 1..=6 {
        sim::run(seed, async move {
            let mut cluster = cluster().await;
            let leader = cluster.leader().await;
            let away = (leader + 1) % 3;
            let truth = Watch::open(&cluster, leader, None, true).reading(MS);
            let live = Watch::open(&cluster, away, None, false).reading(MS);
            let slow = Watch::open(&cluster, away, None, true).reading(MS * 700);
            let mut unread = Watch::open(&cluster, away, None, true);
            cluster.write(100).await;
            part(away);
            cluster.write(100).await;
            let before = cluster.revision(away);
            let past = Watch::open(&cluster, away, Some(10), true).reading(MS);
            // It begins to catch up in the old state's revisions, and reads them in the new state.
            let mut late = Watch::open(&cluster, away, Some(10), true);
            let from_now = Watch::open(&cluster, away, None, true).reading(MS);
            let ahead = Watch::open(&cluster, away, Some(before + 20), true).reading(MS);
            let later = Watch::open(&cluster, away, Some(before + 140), false).reading(MS);
            takes_the_state(away).await;
            let (taken, meanwhile) = (cluster.revision(away), before + 1);
            assert!(taken > before + 20, "{taken} after {before}");
            late.read(MS);
            unread.read(MS);
            let after = Watch::open(&cluster, away, Some(meanwhile), true).reading(MS);
            cluster.write(80).await;
            let all = cluster.all_told(&truth, leader).await;
            live.saw_all(&all, 2, "live");
            slow.saw_all(&all, 2, "live, with a slow reader");
            unread.saw_all(&all, 2, "live, and read afterwards only");
            past.saw_all(&all, 10, "catching up before");
            late.saw_all(&all, 10, "catching up across it");
            from_now.saw_all(&all, before + 1, "live while it was cut off");
            ahead.saw_all(&all, before + 20, "from within what it missed");
            later.saw_all(&all, before + 140, "from behind what it missed");
            after.saw_all(&all, meanwhile, "opened afterwards");
        });
    }
}

#[test]
fn watches_whose_past_was_compacted_in_the_state_that_is_taken_end_with_that_revision() {
    for seed in 1..=4 {
        sim::run(seed, async move {
            let mut cluster = cluster().await;
            let leader = cluster.leader().await;
            let away = (leader + 1) % 3;
            let truth = Watch::open(&cluster, leader, None, true).reading(MS);
            let live = Watch::open(&cluster, away, None, false).reading(MS);
            let slow = Watch::open(&cluster, away, None, true).reading(MS * 700);
            cluster.write(350).await;
            part(away);
            cluster.write(550).await;
            let before = cluster.revision(away);
            let mut late = Watch::open(&cluster, away, Some(before - 50), true);
            let past = Watch::open(&cluster, away, Some(before - 50), true).reading(MS);
            let from_now = Watch::open(&cluster, away, None, true).reading(MS);
            let compacted = cluster.compacted(leader);
            assert!(compacted > before + 100, "{compacted} after {before}");
            let at_it = Watch::open(&cluster, away, Some(compacted), true).reading(MS);
            let beyond = Watch::open(&cluster, away, Some(compacted + 1), true).reading(MS);
            takes_the_state(away).await;
            late.read(MS);
            cluster.write(30).await;
            let all = cluster.all_told(&truth, leader).await;
            let now = cluster.compacted(leader);
            live.was_compacted(&all, 2, now, "live");
            slow.was_compacted(&all, 2, now, "live, with a slow reader");
            past.was_compacted(&all, before - 50, now, "caught up before");
            late.was_compacted(&all, before - 50, now, "catching up across it");
            from_now.was_compacted(&all, before + 1, now, "live while it was cut off");
            beyond.saw_all(&all, compacted + 1, "from behind the compaction");
            // As etcd's: it is not below the compaction. What it is told of that one revision may be less than there was.
            let (seen, end) = at_it.seen();
            assert_eq!(end, None);
            let seen: Vec<Event> = (seen.into_iter())
                .filter(|event| event.kv.mod_revision.0 > compacted)
                .collect();
            same(
                &seen,
                &at_it.wanted(&all, compacted + 1),
                "from the compaction on",
            );
        });
    }
}
