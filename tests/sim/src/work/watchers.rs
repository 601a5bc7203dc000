//! Watching clients: each holds a stream at some member, loses it, and resumes at another by revision. Some read
//! slowly. A compaction may end a watch; then another one begins behind it.

use std::sync::Arc;
use std::time::Duration;

use barque_store_env::sim::{self, SimEnv};
use barque_store_env::{Env, Task};
use barque_store_node::Store;
use barque_store_state::{KeyRange, Revision};
use barque_store_watch::{Delivery, WatchSpec};
use barque_tests_checkers::{Delivered, Watched};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::registers::{PREFIX, key};
use super::{bank, lessees};
use crate::cluster::Cluster;
use crate::truth::{Change, FIRST, change};

/// Batches between a member and its client, as a socket's buffer holds some.
const BUFFERED: usize = 4;

/// What a watcher wants.
#[derive(Clone, Debug)]
pub enum Wanted {
    All,
    Prefix(&'static str),
    Key(String),
}

impl Wanted {
    pub fn range(&self) -> KeyRange {
        match self {
            Wanted::All => KeyRange::prefix(b""),
            Wanted::Prefix(prefix) => KeyRange::prefix(prefix.as_bytes()),
            Wanted::Key(key) => KeyRange::point(key.clone().into()),
        }
    }
    pub fn matches(&self, change: &Change) -> bool {
        match self {
            Wanted::All => true,
            Wanted::Prefix(prefix) => change.key.starts_with(prefix),
            Wanted::Key(key) => change.key == *key,
        }
    }
    /// The watchers of a run, the first so many.
    pub fn several(count: u64) -> Vec<Wanted> {
        let all = [
            Wanted::All,
            Wanted::Prefix(PREFIX),
            Wanted::Key(key(0)),
            Wanted::Prefix(match sim::below(2) {
                0 => bank::PREFIX,
                _ => lessees::PREFIX,
            }),
        ];
        all.into_iter().take(count as usize).collect()
    }
}

/// Opens a stream at a member, in the member's process; batches come through the channel until either end goes.
pub fn stream(
    node: sim::NodeId,
    store: Store<SimEnv>,
    range: KeyRange,
    start: u64,
) -> mpsc::Receiver<Vec<Delivery>> {
    let (tx, rx) = mpsc::channel(BUFFERED);
    let spec = WatchSpec {
        range,
        start: Some(Revision(start)),
        progress_notify: true,
        ..WatchSpec::default()
    };
    let _detached: Task<()> = sim::spawn_on(node, "watch", async move {
        let mut stream = store.watch_stream();
        drop(store);
        if let Err(e) = stream.create(None, spec) {
            panic!("a watch was refused: {e}");
        }
        if SimEnv::random().is_multiple_of(2) {
            stream.request_progress();
        }
        loop {
            let batch = stream.next().await;
            if tx.send(batch).await.is_err() {
                return;
            }
        }
    });
    rx
}

pub struct Watcher {
    pub name: String,
    pub wanted: Wanted,
    cluster: Arc<Cluster>,
    seen: Mutex<Seen>,
}

struct Seen {
    /// What watches saw that a compaction ended, up to there.
    before: Vec<Watched<Change>>,
    start: u64,
    delivered: Vec<Delivered<Change>>,
    /// Everything below has been seen; where the next stream begins.
    next: u64,
}

impl Watcher {
    pub fn new(name: String, wanted: Wanted, cluster: Arc<Cluster>) -> Self {
        let seen = Mutex::new(Seen {
            before: Vec::new(),
            start: FIRST,
            delivered: Vec::new(),
            next: FIRST,
        });
        Watcher {
            name,
            wanted,
            cluster,
            seen,
        }
    }

    pub fn next(&self) -> u64 {
        self.seen.lock().next
    }

    /// The watches of its life; the last one should have seen everything up to `complete_to`.
    pub fn watched(&self, complete_to: u64) -> Vec<Watched<Change>> {
        let seen = self.seen.lock();
        let mut all = seen.before.clone();
        all.push(Watched {
            name: self.name.clone(),
            start: seen.start,
            delivered: seen.delivered.clone(),
            complete_to,
        });
        all
    }

    /// Watches until the world ends.
    pub async fn run(self: Arc<Self>) {
        loop {
            let node = self.cluster.any_member();
            let Some(store) = self.cluster.store(node) else {
                sim::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let mut batches = stream(node, store, self.wanted.range(), self.next());
            let patience = sim::between(Duration::from_millis(200), Duration::from_secs(8));
            let leave = sim::elapsed() + patience;
            while let Some(left) = leave.checked_sub(sim::elapsed()) {
                let Ok(Some(batch)) = SimEnv::timeout(left, batches.recv()).await else {
                    break;
                };
                if !self.take(node, batch) {
                    break;
                }
                if sim::chance(0.01) && !self.cluster.is_calm() {
                    sim::sleep(sim::between(Duration::ZERO, Duration::from_secs(2))).await;
                }
            }
            self.cluster.journal.count(|c| c.reconnects += 1);
        }
    }

    /// False: the stream is over.
    fn take(&self, node: sim::NodeId, batch: Vec<Delivery>) -> bool {
        let mut seen = self.seen.lock();
        let journal = &self.cluster.journal;
        for delivery in batch {
            match delivery {
                Delivery::Created { .. } => {}
                Delivery::Events { events, .. } => {
                    journal.count(|c| c.watch_events += events.len() as u64);
                    for of_one in events.chunk_by(|a, b| a.kv.mod_revision == b.kv.mod_revision) {
                        let revision = of_one[0].kv.mod_revision.0;
                        let changes = of_one.iter().map(|event| change(event)).collect();
                        seen.delivered
                            .push(Delivered::Changes { revision, changes });
                        seen.next = seen.next.max(revision + 1);
                    }
                }
                Delivery::Progress { revision, .. } => {
                    // Below what was asked for it says nothing.
                    seen.delivered.push(Delivered::Progress {
                        revision: revision.0,
                    });
                    seen.next = seen.next.max(revision.0 + 1);
                }
                Delivery::Compacted {
                    compact_revision, ..
                } => {
                    self.compacted(node, &mut seen, compact_revision.0);
                    return false;
                }
                // The member is fenced, which is judged where it ends.
                Delivery::Failed { .. } => return false,
                other @ (Delivery::Canceled { .. } | Delivery::Refused { .. }) => {
                    journal.violation(format!("{} was told {other:?}", self.name));
                    return false;
                }
            }
        }
        true
    }

    /// Right only if what the watch wanted next was compacted, by somebody.
    fn compacted(&self, node: sim::NodeId, seen: &mut Seen, to: u64) {
        let (name, asked) = (&self.name, self.cluster.truth.compacted());
        if seen.next >= to || to > asked {
            self.cluster.journal.violation(format!(
                "{node} ended {name}, which wanted {} next, for a compaction to {to}; {asked} was asked for",
                seen.next
            ));
            return;
        }
        self.cluster.journal.count(|c| c.compacted_watches += 1);
        let ended = Watched {
            name: name.clone(),
            start: seen.start,
            delivered: std::mem::take(&mut seen.delivered),
            complete_to: seen.next - 1,
        };
        seen.before.push(ended);
        seen.start = to;
        seen.next = to;
    }
}
