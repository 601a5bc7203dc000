//! The persisted state of one member: rows, freed rows, small named values, and a checkpoint of the caller's index.
//! Owns the engine's directory and its formats (FORMAT.md).
//! Promise: what [`Engine::commit`] reported is there at the next open, whole batches only, or the open fails and says
//! which file is damaged where. A row is never served with a wrong byte. The first error is final.
//! Not here: what rows, names and index chunks mean (`state`), when to commit or to checkpoint (`node`'s persister).

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use barque_store_env::{Disk, Env};
use bytes::Bytes;

mod any;
mod codec;
mod error;
mod files;
mod held;
mod kind;
pub mod limits;
mod memory;
mod segments;
#[cfg(feature = "sled")]
mod sled;

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests look at real files"
)]
mod tests;

pub use any::AnyEngine;
pub use error::{Error, Unreadable};
pub use kind::{Kind, UnknownKind};

/// Place of a row: its transaction's revision and which of its operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId {
    pub main: u64,
    pub sub: u32,
}

impl std::fmt::Display for RowId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.main, self.sub)
    }
}

/// What one durable step changes, atomically.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Ascending, and all above every row the engine was ever given. The bytes are opaque; see
    /// [`limits::ROW_BYTES_MAX`].
    pub rows: Vec<(RowId, Bytes)>,
    /// Rows that compaction took away, of this batch or before. Rows that are not held are told again at the next start
    /// and change nothing else.
    pub freed: Vec<RowId>,
    /// Small named values to set or to delete; the last one of a name counts.
    pub meta: Vec<(String, Option<Bytes>)>,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.freed.is_empty() && self.meta.is_empty()
    }
}

/// Who receives the persisted state at a start. Called with the checkpoint's chunks first, then batch by batch: its rows,
/// then what it freed. An error (a text such as "the checkpoint's index, chunk 3: ...") ends the start.
pub trait Restore {
    /// The newest checkpoint's next chunk.
    fn index(&mut self, chunk: Bytes) -> Result<(), String>;
    /// A row committed after that checkpoint began; any row, when there is none.
    fn row(&mut self, id: RowId, row: Bytes) -> Result<(), String>;
    /// A free committed after it began.
    fn freed(&mut self, id: RowId) -> Result<(), String>;
}

/// Reads rows, from any thread, beside commits and [`Engine::maintain`]. Synchronous: it is used under the state's lock.
/// The checksum of a row is checked on every read.
pub trait Reader: Send + Sync {
    /// The row; `None` when it is not held: never committed, or freed.
    fn read(&self, id: RowId) -> Result<Option<Bytes>, Unreadable>;
    /// Rows held, from `from` on in order of their ids: at most `max_rows`, and no more once their bytes have reached
    /// `max_bytes`. At least one (unless `max_rows` is 0), if there is any. Rows of one answer may share memory: who keeps
    /// one of them for long copies it.
    fn scan(
        &self,
        from: RowId,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<(RowId, Bytes)>, Unreadable>;
}

/// The persisted state as one commit left it: its rows and its named values belong together. It does not change, whatever
/// is committed, freed, moved or dropped after it was pinned; dropping it gives back what is kept for it.
pub trait Image: Send + Sync {
    fn meta(&self) -> &BTreeMap<String, Bytes>;
    /// About so many bytes of rows and named values.
    fn bytes(&self) -> u64;
    /// Rows from `from` on, as [`Reader::scan`] gives them.
    fn rows(
        &self,
        from: RowId,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<(RowId, Bytes)>, Unreadable>;
}

/// Pins images, from any thread, beside commits and [`Engine::maintain`].
pub trait Images: Send + Sync {
    /// The state as the last commit that was reported left it. An error is damage of a file that the state needs.
    fn pin(&self) -> Result<Arc<dyn Image>, Unreadable>;
}

/// What the engine takes and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes of all its files.
    pub disk_bytes: u64,
    /// Bytes of the rows held and of the named values.
    pub live_bytes: u64,
    /// Files that hold rows.
    pub segments: u64,
    /// Of `disk_bytes`, the checkpoint's.
    pub checkpoint_bytes: u64,
}

/// Persisted state with one owner. Dropping it releases the directory. A call whose future is dropped before it is ready
/// leaves the engine in an unknown state, so later calls fail.
pub trait Engine<E: Env>: Send {
    /// Makes the batch durable; readers see it when this returns. Any error is final: later calls fail with it.
    fn commit(&mut self, batch: Batch) -> impl Future<Output = Result<(), Error>> + Send;

    fn reader(&self) -> Arc<dyn Reader>;
    fn images(&self) -> Arc<dyn Images>;

    /// Begins a checkpoint of the caller's index as it is now: a start will read it and then what was committed after
    /// this call. One that was begun before and is not finished is given up.
    fn begin_checkpoint(&mut self) -> impl Future<Output = Result<(), Error>> + Send;
    /// The next chunk of the index, written at once; see [`limits::CHUNK_BYTES_MAX`]. Batches may be committed between
    /// chunks.
    fn checkpoint_chunk(&mut self, chunk: Bytes) -> impl Future<Output = Result<(), Error>> + Send;
    /// Makes it the checkpoint, durably, then removes the one before.
    fn finish_checkpoint(&mut self) -> impl Future<Output = Result<(), Error>> + Send;
    /// False: the engine drops what it is given, and each start tells it all rows.
    fn keeps_checkpoints(&self) -> bool;
    /// So much was committed since the last checkpoint began that the next start would take too long.
    fn wants_checkpoint(&self) -> bool;

    /// One bounded step of giving space back; true when there is more to do now. Takes a few milliseconds.
    fn maintain(&mut self) -> impl Future<Output = Result<bool, Error>> + Send;

    fn space(&self) -> Space;
}

/// An engine and the named values it held when it was opened.
pub struct Opened<T> {
    pub engine: T,
    pub meta: BTreeMap<String, Bytes>,
}

/// Sizes that only tests change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of a segment file; a batch larger than it makes its file longer.
    pub segment_bytes: u64,
    /// The least tail after which a checkpoint is wanted.
    pub tail_bytes: u64,
    /// What one step of [`Engine::maintain`] moves.
    pub step_bytes: u64,
    /// What a start keeps of a checkpoint's index instead of reading it twice.
    pub index_kept_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            segment_bytes: limits::SEGMENT_BYTES,
            tail_bytes: limits::TAIL_BYTES,
            step_bytes: limits::STEP_BYTES,
            index_kept_bytes: limits::INDEX_KEPT_BYTES,
        }
    }
}

/// Opens the engine in `dir`, which is made when it is missing and is the engine's alone, and tells `restore` what it
/// holds. The directory is locked until the engine is dropped or the process ends.
pub async fn open<E: Env>(
    kind: Kind,
    disk: E::Disk,
    dir: &Path,
    restore: &mut (dyn Restore + Send),
) -> Result<Opened<AnyEngine<E>>, Error> {
    open_with(kind, disk, dir, restore, Options::default()).await
}

/// As [`open`], with other sizes.
pub async fn open_with<E: Env>(
    kind: Kind,
    disk: E::Disk,
    dir: &Path,
    restore: &mut (dyn Restore + Send),
    options: Options,
) -> Result<Opened<AnyEngine<E>>, Error> {
    files::create_dir(&disk, dir).await?;
    let lock = files::lock(&disk, dir).await?;
    any::open(kind, disk, lock, dir, restore, options).await
}

/// The lock of an engine's directory.
type Lock<E> = <<E as Env>::Disk as Disk>::Lock;
