//! Checkpoint files: written block by block beside the commits, read and checked as a whole before anything is believed.
//! Promise: a file with a checkpoint's name was complete and synced when it got it; one that lost a bit since is told
//! from a good one before the caller hears of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use barque_store_env::{Disk, File, Open};
use bytes::Bytes;

use crate::codec::{CHECKPOINT_MAGIC, FILE_HEADER, FileHeader, Link};
use crate::error::Error;
use crate::files::{remove_if_there, sync_dir};
use crate::limits::{
    CHECKPOINT_BLOCK_BYTES, CHECKPOINT_BLOCK_ROWS, CHECKPOINT_SYNC_BYTES, CHUNK_BYTES_MAX,
    READ_AHEAD,
};
use crate::{Restore, RowId};

use super::blocks::{self, BLOCK_HEADER, BlockKind, BlockPlace, End};
use super::files::{CHECKPOINT_TMP, Dir, read_header};
use super::table::{Block, Table};

/// A place between two frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub segment: u32,
    pub offset: u64,
    /// The frame before it.
    pub link: Link,
}

/// A finished checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    pub number: u64,
    pub bytes: u64,
    /// What it covers.
    pub position: Position,
}

/// What a checkpoint says besides the caller's index.
pub struct Contents {
    pub meta: BTreeMap<String, Bytes>,
    pub rows: Vec<Arc<Block>>,
    /// Number and bytes of each file.
    pub segments: Vec<(u32, u64)>,
    pub last: Option<RowId>,
}

/// A checkpoint being written.
pub struct Draft<D: Disk> {
    dir: Dir<D>,
    file: D::File,
    tmp: PathBuf,
    number: u64,
    position: Position,
    offset: u64,
    unsynced: u64,
    sequence: u32,
    end: End,
}

impl<D: Disk> Draft<D> {
    pub async fn begin(
        dir: &Dir<D>,
        number: u64,
        position: Position,
        contents: Contents,
    ) -> Result<Self, Error> {
        let tmp = dir.path.join(CHECKPOINT_TMP);
        remove_if_there(&dir.disk, &tmp).await?;
        let file = dir
            .disk
            .open(&tmp, Open::CreateNew)
            .await
            .map_err(|cause| Error::io("creation", &tmp, cause))?;
        let header = FileHeader {
            magic: CHECKPOINT_MAGIC,
            number,
            store_id: dir.store_id,
            link: position.link,
            position: (position.segment.into(), position.offset),
        };
        let mut draft = Draft {
            dir: dir.clone(),
            file,
            tmp,
            number,
            position,
            offset: 0,
            unsynced: 0,
            sequence: 0,
            end: End {
                last: contents.last,
                ..End::default()
            },
        };
        draft
            .write(Bytes::copy_from_slice(&header.encode()))
            .await?;
        draft.contents(contents).await?;
        Ok(draft)
    }

    async fn contents(&mut self, contents: Contents) -> Result<(), Error> {
        let mut body = Vec::new();
        for (name, value) in &contents.meta {
            blocks::put_meta(&mut body, name, value);
            if body.len() >= CHECKPOINT_BLOCK_BYTES {
                self.block(BlockKind::Meta, &body).await?;
                body.clear();
            }
        }
        self.block(BlockKind::Meta, &body).await?;
        body.clear();
        for (number, bytes) in &contents.segments {
            blocks::put_segment(&mut body, *number, *bytes);
        }
        self.block(BlockKind::Segments, &body).await?;
        body.clear();
        for block in &contents.rows {
            for row in block.live() {
                blocks::put_row(&mut body, row);
                self.end.rows += 1;
            }
            if body.len() >= CHECKPOINT_BLOCK_ROWS * blocks::ROW_BYTES {
                self.block(BlockKind::Rows, &body).await?;
                body.clear();
            }
        }
        self.block(BlockKind::Rows, &body).await
    }

    async fn block(&mut self, kind: BlockKind, body: &[u8]) -> Result<(), Error> {
        let place = BlockPlace {
            store_id: self.dir.store_id,
            checkpoint: self.number,
            sequence: self.sequence,
        };
        self.sequence += 1;
        self.write(blocks::block(kind, place, body)).await
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        let failed = |operation| {
            let tmp = self.tmp.clone();
            move |cause| Error::io(operation, tmp, cause)
        };
        let len = bytes.len() as u64;
        self.unsynced += len;
        if self.unsynced < CHECKPOINT_SYNC_BYTES {
            self.file
                .write_at(self.offset, bytes)
                .await
                .map_err(failed("write"))?;
        } else {
            self.file
                .write_sync(self.offset, bytes)
                .await
                .map_err(failed("write and sync"))?;
            self.unsynced = 0;
        }
        self.offset += len;
        Ok(())
    }

    pub async fn chunk(&mut self, chunk: &[u8]) -> Result<(), Error> {
        if chunk.len() > CHUNK_BYTES_MAX {
            return Err(Error::TooLarge {
                what: "a chunk of the index",
                bytes: chunk.len(),
                max: CHUNK_BYTES_MAX,
            });
        }
        self.end.index_chunks += 1;
        self.block(BlockKind::Index, chunk).await
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.offset
    }

    /// When this returns, the checkpoint is the one the next start reads.
    pub async fn finish(mut self) -> Result<Done, Error> {
        let end = self.end.encode();
        self.block(BlockKind::End, &end).await?;
        self.file
            .sync_data()
            .await
            .map_err(|cause| Error::io("sync", &self.tmp, cause))?;
        let path = self.dir.checkpoint(self.number);
        self.dir
            .disk
            .rename(&self.tmp, &path)
            .await
            .map_err(|cause| Error::io("rename", &self.tmp, cause))?;
        sync_dir(&self.dir.disk, &self.dir.path).await?;
        Ok(Done {
            number: self.number,
            bytes: self.offset,
            position: self.position,
        })
    }

    /// Closes and removes it.
    pub async fn give_up(self) -> Result<(), Error> {
        drop(self.file);
        remove_if_there(&self.dir.disk, &self.tmp).await
    }
}

/// A checkpoint file whose every block was found good.
pub struct Loaded<D: Disk> {
    pub done: Done,
    pub store_id: u64,
    pub meta: BTreeMap<String, Bytes>,
    pub table: Table,
    pub segments: BTreeMap<u32, u64>,
    cursor: Cursor<D>,
    /// The first chunks of the index, as many as are kept in memory.
    kept: Vec<Bytes>,
    /// Where the next one is, as a cursor sees it.
    rest: (u64, u32),
}

/// Reads block after block.
struct Cursor<D: Disk> {
    file: D::File,
    path: PathBuf,
    len: u64,
    store_id: u64,
    number: u64,
    offset: u64,
    sequence: u32,
    /// Bytes of the file from `offset` on that were read already.
    ahead: Bytes,
}

impl<D: Disk> Cursor<D> {
    fn corrupt(&self, what: impl Into<String>) -> Error {
        Error::corrupt(&self.path, self.offset, what)
    }

    async fn fill(&mut self, len: usize) -> Result<(), Error> {
        if self.ahead.len() >= len {
            return Ok(());
        }
        self.ahead = self
            .file
            .read_at(self.offset, len.max(READ_AHEAD))
            .await
            .map_err(|cause| Error::io("read", &self.path, cause))?;
        if self.ahead.len() < len {
            return Err(self.corrupt("the file ends inside a block"));
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<(BlockKind, Bytes), Error> {
        self.fill(BLOCK_HEADER).await?;
        let len = BLOCK_HEADER + blocks::body_len(&self.ahead);
        self.fill(len).await?;
        let body = self.ahead.slice(BLOCK_HEADER..len);
        let place = BlockPlace {
            store_id: self.store_id,
            checkpoint: self.number,
            sequence: self.sequence,
        };
        let kind = blocks::check(&self.ahead[..BLOCK_HEADER], &body, place)
            .map_err(|what| self.corrupt(what))?;
        self.ahead = self.ahead.slice(len..);
        self.offset += len as u64;
        self.sequence += 1;
        Ok((kind, body))
    }
}

/// The last frame that a checkpoint covers by its header, whatever became of its blocks; `None` when that is bad too.
pub async fn covers<D: Disk>(dir: &Dir<D>, number: u64) -> Option<u64> {
    let path = dir.checkpoint(number);
    let file = dir.disk.open(&path, Open::Read).await.ok()?;
    let bytes = file.read_at(0, FILE_HEADER).await.ok()?;
    let header = read_header(&bytes, CHECKPOINT_MAGIC, &path, number).ok()?;
    Some(header.link.number)
}

/// Reads the header, then every block, and keeps up to `keep_bytes` of the index. A `Corrupt` error means that the file cannot be used, and why.
pub async fn load<D: Disk>(
    dir: &Dir<D>,
    number: u64,
    keep_bytes: usize,
) -> Result<Loaded<D>, Error> {
    let path = dir.checkpoint(number);
    let failed = |operation| {
        let path = path.clone();
        move |cause| Error::io(operation, path, cause)
    };
    let file = dir
        .disk
        .open(&path, Open::Read)
        .await
        .map_err(failed("opening"))?;
    let len = file.len().await.map_err(failed("reading the length"))?;
    let bytes = file.read_at(0, FILE_HEADER).await.map_err(failed("read"))?;
    let header = read_header(&bytes, CHECKPOINT_MAGIC, &path, number)?;
    let (segment, offset) = header.position;
    let segment = u32::try_from(segment)
        .map_err(|_| Error::corrupt(&path, 0, "the segment's number is too large"))?;
    let mut cursor = Cursor::<D> {
        file,
        path,
        len,
        store_id: header.store_id,
        number,
        offset: FILE_HEADER as u64,
        sequence: 0,
        ahead: Bytes::new(),
    };
    let mut meta = BTreeMap::new();
    let mut segments = BTreeMap::new();
    let mut table = Table::default();
    let mut kept: Vec<Bytes> = Vec::new();
    let mut kept_bytes = 0;
    let mut rest = None;
    let mut seen = End::default();
    let mut highest = BlockKind::Meta;
    loop {
        let at = (cursor.offset, cursor.sequence);
        let (kind, body) = cursor.next().await?;
        if kind < highest {
            return Err(cursor.corrupt("the blocks are out of order"));
        }
        highest = kind;
        match kind {
            BlockKind::Meta => {
                let values = blocks::meta(&body).map_err(|what| cursor.corrupt(what))?;
                meta.extend(values);
            }
            BlockKind::Segments => {
                segments.extend(blocks::segments(&body).map_err(|what| cursor.corrupt(what))?);
            }
            BlockKind::Rows => {
                let rows = blocks::rows(&body).map_err(|what| cursor.corrupt(what))?;
                let ascending = rows.is_sorted_by(|a, b| a.id() < b.id());
                if !ascending
                    || rows
                        .first()
                        .is_some_and(|row| Some(row.id()) <= table.last())
                {
                    return Err(cursor.corrupt("the rows are out of order"));
                }
                seen.rows += rows.len() as u64;
                table.append(&rows);
            }
            BlockKind::Index => {
                seen.index_chunks += 1;
                kept_bytes += body.len();
                if kept_bytes > keep_bytes || rest.is_some() {
                    rest.get_or_insert(at);
                } else {
                    kept.push(body);
                }
            }
            BlockKind::End => {
                let end = End::decode(&body).map_err(|what| cursor.corrupt(what))?;
                seen.last = end.last;
                if end != seen || end.last < table.last() || cursor.offset != cursor.len {
                    return Err(cursor.corrupt("the checkpoint does not hold what it says"));
                }
                table.note_last(end.last);
                break;
            }
        }
    }
    let rest = rest.unwrap_or((cursor.offset, cursor.sequence));
    Ok(Loaded {
        done: Done {
            number,
            bytes: len,
            position: Position {
                segment,
                offset,
                link: header.link,
            },
        },
        store_id: header.store_id,
        meta,
        table,
        segments,
        cursor,
        kept,
        rest,
    })
}

impl<D: Disk> Loaded<D> {
    /// Tells the index. What was not kept is read a second time: it need not fit into memory twice.
    pub async fn tell_index(&mut self, restore: &mut (dyn Restore + Send)) -> Result<(), Error> {
        let cursor = &mut self.cursor;
        let refused = |path: &PathBuf, what: String| Error::Restore {
            dir: path.clone(),
            what: format!("the index: {what}"),
        };
        for chunk in self.kept.drain(..) {
            (restore.index(chunk)).map_err(|what| refused(&cursor.path, what))?;
        }
        (cursor.offset, cursor.sequence) = self.rest;
        cursor.ahead = Bytes::new();
        while cursor.offset < cursor.len {
            if let (BlockKind::Index, chunk) = cursor.next().await? {
                (restore.index(chunk)).map_err(|what| refused(&cursor.path, what))?;
            }
        }
        Ok(())
    }
}
