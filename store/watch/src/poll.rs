//! Reading a stream: what waits first, then a piece of history for those who catch up, then progress.
//! Promise: a poll does a bounded amount of work; when it delivers nothing, the waker is called once there may be more.

use std::task::Waker;

use barque_store_state::{Event, Revision};

use crate::hub::{History, Hub, event_bytes};
use crate::limits::Limits;
use crate::lookup::{Lookup, Subscriber};
use crate::stream::{Queued, Stream};
use crate::types::{Delivery, StreamId, WatchId};

/// What one poll may still hand out.
struct Budget {
    events: usize,
    bytes: usize,
}
impl Budget {
    fn spend(&mut self, events: usize, bytes: usize) {
        self.events = self.events.saturating_sub(events);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
    fn is_left(&self) -> bool {
        self.events > 0 && self.bytes > 0
    }
}

impl Hub {
    /// Appends what the stream's client is to be told next. True: something was appended, poll again after sending it.
    /// False: nothing now; `waker` is called when it is worth polling again.
    pub fn poll(
        &mut self,
        s: StreamId,
        history: &dyn History,
        waker: &Waker,
        out: &mut Vec<Delivery>,
    ) -> bool {
        let Hub {
            limits,
            streams,
            lookup,
            published,
            awaiting_progress,
            ..
        } = self;
        let Some(stream) = streams.get_mut(&s) else {
            return false;
        };
        let before = out.len();
        let mut budget = Budget {
            events: limits.poll_events,
            bytes: limits.poll_bytes,
        };
        drain(stream, &mut budget, out);
        // History and progress only behind an empty outbox: what is queued is older.
        if stream.outbox.is_empty() {
            for _ in 0..limits.catch_up_reads.min(stream.line.len()) {
                if !budget.is_left() {
                    break;
                }
                catch_up(
                    s,
                    stream,
                    *published,
                    lookup,
                    history,
                    limits,
                    &mut budget,
                    out,
                );
            }
        }
        if stream.outbox.is_empty() {
            answer_progress(stream, *published, history, out);
        }
        if stream.progress.is_none() {
            awaiting_progress.remove(&s);
        }
        let delivered = out.len() > before;
        if !delivered {
            match &mut stream.waker {
                Some(old) => old.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
            if !stream.line.is_empty() {
                // A piece of history without a match: go on after others had their turn.
                stream.wake();
            }
        }
        delivered
    }
}

fn drain(stream: &mut Stream, budget: &mut Budget, out: &mut Vec<Delivery>) {
    let first = out.len();
    while budget.is_left() {
        match stream.pop() {
            None => break,
            Some(Queued::Answer(answer)) => out.push(answer),
            Some(Queued::Progress { id, revision }) => {
                if let Some(watcher) = stream.watchers.get_mut(&id) {
                    watcher.progress_queued = false;
                }
                out.push(Delivery::Progress {
                    id: Some(id),
                    revision,
                });
            }
            Some(Queued::Live {
                id,
                revision,
                events,
                bytes,
            }) => {
                budget.spend(events.len(), bytes);
                let Some(watcher) = stream.watchers.get(&id) else {
                    continue;
                };
                let seen = events.iter().map(|event| watcher.seen(event));
                // A client that lags gets several revisions of one watch in one piece.
                if let Some(Delivery::Events {
                    id: last_id,
                    revision: last_revision,
                    events: last_events,
                }) = out[first..].last_mut()
                    && *last_id == id
                {
                    *last_revision = revision;
                    last_events.extend(seen);
                } else {
                    out.push(Delivery::Events {
                        id,
                        revision,
                        events: seen.collect(),
                    });
                }
            }
        }
    }
}

/// Lets the first in line read one piece of history.
#[allow(clippy::too_many_arguments)] // the parts of a hub, taken apart so that they can be borrowed together
fn catch_up(
    s: StreamId,
    stream: &mut Stream,
    published: Revision,
    lookup: &mut Lookup,
    history: &dyn History,
    limits: &Limits,
    budget: &mut Budget,
    out: &mut Vec<Delivery>,
) {
    let Some(id) = stream.line.pop_front() else {
        return;
    };
    let Some(watcher) = stream.watchers.get_mut(&id) else {
        return;
    };
    let changes = history.changes(&watcher.spec.range, watcher.next, limits.catch_up_revisions);
    let Ok(changes) = changes else {
        // The only refusal of a read from the past: it was compacted. Nothing is told from beyond the gap.
        forget(s, stream, lookup, id);
        out.push(Delivery::Compacted {
            id,
            compact_revision: history.compact_revision(),
        });
        return;
    };
    let events: Vec<Event> = changes
        .revisions
        .iter()
        .flat_map(|revision| revision.events.iter())
        .filter(|event| watcher.wants(event.kind))
        .map(|event| watcher.seen(event))
        .collect();
    watcher.next = changes.next;
    if changes.next > published {
        watcher.catching_up = false;
    } else {
        stream.line.push_back(id);
    }
    if !events.is_empty() {
        watcher.quiet = false;
        budget.spend(events.len(), events.iter().map(event_bytes).sum());
        out.push(Delivery::Events {
            id,
            revision: history.revision(),
            events,
        });
    }
}

fn forget(s: StreamId, stream: &mut Stream, lookup: &mut Lookup, id: WatchId) {
    if let Some(watcher) = stream.remove(id) {
        let subscriber = Subscriber {
            stream: s,
            watch: id,
        };
        lookup.remove(&watcher.spec.range, subscriber);
    }
}

/// Answers an open request if its time has come.
fn answer_progress(
    stream: &mut Stream,
    published: Revision,
    history: &dyn History,
    out: &mut Vec<Delivery>,
) {
    let nexts = stream.watchers.values().map(|watcher| watcher.next);
    let (Some(request), Some(first), Some(last)) =
        (&mut stream.progress, nexts.clone().min(), nexts.max())
    else {
        return;
    };
    let current = history.revision();
    let target = *request.target.get_or_insert(current);
    // Live watchers have been given all that was published, and one that has read history itself what it read.
    let reached = published.max(Revision(first.0 - 1));
    // Not while somebody reads history, nor before the start of one that begins in the future: its client would take up
    // at the revision told.
    let future = reached > current || reached.0 + 1 < last.0;
    if stream.line.is_empty() && reached >= target && !future {
        stream.progress = None;
        out.push(Delivery::Progress {
            id: None,
            revision: reached,
        });
    }
}
