//! Whole states on their way from one member to another: what the two ends must be able to do, and the sizes.
//! A state travels in pieces that the receiver asks for. What is in a piece, and where a place in a state is, only the
//! machine knows: consensus carries both unread.
//! Not here: how the pieces travel (`transport/image`), when a state is sent instead of the log (openraft, `purge`).

use std::pin::Pin;
use std::sync::Arc;

use barque_store_state::MemberId;
use bytes::Bytes;

use crate::{Mark, limits};

/// Something the machine does in its own time; the error is a text for logs.
pub type Working<'a, T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'a>>;

/// A persisted state that does not change any more, and what it is.
pub struct Pinned {
    pub mark: Mark,
    /// About so many.
    pub bytes: u64,
    pub image: Arc<dyn Image>,
}

/// Reads a pinned state. Called on the thread that sends it: a piece costs one read of its length.
pub trait Image: Send + Sync + 'static {
    /// The piece that begins at `from`; empty is the beginning, anything else should have come from [`Piece::next`]. `None`: no
    /// piece begins there, which is the asker's fault. An error means that the state is damaged here: this member can no longer
    /// trust its disk.
    fn piece(&self, from: &[u8]) -> Result<Option<Piece>, String>;
    /// Whether this member's state is still the one that it was pinned of, or was exchanged meanwhile: then damage in the old
    /// one says nothing about the new one.
    fn is_present(&self) -> bool {
        true
    }
}

/// A part of a state, at most [`limits::IMAGE_PIECE_BYTES`] long unless one row in it is longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub body: Bytes,
    /// Where the next one begins; `None`: this was the last.
    pub next: Option<Bytes>,
}

/// A state that another member offers. Two offers that are equal are of the same bytes in the same order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub from: MemberId,
    pub mark: Mark,
    pub bytes: u64,
}

/// A state that is being received, beside the present one. Dropping it leaves what is there for the same offer to go on.
pub trait Staging: Send {
    /// Where the next piece begins; `None`: all of it is here.
    fn next(&self) -> Option<Bytes>;
    /// Takes the piece that begins there. It may become durable with a later one.
    fn take(&mut self, piece: Piece) -> Working<'_, ()>;
    /// Everything is here and durable: puts the state together and sees that it is the one that was offered.
    fn finish(self: Box<Self>) -> Working<'static, Box<dyn Staged>>;
}

/// A state that was received whole. Dropped, it was for nothing.
pub trait Staged: Send {
    /// Makes it the state. After an error this member can no longer trust its disk.
    fn install(self: Box<Self>) -> Working<'static, ()>;
}

/// How much log is kept behind what is persisted, and how states travel. Only tests change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageRules {
    pub log_kept_min: u64,
    pub log_kept_max: u64,
    pub log_kept_hard: u64,
    pub piece_bytes: usize,
    pub bytes_per_second: u64,
}

impl Default for ImageRules {
    fn default() -> Self {
        ImageRules {
            log_kept_min: limits::LOG_KEPT_BYTES_MIN,
            log_kept_max: limits::LOG_KEPT_BYTES_MAX,
            log_kept_hard: limits::LOG_KEPT_BYTES_HARD,
            piece_bytes: limits::IMAGE_PIECE_BYTES,
            bytes_per_second: limits::IMAGE_BYTES_PER_SECOND,
        }
    }
}
