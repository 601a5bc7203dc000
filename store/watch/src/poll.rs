//! Reading a stream: what waits first, then history for those who catch up, then progress.
//! Promise: a turn does a bounded amount of work, and none of its reading under the hub's lock; when it delivers nothing,
//! the waker is called once there may be more.
//!
//! Nothing is lost or told twice while history is read without the lock. A watch that catches up is passed by whatever is
//! published, and is declared live in [`Hub::supply`], under the lock, only if its piece reached beyond everything
//! published by then: so what was published during the read is either in the piece or read next. Order holds because
//! history is asked for only behind an empty outbox, and nothing is queued for a watch while it catches up.

use std::task::Waker;

use barque_store_state::Revision;

use crate::event::WatchEvent;
use crate::history::{Ask, HistoryError, Piece};
use crate::hub::Hub;
use crate::limits::Limits;
use crate::stream::{Queued, Stream};
use crate::types::{Delivery, StreamId};

/// One reader's turn: what it will send, and what it may still take. A turn belongs to one stream.
#[derive(Debug)]
pub struct Turn {
    /// In the order they are to be sent.
    pub deliveries: Vec<Delivery>,
    events_left: usize,
    bytes_left: usize,
    reads_left: usize,
}

impl Turn {
    pub(crate) fn new(limits: &Limits) -> Self {
        Turn {
            deliveries: Vec::new(),
            events_left: limits.poll_events,
            bytes_left: limits.poll_bytes,
            reads_left: limits.catch_up_reads,
        }
    }
    fn spend(&mut self, events: usize, bytes: usize) {
        self.events_left = self.events_left.saturating_sub(events);
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
    }
    fn may_take(&self) -> bool {
        self.events_left > 0 && self.bytes_left > 0
    }
}

/// What a reader does next.
#[derive(Debug)]
pub enum Step {
    /// Send the turn's deliveries, then begin another turn.
    Send,
    /// Give the hub's lock back, read, [`Hub::supply`] the piece, and poll on with the same turn.
    Read(Ask),
    /// Nothing now; the waker is called when another turn is worth it.
    Sleep,
}

impl Hub {
    pub fn turn(&self) -> Turn {
        Turn::new(&self.limits)
    }

    /// Fills the turn with what the stream's client is to be told next, and says how to go on.
    pub fn poll(&mut self, s: StreamId, turn: &mut Turn, waker: &Waker) -> Step {
        let (limits, published, known) = (self.limits, self.published, self.known);
        let Some(stream) = self.streams.get_mut(&s) else {
            return Step::Sleep;
        };
        let queued = stream.queued();
        drain(stream, turn);
        self.queued -= queued - stream.queued();
        if stream.outbox.is_empty() {
            // History and progress only behind an empty outbox: what is queued is older.
            if turn.reads_left > 0
                && turn.may_take()
                && let Some(ask) = stream.ask(s, limits.catch_up_revisions)
            {
                return Step::Read(ask);
            }
            answer_progress(stream, published, known, &mut turn.deliveries);
        }
        if stream.progress.is_none() {
            self.awaiting_progress.remove(&s);
        }
        if !turn.deliveries.is_empty() {
            return Step::Send;
        }
        match &mut stream.waker {
            Some(old) => old.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        if !stream.line.is_empty() || !stream.outbox.is_empty() {
            // Pieces of history without a match, or the reader has sent meanwhile what filled its turn: go on after others
            // had theirs.
            stream.wake();
        }
        Step::Sleep
    }

    /// Takes what was read for an [`Ask`]. A piece nobody waits for any more is dropped.
    pub fn supply(&mut self, piece: Piece, turn: &mut Turn) {
        turn.reads_left = turn.reads_left.saturating_sub(1);
        let Piece {
            subscriber,
            serial,
            from,
            read,
        } = piece;
        let id = subscriber.watch;
        // What was read is known to have happened, whoever it was read for.
        let known = read.as_ref().map_or(Revision(0), |read| read.revision);
        let known = self.saw(known);
        let Some(stream) = self.streams.get_mut(&subscriber.stream) else {
            return;
        };
        let asked = stream.watchers.get_mut(&id).filter(|watcher| {
            watcher.serial == serial && watcher.catching_up && watcher.next == from
        });
        let Some(watcher) = asked else { return };
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                // Nothing is told from beyond the gap.
                self.forget(subscriber);
                turn.deliveries.push(match error {
                    HistoryError::Compacted { compact_revision } => Delivery::Compacted {
                        id,
                        compact_revision,
                    },
                    HistoryError::Failed(_) => Delivery::Failed { id },
                });
                return;
            }
        };
        watcher.next = read.next;
        watcher.catching_up = read.next <= known;
        let goes_on = watcher.catching_up;
        if !read.events.is_empty() {
            watcher.quiet = false;
            turn.spend(read.events.len(), read.bytes);
            turn.deliveries.push(Delivery::Events {
                id,
                revision: read.revision,
                events: read.events,
            });
        }
        if stream.line.front() == Some(&id) {
            stream.line.pop_front();
        } else {
            stream.line.retain(|other| *other != id);
        }
        if goes_on {
            stream.line.push_back(id);
        }
    }
}

fn drain(stream: &mut Stream, turn: &mut Turn) {
    let first = turn.deliveries.len();
    while turn.may_take() {
        match stream.pop() {
            None => break,
            Some(Queued::Answer(answer)) => turn.deliveries.push(answer),
            Some(Queued::Progress { id, revision }) => {
                if let Some(watcher) = stream.watchers.get_mut(&id) {
                    watcher.progress_queued = false;
                }
                turn.deliveries.push(Delivery::Progress {
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
                turn.spend(events.len(), bytes);
                let Some(watcher) = stream.watchers.get(&id) else {
                    continue;
                };
                let seen = |event: &WatchEvent| event.seen(watcher.spec.prev_kv);
                // A client that lags gets several revisions of one watch in one piece.
                if let Some(Delivery::Events {
                    id: last_id,
                    revision: last_revision,
                    events: last_events,
                }) = turn.deliveries[first..].last_mut()
                    && *last_id == id
                {
                    *last_revision = revision;
                    last_events.extend(events.iter().map(seen));
                } else {
                    turn.deliveries.push(Delivery::Events {
                        id,
                        revision,
                        events: events.iter().map(seen).collect(),
                    });
                }
            }
        }
    }
}

/// Answers an open request if its time has come.
fn answer_progress(
    stream: &mut Stream,
    published: Revision,
    known: Revision,
    out: &mut Vec<Delivery>,
) {
    let nexts = stream.watchers.values().map(|watcher| watcher.next);
    let (Some(target), Some(first), Some(last)) =
        (stream.progress, nexts.clone().min(), nexts.max())
    else {
        return;
    };
    // Live watchers have been given all that was published, and one that has read history itself what it read.
    let reached = published.max(Revision(first.0 - 1));
    // Not while somebody reads history, nor before the start of one that begins in the future: its client would take up
    // at the revision told.
    let future = reached > known || reached.0 + 1 < last.0;
    if stream.line.is_empty() && reached >= target && !future {
        stream.progress = None;
        out.push(Delivery::Progress {
            id: None,
            revision: reached,
        });
    }
}
