//! A file tree that knows what a power loss would leave of it. No time, no tasks: `disk` adds those.
//! Promise: what was synced survives; of what was not, any subset of 512-byte sectors may, and any prefix of the
//! changes of names (the common file systems journal names in order, data not at all).
//! Zeros cost nothing: a sector that was never written, or only with zeros, is not stored.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Open;

use super::rng::Rng;

const SECTOR: u64 = 512;
type Sector = [u8; SECTOR as usize];
static ZEROS: [u8; 4096] = [0; 4096];

fn is_zero(data: &[u8]) -> bool {
    data.chunks(ZEROS.len()).all(|c| c == &ZEROS[..c.len()])
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Inode(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Dir,
    File(Inode),
}

/// A file's bytes, as programs see them and as the platter has them. A missing sector is zeros.
/// Invariant: sectors outside `dirty` are equal in both.
#[derive(Default)]
struct Content {
    seen: BTreeMap<u64, Arc<Sector>>,
    stored: BTreeMap<u64, Arc<Sector>>,
    dirty: BTreeSet<u64>,
    len: u64,
    stored_len: u64,
}

impl Content {
    fn write(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        self.len = self.len.max(end);
        let zero = is_zero(data);
        let mut at = offset;
        while at < end {
            let sector = at / SECTOR;
            if zero && !self.seen.contains_key(&sector) {
                // Jump to the next sector that has content to be cleared.
                let next = self.seen.range(sector..).next().map(|(s, _)| *s * SECTOR);
                at = next.unwrap_or(end);
                continue;
            }
            let stop = end.min((sector + 1) * SECTOR);
            let from = (at % SECTOR) as usize;
            let piece = &data[(at - offset) as usize..(stop - offset) as usize];
            let old = self.seen.entry(sector);
            let bytes = old.or_insert_with(|| Arc::new([0; SECTOR as usize]));
            Arc::make_mut(bytes)[from..from + piece.len()].copy_from_slice(piece);
            self.dirty.insert(sector);
            at = stop;
        }
    }

    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = self.len.min(offset.saturating_add(len as u64));
        if offset >= end {
            return Vec::new();
        }
        let mut out = vec![0; (end - offset) as usize];
        for (sector, bytes) in self.seen.range(offset / SECTOR..end.div_ceil(SECTOR)) {
            let (first, last) = (sector * SECTOR, (sector + 1) * SECTOR);
            let (from, to) = (first.max(offset), last.min(end));
            out[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - first) as usize..(to - first) as usize]);
        }
        out
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            let gone = self.seen.split_off(&len.div_ceil(SECTOR));
            self.dirty.extend(gone.into_keys());
            if !len.is_multiple_of(SECTOR)
                && let Some(bytes) = self.seen.get_mut(&(len / SECTOR))
            {
                Arc::make_mut(bytes)[(len % SECTOR) as usize..].fill(0);
                self.dirty.insert(len / SECTOR);
            }
        }
        self.len = len;
    }

    fn store(&mut self, sector: u64) {
        match self.seen.get(&sector) {
            Some(bytes) => self.stored.insert(sector, bytes.clone()),
            None => self.stored.remove(&sector),
        };
    }

    fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            self.store(sector);
        }
        self.stored_len = self.len;
    }

    /// A sync that failed: some of it reached the platter, and the kernel calls the pages clean all the same.
    fn sync_failing(&mut self, rng: &mut Rng) {
        for sector in std::mem::take(&mut self.dirty) {
            if rng.chance(0.5) {
                self.store(sector);
            }
        }
    }

    fn lose_power(&mut self, rng: &mut Rng) {
        // Different drives, different habits: nothing, everything, a prefix, or a scatter of the unsynced survives.
        let habit = rng.below(4);
        let dirty = std::mem::take(&mut self.dirty);
        let cut = rng.below(dirty.len() as u64 + 1);
        for (n, sector) in dirty.into_iter().enumerate() {
            let survives = match habit {
                0 => false,
                1 => true,
                2 => (n as u64) < cut,
                _ => rng.chance(0.5),
            };
            if survives {
                self.store(sector);
            }
        }
        if self.stored_len != self.len && habit != 0 && rng.chance(0.5) {
            self.stored_len = self.len;
        }
        // A shorter file has no sectors behind its end.
        let len = self.stored_len;
        self.seen = std::mem::take(&mut self.stored);
        self.len = u64::MAX;
        self.set_len(len);
        self.dirty.clear();
        self.stored = self.seen.clone();
    }
}

/// A change of names that no directory sync has covered yet.
#[derive(Clone, Debug)]
enum Change {
    Link(PathBuf, Entry),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, Entry),
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

impl Change {
    fn is_in(&self, dir: &Path) -> bool {
        match self {
            Change::Link(path, _) | Change::Unlink(path) => parent(path) == dir,
            Change::Rename(from, to, _) => parent(from) == dir || parent(to) == dir,
        }
    }
    fn apply(&self, names: &mut BTreeMap<PathBuf, Entry>) {
        match self {
            Change::Link(path, entry) => drop(names.insert(path.clone(), *entry)),
            Change::Unlink(path) => drop(names.remove(path)),
            Change::Rename(from, to, entry) => {
                names.remove(from);
                names.insert(to.clone(), *entry);
            }
        }
    }
}

/// One machine's file tree.
/// Invariant: `stored` with all of `pending` applied gives `names`.
#[derive(Default)]
pub(super) struct Fs {
    names: BTreeMap<PathBuf, Entry>,
    stored: BTreeMap<PathBuf, Entry>,
    pending: Vec<Change>,
    files: BTreeMap<Inode, Content>,
    made: u64,
}

fn error(kind: io::ErrorKind, path: &Path) -> io::Error {
    io::Error::new(kind, format!("{}: {kind}", path.display()))
}

impl Fs {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    fn is_dir(&self, path: &Path) -> bool {
        path == Path::new("") || path == Path::new("/") || self.names.get(path) == Some(&Entry::Dir)
    }

    pub fn create_dir_all(&mut self, dir: &Path) -> io::Result<()> {
        if self.is_dir(dir) {
            return Ok(());
        }
        if self.names.contains_key(dir) {
            return Err(error(io::ErrorKind::NotADirectory, dir));
        }
        self.create_dir_all(parent(dir))?;
        self.change(Change::Link(dir.to_owned(), Entry::Dir));
        Ok(())
    }

    pub fn open(&mut self, path: &Path, how: Open) -> io::Result<Inode> {
        match (self.names.get(path), how) {
            (Some(Entry::Dir), _) => Err(error(io::ErrorKind::IsADirectory, path)),
            (Some(Entry::File(_)), Open::CreateNew) => {
                Err(error(io::ErrorKind::AlreadyExists, path))
            }
            (Some(Entry::File(inode)), _) => Ok(*inode),
            (None, Open::CreateNew) => {
                if !self.is_dir(parent(path)) {
                    return Err(error(io::ErrorKind::NotFound, parent(path)));
                }
                self.made += 1;
                let inode = Inode(self.made);
                self.files.insert(inode, Content::default());
                self.change(Change::Link(path.to_owned(), Entry::File(inode)));
                Ok(inode)
            }
            (None, _) => Err(error(io::ErrorKind::NotFound, path)),
        }
    }

    pub fn exists(&self, path: &Path) -> bool {
        self.is_dir(path) || self.names.contains_key(path)
    }

    pub fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if !self.is_dir(dir) {
            return Err(error(io::ErrorKind::NotFound, dir));
        }
        let children = self.names.keys().filter(|p| parent(p) == dir);
        let names = children.filter_map(|p| p.file_name());
        let mut names: Vec<String> = names.map(|n| n.to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        match self.names.get(from).copied() {
            None => Err(error(io::ErrorKind::NotFound, from)),
            Some(Entry::Dir) => Err(error(io::ErrorKind::Unsupported, from)),
            Some(_) if !self.is_dir(parent(to)) => Err(error(io::ErrorKind::NotFound, parent(to))),
            Some(_) if self.is_dir(to) => Err(error(io::ErrorKind::IsADirectory, to)),
            Some(file) => {
                self.change(Change::Rename(from.to_owned(), to.to_owned(), file));
                Ok(())
            }
        }
    }

    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        match self.names.get(path) {
            None => Err(error(io::ErrorKind::NotFound, path)),
            Some(Entry::Dir) => Err(error(io::ErrorKind::IsADirectory, path)),
            Some(Entry::File(_)) => {
                self.change(Change::Unlink(path.to_owned()));
                Ok(())
            }
        }
    }

    pub fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        if !self.is_dir(dir) {
            return Err(error(io::ErrorKind::NotFound, dir));
        }
        let (now, later) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|change| change.is_in(dir));
        self.pending = later;
        let now: Vec<Change> = now;
        for change in now {
            change.apply(&mut self.stored);
        }
        Ok(())
    }

    fn content(&mut self, inode: Inode) -> &mut Content {
        let file = self.files.get_mut(&inode);
        file.expect("open files keep their inode")
    }
    pub fn len(&mut self, inode: Inode) -> u64 {
        self.content(inode).len
    }
    pub fn read(&mut self, inode: Inode, offset: u64, len: usize) -> Vec<u8> {
        self.content(inode).read(offset, len)
    }
    pub fn write(&mut self, inode: Inode, offset: u64, data: &[u8]) {
        self.content(inode).write(offset, data);
    }
    pub fn set_len(&mut self, inode: Inode, len: u64) {
        self.content(inode).set_len(len);
    }
    pub fn sync(&mut self, inode: Inode) {
        self.content(inode).sync();
    }
    pub fn sync_failing(&mut self, inode: Inode, rng: &mut Rng) {
        self.content(inode).sync_failing(rng);
    }

    /// Flips a bit of a byte that stands on the platter, in a random file with this text in its path; says where.
    pub fn flip(&mut self, rng: &mut Rng, within: &str) -> Option<(PathBuf, u64)> {
        let mut sectors: Vec<(&PathBuf, Inode, u64)> = Vec::new();
        for (path, entry) in &self.names {
            let Entry::File(inode) = entry else { continue };
            if path.to_string_lossy().contains(within) {
                let file = &self.files[inode];
                let clean = file.stored.keys().filter(|s| !file.dirty.contains(s));
                sectors.extend(clean.map(|sector| (path, *inode, *sector)));
            }
        }
        if sectors.is_empty() {
            return None;
        }
        let (path, inode, sector) = sectors[rng.below(sectors.len() as u64) as usize];
        let path = path.clone();
        let file = self.content(inode);
        let within_file = (file.len - sector * SECTOR).min(SECTOR);
        let byte = rng.below(within_file);
        let bit = 1 << rng.below(8);
        for side in [&mut file.seen, &mut file.stored] {
            let bytes = side
                .entry(sector)
                .or_insert_with(|| Arc::new([0; SECTOR as usize]));
            Arc::make_mut(bytes)[byte as usize] ^= bit;
        }
        Some((path, sector * SECTOR + byte))
    }

    /// Nothing is open any more: files without a name go.
    pub fn close_all(&mut self) {
        let named: BTreeSet<Inode> = self
            .names
            .values()
            .chain(self.stored.values())
            .filter_map(|entry| match entry {
                Entry::File(inode) => Some(*inode),
                Entry::Dir => None,
            })
            .collect();
        self.files.retain(|inode, _| named.contains(inode));
    }

    pub fn lose_power(&mut self, rng: &mut Rng) {
        let survive = rng.below(self.pending.len() as u64 + 1) as usize;
        for change in self.pending.drain(..).take(survive) {
            change.apply(&mut self.stored);
        }
        // What hangs in a directory that was lost is lost with it. Parents sort before their children.
        let mut names: BTreeMap<PathBuf, Entry> = BTreeMap::new();
        for (path, entry) in &self.stored {
            let dir = parent(path);
            let rooted = dir == Path::new("") || dir == Path::new("/");
            if rooted || names.get(dir) == Some(&Entry::Dir) {
                names.insert(path.clone(), *entry);
            }
        }
        self.stored = names.clone();
        self.names = names;
        for file in self.files.values_mut() {
            file.lose_power(rng);
        }
        self.close_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(path: &str) -> &Path {
        Path::new(path)
    }

    #[test]
    fn content_is_what_a_plain_vector_would_be() {
        let mut rng = Rng::new(1);
        for _ in 0..50 {
            let (mut file, mut model) = (Content::default(), Vec::<u8>::new());
            for _ in 0..60 {
                let offset = rng.below(3_000) as usize;
                match rng.below(5) {
                    0 => {
                        let len = rng.below(4_000) as usize;
                        file.set_len(len as u64);
                        model.resize(len, 0);
                    }
                    1 => file.sync(),
                    _ => {
                        let fill = if rng.chance(0.3) { 0 } else { rng.next() as u8 };
                        let data = vec![fill; rng.below(2_000) as usize];
                        file.write(offset as u64, &data);
                        model.resize(model.len().max(offset + data.len()), 0);
                        model[offset..offset + data.len()].copy_from_slice(&data);
                    }
                }
                assert_eq!(file.len as usize, model.len());
                assert_eq!(file.read(0, usize::MAX), model);
            }
            file.sync();
            file.lose_power(&mut rng);
            assert_eq!(file.read(0, usize::MAX), model, "synced bytes survive");
        }
    }

    #[test]
    fn unsynced_sectors_survive_in_parts_only_and_never_torn_inside() {
        let (mut lost, mut kept) = (0, 0);
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut file = Content::default();
            file.write(0, &[1; 2_048]);
            file.sync();
            file.write(0, &[2; 2_048]);
            file.lose_power(&mut rng);
            let bytes = file.read(0, 4_096);
            assert_eq!(bytes.len(), 2_048);
            for sector in bytes.chunks(SECTOR as usize) {
                assert!(sector.iter().all(|b| *b == sector[0]));
                match sector[0] {
                    1 => lost += 1,
                    2 => kept += 1,
                    other => panic!("byte {other} was never written"),
                }
            }
        }
        assert!(lost > 100 && kept > 100, "{lost} lost, {kept} kept");
    }

    #[test]
    fn names_need_their_directory_synced() {
        let (mut there, mut gone) = (0, 0);
        for seed in 0..100 {
            let mut rng = Rng::new(seed);
            let mut fs = Fs::default();
            fs.create_dir_all(p("/d/e")).unwrap();
            fs.sync_dir(p("/")).unwrap();
            fs.sync_dir(p("/d")).unwrap();
            let a = fs.open(p("/d/e/a"), Open::CreateNew).unwrap();
            fs.write(a, 0, b"a");
            fs.sync(a);
            fs.sync_dir(p("/d/e")).unwrap();
            fs.open(p("/d/e/b"), Open::CreateNew).unwrap();
            fs.rename(p("/d/e/a"), p("/d/e/c")).unwrap();
            fs.lose_power(&mut rng);
            let names = fs.list(p("/d/e")).unwrap();
            // Any prefix of: make b, rename a to c. The synced file is there under exactly one name.
            let allowed: [&[&str]; 3] = [&["a"], &["a", "b"], &["b", "c"]];
            assert!(allowed.iter().any(|a| names == *a), "{names:?}");
            if names.len() == 1 {
                gone += 1
            } else {
                there += 1
            }
        }
        assert!(there > 10 && gone > 10);
    }

    #[test]
    fn a_lost_directory_takes_its_files_along() {
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let mut fs = Fs::default();
            fs.create_dir_all(p("/d")).unwrap();
            let f = fs.open(p("/d/f"), Open::CreateNew).unwrap();
            fs.write(f, 0, b"x");
            fs.sync(f);
            fs.sync_dir(p("/d")).unwrap(); // but never "/"
            fs.lose_power(&mut rng);
            assert_eq!(fs.exists(p("/d/f")), fs.exists(p("/d")));
        }
    }

    #[test]
    fn a_failed_sync_cannot_be_repaired_by_another() {
        let mut rng = Rng::new(3);
        let mut file = Content::default();
        file.set_len(SECTOR * 64);
        file.sync();
        file.write(0, &[9; 64 * SECTOR as usize]);
        file.sync_failing(&mut rng);
        file.sync();
        file.lose_power(&mut rng);
        let survived = file.read(0, usize::MAX).iter().filter(|b| **b == 9).count();
        assert!(
            survived < 64 * SECTOR as usize,
            "the pages were clean but not stored"
        );
    }
}
