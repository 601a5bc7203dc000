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

/// A file without a name, whose space is given back a little at a time.
pub struct Leaving<D: Disk> {
    path: PathBuf,
    going: Going<D>,
    /// Held by those who read it still: images, and reads under way.
    readers: Option<Arc<SegmentFile>>,
}

impl<D: Disk> Leaving<D> {
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
        if self.drop_one().await? {
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

    async fn drop_one(&mut self) -> Result<bool, Error> {
        let dead = {
            let state = self.shared.state.read();
            self.covered()
                .find(|(number, _)| state.table.usage(*number).is_none())
        };
        let Some((number, _)) = dead else {
            return Ok(false);
        };
        self.sealed.remove(&number);
        // First: a reader that has the file may open it no more, but finds its row at another place when it looks again.
        let readers = self.shared.state.write().files.remove(&number);
        self.take_away(self.dir.segment(number), readers).await?;
        Ok(true)
    }

    /// Removes a file of which nothing is needed any more, whether its name comes back after a power loss or not.
    pub(super) async fn take_away(
        &mut self,
        path: PathBuf,
        readers: Option<Arc<SegmentFile>>,
    ) -> Result<(), Error> {
        let going = match Going::begin(&self.dir.disk, &path).await {
            Ok(going) => going,
            // An old checkpoint that somebody has taken away is not missed.
            Err(cause) if readers.is_none() && cause.kind() == io::ErrorKind::NotFound => {
                return Ok(());
            }
            Err(cause) => return Err(Error::io("removal", path, cause)),
        };
        self.leaving.push(Leaving {
            path,
            going,
            readers,
        });
        Ok(())
    }

    /// Gives some of the space of a removed file back. False when there is none that nobody reads.
    async fn cut_one(&mut self) -> Result<bool, Error> {
        let Some(at) = self.leaving.iter().position(|file| !file.is_read()) else {
            return Ok(false);
        };
        let Leaving { path, going, .. } = &mut self.leaving[at];
        let more = going.step().await;
        if !more.map_err(|cause| Error::io("removal", &*path, cause))? {
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
