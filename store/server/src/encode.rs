//! Protobuf bytes of the hot answers, written by hand straight from stored rows: no intermediate message structs, no copies
//! of keys and values but the one into the output. A test holds every shape against prost's own decoding.

use barque_store_rpc::{Framed, Frames};
use barque_store_state::{
    Answer, Event, EventKind, KeyValue, OpResult, RangeResult, Revision, TxnResult,
};
use barque_store_watch::WatchEvent;
use bytes::{BufMut, Bytes, BytesMut};

/// etcd's ResponseHeader. Zero fields are left out, as everywhere in proto3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub cluster_id: u64,
    pub member_id: u64,
    pub revision: Revision,
    pub raft_term: u64,
}

impl Header {
    pub fn at(self, revision: Revision) -> Header {
        Header { revision, ..self }
    }
    /// As answers inside a transaction carry it.
    fn nested(revision: Revision) -> Header {
        Header {
            revision,
            ..Header::default()
        }
    }
}

const VARINT: u32 = 0;
const LENGTH_DELIMITED: u32 = 2;

fn varint_len(value: u64) -> usize {
    // Seven bits a byte; `| 1` because zero takes one byte too.
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn put_varint(buf: &mut BytesMut, mut value: u64) {
    let mut bytes = [0u8; 10];
    let mut len = 0;
    while value >= 0x80 {
        bytes[len] = (value as u8) | 0x80;
        value >>= 7;
        len += 1;
    }
    bytes[len] = value as u8;
    buf.put_slice(&bytes[..=len]);
}

fn put_tag(buf: &mut BytesMut, field: u32, wire: u32) {
    put_varint(buf, u64::from(field << 3 | wire));
}

fn tag_len(field: u32) -> usize {
    varint_len(u64::from(field << 3))
}

fn uint_len(field: u32, value: u64) -> usize {
    if value == 0 {
        0
    } else {
        tag_len(field) + varint_len(value)
    }
}

fn put_uint(buf: &mut BytesMut, field: u32, value: u64) {
    if value != 0 {
        put_tag(buf, field, VARINT);
        put_varint(buf, value);
    }
}

/// Signed fields are varints of the two's complement.
fn put_int(buf: &mut BytesMut, field: u32, value: i64) {
    put_uint(buf, field, value as u64);
}

fn bytes_len(field: u32, bytes: &[u8]) -> usize {
    if bytes.is_empty() {
        0
    } else {
        message_len(field, bytes.len())
    }
}

fn put_bytes(buf: &mut BytesMut, field: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_message_head(buf, field, bytes.len());
        buf.put_slice(bytes);
    }
}

/// A message field of `len` bytes, tag and length included. Present even when empty.
fn message_len(field: u32, len: usize) -> usize {
    tag_len(field) + varint_len(len as u64) + len
}

fn put_message_head(buf: &mut BytesMut, field: u32, len: usize) {
    put_tag(buf, field, LENGTH_DELIMITED);
    put_varint(buf, len as u64);
}

fn header_len(header: &Header) -> usize {
    uint_len(1, header.cluster_id)
        + uint_len(2, header.member_id)
        + uint_len(3, header.revision.0)
        + uint_len(4, header.raft_term)
}

/// Every response has its header as field 1.
fn put_header(buf: &mut BytesMut, header: &Header) {
    put_message_head(buf, 1, header_len(header));
    put_uint(buf, 1, header.cluster_id);
    put_uint(buf, 2, header.member_id);
    put_uint(buf, 3, header.revision.0);
    put_uint(buf, 4, header.raft_term);
}

fn kv_len(kv: &KeyValue) -> usize {
    bytes_len(1, &kv.key)
        + uint_len(2, kv.create_revision.0)
        + uint_len(3, kv.mod_revision.0)
        + uint_len(4, kv.version)
        + bytes_len(5, &kv.value)
        + uint_len(6, kv.lease.0 as u64)
}

fn put_kv(buf: &mut BytesMut, field: u32, kv: &KeyValue) {
    put_message_head(buf, field, kv_len(kv));
    put_bytes(buf, 1, &kv.key);
    put_uint(buf, 2, kv.create_revision.0);
    put_uint(buf, 3, kv.mod_revision.0);
    put_uint(buf, 4, kv.version);
    put_bytes(buf, 5, &kv.value);
    put_int(buf, 6, kv.lease.0);
}

fn kvs_len<'a>(field: u32, kvs: impl IntoIterator<Item = &'a std::sync::Arc<KeyValue>>) -> usize {
    kvs.into_iter()
        .map(|kv| message_len(field, kv_len(kv)))
        .sum()
}

fn range_len(header: &Header, result: &RangeResult) -> usize {
    message_len(1, header_len(header))
        + kvs_len(2, &result.kvs)
        + uint_len(3, u64::from(result.more))
        + uint_len(4, result.count)
}

fn put_range(buf: &mut BytesMut, header: &Header, result: &RangeResult) {
    put_header(buf, header);
    for kv in &result.kvs {
        put_kv(buf, 2, kv);
    }
    put_uint(buf, 3, u64::from(result.more));
    put_uint(buf, 4, result.count);
}

/// A whole RangeResponse.
pub(crate) fn range(header: &Header, result: &RangeResult) -> Framed {
    Frames::one(range_len(header, result), |buf| {
        put_range(buf, header, result);
    })
}

/// The answer of a command that became an entry; `None`: not one a client asks for.
pub(crate) fn answer(header: &Header, answer: &Answer) -> Option<Framed> {
    let framed = match answer {
        Answer::Put { prev } => Frames::one(
            message_len(1, header_len(header)) + kvs_len(2, prev),
            |buf| {
                put_header(buf, header);
                if let Some(prev) = prev {
                    put_kv(buf, 2, prev);
                }
            },
        ),
        Answer::DeleteRange { deleted, prev } => Frames::one(
            message_len(1, header_len(header)) + uint_len(2, *deleted) + kvs_len(3, prev),
            |buf| {
                put_header(buf, header);
                put_uint(buf, 2, *deleted);
                for kv in prev {
                    put_kv(buf, 3, kv);
                }
            },
        ),
        Answer::Txn(result) => {
            // The revision before the transaction: it answers the operations that came before its first change.
            let mut walk = Walk::new(header.revision, &result.results);
            let len = txn_len(header, result, &mut walk.clone());
            Frames::one(len, |buf| put_txn(buf, header, result, &mut walk))
        }
        Answer::Compacted | Answer::LeaseRevoked => {
            Frames::one(message_len(1, header_len(header)), |buf| {
                put_header(buf, header);
            })
        }
        Answer::LeaseGranted { id, ttl_s } => Frames::one(64, |buf| {
            put_header(buf, header);
            put_int(buf, 2, id.0);
            put_uint(buf, 3, *ttl_s);
        }),
        _ => return None,
    };
    Some(framed)
}

/// Follows the revision through a transaction's operations: an answer inside carries the revision its operation saw.
#[derive(Clone, Debug)]
struct Walk {
    before: u64,
    changed: bool,
}

impl Walk {
    fn new(after: Revision, results: &[OpResult]) -> Self {
        Walk {
            before: after.0 - u64::from(results.iter().any(changes)).min(after.0),
            changed: false,
        }
    }
    fn header(&mut self, result: &OpResult) -> Header {
        // A nested transaction's own header is empty in etcd; its operations are walked one by one.
        if matches!(result, OpResult::Txn(_)) {
            return Header::default();
        }
        self.changed |= changes(result);
        Header::nested(Revision(self.before + u64::from(self.changed)))
    }
}

fn changes(result: &OpResult) -> bool {
    match result {
        OpResult::Range(_) => false,
        OpResult::Put { .. } => true,
        OpResult::DeleteRange { deleted, .. } => *deleted > 0,
        OpResult::Txn(txn) => txn.results.iter().any(changes),
    }
}

fn op_len(result: &OpResult, walk: &mut Walk) -> usize {
    let header = walk.header(result);
    match result {
        OpResult::Range(range) => range_len(&header, range),
        OpResult::Put { prev } => message_len(1, header_len(&header)) + kvs_len(2, prev),
        OpResult::DeleteRange { deleted, prev } => {
            message_len(1, header_len(&header)) + uint_len(2, *deleted) + kvs_len(3, prev)
        }
        OpResult::Txn(txn) => txn_len(&header, txn, walk),
    }
}

fn op_field(result: &OpResult) -> u32 {
    match result {
        OpResult::Range(_) => 1,
        OpResult::Put { .. } => 2,
        OpResult::DeleteRange { .. } => 3,
        OpResult::Txn(_) => 4,
    }
}

fn txn_len(header: &Header, result: &TxnResult, walk: &mut Walk) -> usize {
    let mut len = message_len(1, header_len(header)) + uint_len(2, u64::from(result.succeeded));
    for op in &result.results {
        len += message_len(3, message_len(op_field(op), op_len(op, walk)));
    }
    len
}

fn put_txn(buf: &mut BytesMut, header: &Header, result: &TxnResult, walk: &mut Walk) {
    put_header(buf, header);
    put_uint(buf, 2, u64::from(result.succeeded));
    for op in &result.results {
        let len = op_len(op, &mut walk.clone());
        put_message_head(buf, 3, message_len(op_field(op), len));
        put_message_head(buf, op_field(op), len);
        let header = walk.header(op);
        match op {
            OpResult::Range(range) => put_range(buf, &header, range),
            OpResult::Put { prev } => {
                put_header(buf, &header);
                if let Some(prev) = prev {
                    put_kv(buf, 2, prev);
                }
            }
            OpResult::DeleteRange { deleted, prev } => {
                put_header(buf, &header);
                put_uint(buf, 2, *deleted);
                for kv in prev {
                    put_kv(buf, 3, kv);
                }
            }
            OpResult::Txn(txn) => put_txn(buf, &header, txn, walk),
        }
    }
}

/// A WatchResponse without its events.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WatchHead<'a> {
    pub header: Header,
    pub watch_id: i64,
    pub created: bool,
    pub canceled: bool,
    pub compact_revision: u64,
    pub cancel_reason: &'a str,
    pub fragment: bool,
}

/// One event as it stands in a WatchResponse, field and all. With the row before the change if the event has it.
pub(crate) fn event(event: &Event) -> Bytes {
    let mut len = message_len(2, kv_len(&event.kv));
    len += uint_len(1, u64::from(event.kind == EventKind::Delete));
    len += kvs_len(3, &event.prev);
    let mut buf = BytesMut::with_capacity(message_len(11, len));
    put_message_head(&mut buf, 11, len);
    put_uint(&mut buf, 1, u64::from(event.kind == EventKind::Delete));
    put_kv(&mut buf, 2, &event.kv);
    if let Some(prev) = &event.prev {
        put_kv(&mut buf, 3, prev);
    }
    buf.freeze()
}

impl WatchHead<'_> {
    /// Bytes of the response without its events.
    pub fn len(&self) -> usize {
        message_len(1, header_len(&self.header))
            + uint_len(2, self.watch_id as u64)
            + uint_len(3, u64::from(self.created))
            + uint_len(4, u64::from(self.canceled))
            + uint_len(5, self.compact_revision)
            + bytes_len(6, self.cancel_reason.as_bytes())
            + uint_len(7, u64::from(self.fragment))
    }
}

/// Appends one WatchResponse. The events' bytes are those of [`event`], shared by every watch of the event.
pub(crate) fn watch(frames: &mut Frames, head: &WatchHead<'_>, events: &[WatchEvent]) {
    frames.reserve(head.len());
    let events = events.iter().map(|shared| shared.encoded(event));
    frames.message_with(events, |buf| {
        put_header(buf, &head.header);
        put_int(buf, 2, head.watch_id);
        put_uint(buf, 3, u64::from(head.created));
        put_uint(buf, 4, u64::from(head.canceled));
        put_uint(buf, 5, head.compact_revision);
        put_bytes(buf, 6, head.cancel_reason.as_bytes());
        put_uint(buf, 7, u64::from(head.fragment));
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use barque_proto::{etcdserverpb as pb, mvccpb};
    use barque_store_state::LeaseId;
    use prost::Message;

    use super::*;

    const HEADER: Header = Header {
        cluster_id: u64::MAX,
        member_id: 300,
        revision: Revision(9),
        raft_term: 2,
    };

    fn row(key: &str, value: &[u8], lease: i64) -> Arc<KeyValue> {
        Arc::new(KeyValue {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value),
            create_revision: Revision(3),
            mod_revision: Revision(1 << 40),
            version: 128,
            lease: LeaseId(lease),
        })
    }

    fn plain(kv: &KeyValue) -> mvccpb::KeyValue {
        mvccpb::KeyValue {
            key: kv.key.clone(),
            create_revision: kv.create_revision.0 as i64,
            mod_revision: kv.mod_revision.0 as i64,
            version: kv.version as i64,
            value: kv.value.clone(),
            lease: kv.lease.0,
        }
    }

    fn header(
        cluster_id: u64,
        member_id: u64,
        revision: i64,
        raft_term: u64,
    ) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader {
            cluster_id,
            member_id,
            revision,
            raft_term,
        })
    }

    /// The one message in `framed`, whose prefix must be right.
    fn decoded<M: Message + Default>(framed: &Framed) -> M {
        let bytes = framed.clone().into_bytes();
        assert_eq!(bytes[0], 0);
        let len = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
        assert_eq!(bytes.len(), len + 5);
        M::decode(&bytes[5..]).unwrap()
    }

    #[test]
    fn a_range_decodes_to_the_rows_it_was_written_from() {
        let rows = vec![
            row("a", b"1", 0),
            row("b", &[7; 1000], -5),
            row("c", b"", i64::MAX),
        ];
        let result = RangeResult {
            kvs: rows.clone(),
            more: true,
            count: 400,
        };
        let got: pb::RangeResponse = decoded(&range(&HEADER, &result));
        let want = pb::RangeResponse {
            header: header(u64::MAX, 300, 9, 2),
            kvs: rows.iter().map(|kv| plain(kv)).collect(),
            more: true,
            count: 400,
        };
        assert_eq!(got, want);
    }

    #[test]
    fn answers_inside_a_transaction_carry_the_revision_they_saw() {
        let nothing = || OpResult::Range(RangeResult::default());
        let results = vec![
            nothing(),
            OpResult::DeleteRange {
                deleted: 0,
                prev: Vec::new(),
            },
            OpResult::Txn(TxnResult {
                succeeded: false,
                results: vec![
                    OpResult::Put {
                        prev: Some(row("k", b"old", 4)),
                    },
                    nothing(),
                ],
                revision: Revision(9),
            }),
            OpResult::DeleteRange {
                deleted: 1,
                prev: vec![row("d", b"x", 0)],
            },
            nothing(),
        ];
        let txn = Answer::Txn(TxnResult {
            succeeded: true,
            results,
            revision: Revision(9),
        });
        let got: pb::TxnResponse = decoded(&answer(&HEADER, &txn).unwrap());
        use pb::response_op::Response as R;
        let op = |response| pb::ResponseOp {
            response: Some(response),
        };
        let range_at = |revision| {
            op(R::ResponseRange(pb::RangeResponse {
                header: header(0, 0, revision, 0),
                ..Default::default()
            }))
        };
        let want = pb::TxnResponse {
            header: header(u64::MAX, 300, 9, 2),
            succeeded: true,
            responses: vec![
                range_at(8),
                op(R::ResponseDeleteRange(pb::DeleteRangeResponse {
                    header: header(0, 0, 8, 0),
                    ..Default::default()
                })),
                op(R::ResponseTxn(pb::TxnResponse {
                    header: header(0, 0, 0, 0),
                    succeeded: false,
                    responses: vec![
                        op(R::ResponsePut(pb::PutResponse {
                            header: header(0, 0, 9, 0),
                            prev_kv: Some(plain(&row("k", b"old", 4))),
                        })),
                        range_at(9),
                    ],
                })),
                op(R::ResponseDeleteRange(pb::DeleteRangeResponse {
                    header: header(0, 0, 9, 0),
                    deleted: 1,
                    prev_kvs: vec![plain(&row("d", b"x", 0))],
                })),
                range_at(9),
            ],
        };
        assert_eq!(got, want);
    }

    #[test]
    fn a_transaction_that_changed_nothing_carries_the_current_revision() {
        let txn = Answer::Txn(TxnResult {
            succeeded: true,
            results: vec![OpResult::Range(RangeResult::default())],
            revision: Revision(9),
        });
        let got: pb::TxnResponse = decoded(&answer(&HEADER, &txn).unwrap());
        let Some(pb::response_op::Response::ResponseRange(range)) = &got.responses[0].response
        else {
            panic!("not a range: {got:?}");
        };
        assert_eq!(range.header, header(0, 0, 9, 0));
    }

    #[test]
    fn watch_responses_decode_with_and_without_previous_rows() {
        let tombstone = Arc::new(KeyValue {
            key: Bytes::from_static(b"k"),
            mod_revision: Revision(9),
            ..KeyValue::default()
        });
        let events = [
            Event {
                kind: EventKind::Put,
                kv: row("k", b"new", 0),
                prev: None,
            },
            Event {
                kind: EventKind::Delete,
                kv: tombstone.clone(),
                prev: Some(row("k", b"new", 0)),
            },
        ];
        for prev_kv in [false, true] {
            let mut frames = Frames::default();
            let head = WatchHead {
                header: HEADER,
                watch_id: -1,
                canceled: true,
                compact_revision: 7,
                cancel_reason: "why",
                fragment: true,
                ..WatchHead::default()
            };
            let seen: Vec<WatchEvent> = events
                .iter()
                .map(|event| WatchEvent::from(event.clone()).seen(prev_kv))
                .collect();
            watch(&mut frames, &head, &seen);
            let framed = frames.finish();
            let events_len: usize = seen.iter().map(|seen| seen.encoded(event).len()).sum();
            assert_eq!(framed.len(), 5 + head.len() + events_len);
            let got: pb::WatchResponse = decoded(&framed);
            let plain_event = |kind: mvccpb::event::EventType, kv: &KeyValue, prev| mvccpb::Event {
                r#type: kind.into(),
                kv: Some(plain(kv)),
                prev_kv: prev,
            };
            let want = pb::WatchResponse {
                header: header(u64::MAX, 300, 9, 2),
                watch_id: -1,
                created: false,
                canceled: true,
                compact_revision: 7,
                cancel_reason: "why".to_owned(),
                fragment: true,
                events: vec![
                    plain_event(mvccpb::event::EventType::Put, &events[0].kv, None),
                    plain_event(
                        mvccpb::event::EventType::Delete,
                        &tombstone,
                        prev_kv.then(|| plain(&row("k", b"new", 0))),
                    ),
                ],
            };
            assert_eq!(got, want);
        }
    }

    #[test]
    fn varint_lengths_match_what_is_written() {
        for value in [
            0,
            1,
            127,
            128,
            16_383,
            16_384,
            u64::from(u32::MAX),
            u64::MAX,
        ] {
            let mut buf = BytesMut::new();
            put_varint(&mut buf, value);
            assert_eq!(buf.len(), varint_len(value), "{value}");
        }
    }
}
