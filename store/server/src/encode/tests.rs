//! Every shape, held against prost's own decoding.

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
    let Some(pb::response_op::Response::ResponseRange(range)) = &got.responses[0].response else {
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
