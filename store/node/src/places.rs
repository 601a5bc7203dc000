//! Where the persisted rows are: `member/rows` or `member/rows-2`, whichever the file `member/rows.current` names (the first
//! where there is no such file). The other one is where a state of another member is received, named with its offer in
//! `member/rows.staging`, until it becomes the current one by the rename of one file (FORMAT.md).
//! Promise: at each moment a power cut leaves either the old or the new one current and whole; what is in the other one
//! is that offer's, or nobody's and taken away, once nobody reads it any more.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use barque_store_engine::Reader;
use barque_store_env::Disk;

use crate::clearing::Clearing;
use crate::slip::{self, failed};
use crate::trouble::Trouble;

const PLACES: [&str; 2] = ["rows", "rows-2"];
const CURRENT: &str = "rows.current";
const STAGING: &str = "rows.staging";
const FORMAT: &str = "barque-rows 1";

/// The directories of one member, whose lock is held.
pub(crate) struct Places<D: Disk> {
    disk: D,
    dir: PathBuf,
    /// Of `PLACES`.
    current: usize,
    left: Option<Left<D>>,
}

/// The state that was the current one, in the other directory.
struct Left<D: Disk> {
    /// What everybody shares who reads it: ranges, images that are being sent.
    readers: Weak<dyn Reader>,
    clearing: Option<Clearing<D>>,
}

/// What taking away a state that was the current one has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// Somebody reads it still.
    Read,
    /// There is more to take away.
    More,
    Done,
}

impl<D: Disk> Places<D> {
    /// Reads which is the current one, and takes away what is in the other one unless it is being received. `anew`: what the
    /// current one holds is not to be used, so that it does not matter when it cannot be told which that is.
    pub(crate) async fn open(disk: D, dir: &Path, anew: bool) -> Result<Self, Trouble> {
        let mut places = Places {
            disk,
            dir: dir.to_owned(),
            current: 0,
            left: None,
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
    /// Whether a state is being received in the other one.
    pub(crate) async fn is_staged(&self) -> Result<bool, String> {
        self.exists(&self.dir.join(STAGING)).await
    }
    fn other_name(&self) -> &'static str {
        PLACES[1 - self.current]
    }
    pub(crate) fn other(&self) -> PathBuf {
        self.dir.join(self.other_name())
    }

    /// Makes the other directory that of this offer: keeps what is there of the same one. True: something may be. Not while the
    /// state before the present one [is read](Places::is_read) there.
    pub(crate) async fn stage(&mut self, offer: &str) -> Result<bool, String> {
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

    /// What became the other directory's by the exchange is read by whoever holds `readers` still, and is to go after that.
    pub(crate) async fn leave(&mut self, readers: &Arc<dyn Reader>) -> Result<(), String> {
        self.left = Some(Left {
            readers: Arc::downgrade(readers),
            clearing: None,
        });
        self.unlabel().await
    }

    /// Whether somebody still reads the state that was the current one before.
    pub(crate) fn is_read(&self) -> bool {
        let left = self.left.as_ref();
        left.is_some_and(|left| left.readers.strong_count() > 0)
    }

    /// Takes away a little of the state that was the current one before.
    pub(crate) async fn clear_on(&mut self) -> Result<Removal, String> {
        if self.is_read() {
            return Ok(Removal::Read);
        }
        let other = self.other();
        let Some(left) = &mut self.left else {
            return Ok(Removal::Done);
        };
        let clearing = left.clearing.get_or_insert_with(|| Clearing::of(other));
        if clearing.step(&self.disk).await? {
            return Ok(Removal::More);
        }
        self.left = None;
        Ok(Removal::Done)
    }

    /// The index up to which the state goes that is being received in the other one, or was.
    pub(crate) async fn staged_index(&self) -> Option<u64> {
        let label = self.read(STAGING).await.ok().flatten()?;
        label.rsplit(' ').next()?.parse().ok()
    }

    /// Takes away what is in the current one. It is not to be used, and that is written down durably.
    pub(crate) async fn empty(&mut self) -> Result<(), String> {
        let mut clearing = Clearing::of(self.current());
        while clearing.step(&self.disk).await? {}
        Ok(())
    }

    /// Takes away what is in the other directory, which nobody reads.
    pub(crate) async fn discard(&mut self) -> Result<(), String> {
        self.unlabel().await?;
        let other = self.other();
        if self.exists(&other).await? {
            let mut clearing = Clearing::of(other);
            while clearing.step(&self.disk).await? {}
        }
        self.left = None;
        Ok(())
    }

    /// The label goes first: what is left without it is nobody's.
    async fn unlabel(&self) -> Result<(), String> {
        let label = self.dir.join(STAGING);
        if self.exists(&label).await? {
            let removed = self.disk.remove(&label).await;
            removed.map_err(failed("remove", &label))?;
            self.sync().await?;
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

fn unknown(path: &Path) -> String {
    format!(
        "{} names no place that this version knows: upgrade it",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use barque_store_engine::{self as engine, AnyEngine, Batch, Engine, Restore, RowId};
    use barque_store_env::sim::{self, NodeId, SimDisk, SimEnv};
    use bytes::Bytes;

    use super::*;

    struct Unheard;
    impl Restore for Unheard {
        fn index(&mut self, _: Bytes) -> Result<(), String> {
            Ok(())
        }
        fn row(&mut self, _: RowId, _: Bytes) -> Result<(), String> {
            Ok(())
        }
        fn freed(&mut self, _: RowId) -> Result<(), String> {
            Ok(())
        }
    }

    async fn opened(disk: &SimDisk, dir: &Path) -> AnyEngine<SimEnv> {
        let kind = engine::Kind::Segments;
        let opened = engine::open::<SimEnv>(kind, disk.clone(), dir, &mut Unheard).await;
        opened.expect("it opens").engine
    }
    fn row(main: u64) -> (RowId, Bytes) {
        let bytes = vec![main as u8; 1 << 20];
        (RowId { main, sub: 0 }, bytes.into())
    }

    /// The files went under the reads that were under way, in one go.
    #[test]
    fn a_state_that_was_exchanged_stays_until_its_last_reader_is_done_and_goes_in_steps() {
        let node = NodeId(1);
        sim::run(1, async move {
            let worked = sim::spawn_on(node, "exchange", async move {
                let (disk, dir) = (sim::disk(node), Path::new("/data/member"));
                barque_store_wal::create_dir(&disk, dir)
                    .await
                    .expect("made");
                let places = Places::open(disk.clone(), dir, false).await;
                let mut places = places.unwrap_or_else(|trouble| panic!("{trouble}"));
                let mut old = opened(&disk, &places.current()).await;
                let batch = Batch {
                    rows: (2..6).map(row).collect(),
                    ..Batch::default()
                };
                old.commit(batch).await.expect("committed");
                let (old_dir, reader) = (places.current(), old.reader());
                let image = old.images().pin().expect("no damage");

                assert_eq!(places.stage("an offer").await, Ok(false));
                let new = opened(&disk, &places.other()).await;
                places.swap().await.expect("exchanged");
                places.leave(&old.reader()).await.expect("left");
                drop(old);
                assert_eq!(places.is_staged().await, Ok(false));

                assert_eq!(places.clear_on().await, Ok(Removal::Read));
                let (id, bytes) = row(3);
                assert_eq!(reader.read(id).expect("no damage"), Some(bytes));
                drop(reader);
                assert_eq!(places.clear_on().await, Ok(Removal::Read));
                let rows = image.rows(row(2).0, 10, usize::MAX).expect("no damage");
                assert_eq!(rows, (2..6).map(row).collect::<Vec<_>>());
                drop(image);

                let mut steps = 0;
                while places.clear_on().await.expect("cleared") == Removal::More {
                    steps += 1;
                }
                assert!(steps > 4, "in {steps} steps, though it had four mebibytes");
                assert_eq!(disk.list(&old_dir).await.expect("there"), [""; 0]);
                assert_eq!(places.other(), old_dir);
                assert_eq!(places.stage("another offer").await, Ok(false));
                drop(new);
            });
            worked.await.expect("nobody kills it");
        });
    }
}
