//! Frames of the peer protocol: length, checksum, version, kind, id, then a protobuf body. PROTOCOL.md has the layout.
//! Promise: a frame that does not check is an error, never a message; nothing longer than the limit is buffered.

use std::sync::Arc;

use barque_store_env::ReadHalf;
use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use prost::Message;

use super::traffic::Traffic;
use crate::limits;

/// Version of the frame's layout; what bodies mean is the handshake's `protocol`.
pub const FRAME_VERSION: u8 = 1;
pub const HEADER_BYTES: usize = 20;
/// The checksum covers the frame from here on.
const CHECKED_FROM: usize = 8;
const READ_RESERVE: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Hello = 1,
    Welcome = 2,
    Refused = 3,
    Vote = 10,
    PreVote = 11,
    VoteReply = 12,
    Append = 13,
    AppendReply = 14,
    Transfer = 15,
    TransferReply = 16,
    ReadIndex = 20,
    ReadIndexReply = 21,
    Forward = 22,
    ForwardReply = 23,
    Members = 24,
    MembersReply = 25,
    Numbered = 26,
    Hash = 50,
    HashReply = 51,
    Fence = 52,
    FenceReply = 53,
    /// Answers any call that could not be carried out.
    Error = 30,
    Offer = 40,
    OfferReply = 41,
    AskPiece = 42,
    Piece = 43,
    Waiting = 44,
    Fetch = 45,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        use Kind::*;
        [
            Hello,
            Welcome,
            Refused,
            Vote,
            PreVote,
            VoteReply,
            Append,
            AppendReply,
            Transfer,
            TransferReply,
            ReadIndex,
            ReadIndexReply,
            Forward,
            ForwardReply,
            Members,
            MembersReply,
            Numbered,
            Hash,
            HashReply,
            Fence,
            FenceReply,
            Error,
            Offer,
            OfferReply,
            AskPiece,
            Piece,
            Waiting,
            Fetch,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    /// Chosen by the caller; an answer carries its call's.
    pub id: u64,
    pub body: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("the peer closed the connection inside a frame")]
    Cut,
    #[error("a frame of {bytes} bytes, more than {max}")]
    TooLong { bytes: usize, max: usize },
    #[error("a frame of version {0}; this member speaks {FRAME_VERSION}")]
    Version(u8),
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    #[error("a frame whose checksum is wrong")]
    Checksum,
    #[error("a {kind:?} that does not parse: {cause}")]
    Body { kind: Kind, cause: String },
}

impl Frame {
    /// The bytes of one frame.
    pub fn encode(kind: Kind, id: u64, body: &impl Message) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_BYTES + body.encoded_len());
        out.put_bytes(0, CHECKED_FROM);
        out.put_u8(FRAME_VERSION);
        out.put_u8(kind as u8);
        out.put_u16_le(0);
        out.put_u64_le(id);
        body.encode(&mut out)
            .expect("a BytesMut grows as far as needed");
        let len =
            u32::try_from(out.len() - HEADER_BYTES).expect("bodies are bounded far below 4 GiB");
        let checksum = crc32c::crc32c(&out[CHECKED_FROM..]);
        out[..4].copy_from_slice(&len.to_le_bytes());
        out[4..8].copy_from_slice(&checksum.to_le_bytes());
        out.freeze()
    }

    /// Takes the first frame off `buf`, if it is all there.
    pub fn take(buf: &mut BytesMut, max: usize) -> Result<Option<Frame>, FrameError> {
        if buf.len() < HEADER_BYTES {
            return Ok(None);
        }
        let word = |at: usize| u32::from_le_bytes(buf[at..at + 4].try_into().expect("four bytes"));
        let (len, checksum) = (word(0) as usize, word(4));
        if buf[8] != FRAME_VERSION {
            return Err(FrameError::Version(buf[8]));
        }
        if len > max {
            return Err(FrameError::TooLong { bytes: len, max });
        }
        if buf.len() < HEADER_BYTES + len {
            buf.reserve(HEADER_BYTES + len - buf.len());
            return Ok(None);
        }
        let mut frame = buf.split_to(HEADER_BYTES + len).freeze();
        if crc32c::crc32c(&frame[CHECKED_FROM..]) != checksum {
            return Err(FrameError::Checksum);
        }
        let kind = Kind::from_byte(frame[9]).ok_or(FrameError::Kind(frame[9]))?;
        let id = u64::from_le_bytes(frame[12..20].try_into().expect("eight bytes"));
        let body = frame.split_off(HEADER_BYTES);
        Ok(Some(Frame { kind, id, body }))
    }

    /// The body as a message. Bytes inside it share the frame's memory.
    pub fn parse<M: Message + Default>(&self) -> Result<M, FrameError> {
        M::decode(self.body.clone()).map_err(|cause| FrameError::Body {
            kind: self.kind,
            cause: cause.to_string(),
        })
    }
}

/// The receiving half of a connection.
pub struct Reader<R> {
    half: R,
    buf: BytesMut,
    /// Where its bytes are counted, once it is known whose they are.
    pub traffic: Option<Arc<Traffic>>,
}

impl<R: ReadHalf> Reader<R> {
    pub fn new(half: R) -> Self {
        Reader {
            half,
            buf: BytesMut::new(),
            traffic: None,
        }
    }
    /// The next frame; `None` when the peer closed between two. Not cancel-safe.
    pub async fn next(&mut self, max: usize) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(frame) = Frame::take(&mut self.buf, max)? {
                return Ok(Some(frame));
            }
            if self.buf.capacity() == self.buf.len() {
                self.buf.reserve(READ_RESERVE);
            }
            let bytes = self.half.read(&mut self.buf).await?;
            if let Some(traffic) = &self.traffic {
                traffic.received(bytes);
            }
            if bytes == 0 {
                return if self.buf.is_empty() {
                    Ok(None)
                } else {
                    Err(FrameError::Cut)
                };
            }
        }
    }
    /// All further frames; ends after an error.
    pub fn frames(self) -> impl Stream<Item = Result<Frame, FrameError>> + Send {
        futures::stream::unfold(Some(self), |reader| async move {
            let mut reader = reader?;
            match reader.next(limits::FRAME_BYTES_MAX).await {
                Ok(Some(frame)) => Some((Ok(frame), Some(reader))),
                Ok(None) => None,
                Err(e) => Some((Err(e), None)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::VoteRecord;

    fn body() -> VoteRecord {
        VoteRecord {
            term: 5,
            voted_for: 7,
            committed: true,
        }
    }

    #[test]
    fn a_frame_comes_back_however_it_is_cut() {
        let bytes = [
            Frame::encode(Kind::Vote, 1, &body()),
            Frame::encode(Kind::Append, u64::MAX, &()),
        ]
        .concat();
        for step in 1..bytes.len() {
            let mut buf = BytesMut::new();
            let mut got = Vec::new();
            for piece in bytes.chunks(step) {
                buf.extend_from_slice(piece);
                while let Some(frame) = Frame::take(&mut buf, 1000).expect("well formed") {
                    got.push(frame);
                }
            }
            assert_eq!(got.len(), 2);
            assert_eq!(got[0].parse::<VoteRecord>().expect("a vote"), body());
            assert_eq!(
                (got[1].kind, got[1].id, got[1].body.len()),
                (Kind::Append, u64::MAX, 0)
            );
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = Frame::encode(Kind::Vote, 77, &body());
        for bit in 0..good.len() * 8 {
            let mut bad = BytesMut::from(&good[..]);
            bad[bit / 8] ^= 1 << (bit % 8);
            // A longer length only asks for more bytes, which then fail the checksum.
            if let Ok(Some(frame)) = Frame::take(&mut bad, 1000) {
                panic!("bit {bit} went unnoticed: {frame:?}");
            }
        }
    }

    #[test]
    fn too_long_is_refused_before_it_is_read() {
        let mut head = BytesMut::from(&Frame::encode(Kind::Vote, 1, &body())[..HEADER_BYTES]);
        head[..4].copy_from_slice(&2000u32.to_le_bytes());
        assert!(matches!(
            Frame::take(&mut head, 1000),
            Err(FrameError::TooLong { bytes: 2000, .. })
        ));
    }
}
