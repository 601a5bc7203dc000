//! Giving space back: live rows of mostly dead segments are copied to the end, and empty files dropped.
//! Promise: a file is dropped only when no row lies in it, the frames that emptied it are durable, and the newest
//! checkpoint covers it, so that a start never misses it. One step is bounded.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use barque_store_env::{Disk, Env, Going};

use crate::codec::{FILE_HEADER, FrameKind};
use crate::limits::{DEAD_PERCENT, LOCK_ROWS, STEP_BLOCKS};
use crate::{Error, RowId};

use super::Segments;
use super::files::{ReadError, SegmentFile};

/// A segment whose rows are being moved, and from which row on they are not yet.
pub struct Moving {
    segment: u32,
    from: RowId,
}

/// A file of which nothing is needed any more, whose space is given back a little at a time.
pub struct Leaving<D: Disk> {
    path: PathBuf,
    /// Held by those who read it still: images, and reads under way. Until they are done it keeps its name.
    readers: Option<Arc<SegmentFile>>,
    /// Its name is gone.
    going: Option<Going<D>>,
}

impl<D: Disk> Leaving<D> {
    pub fn new(path: PathBuf, readers: Option<Arc<SegmentFile>>) -> Self {
        Leaving {
            path,
            readers,
            going: None,
        }
    }
    /// Takes its name away, which may come back after a power loss, or gives some of its space back. True while there is more.
    pub async fn cut(&mut self, disk: &D) -> Result<bool, Error> {
        let more = match &mut self.going {
            Some(going) => going.step().await,
            None => match Going::begin(disk, &self.path).await {
                Ok(going) => {
                    self.going = Some(going);
                    Ok(true)
                }
                // An old checkpoint that somebody has taken away is not missed.
                Err(cause) if self.readers.is_none() && cause.kind() == io::ErrorKind::NotFound => {
                    Ok(false)
                }
                Err(cause) => Err(cause),
            },
        };
        more.map_err(|cause| Error::io("removal", &self.path, cause))
    }
    fn is_read(&self) -> bool {
        // Nobody can find it any more: the number only falls.
        (self.readers.as_ref()).is_some_and(|file| Arc::strong_count(file) > 1)
    }
}

impl<E: Env> Segments<E> {
    /// One step; true when there is more to do.
    pub(super) async fn step(&mut self) -> Result<bool, Error> {
        if self.cut_one().await? {
            return Ok(true);
        }
        if self.drop_one() {
            return Ok(true);
        }
        if self.moving.is_none() {
            self.moving = self.choose();
        }
        match self.moving.take() {
            Some(moving) => {
                self.moving = self.relocate(moving).await?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Segments that the newest checkpoint covers. Later ones are needed to replay, dead or not, so that moving their
    /// rows would give nothing back yet.
    fn covered(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        let position = self.checkpoint.map_or(0, |done| done.position.segment);
        let sealed = self.sealed.range(..position);
        sealed.map(|(number, bytes)| (*number, *bytes))
    }

    fn drop_one(&mut self) -> bool {
        let dead = {
            let state = self.shared.state.read();
            self.covered()
                .find(|(number, _)| state.table.usage(*number).is_none())
        };
        let Some((number, _)) = dead else {
            return false;
        };
        self.sealed.remove(&number);
        // Nobody finds it there any more; whoever has found it before reads it to the end.
        let readers = self.shared.state.write().files.remove(&number);
        let path = self.dir.segment(number);
        self.leaving.push(Leaving::new(path, readers));
        true
    }

    /// Removes a file that is no longer needed, or gives some of its space back. False when there is none that nobody reads.
    async fn cut_one(&mut self) -> Result<bool, Error> {
        let Some(at) = self.leaving.iter().position(|file| !file.is_read()) else {
            return Ok(false);
        };
        if !self.leaving[at].cut(&self.dir.disk).await? {
            self.leaving.swap_remove(at);
        }
        Ok(true)
    }

    /// The most dead of the segments that still hold rows, once they are dead enough together.
    fn choose(&self) -> Option<Moving> {
        let state = self.shared.state.read();
        let (mut all, mut dead) = (0, 0);
        let mut best: Option<(u64, u64, Moving)> = None;
        for (segment, bytes) in self.covered() {
            let Some(usage) = state.table.usage(segment) else {
                continue;
            };
            let bytes = bytes.saturating_sub(FILE_HEADER as u64).max(usage.bytes);
            let gone = bytes - usage.bytes;
            all += bytes;
            dead += gone;
            let more = best.as_ref().is_none_or(|(best_gone, best_bytes, _)| {
                u128::from(gone) * u128::from(*best_bytes)
                    > u128::from(*best_gone) * u128::from(bytes)
            });
            if more {
                let from = usage.first;
                best = Some((gone, bytes, Moving { segment, from }));
            }
        }
        let enough = dead * 100 > all * DEAD_PERCENT;
        best.filter(|_| enough).map(|(_, _, moving)| moving)
    }

    /// Moves some rows; what is left to move.
    async fn relocate(&mut self, moving: Moving) -> Result<Option<Moving>, Error> {
        let Moving { segment, from } = moving;
        let (rows, next) = {
            let state = self.shared.state.read();
            state
                .table
                .rows_of(segment, from, STEP_BLOCKS, self.options.step_bytes)
        };
        if !rows.is_empty() {
            let found = self.shared.files_of(&rows);
            let rows = self.shared.read_all(&found).map_err(|error| match error {
                ReadError::Gone(unreadable) | ReadError::Bad(unreadable) => unreadable,
            })?;
            let size: u64 = found.iter().map(|(row, _)| row.file_len()).sum();
            let places = self
                .put(FrameKind::Relocated, size as usize, &rows, &[], &[])
                .await?;
            for some in places.chunks(LOCK_ROWS) {
                let mut state = self.shared.state.write();
                for row in some {
                    assert!(
                        state.table.relocate(*row),
                        "a row was moved that is not held"
                    );
                }
            }
        }
        Ok(next.map(|from| Moving { segment, from }))
    }
}
