//! How a log fails. Every error is final for the member: it stops, and no client sees these texts.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// This member can no longer trust, or cannot open, its log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WalError {
    #[error("the log in {dir} is in use by another process")]
    Locked { dir: PathBuf },
    /// The first failed operation; nothing after it was written.
    #[error("{operation} of {file} failed: {cause}")]
    Io {
        operation: &'static str,
        file: PathBuf,
        cause: Arc<io::Error>,
    },
    /// Acknowledged records may be gone. The member must not vote; its data comes back from its peers.
    #[error("the log is corrupt: {file} at offset {offset}: {what}")]
    Corrupt {
        file: PathBuf,
        offset: u64,
        what: String,
    },
    #[error(
        "{file} was written by a newer version (format {format}, readable from {min_reader} on); this one reads up to {}",
        crate::codec::FORMAT
    )]
    TooNew {
        file: PathBuf,
        format: u16,
        min_reader: u16,
    },
    /// Written before the first release; nobody has data in it that is worth code.
    #[error(
        "{file} has format {format}, of a version before the first release; this one reads format {}. Start this member with an empty data directory as a new member (its peers send it everything), or restore a snapshot saved by the version that wrote it",
        crate::codec::FORMAT
    )]
    TooOld { file: PathBuf, format: u16 },
    /// A bug above the log, caught before it reached the disk.
    #[error("entry {got} was appended where entry {expected} was due")]
    Gap { expected: u64, got: u64 },
    #[error("one append of {bytes} bytes is more than a batch can hold")]
    TooLarge { bytes: usize },
    #[error("the log is closed")]
    Closed,
    /// The writer is gone without an error of its own: its runtime ended, or it panicked.
    #[error("the log's writer was stopped")]
    Stopped,
}

impl WalError {
    pub(crate) fn io(operation: &'static str, file: impl Into<PathBuf>, cause: io::Error) -> Self {
        WalError::Io {
            operation,
            file: file.into(),
            cause: Arc::new(cause),
        }
    }
}
