//! KV through tonic's clients: answers and refusals as etcd's own would be.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a client of the edge"
)]

mod common;

use barque_proto::etcdserverpb as pb;
use common::{MAX_REQUEST_BYTES, get, prefix, put, refusal, start};
use pb::cluster_client::ClusterClient;
use pb::request_op::Request;

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_and_ranges_have_etcds_revisions_counts_and_previous_rows() {
    let server = start(1).await;
    let mut kv = server.kv().await;
    let first = kv.put(put("a", "1")).await.unwrap().into_inner();
    let header = first.header.unwrap();
    assert_eq!(header.revision, 2, "the empty store is at 1");
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0);
    assert_eq!(first.prev_kv, None);
    let again = pb::PutRequest {
        prev_kv: true,
        ..put("a", "2")
    };
    let prev = kv.put(again).await.unwrap().into_inner().prev_kv.unwrap();
    assert_eq!((prev.value.as_ref(), prev.version), (b"1".as_ref(), 1));
    for key in ["b", "c", "d"] {
        kv.put(put(key, "x")).await.unwrap();
    }

    let limited = pb::RangeRequest {
        limit: 2,
        range_end: "z".into(),
        ..get("a")
    };
    for serializable in [false, true] {
        let request = pb::RangeRequest {
            serializable,
            ..limited.clone()
        };
        let got = kv.range(request).await.unwrap().into_inner();
        assert_eq!((got.count, got.more, got.kvs.len()), (4, true, 2));
        assert_eq!(got.header.unwrap().revision, 6);
        let a = &got.kvs[0];
        assert_eq!((a.create_revision, a.mod_revision, a.version), (2, 3, 2));
    }
    let old = pb::RangeRequest {
        revision: 2,
        ..get("a")
    };
    let got = kv.range(old).await.unwrap().into_inner();
    assert_eq!(got.kvs[0].value.as_ref(), b"1");
    assert_eq!(got.header.unwrap().revision, 6, "the header is the store's");

    let keys_only = pb::RangeRequest {
        keys_only: true,
        sort_order: 2,
        range_end: "\0".into(),
        ..get("b")
    };
    let got = kv.range(keys_only).await.unwrap().into_inner();
    let keys: Vec<_> = got.kvs.iter().map(|kv| kv.key.as_ref()).collect();
    assert_eq!(keys, [b"d", b"c", b"b"]);
    assert!(got.kvs.iter().all(|kv| kv.value.is_empty()));
    let counted = pb::RangeRequest {
        count_only: true,
        range_end: "\0".into(),
        ..get("\0")
    };
    let got = kv.range(counted).await.unwrap().into_inner();
    assert_eq!((got.count, got.kvs.len()), (4, 0));

    let delete = pb::DeleteRangeRequest {
        key: "a".into(),
        range_end: "c".into(),
        prev_kv: true,
    };
    let got = kv.delete_range(delete).await.unwrap().into_inner();
    assert_eq!((got.deleted, got.prev_kvs.len()), (2, 2));
    assert_eq!(got.header.unwrap().revision, 7);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_puts_each_get_a_revision_of_their_own() {
    let server = start(1).await;
    let kv = server.kv().await;
    let mut calls = Vec::new();
    for n in 0..300 {
        let mut kv = kv.clone();
        calls.push(tokio::spawn(async move {
            let response = kv.put(put(&format!("k{n}"), "v")).await.unwrap();
            response.into_inner().header.unwrap().revision
        }));
    }
    let mut revisions = Vec::new();
    for call in calls {
        revisions.push(call.await.unwrap());
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (2..302).collect::<Vec<_>>());
    let got = server
        .kv()
        .await
        .range(prefix("k"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(got.count, 300);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_compare_branch_and_nest() {
    let server = start(1).await;
    let mut kv = server.kv().await;
    kv.put(put("k", "v")).await.unwrap();
    let request = |value: &str| pb::TxnRequest {
        compare: vec![pb::Compare {
            target: 3,
            key: "k".into(),
            target_union: Some(pb::compare::TargetUnion::Value(value.to_owned().into())),
            ..Default::default()
        }],
        success: vec![
            op(Request::RequestPut(put("k", "w"))),
            op(Request::RequestTxn(pb::TxnRequest {
                success: vec![op(Request::RequestRange(get("k")))],
                ..Default::default()
            })),
        ],
        failure: vec![op(Request::RequestRange(get("k")))],
    };
    let lost = kv.txn(request("other")).await.unwrap().into_inner();
    assert!(!lost.succeeded);
    assert_eq!(lost.header.unwrap().revision, 2);
    let won = kv.txn(request("v")).await.unwrap().into_inner();
    assert!(won.succeeded);
    assert_eq!(won.header.unwrap().revision, 3);
    let Some(pb::response_op::Response::ResponseTxn(nested)) = &won.responses[1].response else {
        panic!("no nested answer: {won:?}");
    };
    let Some(pb::response_op::Response::ResponseRange(range)) = &nested.responses[0].response
    else {
        panic!("no range in it: {nested:?}");
    };
    assert_eq!(range.kvs[0].value.as_ref(), b"w", "it reads its own write");

    for serializable in [false, true] {
        let read = pb::TxnRequest {
            success: vec![op(Request::RequestRange(pb::RangeRequest {
                serializable,
                ..get("k")
            }))],
            ..Default::default()
        };
        let applied = server.store.status().applied_index;
        let got = kv.txn(read).await.unwrap().into_inner();
        assert!(got.succeeded && got.header.unwrap().revision == 3);
        assert_eq!(
            server.store.status().applied_index,
            applied,
            "no entry for a read"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_etcds_codes_and_words() {
    let server = start(1).await;
    let mut kv = server.kv().await;
    for value in ["1", "2", "3", "4"] {
        kv.put(put("k", value)).await.unwrap();
    }
    let compact = |revision| pb::CompactionRequest {
        revision,
        physical: false,
    };
    kv.compact(compact(4)).await.unwrap();
    let compacted = (
        11,
        "etcdserver: mvcc: required revision has been compacted".to_owned(),
    );
    let future = (
        11,
        "etcdserver: mvcc: required revision is a future revision".to_owned(),
    );
    assert_eq!(refusal(kv.compact(compact(4)).await), compacted);
    assert_eq!(refusal(kv.compact(compact(-1)).await), compacted);
    assert_eq!(refusal(kv.compact(compact(99)).await), future);
    let at = |revision| pb::RangeRequest {
        revision,
        ..get("k")
    };
    assert_eq!(refusal(kv.range(at(3)).await), compacted);
    assert_eq!(refusal(kv.range(at(99)).await), future);
    assert!(kv.range(at(4)).await.is_ok());

    let empty = (3, "etcdserver: key is not provided".to_owned());
    assert_eq!(refusal(kv.range(get("")).await), empty);
    assert_eq!(refusal(kv.put(put("", "v")).await), empty);
    let ignoring = pb::PutRequest {
        ignore_value: true,
        ..put("missing", "")
    };
    assert_eq!(
        refusal(kv.put(ignoring.clone()).await),
        (3, "etcdserver: key not found".to_owned())
    );
    let with_value = pb::PutRequest {
        value: "v".into(),
        ..ignoring
    };
    assert_eq!(
        refusal(kv.put(with_value).await),
        (3, "etcdserver: value is provided".to_owned())
    );
    let unknown_lease = pb::PutRequest {
        lease: 77,
        ..put("k", "v")
    };
    assert_eq!(
        refusal(kv.put(unknown_lease).await),
        (5, "etcdserver: requested lease not found".to_owned())
    );
    let sorted = pb::RangeRequest {
        sort_order: 7,
        ..get("k")
    };
    assert_eq!(
        refusal(kv.range(sorted).await),
        (3, "etcdserver: invalid sort option".to_owned())
    );
    let large = "x".repeat(MAX_REQUEST_BYTES);
    assert_eq!(
        refusal(kv.put(put("k", &large)).await),
        (3, "etcdserver: request is too large".to_owned())
    );
    let (code, text) = refusal(kv.put(put("k", &large.repeat(8))).await);
    assert_eq!(code, 8);
    assert!(
        text.starts_with("grpc: received message larger than max ("),
        "{text}"
    );

    let puts = |n| pb::TxnRequest {
        success: (0..n)
            .map(|i| op(Request::RequestPut(put(&format!("t{i}"), ""))))
            .collect(),
        ..Default::default()
    };
    assert_eq!(
        refusal(kv.txn(puts(129)).await),
        (
            3,
            "etcdserver: too many operations in txn request".to_owned()
        )
    );
    let mut twice = puts(1);
    twice.success.push(op(Request::RequestPut(put("t0", ""))));
    assert_eq!(
        refusal(kv.txn(twice).await),
        (
            3,
            "etcdserver: duplicate key given in txn request".to_owned()
        )
    );

    let mut cluster = ClusterClient::new(server.channel().await);
    assert_eq!(
        refusal(cluster.member_add(pb::MemberAddRequest::default()).await),
        (3, "etcdserver: given member URLs are invalid".to_owned())
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_faults_the_one_etcd_meets_first_is_told() {
    let server = start(1).await;
    let mut kv = server.kv().await;
    let large: bytes::Bytes = vec![b'x'; MAX_REQUEST_BYTES].into();
    let empty = (3, "etcdserver: key is not provided".to_owned());
    let keyless = pb::PutRequest {
        value: large.clone(),
        ..Default::default()
    };
    assert_eq!(
        refusal(kv.put(keyless.clone()).await),
        empty,
        "before its size"
    );
    let txn = pb::TxnRequest {
        success: vec![
            op(Request::RequestPut(keyless)),
            pb::RequestOp { request: None },
        ],
        ..Default::default()
    };
    assert_eq!(refusal(kv.txn(txn).await), empty, "in the order given");
    let reads = pb::TxnRequest {
        success: vec![op(Request::RequestRange(pb::RangeRequest {
            key: large,
            ..Default::default()
        }))],
        ..Default::default()
    };
    assert_eq!(
        refusal(kv.txn(reads).await),
        (3, "etcdserver: request is too large".to_owned()),
        "one that only reads, too"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_negative_lower_bound_filters_nothing_but_has_all_rows_sorted() {
    let server = start(1).await;
    let mut kv = server.kv().await;
    for key in ["c", "b", "a"] {
        kv.put(put(key, "")).await.unwrap();
    }
    let oldest = pb::RangeRequest {
        range_end: "z".into(),
        limit: 1,
        sort_target: pb::range_request::SortTarget::Create.into(),
        min_mod_revision: -1,
        ..get("a")
    };
    let got = kv.range(oldest).await.unwrap().into_inner();
    assert_eq!((got.kvs[0].key.as_ref(), got.count), (b"c".as_ref(), 3));
    let none = pb::RangeRequest {
        max_mod_revision: -1,
        ..get("a")
    };
    let got = kv.range(none).await.unwrap().into_inner();
    assert_eq!((got.kvs.len(), got.count), (0, 1));
    server.stop().await;
}
