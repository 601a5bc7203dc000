//! Where the persisted rows are: `member/rows` or `member/rows-2`, whichever the file `member/rows.current` names (the first
//! where there is no such file). The other one is where a state of another member is received, named with its offer in
//! `member/rows.staging`, until it becomes the current one by the rename of one file (FORMAT.md).
//! Promise: at each moment a power cut leaves either the old or the new one current and whole; what is in the other one
//! is that offer's, or nobody's and taken away.

use std::io;
use std::path::{Path, PathBuf};

use barque_store_env::Disk;

use crate::slip::{self, failed};
use crate::trouble::Trouble;

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

impl<D: Disk> Places<D> {
    /// Reads which is the current one, and takes away what is in the other one unless it is being received. `anew`: what the
    /// current one holds is not to be used, so that it does not matter when it cannot be told which that is.
    pub(crate) async fn open(disk: D, dir: &Path, anew: bool) -> Result<Self, Trouble> {
        let mut places = Places {
            disk,
            dir: dir.to_owned(),
            current: 0,
        };
        match places.read(CURRENT).await {
            Ok(None) => {}
            Ok(Some(name)) => {
                let known = PLACES.iter().position(|place| *place == name);
                places.current = known.ok_or_else(|| unknown(&dir.join(CURRENT)))?;
            }
            Err(Trouble::Damage(_)) if anew => {}
            Err(trouble) => return Err(trouble),
        }
        // A label that cannot be read is of no use, and no loss.
        let label = places.read(STAGING).await.ok().flatten();
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
        let there = self.read(STAGING).await.ok().flatten();
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

    async fn read(&self, name: &str) -> Result<Option<String>, Trouble> {
        slip::read(&self.disk, &self.dir.join(name), FORMAT).await
    }
    async fn write(&self, name: &str, word: &str) -> Result<(), String> {
        slip::write(&self.disk, &self.dir, name, FORMAT, word).await
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

fn unknown(path: &Path) -> String {
    format!(
        "{} names no place that this version knows: upgrade it",
        path.display()
    )
}
