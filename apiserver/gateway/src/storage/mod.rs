//! The store as the gateway sees it: one small trait, and where objects live in it.
//! Promise: everything above works alike on the embedded store, on the in-memory one of tests, and could on a remote etcd.
//! Not here: Kubernetes' meaning of the bytes ([`object`] knows their frame, the registry their sense).

pub mod embedded;
pub mod keys;
mod leases;
pub mod memory;
pub mod object;
mod objects;
pub mod versions;

use std::sync::Arc;
use std::time::Duration;

use barque_store_state::{Event, KeyRange, KeyValue, LeaseId, Revision};
use bytes::Bytes;
use futures::future::BoxFuture;

pub use objects::{Change, Current, Modified, Objects};

/// How new a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Whatever this member has applied: fast, may be behind.
    Local,
    /// Everything acknowledged before the call.
    Linearizable,
}

#[derive(Clone, Debug)]
pub struct Read {
    pub range: KeyRange,
    /// 0: no limit.
    pub limit: u64,
    /// `None`: the newest the consistency gives.
    pub revision: Option<Revision>,
    pub consistency: Consistency,
}

#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// The revision read at.
    pub revision: Revision,
    pub kvs: Vec<Arc<KeyValue>>,
    pub more: bool,
    /// All rows of the range at that revision, whatever the limit.
    pub count: u64,
}

#[derive(Clone, Debug)]
pub enum Write {
    Put {
        key: Bytes,
        value: Bytes,
        lease: LeaseId,
    },
    Delete {
        key: Bytes,
    },
}

/// One transaction: the write happens if every key still has the revision it was seen at (0: absent).
#[derive(Clone, Debug)]
pub struct CompareAndWrite {
    pub expect: Vec<(Bytes, Revision)>,
    pub write: Write,
}

#[derive(Clone, Debug)]
pub enum Written {
    Done {
        revision: Revision,
    },
    /// Some key had changed: the rows of `expect` as they are, in order.
    Lost {
        current: Vec<Option<Arc<KeyValue>>>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    #[error("revision {asked:?} was compacted; the oldest kept is {oldest:?}")]
    Compacted { asked: Revision, oldest: Revision },
    #[error("revision {asked:?} is not reached yet; the newest is {current:?}")]
    FutureRevision { asked: Revision, current: Revision },
    #[error("the store has too much to do")]
    Overloaded,
    /// Certainly not carried out.
    #[error("{0}")]
    NotDone(String),
    /// May or may not have been carried out.
    #[error("{0}")]
    OutcomeUnknown(String),
    /// The store refused it for good.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Corrupt(String),
}

#[derive(Clone, Debug)]
pub enum WatchBatch {
    /// Whole revisions, in order, with the rows before each change.
    Events(Vec<Event>),
    /// Nothing more up to here.
    Progress(Revision),
    /// History from the start is gone; nothing was delivered.
    Compacted { oldest: Revision },
    /// The store ended the watch.
    Closed,
}

/// An open watch. Dropping it ends it.
pub trait WatchSource: Send {
    /// Cancel-safe.
    fn next(&mut self) -> BoxFuture<'_, WatchBatch>;
    /// Asks for a `Progress` once everything up to now has been delivered.
    fn request_progress(&mut self);
}

pub trait Storage: Send + Sync + 'static {
    fn read(&self, read: Read) -> BoxFuture<'_, Result<Rows, StorageError>>;
    fn write(&self, write: CompareAndWrite) -> BoxFuture<'_, Result<Written, StorageError>>;
    /// Changes strictly after `after`.
    fn watch(
        &self,
        range: KeyRange,
        after: Revision,
    ) -> BoxFuture<'_, Result<Box<dyn WatchSource>, StorageError>>;
    fn lease_grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StorageError>>;
    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StorageError>>;
    /// The current revision.
    fn revision(&self, consistency: Consistency) -> BoxFuture<'_, Result<Revision, StorageError>>;
}
