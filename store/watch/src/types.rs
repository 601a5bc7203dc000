//! What is asked of a watch and what it delivers.
use barque_store_state::{EventKind, KeyRange, Revision};

use crate::event::WatchEvent;

/// A stream of a client; carries many watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);
/// A watch's id within its stream (etcd: auto ids from 0, skipping used ones; clients may choose).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(pub i64);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchSpec {
    pub range: KeyRange,
    /// First revision wanted; `None`: from the next one on.
    pub start: Option<Revision>,
    pub prev_kv: bool,
    pub no_put: bool,
    pub no_delete: bool,
    /// Periodic progress notifications when idle and synced.
    pub progress_notify: bool,
}
impl WatchSpec {
    pub fn wants(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Precedes any event of that id. `revision`: the store's when the watch was created.
    Created { id: WatchId, revision: Revision },
    /// Whole revisions only, in order. `revision`: the response header's (etcd: the event's for live ones, the current one for replays).
    Events {
        id: WatchId,
        revision: Revision,
        events: Vec<WatchEvent>,
    },
    /// Everything up to `revision` has been delivered to `id`, or to every watch of the stream where `id` is `None`.
    Progress {
        id: Option<WatchId>,
        revision: Revision,
    },
    /// What the client asked to watch is not watched, for `reason`. In its place among the other answers: clients match them
    /// with what they asked by order.
    Refused { reason: String, revision: Revision },
    /// The client cancelled it.
    Canceled { id: WatchId, revision: Revision },
    /// Its place in history was compacted, before it started or while it caught up: nothing was delivered from the gap.
    Compacted {
        id: WatchId,
        compact_revision: Revision,
    },
    /// This member cannot read the history the watch needs; the watch is over here, and may go on at another member.
    Failed { id: WatchId },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    #[error("mvcc: duplicate watch ID provided on the WatchStream")]
    DuplicateId,
    #[error("mvcc: watcher range is empty")]
    EmptyRange,
    #[error("etcdserver: too many watches")]
    TooMany,
}
