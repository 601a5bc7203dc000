//! Whole states: one is offered, asked for piece by piece, and answered piece by piece.
//! Not here: how a transfer goes on (the transport's `image` and `fetch`), what is in a piece (`store/node`).

use bytes::Bytes;
use prost::Message;

use super::LogIdBody;
use crate::record::VoteRecord;

/// A state that the sender has pinned.
#[derive(Clone, PartialEq, Message)]
pub struct OfferBody {
    #[prost(message, optional, tag = "1")]
    pub vote: Option<VoteRecord>,
    /// The last entry in it.
    #[prost(message, optional, tag = "2")]
    pub last: Option<LogIdBody>,
    /// The membership in force there, as in a `Mark`.
    #[prost(bytes = "bytes", tag = "3")]
    pub membership: Bytes,
    /// About so many.
    #[prost(uint64, tag = "4")]
    pub bytes: u64,
}
#[derive(Clone, PartialEq, Message)]
pub struct OfferReplyBody {
    /// The receiver's. Not above the offer's: the state is installed, or the receiver had more than it.
    #[prost(message, optional, tag = "1")]
    pub vote: Option<VoteRecord>,
}
#[derive(Clone, PartialEq, Message)]
pub struct AskPieceBody {
    /// Where it begins; empty: the first.
    #[prost(bytes = "bytes", tag = "1")]
    pub from: Bytes,
}
#[derive(Clone, PartialEq, Message)]
pub struct PieceBody {
    #[prost(bytes = "bytes", tag = "1")]
    pub body: Bytes,
    /// Where the next one begins; absent: this is the last.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub next: Option<Bytes>,
}
