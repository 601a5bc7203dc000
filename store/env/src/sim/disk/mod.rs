//! The simulated disk: operations that take time, stall, fail and are cut short by a crash, over the tree in `fs`.
//! Promise: operations of one handle are carried out in the order they were first polled, also when their caller goes
//! away; a write in progress when the process dies leaves a prefix of itself in the file.
//! Not here: what survives a power loss (`fs` decides), how programs reach it (`handles`).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;

use super::NodeId;
use super::fs::{Fs, Inode};
use super::node::Death;
use super::rng::Rng;
use super::world::{Event, World, nanos};
use crate::Space;

mod handles;

pub use handles::{SimDisk, SimFile, SimLock};

/// How long operations take: between the two, at random, each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskProfile {
    /// Reading or writing one piece in the page cache.
    pub access: (Duration, Duration),
    /// fdatasync, directory sync.
    pub sync: (Duration, Duration),
    /// Opening, renaming, removing, listing.
    pub names: (Duration, Duration),
}

impl Default for DiskProfile {
    /// A datacentre SSD.
    fn default() -> Self {
        let us = Duration::from_micros;
        DiskProfile {
            access: (us(2), us(20)),
            sync: (us(80), us(1_500)),
            names: (us(5), us(50)),
        }
    }
}

/// A disk nobody has set: 1 TiB, half of it free.
const ROOMY: Space = Space {
    free: 1 << 39,
    total: 1 << 40,
};

/// A kind of operation, for planting errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskOp {
    Read,
    Write,
    /// fdatasync and directory syncs.
    Sync,
    /// Directory syncs alone.
    SyncDir,
    /// Opening, listing, removing, renaming.
    Names,
    /// Renames alone.
    Rename,
}

impl DiskOp {
    /// Whether a fault planted on this kind hits `op`.
    fn covers(self, op: DiskOp) -> bool {
        self == op
            || matches!(
                (self, op),
                (DiskOp::Sync, DiskOp::SyncDir) | (DiskOp::Names, DiskOp::Rename)
            )
    }
}

/// An error planted in a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskFault {
    pub on: DiskOp,
    /// So many more operations of the kind succeed first.
    pub after: u64,
    pub error: io::ErrorKind,
}

/// One open file of the whole world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Handle(u64);
type OpId = u64;

enum Kind {
    Len,
    Read(u64, usize),
    Write(u64, Bytes),
    WriteSync(u64, Bytes),
    Sync,
    SetLen(u64),
}

#[derive(Debug)]
enum Value {
    Unit,
    Number(u64),
    Data(Bytes),
}

struct Running {
    op: OpId,
    kind: Kind,
    /// The page cache has it; only the sync is missing.
    accessed: bool,
}

struct OpenFile {
    inode: Inode,
    /// As it was opened; a rename does not change it.
    path: PathBuf,
    writable: bool,
    /// Its `SimFile` is still there.
    held: bool,
    running: Option<Running>,
    waiting: VecDeque<(OpId, Kind)>,
}

struct Waiting {
    waker: Option<Waker>,
    result: Option<io::Result<Value>>,
}

/// Everything a machine's disk is.
#[derive(Default)]
pub(super) struct DiskState {
    pub profile: DiskProfile,
    pub stalled_until: u64,
    /// Files with this text in their path hang until then.
    pub hanging: Option<(String, u64)>,
    pub fault: Option<DiskFault>,
    /// Operations that a planted fault failed.
    pub failures: u64,
    /// What `space` tells; nothing is taken from it by writing.
    pub space: Option<Space>,
    fs: Fs,
    open: BTreeMap<Handle, OpenFile>,
    /// Results on their way to whoever asked. An operation whose caller went away has none.
    answers: BTreeMap<OpId, Waiting>,
    /// Which lock call holds the file.
    locks: BTreeMap<PathBuf, u64>,
    made: u64,
}

impl DiskState {
    fn fails(&mut self, op: DiskOp) -> io::Result<()> {
        match &mut self.fault {
            Some(fault) if fault.on.covers(op) => {
                if fault.after == 0 {
                    self.failures += 1;
                    return Err(io::Error::new(fault.error, "planted disk error"));
                }
                fault.after -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Until when operations on this file complete no more.
    fn held_until(&self, path: &Path) -> u64 {
        let hanging = self.hanging.as_ref();
        let here = hanging.filter(|(text, _)| path.to_string_lossy().contains(text.as_str()));
        here.map_or(0, |(_, until)| *until).max(self.stalled_until)
    }

    /// Flips a bit of a stored byte, of any file with this text in its path.
    pub fn flip(&mut self, rng: &mut Rng, within: &str) -> Option<(PathBuf, u64)> {
        self.fs.flip(rng, within)
    }

    /// An empty file system, as of a new machine.
    pub fn wipe(&mut self) {
        assert!(self.open.is_empty(), "a disk is not wiped under its files");
        self.fs = Fs::default();
    }

    fn number(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    fn answer(&mut self, op: OpId, result: io::Result<Value>) {
        if let Some(waiting) = self.answers.get_mut(&op) {
            waiting.result = Some(result);
            if let Some(waker) = waiting.waker.take() {
                waker.wake();
            }
        }
    }

    /// Closes the file once nobody holds it and nothing is left to do.
    fn close_idle(&mut self, handle: Handle) {
        if let Some(file) = self.open.get(&handle)
            && !file.held
            && file.running.is_none()
            && file.waiting.is_empty()
        {
            self.open.remove(&handle);
        }
    }
}

const HANDLES_PER_NODE: u64 = 1 << 40;

impl Handle {
    fn new(node: NodeId, number: u64) -> Self {
        Handle(u64::from(node.0) * HANDLES_PER_NODE + number)
    }
    fn node(self) -> NodeId {
        NodeId((self.0 / HANDLES_PER_NODE) as u32)
    }
}

fn dead() -> io::Error {
    io::Error::other("this file was open in a process that has died")
}

impl World {
    fn disk_submit(&mut self, handle: Handle, kind: Kind) -> io::Result<OpId> {
        let disk = &mut self.node(handle.node()).disk;
        let op = disk.number();
        let file = disk.open.get_mut(&handle).ok_or_else(dead)?;
        file.waiting.push_back((op, kind));
        let idle = file.running.is_none();
        let waiting = Waiting {
            waker: None,
            result: None,
        };
        disk.answers.insert(op, waiting);
        if idle {
            self.disk_next(handle);
        }
        Ok(op)
    }

    fn disk_next(&mut self, handle: Handle) {
        let disk = &mut self.node(handle.node()).disk;
        let profile = disk.profile;
        let Some(file) = disk.open.get_mut(&handle) else {
            return;
        };
        let Some((op, kind)) = file.waiting.pop_front() else {
            disk.close_idle(handle);
            return;
        };
        let accessed = matches!(kind, Kind::Sync);
        file.running = Some(Running { op, kind, accessed });
        let time = if accessed {
            profile.sync
        } else {
            profile.access
        };
        self.disk_later(handle, time);
    }

    fn disk_later(&mut self, handle: Handle, (low, high): (Duration, Duration)) {
        let took = self.rng.between(nanos(low), nanos(high));
        self.schedule(self.now.saturating_add(took), Event::Disk(handle));
    }

    /// The running operation's present phase ends.
    pub fn disk_event(&mut self, handle: Handle) {
        let now = self.now;
        let mut rng = self.rng.clone();
        let disk = &mut self.node(handle.node()).disk;
        let profile = disk.profile;
        let file = disk.open.get(&handle);
        let until = file.map_or(0, |file| disk.held_until(&file.path));
        if until > now {
            self.schedule(until, Event::Disk(handle));
            return;
        }
        // A machine that died meanwhile has no open files any more.
        let Some(running) = disk.open.get_mut(&handle).and_then(|f| f.running.take()) else {
            return;
        };
        let inode = disk.open[&handle].inode;
        let (op, kind) = (running.op, running.kind);
        if running.accessed {
            let done = disk.fails(DiskOp::Sync);
            match done {
                Ok(()) => disk.fs.sync(inode),
                Err(_) => disk.fs.sync_failing(inode, &mut rng),
            }
            disk.answer(op, done.map(|()| Value::Unit));
        } else {
            let what = match kind {
                Kind::Len | Kind::Read(..) => DiskOp::Read,
                _ => DiskOp::Write,
            };
            let failed = disk.fails(what);
            if let (Err(_), Kind::Write(offset, data) | Kind::WriteSync(offset, data)) =
                (&failed, &kind)
            {
                // Some of it may have got there.
                let done = rng.below(data.len() as u64 + 1) as usize;
                disk.fs.write(inode, *offset, &data[..done]);
            }
            let result = failed.map(|()| match &kind {
                Kind::Len => Value::Number(disk.fs.len(inode)),
                Kind::Read(offset, len) => Value::Data(disk.fs.read(inode, *offset, *len).into()),
                Kind::Write(offset, data) | Kind::WriteSync(offset, data) => {
                    disk.fs.write(inode, *offset, data);
                    Value::Unit
                }
                Kind::SetLen(len) => {
                    disk.fs.set_len(inode, *len);
                    Value::Unit
                }
                Kind::Sync => Value::Unit,
            });
            if matches!(kind, Kind::WriteSync(..)) && result.is_ok() {
                let file = disk.open.get_mut(&handle).expect("looked up above");
                let accessed = true;
                file.running = Some(Running { op, kind, accessed });
                self.rng = rng;
                self.disk_later(handle, profile.sync);
                return;
            }
            disk.answer(op, result);
        }
        self.rng = rng;
        self.trace.note(op ^ 0xd15c_0000_0000_0000);
        self.disk_next(handle);
    }

    /// The machine's processes die; with the power, its page cache goes too.
    pub fn disk_die(&mut self, node: NodeId, death: Death) {
        let mut rng = self.rng.clone();
        let disk = &mut self.node(node).disk;
        disk.locks.clear();
        for (_, file) in std::mem::take(&mut disk.open) {
            if let Some(Running {
                kind: Kind::Write(offset, data) | Kind::WriteSync(offset, data),
                accessed: false,
                ..
            }) = &file.running
            {
                let done = rng.below(data.len() as u64 + 1) as usize;
                disk.fs.write(file.inode, *offset, &data[..done]);
            }
        }
        disk.fs.close_all();
        let ops: Vec<OpId> = disk.answers.keys().copied().collect();
        for op in ops {
            disk.answer(op, Err(dead()));
        }
        if death == Death::PowerLoss {
            disk.fs.lose_power(&mut rng);
            disk.stalled_until = 0;
            disk.hanging = None;
        }
        self.rng = rng;
    }
}
