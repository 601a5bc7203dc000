//! The key index: key → its versions, oldest first. A tombstone ends a generation; what follows it begins the next.
//! Promise: the newest state of a key is found without looking at its history.
//! Not here: values of old versions (`store` has the rows).

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::types::{KeyRange, KeyValue, Revision};

/// The place of a row: the transaction's revision, and which of its operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowId {
    pub main: Revision,
    pub sub: u32,
}
impl RowId {
    /// Before every row of `main`.
    pub fn first_of(main: Revision) -> Self {
        RowId { main, sub: 0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub id: RowId,
    pub tombstone: bool,
}

#[derive(Clone, Debug, Default)]
pub struct KeyHistory {
    /// Ascending, never empty between operations. Compaction shortens it from the front.
    pub versions: Vec<Version>,
    /// The newest version's row; `None` when that is a tombstone.
    pub latest: Option<Arc<KeyValue>>,
}

impl KeyHistory {
    /// Index of the newest version at or before `at`, tombstones included.
    pub fn at(&self, at: Revision) -> Option<usize> {
        // Most questions are about the newest versions.
        if self.versions.last().is_some_and(|v| v.id.main <= at) {
            return Some(self.versions.len() - 1);
        }
        self.versions
            .partition_point(|v| v.id.main <= at)
            .checked_sub(1)
    }
    /// The newest version at or before `at` if the key was alive then.
    pub fn alive_at(&self, at: Revision) -> Option<Version> {
        self.at(at)
            .map(|i| self.versions[i])
            .filter(|v| !v.tombstone)
    }
}

#[derive(Clone, Debug, Default)]
pub struct Index {
    pub keys: BTreeMap<Bytes, KeyHistory>,
}

impl Index {
    /// The histories of the keys in `range`, in key order.
    pub fn scan(&self, range: &KeyRange) -> Scan<'_> {
        if range.is_point() {
            return Scan::Point(self.keys.get_key_value(&range.key));
        }
        let end: Bound<&[u8]> = if range.end.as_ref() == b"\0" {
            Bound::Unbounded
        } else if range.end <= range.key {
            return Scan::Point(None);
        } else {
            Bound::Excluded(range.end.as_ref())
        };
        let start: Bound<&[u8]> = Bound::Included(range.key.as_ref());
        Scan::Range(self.keys.range::<[u8], _>((start, end)))
    }
}

pub enum Scan<'a> {
    Point(Option<(&'a Bytes, &'a KeyHistory)>),
    Range(btree_map::Range<'a, Bytes, KeyHistory>),
}
impl<'a> Iterator for Scan<'a> {
    type Item = (&'a Bytes, &'a KeyHistory);
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Scan::Point(one) => one.take(),
            Scan::Range(range) => range.next(),
        }
    }
}
