//! A file tree that knows what a power loss would leave of it. No time, no tasks: `disk` adds those.
//! Promise: what was synced survives; of what was not, any subset of 512-byte sectors may, and any prefix of the
//! changes of names (the common file systems journal names in order, data not at all).
//! Not here: the bytes of one file (`content`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use crate::Open;

use super::rng::Rng;

mod content;

use content::Content;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Inode(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Dir,
    File(Inode),
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
        self.content(inode).len()
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
                let clean = self.files[inode].clean_sectors();
                sectors.extend(clean.map(|sector| (path, *inode, sector)));
            }
        }
        if sectors.is_empty() {
            return None;
        }
        let (path, inode, sector) = sectors[rng.below(sectors.len() as u64) as usize];
        let path = path.clone();
        let offset = self.content(inode).flip(sector, rng);
        Some((path, offset))
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
}
