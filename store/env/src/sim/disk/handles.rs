//! What programs of a machine hold of its disk: the [`Disk`], open files, locks, readers.
//! Promise: an operation is queued when it is first polled, and carried out also when its caller goes away; what a process
//! held is void once it has died.
//! Not here: what an operation does, and when (`disk`).

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use super::{DiskOp, DiskState, Handle, Kind, OpId, OpenFile, ROOMY, Value, dead};
use crate::sim::fs::Inode;
use crate::sim::world::{nanos, try_with, with};
use crate::sim::{NodeId, sleep};
use crate::{Disk, File, Open, ReadAt, Space};

/// A machine's file system.
#[derive(Clone, Debug)]
pub struct SimDisk {
    pub(in crate::sim) node: NodeId,
}

/// An open file; void once its machine's processes have died.
#[derive(Debug)]
pub struct SimFile {
    handle: Handle,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        try_with(|w| {
            let disk = &mut w.node(self.handle.node()).disk;
            if let Some(file) = disk.open.get_mut(&self.handle) {
                file.held = false;
                disk.close_idle(self.handle);
            }
        });
    }
}

/// A held lock; void once its machine's processes have died.
#[derive(Debug)]
pub struct SimLock {
    node: NodeId,
    path: PathBuf,
    number: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        try_with(|w| {
            let locks = &mut w.node(self.node).disk.locks;
            if locks.get(&self.path) == Some(&self.number) {
                locks.remove(&self.path);
            }
        });
    }
}

impl SimDisk {
    /// Carries out a change or question of names: at a random moment within the time it takes, once no stall holds it.
    async fn names<T>(
        &self,
        op: DiskOp,
        act: impl FnOnce(&mut DiskState) -> io::Result<T>,
    ) -> io::Result<T> {
        let life = with(|w| w.node(self.node).life);
        let profile = with(|w| w.node(self.node).disk.profile);
        let (low, high) = match op {
            DiskOp::Sync | DiskOp::SyncDir => profile.sync,
            _ => profile.names,
        };
        let time = with(|w| w.rng.between(nanos(low), nanos(high)));
        let before = with(|w| w.rng.below(time + 1));
        sleep(Duration::from_nanos(before)).await;
        loop {
            let left = with(|w| {
                let now = w.now;
                w.node(self.node).disk.stalled_until.saturating_sub(now)
            });
            if left == 0 {
                break;
            }
            sleep(Duration::from_nanos(left)).await;
        }
        let result = with(|w| {
            let node = w.node(self.node);
            if node.life != life {
                return Err(dead());
            }
            node.disk.fails(op)?;
            act(&mut node.disk)
        });
        sleep(Duration::from_nanos(time - before)).await;
        result
    }
}

impl Disk for SimDisk {
    type File = SimFile;
    type Lock = SimLock;

    async fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.names(DiskOp::Names, |d| d.fs.create_dir_all(dir))
            .await
    }

    async fn open(&self, path: &Path, how: Open) -> io::Result<SimFile> {
        let node = self.node;
        self.names(DiskOp::Names, |d| {
            let inode = d.fs.open(path, how)?;
            let handle = Handle::new(node, d.number());
            let file = OpenFile {
                inode,
                path: path.to_owned(),
                writable: how != Open::Read,
                held: true,
                running: None,
                waiting: VecDeque::new(),
            };
            d.open.insert(handle, file);
            Ok(SimFile { handle })
        })
        .await
    }

    async fn exists(&self, path: &Path) -> io::Result<bool> {
        self.names(DiskOp::Names, |d| Ok(d.fs.exists(path))).await
    }
    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.names(DiskOp::Names, |d| d.fs.list(dir)).await
    }
    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.names(DiskOp::Rename, |d| d.fs.rename(from, to)).await
    }
    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.names(DiskOp::Names, |d| d.fs.remove(path)).await
    }
    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.names(DiskOp::SyncDir, |d| d.fs.sync_dir(dir)).await
    }

    /// Takes no time: members ask all the while, and runs recorded before they did must stay what they were.
    async fn space(&self, _dir: &Path) -> io::Result<Space> {
        try_with(|w| w.node(self.node).disk.space.unwrap_or(ROOMY))
            .ok_or_else(|| io::Error::other("the world has ended"))
    }

    async fn lock(&self, path: &Path) -> io::Result<SimLock> {
        let node = self.node;
        self.names(DiskOp::Names, |d| {
            if !d.fs.exists(path) {
                d.fs.open(path, Open::CreateNew)?;
            }
            if d.locks.contains_key(path) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let number = d.number();
            d.locks.insert(path.to_owned(), number);
            Ok(SimLock {
                node,
                path: path.to_owned(),
                number,
            })
        })
        .await
    }

    fn reader(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        with(|w| {
            let node = w.node(self.node);
            node.disk.fails(DiskOp::Names)?;
            let inode = node.disk.fs.open(path, Open::Read)?;
            let (node, life) = (self.node, node.life);
            Ok(Arc::new(SimReader { node, life, inode }) as Arc<dyn ReadAt>)
        })
    }
}

/// Reads take no virtual time: whoever asks does not wait. A stalled disk does not hold them; planted read errors do
/// hit them. Void once the machine's processes have died.
#[derive(Debug)]
struct SimReader {
    node: NodeId,
    life: u32,
    inode: Inode,
}

impl ReadAt for SimReader {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        with(|w| {
            let node = w.node(self.node);
            if node.life != self.life {
                return Err(dead());
            }
            node.disk.fails(DiskOp::Read)?;
            let data = node.disk.fs.read(self.inode, offset, buf.len());
            if data.len() < buf.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buf.copy_from_slice(&data);
            Ok(())
        })
    }
}

/// One operation on an open file; queued when first polled.
struct Operation {
    handle: Handle,
    state: State,
}

enum State {
    New(Kind),
    Queued(OpId),
    Over,
}

impl Future for Operation {
    type Output = io::Result<Value>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let handle = self.handle;
        let op = match std::mem::replace(&mut self.state, State::Over) {
            State::Over => panic!("polled after it was ready"),
            State::Queued(op) => op,
            State::New(kind) => match with(|w| w.disk_submit(handle, kind)) {
                Ok(op) => op,
                Err(e) => return Poll::Ready(Err(e)),
            },
        };
        let waker = cx.waker().clone();
        let (out, _old) = with(|w| {
            let answers = &mut w.node(handle.node()).disk.answers;
            let waiting = answers.get_mut(&op).expect("answered once");
            match waiting.result.take() {
                Some(result) => {
                    answers.remove(&op);
                    (Some(result), None)
                }
                None => (None, waiting.waker.replace(waker)),
            }
        });
        match out {
            Some(result) => Poll::Ready(result),
            None => {
                self.state = State::Queued(op);
                Poll::Pending
            }
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if let State::Queued(op) = self.state {
            let _old = try_with(|w| w.node(self.handle.node()).disk.answers.remove(&op));
        }
    }
}

impl SimFile {
    async fn ask(&self, kind: Kind) -> io::Result<Value> {
        let changes = !matches!(kind, Kind::Len | Kind::Read(..) | Kind::Sync);
        let allowed = with(|w| {
            let open = &w.node(self.handle.node()).disk.open;
            open.get(&self.handle).is_some_and(|f| f.writable)
        });
        if changes && !allowed {
            return Err(io::Error::other("not open for writing"));
        }
        Operation {
            handle: self.handle,
            state: State::New(kind),
        }
        .await
    }
}

impl File for SimFile {
    async fn len(&self) -> io::Result<u64> {
        match self.ask(Kind::Len).await? {
            Value::Number(len) => Ok(len),
            other => unreachable!("a length was asked for, got {other:?}"),
        }
    }
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        match self.ask(Kind::Read(offset, len)).await? {
            Value::Data(data) => Ok(data),
            other => unreachable!("data was asked for, got {other:?}"),
        }
    }
    async fn write_at(&self, offset: u64, data: Bytes) -> io::Result<()> {
        self.ask(Kind::Write(offset, data)).await.map(drop)
    }
    async fn write_sync(&self, offset: u64, data: Bytes) -> io::Result<()> {
        self.ask(Kind::WriteSync(offset, data)).await.map(drop)
    }
    async fn sync_data(&self) -> io::Result<()> {
        self.ask(Kind::Sync).await.map(drop)
    }
    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.ask(Kind::SetLen(len)).await.map(drop)
    }
}
