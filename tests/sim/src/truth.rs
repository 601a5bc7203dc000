//! What really happened, as the members themselves tell it: inside each runs a watch of everything from the first revision
//! on, and all of them must tell one history. It outlives compactions, so it can judge what clients saw before them.
//! Not here: judging (`settle`).

use std::collections::BTreeMap;
use std::sync::Arc;

use barque_store_env::Task;
use barque_store_env::sim::{self, NodeId, SimEnv};
use barque_store_node::Store;
use barque_store_state::{Event, EventKind, KeyRange, Revision};
use barque_store_watch::{Delivery, WatchSpec};
use barque_tests_checkers::History;
use parking_lot::Mutex;

use crate::journal::Journal;

/// The first revision that a write can have.
pub const FIRST: u64 = 2;

/// A change as watchers and the history see it: a key and its new value, `None` when deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    pub value: Option<String>,
}

pub fn change(event: &Event) -> Change {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Change {
        key: text(&event.kv.key),
        value: (event.kind == EventKind::Put).then(|| text(&event.kv.value)),
    }
}

#[derive(Default)]
struct Told {
    history: History<Change>,
    /// Every revision below is in the history.
    next: u64,
    /// What each member's own watch has to tell next.
    next_of: BTreeMap<NodeId, u64>,
    /// When each revision was first told of.
    told_at: BTreeMap<u64, u64>,
    /// When each key that belongs to a lease was first seen to be gone.
    gone: BTreeMap<String, u64>,
    /// The highest revision anybody asked to compact to, before it was asked.
    compacted: u64,
}

pub struct Truth {
    journal: Arc<Journal>,
    told: Mutex<Told>,
}

impl Truth {
    pub fn new(journal: Arc<Journal>) -> Self {
        let told = Told {
            next: FIRST,
            ..Told::default()
        };
        Truth {
            journal,
            told: Mutex::new(told),
        }
    }

    /// Every revision up to here is known.
    pub fn known(&self) -> u64 {
        self.told.lock().next - 1
    }
    pub fn history(&self) -> History<Change> {
        self.told.lock().history.clone()
    }
    pub fn told_at(&self, revision: u64) -> Option<u64> {
        self.told.lock().told_at.get(&revision).copied()
    }
    /// When the key was first seen to be deleted.
    pub fn gone(&self, key: &str) -> Option<u64> {
        self.told.lock().gone.get(key).copied()
    }
    /// Somebody is about to ask for this compaction.
    pub fn compacting(&self, revision: u64) {
        let mut told = self.told.lock();
        told.compacted = told.compacted.max(revision);
    }
    pub fn compacted(&self) -> u64 {
        self.told.lock().compacted
    }

    /// Listens inside a member that just came up, for as long as its process lives.
    pub fn tap(self: &Arc<Self>, node: NodeId, store: &Store<SimEnv>) {
        let (truth, store) = (self.clone(), store.clone());
        let _detached: Task<()> = sim::spawn_on(node, "tap", async move {
            let mut stream = store.watch_stream();
            drop(store);
            let mut start = truth.told.lock().next_of.get(&node).copied();
            loop {
                let spec = WatchSpec {
                    range: KeyRange::prefix(b""),
                    start: Some(Revision(start.unwrap_or(FIRST))),
                    ..WatchSpec::default()
                };
                if let Err(e) = stream.create(None, spec) {
                    return truth.journal.violation(format!("{node}: no watch: {e}"));
                }
                let Some(again) = truth.listen(node, &mut stream).await else {
                    return;
                };
                start = Some(again);
            }
        });
    }

    /// Where to begin anew, after a compaction.
    async fn listen(
        &self,
        node: NodeId,
        stream: &mut barque_store_node::WatchStream<SimEnv>,
    ) -> Option<u64> {
        loop {
            for delivery in stream.next().await {
                match delivery {
                    Delivery::Events { events, .. } => {
                        for of_one in events.chunk_by(|a, b| a.kv.mod_revision == b.kv.mod_revision)
                        {
                            let revision = of_one[0].kv.mod_revision.0;
                            let changes = of_one.iter().map(|event| change(event)).collect();
                            self.tell(node, revision, changes);
                        }
                    }
                    Delivery::Compacted {
                        compact_revision, ..
                    } => return Some(compact_revision.0),
                    // The member is about to end, and its end is judged elsewhere.
                    Delivery::Failed { .. } => return None,
                    Delivery::Created { .. } | Delivery::Progress { .. } => {}
                    other @ (Delivery::Canceled { .. } | Delivery::Refused { .. }) => {
                        self.journal.violation(format!("{node} told: {other:?}"));
                        return None;
                    }
                }
            }
        }
    }

    fn tell(&self, node: NodeId, revision: u64, changes: Vec<Change>) {
        let mut told = self.told.lock();
        let next = told.next_of.insert(node, revision + 1);
        if next.is_some_and(|next| next > revision) {
            drop(told);
            return self
                .journal
                .violation(format!("{node} told revision {revision} after {next:?}"));
        }
        if let Some(known) = told.history.get(&revision) {
            if *known != changes {
                let text = format!(
                    "{node} tells revision {revision} as {changes:?}, but it was told as {known:?}"
                );
                drop(told);
                self.journal.violation(text);
            }
            return;
        }
        let now = sim::elapsed().as_nanos() as u64;
        for change in changes.iter().filter(|c| c.value.is_none()) {
            told.gone.entry(change.key.clone()).or_insert(now);
        }
        told.told_at.insert(revision, now);
        told.history.insert(revision, changes);
        while told.history.contains_key(&told.next) {
            told.next += 1;
        }
    }
}
