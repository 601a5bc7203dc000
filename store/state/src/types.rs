//! The words of the store: revisions, keys, rows, leases. Plain data, no behaviour beyond what their meaning needs.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// A store revision. One per write transaction that changed something; the empty store is at 1; never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);
impl Revision {
    /// Whether a read that asks for this one means the newest: 0, and a client's negative number (in two's complement).
    pub fn names_the_newest(self) -> bool {
        self.0.cast_signed() <= 0
    }
}

/// A lease id as etcd has it: any non-zero i64, negative ones included. 0 stands for "no lease" in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);
impl LeaseId {
    pub const NONE: LeaseId = LeaseId(0);
}

/// Replicated cluster time: monotone milliseconds stamped by the leader into each entry. Time without a leader does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterTime(pub u64);

/// An etcd member id (sha1 rule, etcd-api section "Cluster"); also the Raft node id. Written in hexadecimal, as etcdctl does: what a
/// log says of a member is found there.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);
impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}
impl fmt::Debug for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemberId({self})")
    }
}

/// Index of a Raft log entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogIndex(pub u64);

/// The place of a row: the transaction's revision, and which of its operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId {
    pub main: Revision,
    pub sub: u32,
}
impl RowId {
    /// Before every row of `main`.
    pub fn first_of(main: Revision) -> Self {
        RowId { main, sub: 0 }
    }
    /// The place right behind.
    pub fn next(self) -> Self {
        match self.sub.checked_add(1) {
            Some(sub) => RowId { sub, ..self },
            None => RowId::first_of(Revision(self.main.0 + 1)),
        }
    }
}

/// Whether events tell the row before them even where it would have to be read from the archive for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Previous {
    Told,
    /// Nobody wants it: an event's `prev` may be absent although there was a row.
    LeftOut,
}

/// One version of a key, as etcd's `mvccpb.KeyValue`. A tombstone is not a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    /// Counts writes since the key was (re)created; starts at 1.
    pub version: u64,
    pub lease: LeaseId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    /// `kv` carries only key and mod_revision.
    Delete,
}

/// One change, as a watcher sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    pub kv: Arc<KeyValue>,
    /// The row before this change; `None` for a create, when compaction took it, and when it was [`Previous::LeftOut`].
    pub prev: Option<Arc<KeyValue>>,
}

/// All events of one revision, in sub-revision order. Shared by every watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionEvents {
    pub revision: Revision,
    pub events: Arc<[Event]>,
}

/// A key interval as etcd's requests spell it: `key` alone is a point; `end` = `\0` means "every key from `key` on";
/// otherwise `[key, end)`, empty when `end <= key`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyRange {
    pub key: Bytes,
    /// Empty: a point.
    pub end: Bytes,
}
impl KeyRange {
    pub fn point(key: Bytes) -> Self {
        KeyRange {
            key,
            end: Bytes::new(),
        }
    }
    /// Every key that starts with `prefix` (the whole key space for an empty one).
    pub fn prefix(prefix: &[u8]) -> Self {
        let mut end = prefix.to_vec();
        while let Some(last) = end.last_mut() {
            if *last < 0xff {
                *last += 1;
                break;
            }
            end.pop();
        }
        let key = if prefix.is_empty() {
            Bytes::from_static(b"\0")
        } else {
            Bytes::copy_from_slice(prefix)
        };
        KeyRange {
            key,
            end: if end.is_empty() {
                Bytes::from_static(b"\0")
            } else {
                end.into()
            },
        }
    }
    pub fn is_point(&self) -> bool {
        self.end.is_empty()
    }
    pub fn contains(&self, key: &[u8]) -> bool {
        if self.end.is_empty() {
            return self.key == key;
        }
        key >= self.key.as_ref() && (self.end.as_ref() == b"\0" || key < self.end.as_ref())
    }
}
