//! Reading the past for a watch that catches up, outside the hub: the hub says what to read, whoever polls reads it without
//! the hub's lock, and hands the piece back.
//! Promise: a piece is taken only by the watch that asked for it, at the place it asked from; whatever came between
//! (a cancel, another watch under the same id, the same piece twice), it can do no harm. It may be as old as it likes:
//! history never changes, except that it is compacted.

use barque_store_state::{Changes, KeyRange, ReadError, Revision, State};

use crate::event::WatchEvent;
use crate::lookup::Subscriber;
use crate::types::WatchSpec;

/// Why there is no history to read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    #[error("compacted up to revision {}", compact_revision.0)]
    Compacted { compact_revision: Revision },
    /// This member cannot read its own rows. Another one can.
    #[error("history cannot be read: {0}")]
    Failed(String),
}

/// Part of the past, and how far the past went when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    pub changes: Changes,
    /// The store's revision at that moment, or a later one.
    pub revision: Revision,
}

/// Where watches that catch up read from. May block on a disk: no lock of the hub is held.
/// Promise needed: it holds every revision that was published before the call.
pub trait History {
    /// The events in `range` from `from` on, of about `max_revisions` revisions.
    fn read(
        &self,
        range: &KeyRange,
        from: Revision,
        max_revisions: usize,
    ) -> Result<Past, HistoryError>;
}

impl History for State {
    fn read(
        &self,
        range: &KeyRange,
        from: Revision,
        max_revisions: usize,
    ) -> Result<Past, HistoryError> {
        match self.changes(range, from, max_revisions) {
            Ok(changes) => Ok(Past {
                changes,
                revision: self.revision(),
            }),
            // The only refusal of a read from the past.
            Err(ReadError::Refused(_)) => Err(HistoryError::Compacted {
                compact_revision: self.compact_revision(),
            }),
            Err(ReadError::Unreadable(row)) => Err(HistoryError::Failed(row.to_string())),
        }
    }
}

/// What one watch has to read next. Asking changes nothing: an `Ask` that is never answered is asked again.
#[derive(Clone, Debug)]
pub struct Ask {
    pub(crate) subscriber: Subscriber,
    /// Tells the watch from others that had, or will have, the same id.
    pub(crate) serial: u64,
    pub(crate) spec: WatchSpec,
    pub from: Revision,
    pub max_revisions: usize,
}

impl Ask {
    pub fn range(&self) -> &KeyRange {
        &self.spec.range
    }

    /// Reads, and picks what the watch wants. Needs no lock but `history`'s own, and that only for `history`'s part: see
    /// [`Ask::piece`].
    pub fn read(self, history: &dyn History) -> Piece {
        let past = history.read(self.range(), self.from, self.max_revisions);
        self.piece(past)
    }

    /// What was read, as the hub takes it.
    pub fn piece(self, past: Result<Past, HistoryError>) -> Piece {
        let spec = &self.spec;
        let read = past.map(|past| {
            let events: Vec<WatchEvent> = past
                .changes
                .revisions
                .iter()
                .flat_map(|revision| revision.events.iter())
                .filter(|event| spec.wants(event.kind))
                .map(|event| {
                    let mut event = event.clone();
                    event.prev = event.prev.filter(|_| spec.prev_kv);
                    WatchEvent::from(event)
                })
                .collect();
            Read {
                bytes: events.iter().map(WatchEvent::bytes).sum(),
                events,
                next: past.changes.next,
                revision: past.revision,
            }
        });
        Piece {
            subscriber: self.subscriber,
            serial: self.serial,
            from: self.from,
            read,
        }
    }
}

/// A piece of history for one watch.
#[derive(Clone, Debug)]
pub struct Piece {
    pub(crate) subscriber: Subscriber,
    pub(crate) serial: u64,
    pub(crate) from: Revision,
    pub(crate) read: Result<Read, HistoryError>,
}

#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub events: Vec<WatchEvent>,
    pub bytes: usize,
    /// Where to go on.
    pub next: Revision,
    pub revision: Revision,
}
