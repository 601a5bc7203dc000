//! One client's stream: its watchers and what waits to be read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use barque_store_state::{Event, EventKind, Revision};

use crate::limits::Limits;
use crate::types::{Delivery, WatchId, WatchSpec};

#[derive(Debug)]
pub struct Watcher {
    pub spec: WatchSpec,
    /// Every event below it has been queued or delivered, or was never wanted. For a live watcher a lower bound: it has
    /// been given all that was published. For one that catches up, its place in history.
    pub next: Revision,
    /// It reads history at its own pace; published events pass it by. Invariant: set exactly while it is in the stream's line.
    pub catching_up: bool,
    /// No event was queued or delivered since the last tick of progress.
    pub quiet: bool,
    /// A periodic progress notification waits to be read; there is never more than one.
    pub progress_queued: bool,
}

impl Watcher {
    pub fn wants(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.spec.no_put,
            EventKind::Delete => !self.spec.no_delete,
        }
    }
    /// The event as this watcher sees it.
    pub fn seen(&self, event: &Event) -> Event {
        Event {
            kind: event.kind,
            kv: event.kv.clone(),
            prev: event.prev.clone().filter(|_| self.spec.prev_kv),
        }
    }
}

#[derive(Debug)]
pub enum Queued {
    /// Created, Canceled.
    Answer(Delivery),
    /// A periodic progress notification.
    Progress { id: WatchId, revision: Revision },
    /// The events of one revision that the watcher wants.
    Live {
        id: WatchId,
        revision: Revision,
        events: Arc<[Event]>,
        bytes: usize,
    },
}

/// The client asked for progress. Answered when everything up to `target` has been delivered to all.
#[derive(Debug, Default)]
pub struct ProgressRequest {
    /// The store's revision when the request was first looked at.
    pub target: Option<Revision>,
}

#[derive(Debug, Default)]
pub struct Stream {
    pub watchers: BTreeMap<WatchId, Watcher>,
    /// etcd's rule: ids count up from 0, skipping used ones, and are not reused by counting.
    next_id: i64,
    pub outbox: VecDeque<Queued>,
    live_events: usize,
    live_bytes: usize,
    answers: usize,
    /// Watchers that catch up, next one first.
    pub line: VecDeque<WatchId>,
    pub progress: Option<ProgressRequest>,
    pub waker: Option<Waker>,
}

impl Stream {
    pub fn free_id(&mut self) -> WatchId {
        while self.watchers.contains_key(&WatchId(self.next_id)) {
            self.next_id += 1;
        }
        self.next_id += 1;
        WatchId(self.next_id - 1)
    }

    pub fn congested(&self, limits: &Limits) -> bool {
        self.answers >= limits.stream_answers
    }

    pub fn push(&mut self, queued: Queued) {
        match &queued {
            Queued::Answer(_) => self.answers += 1,
            Queued::Progress { .. } => {}
            Queued::Live { events, bytes, .. } => {
                self.live_events += events.len();
                self.live_bytes += bytes;
            }
        }
        self.outbox.push_back(queued);
    }
    pub fn pop(&mut self) -> Option<Queued> {
        let queued = self.outbox.pop_front()?;
        self.uncount(&queued);
        Some(queued)
    }
    fn uncount(&mut self, queued: &Queued) {
        match queued {
            Queued::Answer(_) => self.answers -= 1,
            Queued::Progress { .. } => {}
            Queued::Live { events, bytes, .. } => {
                self.live_events -= events.len();
                self.live_bytes -= bytes;
            }
        }
    }

    /// Queues a revision for a live watcher, or sends the watcher to history when there is no room. Filters and start are
    /// the caller's business.
    pub fn offer(
        &mut self,
        id: WatchId,
        revision: Revision,
        events: &Arc<[Event]>,
        bytes: usize,
        limits: &Limits,
    ) {
        let full = self.live_events > 0
            && (self.live_events + events.len() > limits.stream_events
                || self.live_bytes + bytes > limits.stream_bytes);
        if full {
            self.fall_back(id, revision);
            return;
        }
        if let Some(watcher) = self.watchers.get_mut(&id) {
            watcher.quiet = false;
        }
        self.push(Queued::Live {
            id,
            revision,
            events: events.clone(),
            bytes,
        });
    }

    /// The watcher reads history from `next` on. What is queued for it is older and is delivered first, because history is
    /// read only when the outbox is empty.
    pub fn fall_back(&mut self, id: WatchId, next: Revision) {
        if let Some(watcher) = self.watchers.get_mut(&id)
            && !watcher.catching_up
        {
            watcher.catching_up = true;
            watcher.next = next;
            self.line.push_back(id);
        }
    }

    /// Takes a watcher away with everything that waits for it, but not its `Created`.
    pub fn remove(&mut self, id: WatchId) -> Option<Watcher> {
        let watcher = self.watchers.remove(&id)?;
        self.line.retain(|other| *other != id);
        if self.watchers.is_empty() {
            // Nobody is left to be answered for; whoever comes next has not asked.
            self.progress = None;
        }
        let queue = std::mem::take(&mut self.outbox);
        for queued in queue {
            let its = match &queued {
                Queued::Answer(_) => false,
                Queued::Progress { id: other, .. } | Queued::Live { id: other, .. } => *other == id,
            };
            if its {
                self.uncount(&queued);
            } else {
                self.outbox.push_back(queued);
            }
        }
        Some(watcher)
    }

    pub fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
