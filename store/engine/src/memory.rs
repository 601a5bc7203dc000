//! The model: all rows in a map, and a plain log of all batches, read as a whole at each start. It never gives space
//! back and keeps no checkpoint, so it is for tests; what it answers, the other engines must answer.
//! Promise: as the crate's, except that a bad frame always counts as a torn tail.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use barque_store_env::{Disk, Env, File, Open};
use bytes::Bytes;
use parking_lot::RwLock;

use crate::codec::{
    self, FILE_HEADER, FileHeader, Found, FrameKind, FrameWriter, Link, MEMORY_MAGIC, Place,
};
use crate::error::Latch;
use crate::held::Held;
use crate::{
    Batch, Engine, Error, Image, Images, Lock, Opened, Reader, Restore, RowId, Space, Unreadable,
    files,
};

const NAME: &str = "memory.log";
const TMP: &str = "memory.tmp";

/// All rows in memory.
pub struct Memory<E: Env> {
    path: PathBuf,
    file: <E::Disk as Disk>::File,
    store_id: u64,
    offset: u64,
    link: Link,
    last: Option<RowId>,
    rows: Arc<Rows>,
    latch: Latch,
    checkpointing: bool,
    _lock: Lock<E>,
}

#[derive(Default)]
struct Rows {
    held: RwLock<Held>,
}

impl Images for Rows {
    fn pin(&self) -> Result<Arc<dyn Image>, Unreadable> {
        Ok(Arc::new(self.held.read().clone()))
    }
}

impl Reader for Rows {
    fn read(&self, id: RowId) -> Result<Option<Bytes>, Unreadable> {
        Ok(self.held.read().get(id).cloned())
    }
    fn scan(
        &self,
        from: RowId,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<(RowId, Bytes)>, Unreadable> {
        Ok(self.held.read().scan(from, max_rows, max_bytes))
    }
}

impl<E: Env> Memory<E> {
    pub(crate) async fn open(
        disk: E::Disk,
        lock: Lock<E>,
        dir: &Path,
        restore: &mut (dyn Restore + Send),
    ) -> Result<Opened<Self>, Error> {
        let path = dir.join(NAME);
        let failed = |operation| {
            let path = path.clone();
            move |cause| Error::io(operation, path, cause)
        };
        files::remove_if_there(&disk, &dir.join(TMP)).await?;
        if !disk.exists(&path).await.map_err(failed("looking for"))? {
            create::<E>(&disk, dir, &path).await?;
        }
        files::sync_dir(&disk, dir).await?;
        let file = disk
            .open(&path, Open::ReadWrite)
            .await
            .map_err(failed("opening"))?;
        let len = file.len().await.map_err(failed("reading the length"))?;
        let bytes = file
            .read_at(0, len as usize)
            .await
            .map_err(failed("read"))?;
        let header = FileHeader::decode(&bytes, MEMORY_MAGIC)
            .map_err(|cause| Error::header(&path, cause))?;

        let mut engine = Memory::<E> {
            store_id: header.store_id,
            offset: FILE_HEADER as u64,
            link: Link::default(),
            last: None,
            rows: Arc::default(),
            latch: Latch::default(),
            checkpointing: false,
            _lock: lock,
            path: path.clone(),
            file,
        };
        let mut last = None;
        while let Found::Frame(frame) =
            codec::read_frame(&bytes[engine.offset as usize..], engine.place())
        {
            if frame.link.number != engine.link.number + 1 || frame.previous_crc != engine.link.crc
            {
                break;
            }
            let batch = batch(&frame).map_err(|what| Error::corrupt(&path, engine.offset, what))?;
            tell(&batch, restore).map_err(|what| Error::Restore {
                dir: dir.to_owned(),
                what,
            })?;
            last = Some((engine.offset, Bytes::copy_from_slice(frame.bytes)));
            engine.offset += frame.bytes.len() as u64;
            engine.link = frame.link;
            engine.take(batch);
        }
        // What was read may be in the page cache only, and half a frame may follow it.
        engine
            .file
            .set_len(engine.offset)
            .await
            .map_err(failed("cutting"))?;
        match last {
            Some((offset, frame)) => engine.file.write_sync(offset, frame).await,
            None => engine.file.sync_data().await,
        }
        .map_err(failed("sync"))?;
        let meta = engine.rows.held.read().meta.clone();
        Ok(Opened { engine, meta })
    }

    fn place(&self) -> Place {
        Place {
            store_id: self.store_id,
            segment: 0,
            offset: self.offset,
        }
    }

    fn take(&mut self, batch: Batch) {
        let mut held = self.rows.held.write();
        for (id, row) in batch.rows {
            self.last = Some(id);
            held.insert(id, row);
        }
        for id in batch.freed {
            held.remove(id);
        }
        for (name, value) in batch.meta {
            match value {
                Some(value) => drop(held.meta.insert(name, value)),
                None => drop(held.meta.remove(&name)),
            }
        }
    }

    async fn write(&mut self, batch: Batch) -> Result<(), Error> {
        let size = codec::check(&batch, self.last)?;
        let mut frame = FrameWriter::new(self.store_id, FrameKind::Batch, size);
        for (id, row) in &batch.rows {
            frame.row(*id, row);
        }
        let (bytes, link) = frame.seal(&batch.freed, &batch.meta, self.place(), self.link);
        let len = bytes.len() as u64;
        self.file
            .write_sync(self.offset, bytes)
            .await
            .map_err(|cause| Error::io("write and sync", &self.path, cause))?;
        self.offset += len;
        self.link = link;
        self.take(batch);
        Ok(())
    }
}

async fn create<E: Env>(disk: &E::Disk, dir: &Path, path: &Path) -> Result<(), Error> {
    let tmp = dir.join(TMP);
    let failed = |operation| {
        let tmp = tmp.clone();
        move |cause| Error::io(operation, tmp, cause)
    };
    let header = FileHeader {
        magic: MEMORY_MAGIC,
        number: 0,
        store_id: E::random(),
        link: Link::default(),
        position: (0, 0),
    };
    let file = disk
        .open(&tmp, Open::CreateNew)
        .await
        .map_err(failed("creation"))?;
    file.write_sync(0, Bytes::copy_from_slice(&header.encode()))
        .await
        .map_err(failed("write and sync"))?;
    disk.rename(&tmp, path).await.map_err(failed("rename"))
}

fn batch(frame: &codec::Frame<'_>) -> Result<Batch, &'static str> {
    let contents = frame.contents()?;
    Ok(Batch {
        rows: (contents.rows.into_iter())
            .map(|(id, _, row)| (id, Bytes::copy_from_slice(row)))
            .collect(),
        freed: contents.freed,
        meta: (contents.meta.into_iter())
            .map(|(name, value)| (name.to_owned(), value.map(Bytes::copy_from_slice)))
            .collect(),
    })
}

fn tell(batch: &Batch, restore: &mut (dyn Restore + Send)) -> Result<(), String> {
    for (id, row) in &batch.rows {
        restore.row(*id, row.clone())?;
    }
    batch.freed.iter().try_for_each(|id| restore.freed(*id))
}

impl<E: Env> Engine<E> for Memory<E> {
    async fn commit(&mut self, batch: Batch) -> Result<(), Error> {
        self.latch.enter()?;
        let done = self.write(batch).await;
        self.latch.leave(done)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.rows.clone()
    }
    fn images(&self) -> Arc<dyn Images> {
        self.rows.clone()
    }

    async fn begin_checkpoint(&mut self) -> Result<(), Error> {
        self.latch.enter()?;
        self.checkpointing = true;
        self.latch.leave(Ok(()))
    }
    async fn checkpoint_chunk(&mut self, _: Bytes) -> Result<(), Error> {
        self.latch.enter()?;
        let done = self.checkpointing.then_some(()).ok_or(Error::NoCheckpoint);
        self.latch.leave(done)
    }
    async fn finish_checkpoint(&mut self) -> Result<(), Error> {
        self.latch.enter()?;
        let begun = std::mem::take(&mut self.checkpointing);
        let done = begun.then_some(()).ok_or(Error::NoCheckpoint);
        self.latch.leave(done)
    }
    fn keeps_checkpoints(&self) -> bool {
        false
    }
    fn wants_checkpoint(&self) -> bool {
        false
    }

    async fn maintain(&mut self) -> Result<bool, Error> {
        self.latch.enter()?;
        self.latch.leave(Ok(false))
    }

    fn space(&self) -> Space {
        Space {
            disk_bytes: self.offset,
            live_bytes: self.rows.held.read().bytes(),
            segments: 1,
            checkpoint_bytes: 0,
        }
    }
}
