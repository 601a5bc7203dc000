//! The registry and the fan-out. Fed with the events of each revision after it was applied; read by one task per stream.
//!
//! A watcher is live (everything published so far was queued for it), or it catches up: it starts in the past, or its
//! stream was full when an event came. One that catches up reads history on its own, a bounded piece per poll, and is live
//! again once its place is beyond everything published. No event is between the two: both changes of state happen
//! under the hub's lock, and history is never behind what was published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Waker;

use barque_store_state::{Changes, Event, KeyRange, Refusal, Revision, RevisionEvents, State};

use crate::limits::Limits;
use crate::lookup::{Lookup, Subscriber};
use crate::stream::{ProgressRequest, Queued, Stream, Watcher};
use crate::types::*;

/// Where watchers that catch up read from. May take a lock per call: it is asked only when one does, and for progress.
/// Promise needed: it holds every revision that was published.
pub trait History {
    fn revision(&self) -> Revision;
    fn compact_revision(&self) -> Revision;
    fn changes(
        &self,
        range: &KeyRange,
        from: Revision,
        max_revisions: usize,
    ) -> Result<Changes, Refusal>;
}

impl History for State {
    fn revision(&self) -> Revision {
        State::revision(self)
    }
    fn compact_revision(&self) -> Revision {
        State::compact_revision(self)
    }
    fn changes(
        &self,
        range: &KeyRange,
        from: Revision,
        max_revisions: usize,
    ) -> Result<Changes, Refusal> {
        State::changes(self, range, from, max_revisions)
    }
}

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
    /// The newest revision given to `publish`; 0 before the first.
    pub(crate) published: Revision,
    /// Streams whose request for progress is not answered yet: any publication may be what they wait for.
    pub(crate) awaiting_progress: BTreeSet<StreamId>,
}

impl Hub {
    pub fn new(limits: Limits) -> Self {
        Hub {
            limits,
            streams: BTreeMap::new(),
            next_stream: 0,
            lookup: Lookup::default(),
            published: Revision(0),
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
            for (watch, watcher) in &stream.watchers {
                let subscriber = Subscriber {
                    stream: s,
                    watch: *watch,
                };
                self.lookup.remove(&watcher.spec.range, subscriber);
            }
        }
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
        let id = match id {
            Some(id) if stream.watchers.contains_key(&id) => return Err(CreateError::DuplicateId),
            Some(id) => id,
            None => stream.free_id(),
        };
        // The caller's reading may be behind what was published meanwhile; "now" is then what was published.
        let current = current.max(self.published);
        let start = spec.start.filter(|start| *start != Revision(0));
        let next = start.unwrap_or(Revision(current.0 + 1));
        let subscriber = Subscriber {
            stream: s,
            watch: id,
        };
        self.lookup.add(&spec.range, subscriber);
        let watcher = Watcher {
            spec,
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

    /// Ends a watch; nothing is delivered for it after the `Canceled`. Unknown ids are ignored.
    pub fn cancel(&mut self, s: StreamId, id: WatchId, current: Revision) {
        let Some(stream) = self.streams.get_mut(&s) else {
            return;
        };
        let Some(watcher) = stream.remove(id) else {
            return;
        };
        let subscriber = Subscriber {
            stream: s,
            watch: id,
        };
        self.lookup.remove(&watcher.spec.range, subscriber);
        if stream.progress.is_none() {
            self.awaiting_progress.remove(&s);
        }
        stream.push(Queued::Answer(Delivery::Canceled {
            id,
            revision: current.max(self.published),
        }));
        stream.wake();
    }

    /// Answered, once, when every watch of the stream has been given everything up to the store's revision of now.
    /// Without a watch there is no answer, as in etcd.
    pub fn request_progress(&mut self, s: StreamId) {
        if let Some(stream) = self.streams.get_mut(&s)
            && !stream.watchers.is_empty()
        {
            // A request on top of an open one starts over, so that its answer is not older than it is.
            stream.progress = Some(ProgressRequest::default());
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
        let streams = self.streams.values();
        Counts {
            streams: self.streams.len(),
            watchers: streams.clone().map(|s| s.watchers.len()).sum(),
            catching_up: streams.map(|s| s.line.len()).sum(),
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
            if !self.lookup.is_empty() {
                self.fan_out(revision, &mut wake);
            }
        }
        if !events.is_empty() {
            for s in &self.awaiting_progress {
                if let Some(stream) = self.streams.get_mut(s) {
                    wake.add(stream);
                }
            }
        }
        wake
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
        // Most revisions carry one event: then every watcher that wants it shares the same slice.
        if let [event] = &revision.events[..] {
            let bytes = event_bytes(event);
            let Hub {
                lookup,
                streams,
                limits,
                ..
            } = self;
            lookup.watching(&event.kv.key, |subscriber| {
                offer(
                    streams,
                    subscriber,
                    revision.revision,
                    &revision.events,
                    bytes,
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
                if watcher.is_some_and(|watcher| watcher.wants(event.kind)) {
                    wanted.entry(subscriber).or_default().push(i);
                }
            });
        }
        for (subscriber, indices) in wanted {
            let events: Arc<[Event]> = if indices.len() == revision.events.len() {
                revision.events.clone()
            } else {
                indices
                    .iter()
                    .map(|i| revision.events[*i].clone())
                    .collect()
            };
            let bytes = events.iter().map(event_bytes).sum();
            offer(
                &mut self.streams,
                subscriber,
                revision.revision,
                &events,
                bytes,
                &self.limits,
                wake,
            );
        }
    }

    /// Periodic progress for the watches that asked for it, are live, and were sent nothing since the last tick.
    pub fn tick_progress(&mut self, current: Revision) -> Wake {
        let mut wake = Wake::default();
        for stream in self.streams.values_mut() {
            let mut due = Vec::new();
            for (id, watcher) in &mut stream.watchers {
                if !watcher.spec.progress_notify {
                    continue;
                }
                // Not before a start that lies in the future: the client would take up there.
                let started = watcher.next.0 <= current.max(self.published).0 + 1;
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
        }
        wake
    }
}

pub(crate) fn event_bytes(event: &Event) -> usize {
    let prev = event.prev.as_ref().map_or(0, |prev| prev.value.len());
    event.kv.key.len() + event.kv.value.len() + prev
}

fn offer(
    streams: &mut BTreeMap<StreamId, Stream>,
    to: Subscriber,
    revision: Revision,
    events: &Arc<[Event]>,
    bytes: usize,
    limits: &Limits,
    wake: &mut Wake,
) {
    let Some(stream) = streams.get_mut(&to.stream) else {
        return;
    };
    let Some(watcher) = stream.watchers.get(&to.watch) else {
        return;
    };
    let filtered = events.len() == 1 && !watcher.wants(events[0].kind);
    if watcher.catching_up || revision < watcher.next || filtered {
        return;
    }
    stream.offer(to.watch, revision, events, bytes, limits);
    wake.add(stream);
}
