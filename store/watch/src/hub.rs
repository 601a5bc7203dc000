//! The registry and the fan-out. Fed with the events of each revision after it was applied; read by one task per stream.
//!
//! A watcher is live (everything published so far was queued for it), or it catches up: it starts in the past, or its
//! stream was full when an event came. One that catches up reads history on its own, a bounded piece at a time and without
//! the hub's lock (`history`, `poll`), and is live again once its place is beyond everything published. No event is
//! between the two: both changes of state happen under the hub's lock, and history is never behind what was published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Waker;

use barque_store_state::{Revision, RevisionEvents};

use crate::event::WatchEvent;
use crate::limits::Limits;
use crate::lookup::{Lookup, Subscriber};
use crate::stream::{Load, Queued, Stream, Watcher};
use crate::types::*;

/// The tasks to wake. They are woken when this is dropped: keep it until the hub's lock is released.
#[derive(Debug, Default)]
pub struct Wake(Vec<Waker>);
impl Wake {
    fn add(&mut self, stream: &mut Stream) {
        self.0.extend(stream.waker.take());
    }
}
impl Drop for Wake {
    fn drop(&mut self) {
        for waker in self.0.drain(..) {
            waker.wake();
        }
    }
}

/// How much there is, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub streams: usize,
    pub watchers: usize,
    pub catching_up: usize,
}

#[derive(Debug)]
pub struct Hub {
    pub(crate) limits: Limits,
    pub(crate) streams: BTreeMap<StreamId, Stream>,
    next_stream: u64,
    /// Every watcher of every stream, live or not.
    pub(crate) lookup: Lookup,
    /// Everything up to it was given to `publish`, or was there before this hub.
    pub(crate) published: Revision,
    /// The newest revision heard of in any way. Invariant: not below `published`; beyond it while what was applied is yet
    /// to be published.
    pub(crate) known: Revision,
    next_serial: u64,
    /// Invariant: what all streams hold of live events.
    pub(crate) queued: Load,
    /// Watchers there are, and those that want the row before each change.
    watchers: usize,
    with_prev: usize,
    /// Streams whose request for progress is not answered yet: any publication may be what they wait for.
    pub(crate) awaiting_progress: BTreeSet<StreamId>,
}

impl Hub {
    /// The hub of an empty store.
    pub fn new(limits: Limits) -> Self {
        Hub::after(limits, Revision(1))
    }

    /// The hub of a store that is at `revision` already: a restarted member's. What is up to there will not be published;
    /// who wants it reads history.
    pub fn after(limits: Limits, revision: Revision) -> Self {
        Hub {
            limits,
            streams: BTreeMap::new(),
            next_stream: 0,
            lookup: Lookup::default(),
            published: revision,
            known: revision,
            next_serial: 0,
            queued: Load::default(),
            watchers: 0,
            with_prev: 0,
            awaiting_progress: BTreeSet::new(),
        }
    }

    pub fn open(&mut self) -> StreamId {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        self.streams.insert(id, Stream::default());
        id
    }

    pub fn close(&mut self, s: StreamId) {
        self.awaiting_progress.remove(&s);
        if let Some(stream) = self.streams.remove(&s) {
            self.queued -= stream.queued();
            for (watch, watcher) in &stream.watchers {
                let subscriber = Subscriber {
                    stream: s,
                    watch: *watch,
                };
                self.lookup.remove(&watcher.spec.range, subscriber);
                self.watchers -= 1;
                self.with_prev -= usize::from(watcher.spec.prev_kv);
            }
        }
    }

    /// Hears of a revision that was applied; says the newest heard of.
    pub(crate) fn saw(&mut self, revision: Revision) -> Revision {
        self.known = self.known.max(revision);
        self.known
    }

    /// Whether any watch is there that asked for the row before each change. If not, what is published next may leave it
    /// out (`prev` absent though there was one); whoever comes later and wants it is live only for what is published after
    /// it came, and reads the rest from history. To be asked under the same lock as the apply and its publication.
    pub fn wants_previous(&self) -> bool {
        self.with_prev > 0
    }

    /// `current`: the store's revision, read before this call.
    ///
    /// Panics on a stream that is closed.
    pub fn create(
        &mut self,
        s: StreamId,
        id: Option<WatchId>,
        spec: WatchSpec,
        current: Revision,
    ) -> Result<WatchId, CreateError> {
        let stream = self
            .streams
            .get_mut(&s)
            .expect("a watch was created on a closed stream");
        let range = &spec.range;
        if !range.is_point() && range.end.as_ref() != b"\0" && range.end <= range.key {
            return Err(CreateError::EmptyRange);
        }
        if self.watchers >= self.limits.watches {
            return Err(CreateError::TooMany);
        }
        let id = match id {
            Some(id) if stream.watchers.contains_key(&id) => return Err(CreateError::DuplicateId),
            Some(id) => id,
            None => stream.free_id(),
        };
        // The caller's reading may be behind what was published meanwhile; "now" is the newest heard of.
        self.known = self.known.max(current);
        let current = self.known;
        let start = spec.start.filter(|start| *start != Revision(0));
        let next = start.unwrap_or(Revision(current.0 + 1));
        let subscriber = Subscriber {
            stream: s,
            watch: id,
        };
        self.lookup.add(&spec.range, subscriber);
        self.watchers += 1;
        self.with_prev += usize::from(spec.prev_kv);
        let serial = self.next_serial;
        self.next_serial += 1;
        let watcher = Watcher {
            spec,
            serial,
            next,
            catching_up: false,
            quiet: true,
            progress_queued: false,
        };
        stream.watchers.insert(id, watcher);
        stream.push(Queued::Answer(Delivery::Created {
            id,
            revision: current,
        }));
        // Up to `current`, not only up to what was published: the rest of it may have been published before this hub was
        // there (entries replayed at start).
        if next <= current {
            stream.fall_back(id, next);
        }
        stream.wake();
        Ok(id)
    }

    /// Queues the answer to a creation that was refused, here or by the front.
    pub fn refuse(&mut self, s: StreamId, reason: String, current: Revision) {
        let revision = self.saw(current);
        if let Some(stream) = self.streams.get_mut(&s) {
            stream.push(Queued::Answer(Delivery::Refused { reason, revision }));
            stream.wake();
        }
    }

    /// Ends a watch; nothing is delivered for it after the `Canceled`. Unknown ids are ignored.
    pub fn cancel(&mut self, s: StreamId, id: WatchId, current: Revision) {
        let revision = self.saw(current);
        let subscriber = Subscriber {
            stream: s,
            watch: id,
        };
        if !self.forget(subscriber) {
            return;
        }
        if let Some(stream) = self.streams.get_mut(&s) {
            stream.push(Queued::Answer(Delivery::Canceled { id, revision }));
            stream.wake();
        }
    }

    /// Takes a watch out with everything that waits for it, but not its `Created`. False: there was none.
    pub(crate) fn forget(&mut self, subscriber: Subscriber) -> bool {
        let Some(stream) = self.streams.get_mut(&subscriber.stream) else {
            return false;
        };
        let queued = stream.queued();
        let Some(watcher) = stream.remove(subscriber.watch) else {
            return false;
        };
        self.queued -= queued - stream.queued();
        if stream.progress.is_none() {
            self.awaiting_progress.remove(&subscriber.stream);
        }
        self.lookup.remove(&watcher.spec.range, subscriber);
        self.watchers -= 1;
        self.with_prev -= usize::from(watcher.spec.prev_kv);
        true
    }

    /// Answered, once, when every watch of the stream has been given everything up to `current`, the store's revision of
    /// now. Without a watch there is no answer, as in etcd.
    pub fn request_progress(&mut self, s: StreamId, current: Revision) {
        let target = self.saw(current);
        if let Some(stream) = self.streams.get_mut(&s)
            && !stream.watchers.is_empty()
        {
            // A request on top of an open one starts over, so that its answer is not older than it is.
            stream.progress = Some(target);
            self.awaiting_progress.insert(s);
            stream.wake();
        }
    }

    /// Whether so many answers wait that no further request of this client should be read.
    pub fn congested(&self, s: StreamId) -> bool {
        let stream = self.streams.get(&s);
        stream.is_some_and(|stream| stream.congested(&self.limits))
    }

    pub fn counts(&self) -> Counts {
        Counts {
            streams: self.streams.len(),
            watchers: self.watchers,
            catching_up: self.streams.values().map(|s| s.line.len()).sum(),
        }
    }

    /// Takes what was applied, in order, after it can be read from history.
    pub fn publish(&mut self, events: &[RevisionEvents]) -> Wake {
        let mut wake = Wake::default();
        for revision in events {
            assert!(
                self.published < revision.revision,
                "a revision was published again"
            );
            if self.published.0 + 1 < revision.revision.0 {
                self.bridge(revision.revision, &mut wake);
            }
            self.published = revision.revision;
            self.saw(revision.revision);
            if !self.lookup.is_empty() {
                self.fan_out(revision, &mut wake);
            }
        }
        if !events.is_empty() {
            self.wake_awaiting(&mut wake);
        }
        wake
    }

    /// The state is at `revision` now without having been applied there: an image of it was installed. Live watchers read
    /// what they missed from history.
    pub fn jump(&mut self, revision: Revision) -> Wake {
        let mut wake = Wake::default();
        self.saw(revision);
        if self.published < revision {
            self.bridge(Revision(revision.0 + 1), &mut wake);
            self.published = revision;
            self.wake_awaiting(&mut wake);
        }
        wake
    }

    fn wake_awaiting(&mut self, wake: &mut Wake) {
        for s in &self.awaiting_progress {
            if let Some(stream) = self.streams.get_mut(s) {
                wake.add(stream);
            }
        }
    }

    /// Revisions before `upto` were not published (the state came as an image, or was there before the hub): live watchers
    /// that want them read them from history.
    fn bridge(&mut self, upto: Revision, wake: &mut Wake) {
        let missing = Revision(self.published.0 + 1);
        for stream in self.streams.values_mut() {
            let behind: Vec<(WatchId, Revision)> = stream
                .watchers
                .iter()
                .map(|(id, watcher)| (*id, watcher.next.max(missing)))
                .filter(|(_, next)| *next < upto)
                .collect();
            for (id, next) in behind {
                stream.fall_back(id, next);
                wake.add(stream);
            }
        }
    }

    fn fan_out(&mut self, revision: &RevisionEvents, wake: &mut Wake) {
        // Made with the first watcher that wants any of it, then shared by all.
        let mut shared: Option<Arc<[WatchEvent]>> = None;
        let mut share = || -> Arc<[WatchEvent]> {
            let events = shared.get_or_insert_with(|| {
                let events = revision.events.iter();
                events.cloned().map(WatchEvent::from).collect()
            });
            events.clone()
        };
        // Most revisions carry one event: then every watcher that wants it shares the same slice.
        if let [event] = &revision.events[..] {
            let Hub {
                lookup,
                streams,
                limits,
                queued,
                ..
            } = self;
            lookup.watching(&event.kv.key, |subscriber| {
                let events = share();
                let bytes = events[0].bytes();
                *queued += offer(
                    streams,
                    subscriber,
                    revision.revision,
                    &events,
                    bytes,
                    *queued,
                    limits,
                    wake,
                );
            });
            return;
        }
        let mut wanted: BTreeMap<Subscriber, Vec<usize>> = BTreeMap::new();
        for (i, event) in revision.events.iter().enumerate() {
            self.lookup.watching(&event.kv.key, |subscriber| {
                let watcher = self
                    .streams
                    .get(&subscriber.stream)
                    .and_then(|stream| stream.watchers.get(&subscriber.watch));
                if watcher.is_some_and(|watcher| watcher.spec.wants(event.kind)) {
                    wanted.entry(subscriber).or_default().push(i);
                }
            });
        }
        for (subscriber, indices) in wanted {
            let all = share();
            let events: Arc<[WatchEvent]> = if indices.len() == all.len() {
                all
            } else {
                indices.iter().map(|i| all[*i].clone()).collect()
            };
            let bytes = events.iter().map(WatchEvent::bytes).sum();
            self.queued += offer(
                &mut self.streams,
                subscriber,
                revision.revision,
                &events,
                bytes,
                self.queued,
                &self.limits,
                wake,
            );
        }
    }

    /// A stream's periodic progress: for its watches that asked for it, are live, and were sent nothing since its last tick.
    /// Nothing for a stream that is closed.
    pub fn tick_progress(&mut self, s: StreamId, current: Revision) -> Wake {
        let mut wake = Wake::default();
        let known = self.saw(current);
        let Some(stream) = self.streams.get_mut(&s) else {
            return wake;
        };
        let mut due = Vec::new();
        for (id, watcher) in &mut stream.watchers {
            if !watcher.spec.progress_notify {
                continue;
            }
            // Not before a start that lies in the future: the client would take up there.
            let started = watcher.next.0 <= known.0 + 1;
            let say = watcher.quiet && started;
            if say && !watcher.catching_up && !watcher.progress_queued {
                watcher.progress_queued = true;
                due.push((*id, self.published.max(Revision(watcher.next.0 - 1))));
            }
            watcher.quiet = true;
        }
        for (id, revision) in due {
            stream.push(Queued::Progress { id, revision });
            wake.add(stream);
        }
        wake
    }
}

#[allow(clippy::too_many_arguments)] // the parts of a hub, taken apart so that they can be borrowed together
fn offer(
    streams: &mut BTreeMap<StreamId, Stream>,
    to: Subscriber,
    revision: Revision,
    events: &Arc<[WatchEvent]>,
    bytes: usize,
    all: Load,
    limits: &Limits,
    wake: &mut Wake,
) -> Load {
    let Some(stream) = streams.get_mut(&to.stream) else {
        return Load::default();
    };
    let Some(watcher) = stream.watchers.get(&to.watch) else {
        return Load::default();
    };
    let filtered = events.len() == 1 && !watcher.spec.wants(events[0].kind);
    if watcher.catching_up || revision < watcher.next || filtered {
        return Load::default();
    }
    wake.add(stream);
    stream.offer(to.watch, revision, events, bytes, all, limits)
}
