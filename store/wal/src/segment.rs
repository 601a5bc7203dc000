//! Segment files: names, zero-filling ahead, recycling, removal.
//! Promise: a file that bears a segment's name is whole (header and zeros, synced) before the name exists; names are
//! durable before anything is written that counts on them; files go oldest first.
//! Not here: batches.

use std::io;
use std::path::{Path, PathBuf};

use barque_store_env::{Disk, File, Going, Open};
use bytes::Bytes;

use crate::codec::{SEGMENT_HEADER, SegmentHeader};
use crate::error::WalError;
use crate::limits::FILL_BYTES;

pub const LOCK: &str = "LOCK";
/// A segment being filled; left behind by a crash, it is removed at the next start.
pub const FILLING: &str = "filling.tmp";

pub fn name(segment: u64) -> String {
    format!("{segment:016x}.wal")
}

pub fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal")?;
    (digits.len() == 16)
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
}

/// A segment's place on disk and what a removal must know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub segment: u64,
    pub bytes: u64,
    /// The highest index of its entries, later truncated or not.
    pub max_index: Option<u64>,
}

/// Where the segments are.
#[derive(Clone, Debug)]
pub struct Dir<D> {
    pub disk: D,
    pub path: PathBuf,
    pub log_id: u64,
    pub segment_bytes: u64,
    pub fsync: bool,
}

impl<D: Disk> Dir<D> {
    pub fn file(&self, segment: u64) -> PathBuf {
        self.path.join(name(segment))
    }

    /// Makes the next segment: out of the file of the oldest one, which must be `segment_bytes` long, when `recycled`
    /// is its number. `wanted` is asked between writes; false gives up, and the file is gone (`None`).
    pub async fn prepare(
        &self,
        segment: u64,
        recycled: Option<u64>,
        wanted: impl Fn() -> bool + Send,
    ) -> Result<Option<D::File>, WalError> {
        let filling = self.path.join(FILLING);
        let failed = |operation| {
            let file = filling.clone();
            move |cause| WalError::io(operation, file, cause)
        };
        let how = match recycled {
            None => Open::CreateNew,
            Some(old) => {
                let path = self.file(old);
                self.disk
                    .rename(&path, &filling)
                    .await
                    .map_err(|cause| WalError::io("rename", path, cause))?;
                // Before a byte of it changes: under its old name it is part of the log.
                self.sync_names().await?;
                Open::ReadWrite
            }
        };
        let file = self
            .disk
            .open(&filling, how)
            .await
            .map_err(failed("opening"))?;
        let header = SegmentHeader {
            segment,
            log_id: self.log_id,
            bytes: self.segment_bytes,
        };
        file.write_at(0, Bytes::copy_from_slice(&header.encode()))
            .await
            .map_err(failed("write"))?;
        let zeros = Bytes::from(vec![0; FILL_BYTES.min(self.segment_bytes as usize)]);
        let mut offset = SEGMENT_HEADER as u64;
        while offset < self.segment_bytes {
            if !wanted() {
                drop(file);
                remove_if_there(&self.disk, &filling).await?;
                return Ok(None);
            }
            let len = (self.segment_bytes - offset).min(zeros.len() as u64) as usize;
            self.write(&file, offset, zeros.slice(..len))
                .await
                .map_err(failed("write"))?;
            offset += len as u64;
        }
        if self.fsync {
            file.sync_data().await.map_err(failed("sync"))?;
        }
        let path = self.file(segment);
        self.disk
            .rename(&filling, &path)
            .await
            .map_err(failed("rename"))?;
        self.sync_names().await?;
        Ok(Some(file))
    }

    pub async fn remove(&self, segment: u64) -> Result<(), WalError> {
        let path = self.file(segment);
        let failed = |cause| WalError::io("removal", &path, cause);
        let going = Going::begin(&self.disk, &path).await.map_err(failed)?;
        // One by one: were two removals durable in the other order, the next start would find a hole. And before a byte of it
        // goes: under its name it is part of the log.
        self.sync_names().await?;
        going.finish().await.map_err(failed)
    }

    pub async fn write(&self, file: &D::File, offset: u64, bytes: Bytes) -> io::Result<()> {
        if self.fsync {
            file.write_sync(offset, bytes).await
        } else {
            file.write_at(offset, bytes).await
        }
    }

    /// Makes all changes of names in the directory durable.
    pub async fn sync_names(&self) -> Result<(), WalError> {
        if !self.fsync {
            return Ok(());
        }
        self.disk
            .sync_dir(&self.path)
            .await
            .map_err(|cause| WalError::io("directory sync", &self.path, cause))
    }
}

pub async fn remove_if_there<D: Disk>(disk: &D, path: &Path) -> Result<(), WalError> {
    match disk.remove(path).await {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(WalError::io("removal", path, cause))
        }
        _ => Ok(()),
    }
}
