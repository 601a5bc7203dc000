//! One client's watch: what exists, then what changes, as events about objects that match its selection.
//! Promise: events come in revision order, each once; an object that begins or ceases to match is ADDED or DELETED;
//! a deletion carries the last matching state under the revision of the deletion. A watch that cannot go on ends, it
//! never skips: the store's hub holds the backlog, and nothing is queued here.
//! Not here: how events are written (REST lines, gRPC messages).

mod translate;

use std::sync::Arc;
use std::time::Duration;

use barque_apiserver_registry::Resource;
use barque_store_state::{KeyRange, Revision};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::limits::LIST_PAGE_ROWS;
use crate::pipeline::Permit;
use crate::pipeline::answer::Item;
use crate::pipeline::next_key;
use crate::requests::selector::Selection;
use crate::status::ApiError;
use crate::storage::object::Stored;
use crate::storage::{Consistency, Read, Storage, StorageError, WatchBatch, WatchSource};

/// A bookmark is asked for this long before a watch ends, so that the client resumes from there.
const LAST_BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Added,
    Modified,
    Deleted,
}

#[derive(Clone, Debug)]
pub enum ObjectEvent {
    Object {
        change: Change,
        item: Item,
        revision: Revision,
    },
    /// Nothing more up to here.
    Bookmark {
        revision: Revision,
        /// Everything that existed has been sent.
        initial_complete: bool,
    },
    /// The last event of a watch that failed.
    Error(ApiError),
}

pub enum Start {
    Everything {
        consistency: Consistency,
        say_when_complete: bool,
    },
    After(Revision),
}

pub struct WatchSetup {
    pub resource: &'static Resource,
    pub selection: Selection,
    pub range: KeyRange,
    pub start: Start,
    /// How often a quiet watch gets a bookmark; `None`: never.
    pub bookmarks: Option<Duration>,
    pub timeout: Duration,
    pub stopping: watch::Receiver<bool>,
}

enum State {
    /// Existing objects from this key on, read at one revision.
    Initial {
        from: bytes::Bytes,
        at: Revision,
    },
    Changes,
    Ended,
}

enum Woken {
    Batch(WatchBatch),
    Time,
    Stopping,
}

pub struct ObjectWatch {
    resource: &'static Resource,
    selection: Selection,
    range: KeyRange,
    storage: Arc<dyn Storage>,
    /// Open from the beginning, so that history cannot be compacted away while existing objects are sent.
    source: Box<dyn WatchSource>,
    state: State,
    say_when_complete: bool,
    bookmarks: Option<Duration>,
    next_bookmark: Instant,
    deadline: Instant,
    stopping: watch::Receiver<bool>,
    _permit: Option<Permit>,
}

impl ObjectWatch {
    pub async fn open(storage: Arc<dyn Storage>, setup: WatchSetup) -> Result<Self, ApiError> {
        let (at, state, say_when_complete) = match setup.start {
            Start::After(revision) => (revision, State::Changes, false),
            Start::Everything {
                consistency,
                say_when_complete,
            } => {
                let at = storage
                    .revision(consistency)
                    .await
                    .map_err(|error| ApiError::storage(&error))?;
                let from = setup.range.key.clone();
                (at, State::Initial { from, at }, say_when_complete)
            }
        };
        let source = storage
            .watch(setup.range.clone(), at)
            .await
            .map_err(|error| ApiError::storage(&error))?;
        let now = Instant::now();
        Ok(ObjectWatch {
            resource: setup.resource,
            selection: setup.selection,
            range: setup.range,
            storage,
            source,
            state,
            say_when_complete,
            bookmarks: setup.bookmarks,
            next_bookmark: now + setup.bookmarks.unwrap_or(setup.timeout),
            deadline: now + setup.timeout,
            stopping: setup.stopping,
            _permit: None,
        })
    }

    pub(crate) fn hold(&mut self, permit: Permit) {
        self._permit = Some(permit);
    }
    pub fn resource(&self) -> &'static Resource {
        self.resource
    }
    /// How often a quiet watch gets a bookmark from now on.
    pub fn set_bookmarks(&mut self, interval: Duration) {
        self.bookmarks = Some(interval);
        self.next_bookmark = Instant::now() + interval;
    }
    /// Says with a bookmark when everything that existed has been sent.
    pub fn say_when_complete(&mut self) {
        self.say_when_complete = true;
    }

    /// The next events, at least one; `None` when the watch is over.
    pub async fn next(&mut self) -> Option<Vec<ObjectEvent>> {
        loop {
            let events = match &self.state {
                State::Ended => return None,
                State::Initial { from, at } => {
                    let (from, at) = (from.clone(), *at);
                    self.existing(from, at).await
                }
                State::Changes => self.changes().await,
            };
            if matches!(events.last(), Some(ObjectEvent::Error(_))) {
                self.state = State::Ended;
            }
            if !events.is_empty() {
                return Some(events);
            }
        }
    }

    async fn existing(&mut self, from: bytes::Bytes, at: Revision) -> Vec<ObjectEvent> {
        let read = Read {
            range: KeyRange {
                key: from,
                end: self.range.end.clone(),
            },
            limit: LIST_PAGE_ROWS,
            revision: Some(at),
            consistency: Consistency::Local,
        };
        let rows = match self.storage.read(read).await {
            Ok(rows) => rows,
            Err(error) => return vec![ObjectEvent::Error(ApiError::storage(&error))],
        };
        let mut events = Vec::with_capacity(rows.kvs.len() + 1);
        for row in &rows.kvs {
            match Stored::from_row(row) {
                Ok(stored) => {
                    let item = Item::of(stored, self.resource);
                    if translate::matches(&self.selection, &item, self.resource) {
                        events.push(ObjectEvent::Object {
                            change: Change::Added,
                            item,
                            revision: row.mod_revision,
                        });
                    }
                }
                Err(error) => {
                    events.push(ObjectEvent::Error(ApiError::internal(error)));
                    return events;
                }
            }
        }
        match rows.kvs.last().filter(|_| rows.more) {
            Some(last) => {
                self.state = State::Initial {
                    from: next_key(&last.key),
                    at,
                };
            }
            None => {
                self.state = State::Changes;
                if self.say_when_complete {
                    events.push(ObjectEvent::Bookmark {
                        revision: at,
                        initial_complete: true,
                    });
                }
            }
        }
        events
    }

    async fn changes(&mut self) -> Vec<ObjectEvent> {
        let last_chance = self.deadline - LAST_BOOKMARK_BEFORE_END;
        let wake = if self.bookmarks.is_some() && Instant::now() < last_chance {
            self.next_bookmark.min(last_chance)
        } else {
            self.deadline
        };
        let woken = tokio::select! {
            // Events first: a watch that ends with its time up has sent what was there.
            biased;
            batch = self.source.next() => Woken::Batch(batch),
            _ = tokio::time::sleep_until(wake) => Woken::Time,
            // An error means that the gateway is gone: it is stopping too.
            _ = async { drop(self.stopping.wait_for(|stopping| *stopping).await) } => Woken::Stopping,
        };
        match woken {
            Woken::Batch(batch) => return self.translate(batch),
            Woken::Time if wake < self.deadline => {
                self.source.request_progress();
                self.next_bookmark =
                    Instant::now() + self.bookmarks.unwrap_or(LAST_BOOKMARK_BEFORE_END);
            }
            Woken::Time | Woken::Stopping => self.state = State::Ended,
        }
        Vec::new()
    }

    fn translate(&mut self, batch: WatchBatch) -> Vec<ObjectEvent> {
        match batch {
            WatchBatch::Events(events) => {
                let mut out = Vec::with_capacity(events.len());
                for event in &events {
                    match translate::event(event, &self.selection, self.resource) {
                        Ok(Some(event)) => out.push(event),
                        Ok(None) => {}
                        Err(error) => {
                            out.push(ObjectEvent::Error(error));
                            return out;
                        }
                    }
                }
                out
            }
            WatchBatch::Progress(revision) if self.bookmarks.is_some() => {
                vec![ObjectEvent::Bookmark {
                    revision,
                    initial_complete: false,
                }]
            }
            WatchBatch::Progress(_) => Vec::new(),
            WatchBatch::Compacted { oldest } => {
                vec![ObjectEvent::Error(ApiError::storage(
                    &StorageError::Compacted {
                        asked: Revision(oldest.0.saturating_sub(1)),
                        oldest,
                    },
                ))]
            }
            WatchBatch::Closed => {
                self.state = State::Ended;
                Vec::new()
            }
        }
    }
}
