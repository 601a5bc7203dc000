//! Names and headers of the engine's files, and how they come to be.
//! Promise: a file that bears its final name is whole and synced as far as its header says; names are durable before
//! anything counts on them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use barque_store_env::{Disk, File, Open, ReadAt};
use bytes::Bytes;

use crate::codec::{FILE_HEADER, FileHeader, Link, SEGMENT_MAGIC};
use crate::error::{Error, Unreadable};
use crate::files::sync_dir;

/// A segment before it has its name; left behind by a crash, it is removed at the next start.
pub const SEGMENT_TMP: &str = "segment.tmp";
/// A checkpoint before it has its name; likewise.
pub const CHECKPOINT_TMP: &str = "checkpoint.tmp";

pub fn segment_name(number: u32) -> String {
    format!("{number:016x}.seg")
}
pub fn checkpoint_name(number: u64) -> String {
    format!("{number:016x}.ckpt")
}
pub fn segment_number(name: &str) -> Option<u32> {
    u32::try_from(number(name, ".seg")?).ok()
}
pub fn checkpoint_number(name: &str) -> Option<u64> {
    number(name, ".ckpt")
}
fn number(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    (digits.len() == 16)
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
}

/// Where the files are, and whose they are.
#[derive(Clone, Debug)]
pub struct Dir<D> {
    pub disk: D,
    pub path: PathBuf,
    pub store_id: u64,
}

impl<D: Disk> Dir<D> {
    pub fn segment(&self, number: u32) -> PathBuf {
        self.path.join(segment_name(number))
    }
    pub fn checkpoint(&self, number: u64) -> PathBuf {
        self.path.join(checkpoint_name(number))
    }

    /// Makes the segment that goes on after frame `link`.
    pub async fn create_segment(&self, number: u32, link: Link) -> Result<D::File, Error> {
        let tmp = self.path.join(SEGMENT_TMP);
        let failed = |operation| {
            let tmp = tmp.clone();
            move |cause| Error::io(operation, tmp, cause)
        };
        let header = FileHeader {
            magic: SEGMENT_MAGIC,
            number: number.into(),
            store_id: self.store_id,
            link,
            position: (0, 0),
        };
        let file = self
            .disk
            .open(&tmp, Open::CreateNew)
            .await
            .map_err(failed("creation"))?;
        file.write_sync(0, Bytes::copy_from_slice(&header.encode()))
            .await
            .map_err(failed("write and sync"))?;
        self.disk
            .rename(&tmp, &self.segment(number))
            .await
            .map_err(failed("rename"))?;
        sync_dir(&self.disk, &self.path).await?;
        Ok(file)
    }
}

/// The header of a file that must be `path`'s.
pub fn read_header(
    bytes: &[u8],
    magic: [u8; 8],
    path: &Path,
    number: u64,
) -> Result<FileHeader, Error> {
    match FileHeader::decode(bytes, magic) {
        Ok(header) if header.number == number => Ok(header),
        Ok(header) => {
            let what = format!("the file is number {} by its header", header.number);
            Err(Error::corrupt(path, 0, what))
        }
        Err(cause) => Err(Error::header(path, cause)),
    }
}

/// A segment as readers see it: opened at its first read.
#[derive(Debug)]
pub struct SegmentFile {
    number: u32,
    pub path: PathBuf,
    store_id: u64,
    open: OnceLock<Arc<dyn ReadAt>>,
}

/// Why a segment could not be read.
#[derive(Debug)]
pub enum ReadError {
    /// The file is gone: its rows have moved, or it was lost.
    Gone(Unreadable),
    Bad(Unreadable),
}

impl SegmentFile {
    pub fn new<D: Disk>(dir: &Dir<D>, number: u32) -> Arc<Self> {
        Arc::new(SegmentFile {
            number,
            path: dir.segment(number),
            store_id: dir.store_id,
            open: OnceLock::new(),
        })
    }

    pub fn unreadable(&self, offset: u64, reason: impl Into<String>) -> Unreadable {
        Unreadable {
            file: self.path.clone(),
            offset,
            reason: reason.into(),
        }
    }

    /// Opens it, if it is not: from then on it is read wherever it went.
    pub fn hold<D: Disk>(&self, disk: &D) -> Result<&Arc<dyn ReadAt>, ReadError> {
        if let Some(file) = self.open.get() {
            return Ok(file);
        }
        let file = self.open_it(disk)?;
        // Two readers may come here at once; either's descriptor will do.
        Ok(self.open.get_or_init(|| file))
    }

    pub fn read<D: Disk>(&self, disk: &D, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.hold(disk)?
            .read_exact_at(offset, buf)
            .map_err(|cause| ReadError::Bad(self.unreadable(offset, read_failed(&cause))))
    }

    fn open_it<D: Disk>(&self, disk: &D) -> Result<Arc<dyn ReadAt>, ReadError> {
        let file = disk.reader(&self.path).map_err(|cause| {
            let unreadable = self.unreadable(0, format!("opening failed: {cause}"));
            match cause.kind() {
                io::ErrorKind::NotFound => ReadError::Gone(unreadable),
                _ => ReadError::Bad(unreadable),
            }
        })?;
        let mut header = [0; FILE_HEADER];
        let bad = |reason| ReadError::Bad(self.unreadable(0, reason));
        file.read_exact_at(0, &mut header)
            .map_err(|cause| bad(read_failed(&cause)))?;
        let header = read_header(&header, SEGMENT_MAGIC, &self.path, self.number.into())
            .map_err(|error| bad(error.to_string()))?;
        if header.store_id != self.store_id {
            return Err(bad("the file belongs to another store".into()));
        }
        Ok(file)
    }
}

fn read_failed(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::UnexpectedEof => "the file ends before".to_owned(),
        _ => format!("the read failed: {cause}"),
    }
}
