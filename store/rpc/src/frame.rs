//! gRPC's message frames: one flag byte (compressed or not), four bytes of length, the message.
//! Promise: a message beyond the limit is refused as soon as its length is known, before its bytes are buffered.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::limits::RESPONSE_BYTES_MAX;
use crate::status::{Code, Status};

const PREFIX_BYTES: usize = 5;

/// One or more messages with their prefixes, ready for DATA frames. Cheap to clone: watchers share them.
#[derive(Clone, Debug)]
pub struct Framed {
    pub(crate) bytes: Bytes,
    too_large: Option<usize>,
}

impl Framed {
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
        self.bytes.len()
    }
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
    /// The frames as they go onto the wire.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

/// Builds messages one after the other in one buffer.
#[derive(Debug, Default)]
pub struct Frames {
    buf: BytesMut,
    too_large: Option<usize>,
}

impl Frames {
    /// `bytes`: a guess of everything that will be written, prefixes included.
    pub fn with_capacity(bytes: usize) -> Self {
        Frames {
            buf: BytesMut::with_capacity(bytes),
            too_large: None,
        }
    }
    /// Exactly one message, of about `bytes`.
    pub fn one(bytes: usize, write: impl FnOnce(&mut BytesMut)) -> Framed {
        let mut frames = Frames::with_capacity(bytes + PREFIX_BYTES);
        frames.message(write);
        frames.finish()
    }
    pub fn message(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let start = self.buf.len();
        self.buf.put_bytes(0, PREFIX_BYTES);
        write(&mut self.buf);
        let len = self.buf.len() - start - PREFIX_BYTES;
        match u32::try_from(len) {
            Ok(prefix) if len <= RESPONSE_BYTES_MAX => {
                self.buf[start + 1..start + PREFIX_BYTES].copy_from_slice(&prefix.to_be_bytes());
            }
            _ => self.too_large = Some(len),
        }
    }
    pub fn reserve(&mut self, bytes: usize) {
        self.buf.reserve(bytes + PREFIX_BYTES);
    }
    pub fn len(&self) -> usize {
        self.buf.len()
    }
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }
    /// Everything written since the last call. The buffer stays usable.
    pub fn finish(&mut self) -> Framed {
        Framed {
            bytes: self.buf.split().freeze(),
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
            return Err(Status::unimplemented(
                "grpc: compressed messages are not supported",
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
        assert_eq!(decoder.next().unwrap_err().code, Code::Unimplemented);
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
            let mut wire = frames.finish().bytes;
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
