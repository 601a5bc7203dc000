//! An event on its way to many watches, and what a front has made of it for the wire.
//! Promise: every watch that is told of a published event shares one cell of encodings; each shape of the event is encoded
//! at most once, by whoever sends it first, on whatever core; the bytes live as long as somebody is still to be told.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use barque_store_state::Event;
use bytes::Bytes;

/// What the fronts have made of one event.
#[derive(Debug, Default)]
struct Encodings {
    without_prev: OnceLock<Bytes>,
    with_prev: OnceLock<Bytes>,
}

/// One event as one watch sees it: the row before the change is there only if that watch asked for it.
#[derive(Clone)]
pub struct WatchEvent {
    event: Event,
    encodings: Arc<Encodings>,
}

impl WatchEvent {
    /// As a watch sees it that wants the row before the change, or does not.
    pub fn seen(&self, prev_kv: bool) -> Self {
        let mut seen = self.clone();
        if !prev_kv {
            seen.event.prev = None;
        }
        seen
    }

    /// The event's bytes as `encode` makes them; it is called only if nobody has encoded this shape of the event yet.
    /// There is one cell for all: `encode` must be the same function of the event everywhere in a process.
    pub fn encoded(&self, encode: impl FnOnce(&Event) -> Bytes) -> &Bytes {
        // An event without a previous row has one shape, whoever asked for it.
        let cell = if self.event.prev.is_some() {
            &self.encodings.with_prev
        } else {
            &self.encodings.without_prev
        };
        cell.get_or_init(|| encode(&self.event))
    }

    pub fn into_event(self) -> Event {
        self.event
    }

    /// Bytes of keys and values it keeps alive.
    pub(crate) fn bytes(&self) -> usize {
        let prev = self.event.prev.as_ref().map_or(0, |prev| prev.value.len());
        self.event.kv.key.len() + self.event.kv.value.len() + prev
    }
}

impl From<Event> for WatchEvent {
    fn from(event: Event) -> Self {
        WatchEvent {
            event,
            encodings: Arc::default(),
        }
    }
}

impl Deref for WatchEvent {
    type Target = Event;
    fn deref(&self) -> &Event {
        &self.event
    }
}

/// Equal as events; what was encoded of them does not count.
impl PartialEq for WatchEvent {
    fn eq(&self, other: &Self) -> bool {
        self.event == other.event
    }
}
impl Eq for WatchEvent {}

impl fmt::Debug for WatchEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.event.fmt(f)
    }
}
