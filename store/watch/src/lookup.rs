//! Key → the watchers that want it: points by their key, ranges by interval.

use std::collections::{BTreeMap, BTreeSet};

use barque_store_state::KeyRange;
use bytes::Bytes;

use crate::intervals::Intervals;
use crate::types::{StreamId, WatchId};

/// A watcher, seen from the whole hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subscriber {
    pub stream: StreamId,
    pub watch: WatchId,
}

#[derive(Debug, Default)]
pub struct Lookup {
    points: BTreeMap<Bytes, BTreeSet<Subscriber>>,
    ranges: Intervals,
}

fn end(range: &KeyRange) -> Option<Bytes> {
    (range.end.as_ref() != b"\0").then(|| range.end.clone())
}

impl Lookup {
    pub fn add(&mut self, range: &KeyRange, subscriber: Subscriber) {
        if range.is_point() {
            let point = self.points.entry(range.key.clone());
            point.or_default().insert(subscriber);
        } else {
            self.ranges.add(&range.key, &end(range), subscriber);
        }
    }
    pub fn remove(&mut self, range: &KeyRange, subscriber: Subscriber) {
        if !range.is_point() {
            self.ranges.remove(&range.key, &end(range), subscriber);
        } else if let Some(point) = self.points.get_mut(&range.key) {
            point.remove(&subscriber);
            if point.is_empty() {
                self.points.remove(&range.key);
            }
        }
    }
    /// Calls `found` once for every watcher of `key`.
    pub fn watching(&self, key: &[u8], mut found: impl FnMut(Subscriber)) {
        if let Some(point) = self.points.get(key) {
            point.iter().copied().for_each(&mut found);
        }
        self.ranges.holding(key, &mut found);
    }
    pub fn is_empty(&self) -> bool {
        self.points.is_empty() && self.ranges.is_empty()
    }
}
