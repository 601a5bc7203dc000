//! gRPC's message frames: one flag byte (compressed or not), four bytes of length, the message.
//! Promise: a message beyond the limit is refused as soon as its length is known, before its bytes are buffered.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::limits::{RESPONSE_BYTES_MAX, SHARED_BYTES_MIN};
use crate::status::{Code, Status};

pub(crate) const PREFIX_BYTES: usize = 5;

/// One or more messages with their prefixes, ready for DATA frames. Cheap to clone: watchers share them.
#[derive(Clone, Debug)]
pub struct Framed {
    first: Bytes,
    /// Most answers are one piece. More: some bytes are shared with other answers.
    rest: Vec<Bytes>,
    too_large: Option<usize>,
}

impl Framed {
    /// The frames as they go onto the wire, in pieces.
    pub(crate) fn pieces(self) -> impl Iterator<Item = Bytes> {
        std::iter::once(self.first).chain(self.rest)
    }
    /// What grpc-go says of a message it cannot send.
    pub(crate) fn refused(&self) -> Option<Status> {
        self.too_large.map(|len| {
            Status::new(
                Code::ResourceExhausted,
                format!("trying to send message larger than max ({len} vs. {RESPONSE_BYTES_MAX})"),
            )
        })
    }
    pub fn len(&self) -> usize {
        self.first.len() + self.rest.iter().map(Bytes::len).sum::<usize>()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The frames as they go onto the wire, copied together where they are more than one piece.
    pub fn into_bytes(self) -> Bytes {
        if self.rest.is_empty() {
            return self.first;
        }
        let mut whole = BytesMut::with_capacity(self.len());
        self.pieces().for_each(|piece| whole.put(piece));
        whole.freeze()
    }
}

/// Builds messages one after the other in one buffer.
#[derive(Debug, Default)]
pub struct Frames {
    /// Complete, before `buf`.
    done: Vec<Bytes>,
    buf: BytesMut,
    too_large: Option<usize>,
}

impl Frames {
    /// `bytes`: a guess of everything that will be written, prefixes included.
    pub fn with_capacity(bytes: usize) -> Self {
        Frames {
            buf: BytesMut::with_capacity(bytes),
            ..Frames::default()
        }
    }
    /// Exactly one message, of about `bytes`.
    pub fn one(bytes: usize, write: impl FnOnce(&mut BytesMut)) -> Framed {
        let mut frames = Frames::with_capacity(bytes + PREFIX_BYTES);
        frames.message(write);
        frames.finish()
    }
    pub fn message(&mut self, write: impl FnOnce(&mut BytesMut)) {
        self.message_with([], write);
    }
    /// A message that begins with what `write` writes and goes on with `shared`: bytes that other messages hold too. The
    /// large ones are not copied.
    pub fn message_with<'a>(
        &mut self,
        shared: impl IntoIterator<Item = &'a Bytes, IntoIter: Clone>,
        write: impl FnOnce(&mut BytesMut),
    ) {
        let shared = shared.into_iter();
        let copied = |bytes: &&Bytes| bytes.len() < SHARED_BYTES_MIN;
        self.reserve(shared.clone().filter(copied).map(Bytes::len).sum());
        let start = self.buf.len();
        self.buf.put_bytes(0, PREFIX_BYTES);
        write(&mut self.buf);
        let written = self.buf.len() - start - PREFIX_BYTES;
        let len = written + shared.clone().map(Bytes::len).sum::<usize>();
        match u32::try_from(len) {
            Ok(prefix) if len <= RESPONSE_BYTES_MAX => {
                self.buf[start + 1..start + PREFIX_BYTES].copy_from_slice(&prefix.to_be_bytes());
            }
            _ => self.too_large = Some(len),
        }
        for bytes in shared {
            if copied(&bytes) {
                self.buf.put_slice(bytes);
                continue;
            }
            if !self.buf.is_empty() {
                self.done.push(self.buf.split().freeze());
            }
            self.done.push(bytes.clone());
        }
    }
    pub fn reserve(&mut self, bytes: usize) {
        self.buf.reserve(bytes + PREFIX_BYTES);
    }
    pub fn len(&self) -> usize {
        self.buf.len() + self.done.iter().map(Bytes::len).sum::<usize>()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Everything written since the last call. The buffer stays usable.
    pub fn finish(&mut self) -> Framed {
        let last = self.buf.split().freeze();
        let mut pieces = std::mem::take(&mut self.done);
        let first = if pieces.is_empty() {
            last
        } else {
            if !last.is_empty() {
                pieces.push(last);
            }
            pieces.remove(0)
        };
        Framed {
            first,
            rest: pieces,
            too_large: self.too_large.take(),
        }
    }
}

/// Takes body bytes as they arrive and gives whole messages back.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// The beginning of a message that is not whole yet.
    /// Invariant: empty, or shorter than that message's frame.
    partial: BytesMut,
    /// Whole bytes not looked at yet; messages are cut from it without copying.
    ready: Bytes,
    message_bytes_max: usize,
}

impl Decoder {
    pub fn new(message_bytes_max: usize) -> Self {
        Decoder {
            partial: BytesMut::new(),
            ready: Bytes::new(),
            message_bytes_max,
        }
    }

    /// Call only after [`Decoder::next`] has said that nothing is left.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(
            self.ready.is_empty(),
            "bytes pushed before the last were used"
        );
        self.ready = chunk;
    }

    /// The next message; `None`: it needs more bytes.
    pub fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if !self.partial.is_empty() {
            self.fill_partial(PREFIX_BYTES);
            if self.partial.len() < PREFIX_BYTES {
                return Ok(None);
            }
            let frame = self.frame_bytes(&self.partial[..PREFIX_BYTES])?;
            self.partial
                .reserve(frame.saturating_sub(self.partial.len()));
            self.fill_partial(frame);
            if self.partial.len() < frame {
                return Ok(None);
            }
            let mut whole = self.partial.split().freeze();
            whole.advance(PREFIX_BYTES);
            return Ok(Some(whole));
        }
        if self.ready.is_empty() {
            return Ok(None);
        }
        if self.ready.len() >= PREFIX_BYTES {
            let frame = self.frame_bytes(&self.ready[..PREFIX_BYTES])?;
            if self.ready.len() >= frame {
                let mut whole = self.ready.split_to(frame);
                whole.advance(PREFIX_BYTES);
                return Ok(Some(whole));
            }
        }
        self.partial.extend_from_slice(&self.ready);
        self.ready = Bytes::new();
        Ok(None)
    }

    /// True between messages: a body that ends elsewhere was cut off.
    pub fn is_between(&self) -> bool {
        self.partial.is_empty() && self.ready.is_empty()
    }

    fn fill_partial(&mut self, to: usize) {
        let missing = to.saturating_sub(self.partial.len()).min(self.ready.len());
        self.partial
            .extend_from_slice(&self.ready.split_to(missing));
    }

    fn frame_bytes(&self, prefix: &[u8]) -> Result<usize, Status> {
        if prefix[0] != 0 {
            // No encoding was agreed on: none is offered.
            return Err(Status::new(
                Code::Internal,
                "grpc: compressed flag set with identity or empty encoding",
            ));
        }
        let len = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if len > self.message_bytes_max {
            return Err(Status::new(
                Code::ResourceExhausted,
                format!(
                    "grpc: received message larger than max ({len} vs. {})",
                    self.message_bytes_max
                ),
            ));
        }
        Ok(len + PREFIX_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_oversized_message_is_refused_at_its_prefix() {
        let mut decoder = Decoder::new(10);
        decoder.push(Bytes::from_static(&[0, 0, 0, 0, 11]));
        let refused = decoder.next().unwrap_err();
        assert_eq!(refused.code, Code::ResourceExhausted);
        assert_eq!(
            refused.message,
            "grpc: received message larger than max (11 vs. 10)"
        );
    }

    #[test]
    fn a_compressed_message_is_refused() {
        let mut decoder = Decoder::new(10);
        decoder.push(Bytes::from_static(&[1, 0, 0, 0, 1, 7]));
        assert_eq!(decoder.next().unwrap_err().code, Code::Internal);
    }

    #[test]
    fn large_shared_bytes_are_referred_to_and_small_ones_copied() {
        let large = Bytes::from(vec![7; SHARED_BYTES_MIN]);
        let small = Bytes::from_static(b"small");
        let mut frames = Frames::default();
        for _ in 0..2 {
            frames.message_with([&small, &large, &small], |buf| buf.put_slice(b"head"));
        }
        frames.message(|buf| buf.put_slice(b"end"));
        assert!(!frames.is_empty());
        let framed = frames.finish();
        assert!(frames.is_empty() && frames.finish().is_empty());
        let pieces: Vec<Bytes> = framed.clone().pieces().collect();
        assert_eq!(pieces.len(), 5);
        assert_eq!(pieces[1].as_ptr(), large.as_ptr());
        assert_eq!(pieces[3].as_ptr(), large.as_ptr());
        let mut decoder = Decoder::new(2 * SHARED_BYTES_MIN);
        let len = framed.len();
        let wire = framed.into_bytes();
        assert_eq!(wire.len(), len);
        decoder.push(wire);
        let message = [b"headsmall", &large[..], b"small"].concat();
        for expected in [&message[..], &message[..], b"end"] {
            assert_eq!(decoder.next().unwrap().unwrap(), expected);
        }
        assert!(decoder.is_between());
    }

    proptest! {
        /// However the bytes are cut on their way, the same messages come out.
        #[test]
        fn messages_survive_any_cutting(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8),
            cuts in proptest::collection::vec(1usize..40, 1..200),
        ) {
            let mut frames = Frames::default();
            for message in &messages {
                frames.message(|buf| buf.extend_from_slice(message));
            }
            let mut wire = frames.finish().into_bytes();
            let mut decoder = Decoder::new(300);
            let mut got: Vec<Vec<u8>> = Vec::new();
            let mut cut = cuts.iter().cycle();
            while !wire.is_empty() {
                let len = (*cut.next().unwrap()).min(wire.len());
                decoder.push(wire.split_to(len));
                while let Some(message) = decoder.next().unwrap() {
                    got.push(message.to_vec());
                }
            }
            prop_assert!(decoder.is_between());
            prop_assert_eq!(got, messages);
        }
    }
}
