//! What the outside world is, for everything below `store/`: time, chance, tasks, disk and network.
//! Two worlds stand behind these traits: [`real`] (tokio, files, sockets) and [`sim`] (virtual time, seeded
//! schedule, a disk that loses what was not synced, a network with partitions).
//! Promise: code generic over [`Env`] behaves the same in both; nothing below the rpc layer may name tokio's
//! time, fs or net, or std's threads and clocks.
//! Not here: meaning. A world does not know what a log, a vote or a member is.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this crate is where the outside world is named; everybody else comes here"
)]

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

mod dirs;
mod histogram;
pub mod limits;
pub mod real;
mod removal;
pub mod sim;
pub mod watch;

pub use dirs::{DirError, create_dir_durably};
pub use histogram::{Durations, Histogram};
pub use removal::Going;

/// A point of a member's own monotonic clock, in nanoseconds since an arbitrary start. It keeps counting while the
/// machine is suspended (CLOCK_BOOTTIME), and means nothing on another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    pub fn saturating_since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
impl std::ops::Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, d: Duration) -> Instant {
        Instant(
            self.0
                .saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}
impl std::ops::Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, d: Duration) -> Instant {
        Instant(
            self.0
                .saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

/// A timer; ready once its instant has come. Cheap to drop.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// The task was killed (its member crashed, or the runtime went away) before it gave its result.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the task was killed before it finished")]
pub struct Killed;

/// Handle of a spawned task: a future of its result. Dropping it detaches the task; [`Task::abort`] ends it.
pub struct Task<T> {
    result: tokio::sync::oneshot::Receiver<T>,
    abort: futures::future::AbortHandle,
}

impl<T> Task<T> {
    /// Used by worlds only.
    pub fn new(
        result: tokio::sync::oneshot::Receiver<T>,
        abort: futures::future::AbortHandle,
    ) -> Self {
        Task { result, abort }
    }
    /// Drops the task's future at its next await point.
    pub fn abort(&self) {
        self.abort.abort();
    }
}
impl<T> Future for Task<T> {
    type Output = Result<T, Killed>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.result)
            .poll(cx)
            .map(|r| r.map_err(|_| Killed))
    }
}

/// The deadline passed first.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("deadline passed")]
pub struct Elapsed;

/// One world. The associated functions act on the ambient member: in [`real`] the tokio runtime they are called in,
/// in [`sim`] the simulated machine whose task is being polled.
pub trait Env: Clone + Copy + Debug + Default + Eq + Ord + Send + Sync + 'static {
    type Disk: Disk;
    type Net: Net;

    fn now() -> Instant;
    fn sleep_until(at: Instant) -> Sleep;
    /// Starts a task on the ambient member. The name appears in traces.
    fn spawn<F>(name: &'static str, task: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static;
    /// 64 random bits: real entropy, or the seed's next.
    fn random() -> u64;

    fn sleep(d: Duration) -> Sleep {
        Self::sleep_until(Self::now() + d)
    }
    /// Runs `future` until the deadline.
    fn timeout_at<F: Future + Send>(
        at: Instant,
        future: F,
    ) -> impl Future<Output = Result<F::Output, Elapsed>> + Send
    where
        F::Output: Send,
    {
        async move {
            let sleep = Self::sleep_until(at);
            futures::pin_mut!(future);
            match futures::future::select(future, sleep).await {
                futures::future::Either::Left((out, _)) => Ok(out),
                futures::future::Either::Right(_) => Err(Elapsed),
            }
        }
    }
    fn timeout<F: Future + Send>(
        d: Duration,
        future: F,
    ) -> impl Future<Output = Result<F::Output, Elapsed>> + Send
    where
        F::Output: Send,
    {
        Self::timeout_at(Self::now() + d, future)
    }
}

/// Lets the other tasks of this thread run, those first that wait for a socket or for another thread: a task that only wakes itself
/// again comes before them, since tokio looks at its driver when it has nothing else to do, and else at every 61st turn.
pub async fn others_first() {
    // Outside of tokio, in the simulator, it wakes itself.
    tokio::task::yield_now().await;
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// For reading; it must exist.
    Read,
    /// For reading and writing; it must exist.
    ReadWrite,
    /// For reading and writing; it must not exist. The name is durable only after [`Disk::sync_dir`].
    CreateNew,
}

/// Files under one member's directory tree. All paths are used as given (the caller owns the root).
pub trait Disk: Clone + Debug + Send + Sync + 'static {
    type File: File;
    /// An exclusive process lock on a file, given up when dropped.
    type Lock: Send + Sync + 'static;

    fn create_dir_all(&self, dir: &Path) -> impl Future<Output = io::Result<()>> + Send;
    fn open(&self, path: &Path, how: Open) -> impl Future<Output = io::Result<Self::File>> + Send;
    fn exists(&self, path: &Path) -> impl Future<Output = io::Result<bool>> + Send;
    /// Names (not paths) in the directory, sorted.
    fn list(&self, dir: &Path) -> impl Future<Output = io::Result<Vec<String>>> + Send;
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>> + Send;
    fn remove(&self, path: &Path) -> impl Future<Output = io::Result<()>> + Send;
    /// Makes creations, renames and removals in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>> + Send;
    /// Takes the lock or fails at once with `WouldBlock` when another process (or member) holds it.
    fn lock(&self, path: &Path) -> impl Future<Output = io::Result<Self::Lock>> + Send;
    /// Opens an existing file for reads that do not wait for a task: the caller's thread does them.
    fn reader(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>>;
    /// Where a library that knows only the machine's own file system finds `path`; `None` where there is no such
    /// place (a simulated disk).
    fn native_path(&self, path: &Path) -> Option<PathBuf> {
        let _ = path;
        None
    }
    /// Room on the file system that holds `dir`, which must exist.
    fn space(&self, dir: &Path) -> impl Future<Output = io::Result<Space>> + Send;
}

/// A file open for synchronous reads, from any thread and several at once. It keeps working after the file was renamed
/// or removed, and sees what is written through a [`File`] once that write has been answered.
pub trait ReadAt: Debug + Send + Sync + 'static {
    /// Fills `buf` from `offset` on; `UnexpectedEof` when the file ends before.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

/// How much a file system holds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What this process may still write; what is kept for root does not count.
    pub free: u64,
    pub total: u64,
}

/// One open file. Operations on one handle are carried out in the order they were first polled.
/// An error of `write_*` or `sync_*` is final for the caller: never retry a failed sync.
#[expect(
    clippy::len_without_is_empty,
    reason = "a length is a question to the disk"
)]
pub trait File: Debug + Send + Sync + 'static {
    fn len(&self) -> impl Future<Output = io::Result<u64>> + Send;
    /// Reads up to `len` bytes; fewer only at the end of the file.
    fn read_at(&self, offset: u64, len: usize) -> impl Future<Output = io::Result<Bytes>> + Send;
    fn write_at(&self, offset: u64, data: Bytes) -> impl Future<Output = io::Result<()>> + Send;
    /// Writes, then fdatasyncs, in one hop.
    fn write_sync(&self, offset: u64, data: Bytes) -> impl Future<Output = io::Result<()>> + Send;
    fn sync_data(&self) -> impl Future<Output = io::Result<()>> + Send;
    fn set_len(&self, len: u64) -> impl Future<Output = io::Result<()>> + Send;
}

/// Byte streams between members and to clients. Addresses are `host:port` texts.
pub trait Net: Clone + Debug + Send + Sync + 'static {
    type Listener: Listener<Conn = Self::Conn>;
    type Conn: Conn;
    fn listen(&self, addr: &str) -> impl Future<Output = io::Result<Self::Listener>> + Send;
    fn connect(&self, addr: &str) -> impl Future<Output = io::Result<Self::Conn>> + Send;
}

pub trait Listener: Send + Sync + 'static {
    type Conn: Conn;
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Conn>> + Send;
    /// The bound address; tells the port when port 0 was asked for.
    fn local_addr(&self) -> String;
}

/// A connected byte stream, used as two halves. Dropping both halves closes it.
pub trait Conn: Send + 'static {
    type Read: ReadHalf;
    type Write: WriteHalf;
    fn split(self) -> (Self::Read, Self::Write);
}
pub trait ReadHalf: Send + 'static {
    /// Appends what has arrived to `buf`; 0 means the peer closed.
    fn read(&mut self, buf: &mut BytesMut) -> impl Future<Output = io::Result<usize>> + Send;
}
pub trait WriteHalf: Send + 'static {
    /// Writes everything and flushes it.
    fn write_all(&mut self, data: Bytes) -> impl Future<Output = io::Result<()>> + Send;
}
