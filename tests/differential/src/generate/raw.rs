//! Requests no client library sends: bytes that are no message, methods nobody serves, odd metadata and frames.

use barque_proto::etcdserverpb as pb;
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::{Generator, METHODS};
use crate::call::{frame, framed};
use crate::step::Step;

impl Generator {
    pub(super) fn raw(&mut self) {
        let step = match self.random.below(8) {
            0 | 1 => self.garbage(),
            2 => self.truncated(),
            3 => {
                let path = self.random.pick(&[
                    "/etcdserverpb.KV/Nothing",
                    "/etcdserverpb.KV/range",
                    "/etcdserverpb.KV/",
                    "/etcdserverpb.Nothing/Range",
                    "/nothing.KV/Range",
                    "/KV/Range",
                    "/etcdserverpb.KV",
                    "/a/b/c",
                    "/etcdserverpb.Watch/Nothing",
                    "/etcdserverpb.Maintenance/Nothing",
                ]);
                Step::raw(path, framed(&pb::RangeRequest::default()))
            }
            4 => self.odd_metadata(),
            5 | 6 => self.odd_frames(),
            _ => {
                // Fields no version knows are to be ignored.
                let mut bytes = self.range().encode_to_vec();
                bytes.extend_from_slice(&[0xf8, 0x3e, 0x07]);
                Step::raw("/etcdserverpb.KV/Range", frame(&bytes))
            }
        };
        self.queue.push_back(step);
    }

    fn garbage(&mut self) -> Step {
        let path = self.random.pick(METHODS);
        let junk: &[&[u8]] = &[
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x0a\x05ab",
            b"\x0a",
            b"\x07",
            b"\x08\xff",
            b"\x00\x00",
            b"\x0f\x01",
        ];
        Step::raw(path, frame(self.random.pick(junk)))
    }

    fn truncated(&mut self) -> Step {
        let bytes = self.put().encode_to_vec();
        let cut = self.random.below(bytes.len().max(1));
        Step::raw(
            "/etcdserverpb.KV/Put",
            frame(&bytes[..cut.min(bytes.len())]),
        )
    }

    fn odd_metadata(&mut self) -> Step {
        let range = self.range();
        let step = Step::call("/etcdserverpb.KV/Range", &range);
        match self.random.below(5) {
            0 => step.with_metadata("hasleader", b"true"),
            1 => step.with_metadata("hasleader", b"yes"),
            2 => step.with_metadata("client-api-version", b"3.5.16"),
            3 => step.with_metadata("client-api-version", b""),
            _ => step.with_metadata("token", b"nobody.7"),
        }
    }

    fn odd_frames(&mut self) -> Step {
        let range = framed(&pb::RangeRequest {
            key: "a".into(),
            ..Default::default()
        });
        let body: Bytes = match self.random.below(6) {
            0 => Bytes::new(),
            1 => range.slice(..range.len() - 1),
            2 => range.slice(..3),
            3 => [range.clone(), range].concat().into(),
            4 => {
                // Said to be compressed, by no encoding.
                let mut body = BytesMut::from(&range[..]);
                body[0] = 1;
                body.freeze()
            }
            _ => {
                let mut head = BytesMut::new();
                head.put_u8(0);
                head.put_u32((2 << 20) + 1);
                head.freeze()
            }
        };
        Step::raw("/etcdserverpb.KV/Range", body)
    }
}
