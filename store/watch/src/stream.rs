//! One client's stream: its watchers and what waits to be read.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{AddAssign, Sub, SubAssign};
use std::sync::Arc;
use std::task::Waker;

use barque_store_state::Revision;

use crate::event::WatchEvent;
use crate::history::Ask;
use crate::limits::Limits;
use crate::lookup::Subscriber;
use crate::types::{Delivery, StreamId, WatchId, WatchSpec};

/// Live events that wait to be read, of one stream or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    pub events: usize,
    pub bytes: usize,
}
impl AddAssign for Load {
    fn add_assign(&mut self, other: Load) {
        self.events += other.events;
        self.bytes += other.bytes;
    }
}
impl SubAssign for Load {
    fn sub_assign(&mut self, other: Load) {
        self.events -= other.events;
        self.bytes -= other.bytes;
    }
}
impl Sub for Load {
    type Output = Load;
    fn sub(mut self, other: Load) -> Load {
        self -= other;
        self
    }
}

#[derive(Debug)]
pub struct Watcher {
    pub spec: WatchSpec,
    /// No other watch of the hub ever has it.
    pub serial: u64,
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

#[derive(Debug)]
pub enum Queued {
    /// Created, Refused, Canceled.
    Answer(Delivery),
    /// A periodic progress notification.
    Progress { id: WatchId, revision: Revision },
    /// The events of one revision that the watcher wants.
    Live {
        id: WatchId,
        revision: Revision,
        events: Arc<[WatchEvent]>,
        bytes: usize,
    },
}

#[derive(Debug, Default)]
pub struct Stream {
    pub watchers: BTreeMap<WatchId, Watcher>,
    /// etcd's rule: ids count up from 0, skipping used ones, and are not reused by counting.
    next_id: i64,
    pub outbox: VecDeque<Queued>,
    /// Invariant: what the outbox holds of live events.
    live: Load,
    answers: usize,
    /// Watchers that catch up, next one first.
    pub line: VecDeque<WatchId>,
    /// The client asked for progress; to be answered once everything up to this revision has been delivered to all.
    pub progress: Option<Revision>,
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
                self.live += Load {
                    events: events.len(),
                    bytes: *bytes,
                };
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
                self.live -= Load {
                    events: events.len(),
                    bytes: *bytes,
                };
            }
        }
    }

    /// The live events that wait here.
    pub fn queued(&self) -> Load {
        self.live
    }

    /// Queues a revision for a live watcher, or sends the watcher to history when there is no room: here, or among `all`
    /// the streams. Filters and start are the caller's business. Says what it queued.
    pub fn offer(
        &mut self,
        id: WatchId,
        revision: Revision,
        events: &Arc<[WatchEvent]>,
        bytes: usize,
        all: Load,
        limits: &Limits,
    ) -> Load {
        let more = |load: Load| (load.events + events.len(), load.bytes + bytes);
        let (own_events, own_bytes) = more(self.live);
        let (all_events, all_bytes) = more(all);
        let full = own_events > limits.stream_events
            || own_bytes > limits.stream_bytes
            || all_events > limits.all_events
            || all_bytes > limits.all_bytes;
        // Who has read everything is always given the next revision, however large and however slow the others are.
        if full && self.live.events > 0 {
            self.fall_back(id, revision);
            return Load::default();
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
        Load {
            events: events.len(),
            bytes,
        }
    }

    /// What the first in line has to read.
    pub fn ask(&self, s: StreamId, max_revisions: usize) -> Option<Ask> {
        let watch = *self.line.front()?;
        let watcher = self.watchers.get(&watch)?;
        Some(Ask {
            subscriber: Subscriber { stream: s, watch },
            serial: watcher.serial,
            spec: watcher.spec.clone(),
            from: watcher.next,
            max_revisions,
        })
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
