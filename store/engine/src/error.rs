//! How an engine fails. Every error is final for the member: it stops, and no client sees these texts.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::RowId;
use crate::codec::HeaderError;

/// This member can no longer trust, or cannot open, its persisted state.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("the state in {dir} is in use by another process")]
    Locked { dir: PathBuf },
    /// The first failed operation; nothing after it was reported durable.
    #[error("{operation} of {file} failed: {cause}")]
    Io {
        operation: &'static str,
        file: PathBuf,
        cause: Arc<io::Error>,
    },
    /// Committed state may be gone. The member's data must come back from its peers.
    #[error("the state is corrupt: {file} at offset {offset}: {what}")]
    Corrupt {
        file: PathBuf,
        offset: u64,
        what: String,
    },
    /// A row that had to be moved could not be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error(
        "{file} was written by a newer version (format {format}, readable from {min_reader} on); this one reads up to {}",
        crate::codec::FORMAT
    )]
    TooNew {
        file: PathBuf,
        format: u16,
        min_reader: u16,
    },
    /// The caller did not understand what it had stored.
    #[error("the state in {dir} does not load: {what}")]
    Restore { dir: PathBuf, what: String },
    /// A bug above the engine, caught before it reached the disk.
    #[error("row {got} was given after row {last}")]
    Order { last: RowId, got: RowId },
    #[error("{what} of {bytes} bytes is more than the engine takes ({max})")]
    TooLarge {
        what: &'static str,
        bytes: usize,
        max: usize,
    },
    #[error("no checkpoint was begun")]
    NoCheckpoint,
    /// The caller dropped a call's future half-way, so that nobody knows what was done.
    #[error("an earlier operation of the engine was interrupted")]
    Interrupted,
    #[error(
        "the engine {kind} is not part of this program: build it with the cargo feature `{feature}`"
    )]
    NotBuilt {
        kind: &'static str,
        feature: &'static str,
    },
    /// Only engines that bring files of their own.
    #[error("the engine {kind} in {dir}: {what}")]
    Foreign {
        kind: &'static str,
        dir: PathBuf,
        what: String,
    },
}

impl Error {
    /// Whether bytes are not what was written, or are gone: what another member has can make it good.
    pub fn is_damage(&self) -> bool {
        matches!(self, Error::Corrupt { .. } | Error::Unreadable(_))
    }

    pub(crate) fn io(operation: &'static str, file: impl Into<PathBuf>, cause: io::Error) -> Self {
        Error::Io {
            operation,
            file: file.into(),
            cause: Arc::new(cause),
        }
    }

    /// A file that its header does not let be read.
    pub(crate) fn header(file: impl Into<PathBuf>, cause: HeaderError) -> Self {
        match cause {
            HeaderError::Bad(what) => Error::corrupt(file, 0, what),
            HeaderError::TooNew { format, min_reader } => Error::TooNew {
                file: file.into(),
                format,
                min_reader,
            },
        }
    }

    pub(crate) fn corrupt(file: impl Into<PathBuf>, offset: u64, what: impl Into<String>) -> Self {
        Error::Corrupt {
            file: file.into(),
            offset,
            what: what.into(),
        }
    }
}

/// A row is there but cannot be served: the disk failed, or a byte is wrong. The member must be fenced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row is unreadable: {file} at offset {offset}: {reason}", file = .file.display())]
pub struct Unreadable {
    pub file: PathBuf,
    pub offset: u64,
    pub reason: String,
}

/// Keeps the first error, and notices a call that never came to its end.
#[derive(Debug, Default)]
pub(crate) struct Latch {
    failed: Option<Error>,
    busy: bool,
}

impl Latch {
    /// At the beginning of each operation.
    pub fn enter(&mut self) -> Result<(), Error> {
        if self.busy {
            self.failed.get_or_insert(Error::Interrupted);
        }
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.busy = true;
        Ok(())
    }

    /// At its end.
    pub fn leave<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        self.busy = false;
        if let Err(error) = &result {
            tracing::error!(%error, "the engine failed; nothing more is stored");
            self.failed = Some(error.clone());
        }
        result
    }
}
