//! The write-ahead log of one member: everything Raft must not lose, in one ordered stream of records. Owns the log's
//! directory, its format (FORMAT.md) and its one writer.
//! Promise: what was reported durable comes back at the next open, in order, or that open fails and says where the
//! log is damaged. Records of one append survive a crash together or not at all. The first error of write, fdatasync,
//! rename or directory sync is final.
//! Not here: what votes and entries mean, when to purge, what to do about a damaged log (all `consensus`).

use std::path::Path;
use std::sync::Arc;

use barque_store_env::{Disk, Durations, Env, Instant, create_dir_durably};
use bytes::Bytes;
use futures::future::Either;
use tokio::sync::Notify;

mod codec;
mod error;
mod keeper;
pub mod limits;
mod queue;
mod recover;
mod replay;
mod scan;
mod segment;
mod sync_times;
mod writer;

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests look at real files and find free ports"
)]
mod tests;

pub use error::WalError;
use queue::Shared;

/// One thing to remember.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// Raft's vote; the last one counts.
    Vote(Bytes),
    Entry {
        index: u64,
        term: u64,
        payload: Bytes,
    },
    /// Entries above `index` are void.
    TruncateAfter { index: u64 },
    /// Entries up to and including `index` are no longer needed; the next one is `index + 1` or is there already.
    Purge { index: u64, term: u64 },
    /// A hint that shortens the replay; the last one counts.
    Committed { index: u64, term: u64 },
}

/// Counts the records appended since the log was opened, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordNumber(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of a segment file, at least [`limits::SEGMENT_BYTES_MIN`]; a batch larger than it gets a longer one of its
    /// own. It may differ from open to open.
    pub segment_bytes: u64,
    /// Off only where losing data does not matter.
    pub fsync: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            segment_bytes: limits::SEGMENT_BYTES,
            fsync: true,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredEntry {
    pub index: u64,
    pub term: u64,
    pub payload: Bytes,
}

/// What the log held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    pub vote: Option<Bytes>,
    /// Index and term.
    pub committed: Option<(u64, u64)>,
    /// Index and term.
    pub purged: Option<(u64, u64)>,
    /// Contiguous; begins right after `purged`, or with index 0 or 1.
    pub entries: Vec<RecoveredEntry>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Batches written; one that only opens a segment is not counted.
    pub batches: u64,
    pub records: u64,
    /// Of these batches, those that were fdatasynced.
    pub syncs: u64,
    /// Bytes of records.
    pub bytes: u64,
    /// Purged segments that became the next one.
    pub recycled: u64,
}

/// What the log takes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Segment files, the one filled ahead included.
    pub segments: u64,
    /// Their bytes, unused parts included: they are allocated.
    pub bytes: u64,
}

/// Told once whether the records are durable. Called in the order of the appends, on the writer's task: it must not
/// block.
pub type Done = Box<dyn FnOnce(Result<(), WalError>) + Send>;

/// Handle of an open log; cheap to clone. Dropping the last one closes the log.
pub struct Wal<E: Env> {
    handle: Arc<Handle>,
    _world: std::marker::PhantomData<fn() -> E>,
}

struct Handle {
    shared: Arc<Shared>,
    /// Told when the writer has released the directory.
    ended: Arc<Notify>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl<E: Env> Clone for Wal<E> {
    fn clone(&self) -> Self {
        Wal {
            handle: self.handle.clone(),
            _world: std::marker::PhantomData,
        }
    }
}

impl<E: Env> Wal<E> {
    /// Opens the log in `dir`, which is made when it is missing, and reads all that it holds. The directory is locked
    /// until [`Wal::close`] returns or the process ends.
    pub async fn open(
        disk: E::Disk,
        dir: &Path,
        options: Options,
    ) -> Result<(Self, Recovered), WalError> {
        create_dir(&disk, dir).await?;
        let path = dir.join(segment::LOCK);
        let lock = disk.lock(&path).await.map_err(|cause| {
            if cause.kind() == std::io::ErrorKind::WouldBlock {
                WalError::Locked {
                    dir: dir.to_owned(),
                }
            } else {
                WalError::io("locking", path, cause)
            }
        })?;
        let (resume, recovered) = recover::recover::<E>(disk, dir, options).await?;

        let spans = (resume.older.iter())
            .chain([&resume.active])
            .chain(resume.ready.as_ref().map(|(span, _)| span));
        let space = spans.fold(Space::default(), |space, span| Space {
            segments: space.segments + 1,
            bytes: space.bytes + span.bytes,
        });
        let (shared, told) = Shared::new(resume.meta.clone(), resume.last_index, space);
        let shared = Arc::new(shared);
        let ended = Arc::new(Notify::new());
        writer::start::<E>(resume, lock, shared.clone(), told, ended.clone());
        let wal = Wal {
            handle: Arc::new(Handle { shared, ended }),
            _world: std::marker::PhantomData,
        };
        Ok((wal, recovered))
    }

    /// Queues the records and returns the number of the last one. Never blocks; see [`limits::PENDING_BYTES_MAX`].
    /// Entries must be contiguous: a gap fails the log. After a failure or [`Wal::close`] the records are dropped.
    pub fn append(&self, records: Vec<Record>) -> RecordNumber {
        self.handle.shared.append(&records, None)
    }

    /// As [`Wal::append`]; `done` hears when these records, and all before them, are durable.
    pub fn append_then(&self, records: Vec<Record>, done: Done) -> RecordNumber {
        self.handle.shared.append(&records, Some(done))
    }

    /// Waits until every record up to `upto` is durable.
    pub async fn durable(&self, upto: RecordNumber) -> Result<(), WalError> {
        let shared = &self.handle.shared;
        shared.hurry(upto);
        let mut durable = shared.durable.clone();
        let mut end = shared.end.clone();
        loop {
            let reached = durable.get_and_update();
            let ended = end.get_and_update();
            if reached >= upto.0 {
                return Ok(());
            }
            if let Some(error) = ended {
                return Err(error);
            }
            let (further, over) = (durable.changed(), end.changed());
            futures::pin_mut!(further, over);
            let closed = match futures::future::select(further, over).await {
                Either::Left((changed, _)) | Either::Right((changed, _)) => changed.is_err(),
            };
            // The writer went away; what it said last is seen above, once more.
            if closed && shared.durable.get() < upto.0 && shared.end.get().is_none() {
                return Err(WalError::Stopped);
            }
        }
    }

    /// Bytes queued or being written.
    pub fn pending_bytes(&self) -> u64 {
        self.handle.shared.pending_bytes()
    }

    /// Bytes of all segment files, the one written ahead included.
    pub fn bytes_on_disk(&self) -> u64 {
        self.space().bytes
    }

    pub fn space(&self) -> Space {
        self.handle.shared.space()
    }

    /// How long the batches' fdatasyncs took since the log was opened, the write into the page cache included (both are one step to
    /// the disk). Those of filling ahead are not counted: nobody waits for them. Any thread may ask at any time.
    pub fn sync_times(&self) -> Durations {
        self.handle.shared.sync_clock.read()
    }

    /// Since when the writer has been at the batch it is writing; `None` when there is nothing to write.
    pub fn writing_since(&self) -> Option<Instant> {
        self.handle.shared.sync_clock.writing_since()
    }

    pub fn stats(&self) -> Stats {
        self.handle.shared.stats()
    }

    /// Resolves at the first error. Never, when the log is closed without one.
    pub async fn failed(&self) -> WalError {
        let mut end = self.handle.shared.end.clone();
        loop {
            match end.get_and_update() {
                Some(WalError::Closed) => std::future::pending().await,
                Some(error) => return error,
                None => {}
            }
            if end.changed().await.is_err() && end.get().is_none() {
                return WalError::Stopped;
            }
        }
    }

    /// Writes what is queued, ends the writer and releases the directory.
    pub async fn close(&self) {
        self.handle.shared.close();
        self.handle.ended.notified().await;
        // For the next caller: the permit is passed on.
        self.handle.ended.notify_one();
    }
}

/// Makes `dir` and its parents, one by one, and each one's name durable before the next is made.
pub async fn create_dir<D: Disk>(disk: &D, dir: &Path) -> Result<(), WalError> {
    create_dir_durably(disk, dir)
        .await
        .map_err(|error| WalError::io(error.operation, error.path, error.cause))
}
