//! The default engine: append-only segment files of frames, a table in memory of where each row lies, checkpoints.
//! Promise: as the crate's. A commit is one write and one fdatasync; a start reads the newest checkpoint and the frames
//! after it, never the segments before; rows of mostly dead segments are moved on, and files go as a whole.
//! Not here: layout of bytes (`codec`, `blocks`), the table (`table`), starts (`recover`), moving rows (`relocate`).

use std::collections::BTreeMap;
use std::sync::Arc;

use barque_store_env::{Disk, Env, File, others_first};
use bytes::Bytes;

use crate::codec::{self, FILE_HEADER, FrameKind, FrameWriter, Link, Place};
use crate::error::Latch;
use crate::limits::{LOCK_ROWS, TAIL_SHARE};
use crate::{Batch, Engine, Error, Images, Lock, Options, Reader, RowId, Space};

use checkpoint::{Contents, Done, Draft, Position};
use files::{Dir, SegmentFile};
use reader::Shared;
use table::Row;

mod blocks;
mod checkpoint;
mod files;
mod pinned;
mod reader;
mod recover;
mod relocate;
mod table;

pub(crate) use recover::open;

/// The segment that frames are appended to.
struct Active<D: Disk> {
    number: u32,
    file: D::File,
    offset: u64,
}

/// Rows in append-only segments.
pub struct Segments<E: Env> {
    options: Options,
    dir: Dir<E::Disk>,
    shared: Arc<Shared<E::Disk>>,
    active: Active<E::Disk>,
    link: Link,
    /// Of names and values.
    meta_bytes: u64,
    /// All segments but the active one, and the bytes of their files.
    sealed: BTreeMap<u32, u64>,
    checkpoint: Option<Done>,
    /// The highest number of a checkpoint file that was seen, good or not.
    last_checkpoint: u64,
    /// Checkpoint files that the next finished one replaces, the present one not among them.
    stale_checkpoints: Vec<u64>,
    draft: Option<Draft<E::Disk>>,
    /// Bytes of frames after the checkpoint's position, and after the draft's.
    tail_bytes: u64,
    draft_tail_bytes: u64,
    moving: Option<relocate::Moving>,
    /// No longer needed, and on their way out. No more than there were files.
    leaving: Vec<relocate::Leaving<E::Disk>>,
    latch: Latch,
    _lock: Lock<E>,
}

impl<E: Env> Segments<E> {
    /// Writes a frame of these and makes it durable; returns the places of its rows.
    async fn put(
        &mut self,
        kind: FrameKind,
        size: usize,
        rows: &[(RowId, Bytes)],
        freed: &[RowId],
        meta: &[(String, Option<Bytes>)],
    ) -> Result<Vec<Row>, Error> {
        let mut frame = FrameWriter::new(self.dir.store_id, kind, size);
        let mut places = Vec::with_capacity(rows.len());
        for (id, row) in rows {
            let offset = frame.row(*id, row);
            places.push(Row {
                main: id.main,
                sub: id.sub,
                segment: 0,
                // `BATCH_BYTES_MAX` and `SEGMENT_BYTES` keep offsets below 4 GiB.
                offset: offset as u32,
                len: row.len() as u32,
            });
        }
        let len = frame.sealed_len(freed, meta);
        if self.active.offset + len > self.options.segment_bytes
            && self.active.offset > FILE_HEADER as u64
        {
            self.rotate().await?;
        }
        let place = Place {
            store_id: self.dir.store_id,
            segment: self.active.number.into(),
            offset: self.active.offset,
        };
        let (bytes, link) = frame.seal(freed, meta, place, self.link);
        let path = || self.dir.segment(self.active.number);
        self.active
            .file
            .write_sync(self.active.offset, bytes)
            .await
            .map_err(|cause| Error::io("write and sync", path(), cause))?;
        for row in &mut places {
            row.segment = self.active.number;
            row.offset += self.active.offset as u32;
        }
        self.active.offset += len;
        self.link = link;
        self.tail_bytes += len;
        self.draft_tail_bytes += len;
        Ok(places)
    }

    /// Goes on in a new segment.
    async fn rotate(&mut self) -> Result<(), Error> {
        let number = self.active.number + 1;
        let file = self.dir.create_segment(number, self.link).await?;
        let active = Active {
            number,
            file,
            offset: FILE_HEADER as u64,
        };
        let full = std::mem::replace(&mut self.active, active);
        self.sealed.insert(full.number, full.offset);
        let mut state = self.shared.state.write();
        state
            .files
            .insert(number, SegmentFile::new(&self.dir, number));
        Ok(())
    }

    async fn write(&mut self, batch: Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let last = self.shared.state.read().table.last();
        let size = codec::check(&batch, last)?;
        let Batch { rows, freed, meta } = batch;
        let places = self
            .put(FrameKind::Batch, size, &rows, &freed, &meta)
            .await?;
        let in_pieces = places.len().max(freed.len()) > LOCK_ROWS;
        if in_pieces {
            self.take_in_pieces(&places, &freed).await;
        }
        let mut state = self.shared.state.write();
        if !in_pieces {
            state.table.append(&places);
            for id in &freed {
                state.table.free(*id);
            }
        }
        self.meta_bytes = state.name(meta, self.meta_bytes);
        state.before = None;
        Ok(())
    }

    /// A large batch, without holding readers up. Whoever pins an image meanwhile gets the one before it.
    async fn take_in_pieces(&self, places: &[Row], freed: &[RowId]) {
        {
            let mut state = self.shared.state.write();
            state.before = Some(state.view());
        }
        for some in places.chunks(LOCK_ROWS) {
            self.shared.state.write().table.append(some);
            others_first().await;
        }
        for some in freed.chunks(LOCK_ROWS) {
            {
                let mut state = self.shared.state.write();
                for id in some {
                    state.table.free(*id);
                }
            }
            others_first().await;
        }
    }

    async fn begin(&mut self) -> Result<(), Error> {
        if let Some(draft) = self.draft.take() {
            draft.give_up().await?;
        }
        let position = Position {
            segment: self.active.number,
            offset: self.active.offset,
            link: self.link,
        };
        let (rows, last, meta) = {
            let state = self.shared.state.read();
            let table = &state.table;
            (table.snapshot(), table.last(), state.meta.clone())
        };
        let active = (self.active.number, self.active.offset);
        let sealed = self.sealed.iter().map(|(number, bytes)| (*number, *bytes));
        let contents = Contents {
            meta: BTreeMap::clone(&meta),
            rows,
            segments: sealed.chain([active]).collect(),
            last,
        };
        let number = self.last_checkpoint + 1;
        self.draft = Some(Draft::begin(&self.dir, number, position, contents).await?);
        self.draft_tail_bytes = 0;
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), Error> {
        let draft = self.draft.take().ok_or(Error::NoCheckpoint)?;
        let done = draft.finish().await?;
        self.last_checkpoint = done.number;
        self.tail_bytes = self.draft_tail_bytes;
        let old = self.checkpoint.replace(done).map(|old| old.number);
        self.stale_checkpoints.extend(old);
        for number in std::mem::take(&mut self.stale_checkpoints) {
            // Should the removal be undone by a power cut, the newer checkpoint counts all the same.
            let mut old = relocate::Leaving::new(self.dir.checkpoint(number), None);
            if old.cut(&self.dir.disk).await? {
                self.leaving.push(old);
            }
        }
        Ok(())
    }
}

/// Sets or deletes a named value and keeps count.
fn set(meta: &mut BTreeMap<String, Bytes>, bytes: &mut u64, name: String, value: Option<Bytes>) {
    let size = |name: usize, value: &Bytes| (name + value.len()) as u64;
    let len = name.len();
    let old = match value {
        Some(value) => {
            *bytes += size(len, &value);
            meta.insert(name, value)
        }
        None => meta.remove(&name),
    };
    *bytes -= old.map_or(0, |old| size(len, &old));
}

impl<E: Env> Engine<E> for Segments<E> {
    async fn commit(&mut self, batch: Batch) -> Result<(), Error> {
        self.latch.enter()?;
        let done = self.write(batch).await;
        self.latch.leave(done)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.shared.clone()
    }

    fn images(&self) -> Arc<dyn Images> {
        Arc::new(pinned::Pinner(self.shared.clone()))
    }

    async fn begin_checkpoint(&mut self) -> Result<(), Error> {
        self.latch.enter()?;
        let done = self.begin().await;
        self.latch.leave(done)
    }

    async fn checkpoint_chunk(&mut self, chunk: Bytes) -> Result<(), Error> {
        self.latch.enter()?;
        let done = match &mut self.draft {
            Some(draft) => draft.chunk(&chunk).await,
            None => Err(Error::NoCheckpoint),
        };
        self.latch.leave(done)
    }

    async fn finish_checkpoint(&mut self) -> Result<(), Error> {
        self.latch.enter()?;
        let done = self.finish().await;
        self.latch.leave(done)
    }

    fn keeps_checkpoints(&self) -> bool {
        true
    }

    fn wants_checkpoint(&self) -> bool {
        let live = self.shared.state.read().table.live_bytes() + self.meta_bytes;
        let tail = match self.draft {
            Some(_) => self.draft_tail_bytes,
            None => self.tail_bytes,
        };
        tail > self.options.tail_bytes.max(live / TAIL_SHARE)
    }

    async fn maintain(&mut self) -> Result<bool, Error> {
        self.latch.enter()?;
        let done = self.step().await;
        self.latch.leave(done)
    }

    fn space(&self) -> Space {
        let draft = self.draft.as_ref().map_or(0, Draft::bytes);
        let checkpoint = self.checkpoint.map_or(0, |done| done.bytes) + draft;
        let sealed: u64 = self.sealed.values().sum();
        Space {
            disk_bytes: sealed + self.active.offset + checkpoint,
            live_bytes: self.shared.state.read().table.live_bytes() + self.meta_bytes,
            segments: self.sealed.len() as u64 + 1,
            checkpoint_bytes: checkpoint,
        }
    }
}
