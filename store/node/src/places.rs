//! Where the persisted rows are: `member/rows` or `member/rows-2`, whichever the file `member/rows.current` names (the first
//! where there is no such file). The other one is where a state of another member is received, named with its offer in
//! `member/rows.staging`, until it becomes the current one by the rename of one file (FORMAT.md).
//! Promise: at each moment a power cut leaves either the old or the new one current and whole; what is in the other one
//! is that offer's, or nobody's and taken away.

use std::io;
use std::path::{Path, PathBuf};

use barque_store_env::{Disk, File, Open};
use bytes::Bytes;

const PLACES: [&str; 2] = ["rows", "rows-2"];
const CURRENT: &str = "rows.current";
const STAGING: &str = "rows.staging";
const FORMAT: &str = "barque-rows 1";

/// The directories of one member.
pub(crate) struct Places<D> {
    disk: D,
    dir: PathBuf,
    /// Of `PLACES`.
    current: usize,
}

fn failed<'a>(what: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> String + 'a {
    move |cause| format!("cannot {what} {}: {cause}", path.display())
}

impl<D: Disk> Places<D> {
    /// Reads which is the current one, and takes away what is in the other one unless it is being received.
    pub(crate) async fn open(disk: D, dir: &Path) -> Result<Self, String> {
        let mut places = Places {
            disk,
            dir: dir.to_owned(),
            current: 0,
        };
        if let Some(name) = places.read(CURRENT).await? {
            let known = PLACES.iter().position(|place| *place == name);
            places.current = known.ok_or_else(|| damaged(&dir.join(CURRENT)))?;
        }
        // A label that cannot be read is of no use, and no loss.
        let label = places.read(STAGING).await.unwrap_or_default();
        let other = places.other_name();
        if !label.is_some_and(|label| label.starts_with(&format!("{other} "))) {
            places.discard().await?;
        }
        Ok(places)
    }

    pub(crate) fn current(&self) -> PathBuf {
        self.dir.join(PLACES[self.current])
    }
    fn other_name(&self) -> &'static str {
        PLACES[1 - self.current]
    }
    pub(crate) fn other(&self) -> PathBuf {
        self.dir.join(self.other_name())
    }

    /// Makes the other directory that of this offer: keeps what is there of the same one. True: something may be.
    pub(crate) async fn stage(&self, offer: &str) -> Result<bool, String> {
        let label = format!("{} {offer}", self.other_name());
        let there = self.read(STAGING).await.unwrap_or_default();
        if there.as_ref() == Some(&label) {
            return Ok(true);
        }
        self.discard().await?;
        self.write(STAGING, &label).await?;
        Ok(false)
    }

    /// Makes the other directory the current one, durably.
    pub(crate) async fn swap(&mut self) -> Result<(), String> {
        self.write(CURRENT, self.other_name()).await?;
        self.current = 1 - self.current;
        Ok(())
    }

    /// Takes away what is in the other directory.
    pub(crate) async fn discard(&self) -> Result<(), String> {
        // The label first: what is left without it is nobody's.
        let label = self.dir.join(STAGING);
        if self.exists(&label).await? {
            let removed = self.disk.remove(&label).await;
            removed.map_err(failed("remove", &label))?;
            self.sync().await?;
        }
        let other = self.other();
        if self.exists(&other).await? {
            clear(&self.disk, other).await?;
        }
        Ok(())
    }

    async fn exists(&self, path: &Path) -> Result<bool, String> {
        let there = self.disk.exists(path).await;
        there.map_err(failed("look for", path))
    }
    async fn sync(&self) -> Result<(), String> {
        let synced = self.disk.sync_dir(&self.dir).await;
        synced.map_err(failed("sync", &self.dir))
    }

    /// The file's word, or nothing when there is no such file.
    async fn read(&self, name: &str) -> Result<Option<String>, String> {
        let path = self.dir.join(name);
        if !self.exists(&path).await? {
            return Ok(None);
        }
        let opened = self.disk.open(&path, Open::Read).await;
        let file = opened.map_err(failed("open", &path))?;
        let bytes = file.read_at(0, 4096).await;
        let bytes = bytes.map_err(failed("read", &path))?;
        match parse(&String::from_utf8_lossy(&bytes)) {
            Some(word) => Ok(Some(word)),
            None => Err(damaged(&path)),
        }
    }

    /// Written beside, synced, renamed, and the name synced.
    async fn write(&self, name: &str, word: &str) -> Result<(), String> {
        let (path, new) = (self.dir.join(name), self.dir.join(format!("{name}.new")));
        if self.exists(&new).await? {
            let removed = self.disk.remove(&new).await;
            removed.map_err(failed("remove", &new))?;
        }
        let file = self.disk.open(&new, Open::CreateNew).await;
        let file = file.map_err(failed("create", &new))?;
        let written = file.write_sync(0, Bytes::from(text(word))).await;
        written.map_err(failed("write", &new))?;
        let renamed = self.disk.rename(&new, &path).await;
        renamed.map_err(failed("rename", &new))?;
        self.sync().await
    }
}

/// Takes all files in the directory away, those below it as well. The directories stay, empty.
async fn clear<D: Disk>(disk: &D, dir: PathBuf) -> Result<(), String> {
    let mut left = vec![dir];
    while let Some(dir) = left.pop() {
        let names = disk.list(&dir).await.map_err(failed("list", &dir))?;
        for name in &names {
            let path = dir.join(name);
            match disk.remove(&path).await {
                Ok(()) => {}
                Err(cause) if cause.kind() == io::ErrorKind::IsADirectory => left.push(path),
                Err(cause) => return Err(failed("remove", &path)(cause)),
            }
        }
        if !names.is_empty() {
            disk.sync_dir(&dir).await.map_err(failed("sync", &dir))?;
        }
    }
    Ok(())
}

fn text(word: &str) -> String {
    let text = format!("{FORMAT}\n{word}\n");
    let checksum = crc32c::crc32c(text.as_bytes());
    format!("{text}checksum {checksum:08x}\n")
}

fn parse(found: &str) -> Option<String> {
    let word = found.strip_prefix(FORMAT)?.strip_prefix('\n')?;
    let word = word.lines().next()?;
    // The whole is compared: a cut or changed file is none.
    (text(word) == found).then(|| word.to_owned())
}

fn damaged(path: &Path) -> String {
    format!(
        "{} is damaged (from offset 0 on), or not one this version can read: which directory has the state cannot be told; \
         restore it from a backup, or remove the member and add it again",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_or_cut_file_is_noticed() {
        let good = text("rows-2");
        assert_eq!(parse(&good).as_deref(), Some("rows-2"));
        for cut in 0..good.len() {
            assert_eq!(parse(&good[..cut]), None, "cut at {cut}");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone().into_bytes();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&String::from_utf8_lossy(&bad)), None, "bit {bit}");
        }
    }
}
