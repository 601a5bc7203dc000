//! The key index: key → its versions, oldest first. A tombstone ends a generation; what follows it begins the next.
//! Promise: everything about a key's newest state but its value is here, so that only values are ever read from disk.
//! Not here: which rows are in memory (`cache`), where the others are (`archive`).

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::types::{KeyRange, KeyValue, LeaseId, Revision, RowId};

/// One row of a key, and the row itself when it is in memory.
#[derive(Debug)]
pub struct Version {
    pub id: RowId,
    /// Of the whole row (`digest::row`): what is read from disk must have it.
    pub digest: u64,
    pub value_len: u32,
    pub tombstone: bool,
    /// Read since the cache's hand last passed.
    used: AtomicBool,
    row: OnceLock<Arc<KeyValue>>,
}

impl Version {
    pub fn new(id: RowId, digest: u64, value_len: u32, tombstone: bool) -> Self {
        Version {
            id,
            digest,
            value_len,
            tombstone,
            used: AtomicBool::new(false),
            row: OnceLock::new(),
        }
    }
    /// The row, if it is in memory.
    pub fn resident(&self) -> Option<&Arc<KeyValue>> {
        let row = self.row.get()?;
        // Asked first: a write to a shared line costs more than a read.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        Some(row)
    }
    /// Keeps the row in memory. False: it was there already.
    pub fn keep(&self, row: Arc<KeyValue>) -> bool {
        self.row.set(row).is_ok()
    }
    /// The cache's hand passes: a row that was used stays this time, another one goes.
    pub fn pass(&mut self) -> Option<Arc<KeyValue>> {
        if std::mem::take(self.used.get_mut()) {
            return None;
        }
        self.row.take()
    }
    /// Takes the row out of memory whether used or not.
    pub fn take(&mut self) -> Option<Arc<KeyValue>> {
        self.row.take()
    }
}

#[derive(Debug, Default)]
pub struct KeyHistory {
    /// Ascending, never empty between operations. Compaction shortens it from the front.
    pub versions: SmallVec<[Version; 1]>,
    /// Of the newest version; without meaning when that is a tombstone.
    pub create_revision: Revision,
    pub version: u64,
    pub lease: LeaseId,
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
    pub fn alive_at(&self, at: Revision) -> Option<&Version> {
        self.at(at)
            .map(|i| &self.versions[i])
            .filter(|v| !v.tombstone)
    }
    /// The newest version if the key is alive.
    pub fn alive(&self) -> Option<&Version> {
        self.versions.last().filter(|v| !v.tombstone)
    }
    pub fn holds(&self, id: RowId) -> bool {
        self.versions.binary_search_by_key(&id, |v| v.id).is_ok()
    }
    /// Makes `kv` what the newest version is described by.
    pub fn describe(&mut self, kv: &KeyValue) {
        self.create_revision = kv.create_revision;
        self.version = kv.version;
        self.lease = kv.lease;
    }
}

#[derive(Debug, Default)]
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
    /// The same behind `after`, a key in `range`.
    pub fn scan_behind(&self, range: &KeyRange, after: Option<&Bytes>) -> Scan<'_> {
        let Some(after) = after else {
            return self.scan(range);
        };
        // The first key that can follow it.
        let next = [after.as_ref(), b"\0"].concat();
        match range.is_point() {
            true => Scan::Point(None),
            false => self.scan(&KeyRange {
                key: next.into(),
                end: range.end.clone(),
            }),
        }
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
