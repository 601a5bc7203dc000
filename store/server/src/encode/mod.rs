//! Protobuf bytes of the hot answers, written by hand straight from stored rows: no intermediate message structs, no copies
//! of keys and values but the one into the output. A test holds every shape against prost's own decoding.

use barque_store_rpc::{Framed, Frames};
use barque_store_state::{
    Answer, Event, EventKind, KeyValue, OpResult, RangeResult, Revision, TxnResult,
};
use barque_store_watch::WatchEvent;
use bytes::{Bytes, BytesMut};

mod fields;
#[cfg(test)]
mod tests;

use fields::*;

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
