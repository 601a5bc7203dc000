//! Files of the real world. Each open file has one I/O thread, which carries out its operations in the order they
//! were first polled; a write with its sync is one hop to that thread and back.
//! Promise: an operation that was queued is carried out even when its caller goes away; the file is closed after the
//! last one. What is made here is its owner's alone (0700, 0600): a store holds secrets.
//! Not here: retrying. After a failed sync the kernel may have dropped the dirty pages, so the error is the caller's.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::limits::FILE_QUEUE_OPS;
use crate::{Disk, File, Open, ReadAt, Space};

/// Nobody but the store's own user: keys and values are secrets (etcd's modes, and what the CIS benchmark asks for).
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The machine's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

/// An exclusive `flock`; given up when dropped, or by the kernel when the process ends.
#[derive(Debug)]
pub struct RealLock {
    _file: fs::File,
}

/// One open file and its I/O thread.
#[derive(Debug)]
pub struct RealFile {
    path: PathBuf,
    ops: mpsc::Sender<Op>,
    /// Held while an operation is put into the queue.
    turn: tokio::sync::Mutex<()>,
}

type Reply<T> = oneshot::Sender<io::Result<T>>;

#[derive(Debug)]
enum Op {
    Len(Reply<u64>),
    Read(u64, usize, Reply<Bytes>),
    Write(u64, Bytes, Reply<()>),
    WriteSync(u64, Bytes, Reply<()>),
    Sync(Reply<()>),
    SetLen(u64, Reply<()>),
}

/// Runs a short file system call away from the runtime's threads.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(call).await {
        Ok(out) => out,
        Err(e) => Err(io::Error::other(e)),
    }
}

impl Disk for RealDisk {
    type File = RealFile;
    type Lock = RealLock;

    async fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_owned();
        blocking(move || {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(DIR_MODE).create(dir)
        })
        .await
    }

    async fn open(&self, path: &Path, how: Open) -> io::Result<RealFile> {
        let path = path.to_owned();
        blocking(move || {
            let mut options = fs::OpenOptions::new();
            options.read(true);
            match how {
                Open::Read => &mut options,
                Open::ReadWrite => options.write(true),
                Open::CreateNew => options.write(true).create_new(true).mode(FILE_MODE),
            };
            let file = options.open(&path)?;
            RealFile::serve(path, file)
        })
        .await
    }

    async fn exists(&self, path: &Path) -> io::Result<bool> {
        let path = path.to_owned();
        blocking(move || fs::exists(path)).await
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let dir = dir.to_owned();
        blocking(move || {
            let mut names = Vec::new();
            for entry in fs::read_dir(dir)? {
                let name = entry?.file_name();
                names.push(name.into_string().map_err(|name| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("file name {name:?} is not UTF-8"),
                    )
                })?);
            }
            names.sort();
            Ok(names)
        })
        .await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        blocking(move || fs::rename(from, to)).await
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        blocking(move || fs::remove_file(path)).await
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_owned();
        blocking(move || fs::File::open(dir)?.sync_all()).await
    }

    async fn lock(&self, path: &Path) -> io::Result<RealLock> {
        let path = path.to_owned();
        blocking(move || {
            let file = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(FILE_MODE)
                .open(path)?;
            // flock(2): per open file, so a second lock in the same process fails as well.
            file.try_lock().map_err(io::Error::from)?;
            Ok(RealLock { _file: file })
        })
        .await
    }

    fn reader(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(RealReader(fs::File::open(path)?)))
    }

    fn native_path(&self, path: &Path) -> Option<PathBuf> {
        Some(path.to_owned())
    }

    async fn space(&self, dir: &Path) -> io::Result<Space> {
        let dir = dir.to_owned();
        blocking(move || {
            let stat = nix::sys::statvfs::statvfs(&dir)?;
            let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
            Ok(Space {
                free: bytes(stat.blocks_available()),
                total: bytes(stat.blocks()),
            })
        })
        .await
    }
}

/// A file of its own descriptor, read by whoever asks.
#[derive(Debug)]
struct RealReader(fs::File);

impl ReadAt for RealReader {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
}

impl RealFile {
    fn serve(path: PathBuf, file: fs::File) -> io::Result<RealFile> {
        let (ops, rx) = mpsc::channel(FILE_QUEUE_OPS);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        std::thread::Builder::new()
            .name(format!("io {name}"))
            .spawn(move || carry_out(&file, rx))?;
        let turn = tokio::sync::Mutex::new(());
        Ok(RealFile { path, ops, turn })
    }

    async fn ask<T>(&self, op: impl FnOnce(Reply<T>) -> Op) -> io::Result<T> {
        let (tx, rx) = oneshot::channel();
        let gone = || io::Error::other(format!("the I/O thread of {:?} is gone", self.path));
        {
            // Room in the queue alone does not keep the order: whoever was given room and has not run again since could be
            // overtaken. A lock is handed on in the order it was asked for.
            let _turn = self.turn.lock().await;
            self.ops.send(op(tx)).await.map_err(|_| gone())?;
        }
        rx.await.map_err(|_| gone())?
    }
}

fn carry_out(file: &fs::File, mut ops: mpsc::Receiver<Op>) {
    // A reply nobody waits for any more is not an error: the caller was cancelled.
    while let Some(op) = ops.blocking_recv() {
        match op {
            Op::Len(reply) => drop(reply.send(file.metadata().map(|m| m.len()))),
            Op::Read(offset, len, reply) => drop(reply.send(read_at(file, offset, len))),
            Op::Write(offset, data, reply) => drop(reply.send(file.write_all_at(&data, offset))),
            Op::WriteSync(offset, data, reply) => {
                let done = file
                    .write_all_at(&data, offset)
                    .and_then(|()| file.sync_data());
                drop(reply.send(done));
            }
            Op::Sync(reply) => drop(reply.send(file.sync_data())),
            Op::SetLen(len, reply) => drop(reply.send(file.set_len(len))),
        }
    }
}

fn read_at(file: &fs::File, offset: u64, len: usize) -> io::Result<Bytes> {
    // The length asked for may be far beyond the end ("the rest"): do not reserve more than there is.
    let there = file.metadata()?.len().saturating_sub(offset);
    let len = usize::try_from(there).map_or(len, |there| there.min(len));
    let mut data = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut data[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    data.truncate(filled);
    Ok(data.into())
}

impl File for RealFile {
    async fn len(&self) -> io::Result<u64> {
        self.ask(Op::Len).await
    }
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.ask(|reply| Op::Read(offset, len, reply)).await
    }
    async fn write_at(&self, offset: u64, data: Bytes) -> io::Result<()> {
        self.ask(|reply| Op::Write(offset, data, reply)).await
    }
    async fn write_sync(&self, offset: u64, data: Bytes) -> io::Result<()> {
        self.ask(|reply| Op::WriteSync(offset, data, reply)).await
    }
    async fn sync_data(&self) -> io::Result<()> {
        self.ask(Op::Sync).await
    }
    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.ask(|reply| Op::SetLen(len, reply)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_keep_what_is_written_and_names_sort() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk;
        let sub = dir.path().join("a/b");
        disk.create_dir_all(&sub).await.unwrap();
        let path = sub.join("two");
        let file = disk.open(&path, Open::CreateNew).await.unwrap();
        file.write_at(0, Bytes::from_static(b"hello"))
            .await
            .unwrap();
        file.write_sync(5, Bytes::from_static(b" world"))
            .await
            .unwrap();
        file.sync_data().await.unwrap();
        assert_eq!(file.len().await.unwrap(), 11);
        assert_eq!(file.read_at(6, 1 << 40).await.unwrap(), "world");
        assert_eq!(file.read_at(100, 5).await.unwrap(), "");
        file.set_len(5).await.unwrap();

        let again = disk.open(&path, Open::CreateNew).await.unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        let none = disk.open(&sub.join("none"), Open::ReadWrite).await;
        assert_eq!(none.unwrap_err().kind(), io::ErrorKind::NotFound);

        disk.rename(&path, &sub.join("three")).await.unwrap();
        disk.open(&sub.join("one"), Open::CreateNew).await.unwrap();
        disk.sync_dir(&sub).await.unwrap();
        assert_eq!(disk.list(&sub).await.unwrap(), ["one", "three"]);
        let read = disk.open(&sub.join("three"), Open::Read).await.unwrap();
        assert_eq!(read.read_at(0, 99).await.unwrap(), "hello");
        assert!(read.write_at(0, Bytes::from_static(b"x")).await.is_err());
        disk.remove(&sub.join("one")).await.unwrap();
        assert!(!disk.exists(&sub.join("one")).await.unwrap());
        assert!(disk.exists(&sub.join("three")).await.unwrap());
    }

    #[tokio::test]
    async fn what_is_made_is_nobody_elses_to_read() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (sub, file) = (dir.path().join("a/b"), dir.path().join("a/b/f"));
        RealDisk.create_dir_all(&sub).await.unwrap();
        RealDisk.open(&file, Open::CreateNew).await.unwrap();
        RealDisk.lock(&sub.join("LOCK")).await.unwrap();
        for path in [dir.path().join("a"), sub.clone(), file, sub.join("LOCK")] {
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{path:?} is {mode:o}");
        }
    }

    #[tokio::test]
    async fn operations_of_one_handle_keep_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = RealDisk.open(&path, Open::CreateNew).await.unwrap();
        // More than the queue holds, all first polled in order by join_all.
        let count = FILE_QUEUE_OPS * 3;
        let writes = (0..count).map(|i| file.write_at(0, Bytes::from(i.to_string().into_bytes())));
        for done in futures::future::join_all(writes).await {
            done.unwrap();
        }
        let last = (count - 1).to_string();
        assert_eq!(file.read_at(0, last.len()).await.unwrap(), last);
    }

    #[tokio::test]
    async fn a_reader_sees_what_was_written_and_outlives_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert_eq!(
            RealDisk.reader(&path).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        let file = RealDisk.open(&path, Open::CreateNew).await.unwrap();
        let reader = RealDisk.reader(&path).unwrap();
        file.write_at(0, Bytes::from_static(b"hello"))
            .await
            .unwrap();
        let mut buf = [0; 4];
        reader.read_exact_at(1, &mut buf).unwrap();
        assert_eq!(&buf, b"ello");
        let short = reader.read_exact_at(2, &mut buf).unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
        RealDisk.remove(&path).await.unwrap();
        drop(file);
        reader.read_exact_at(0, &mut buf).unwrap();
        assert_eq!(&buf, b"hell");
    }

    #[tokio::test]
    async fn space_is_that_of_the_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let space = RealDisk.space(dir.path()).await.unwrap();
        assert!(space.total > 0 && space.free <= space.total, "{space:?}");
        let none = RealDisk.space(&dir.path().join("none")).await;
        assert_eq!(none.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_lock_is_exclusive_until_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let held = RealDisk.lock(&path).await.unwrap();
        let second = RealDisk.lock(&path).await.unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
        drop(held);
        RealDisk.lock(&path).await.unwrap();
    }
}
