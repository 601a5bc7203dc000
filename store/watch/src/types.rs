//! What is asked of a watch and what it delivers.
use barque_store_state::{Event, KeyRange, Revision};

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

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Precedes any event of that id. `revision`: the store's when the watch was created.
    Created { id: WatchId, revision: Revision },
    /// Whole revisions only, in order. `revision`: the response header's (etcd: the event's for live ones, the current one for replays).
    Events {
        id: WatchId,
        revision: Revision,
        events: Vec<Event>,
    },
    /// Everything up to `revision` has been delivered to `id`, or to every watch of the stream where `id` is `None`.
    Progress {
        id: Option<WatchId>,
        revision: Revision,
    },
    /// The client cancelled it.
    Canceled { id: WatchId, revision: Revision },
    /// Its start was compacted: nothing was delivered from the gap.
    Compacted {
        id: WatchId,
        compact_revision: Revision,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    #[error("mvcc: duplicate watch ID provided on the WatchStream")]
    DuplicateId,
    #[error("mvcc: watcher range is empty")]
    EmptyRange,
}
