//! Calls that look at every key give other calls of their thread a turn.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a client of the edge"
)]

mod common;

use barque_proto::etcdserverpb as pb;
use barque_store_node::limits::RANGE_AT_ONCE;
use barque_store_state::limits::HASH_ROWS;
use barque_store_state::{KeyRange, Range};
use common::{Server, get, put, start};
use pb::kv_client::KvClient;
use pb::maintenance_client::MaintenanceClient;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tonic::transport::Channel;

/// etcd's most operations of one transaction.
const PUTS: usize = 128;
const TXNS: usize = 300;
const KEYS: usize = PUTS * TXNS;

async fn filled() -> Server {
    let server = start(1).await;
    let mut txns = tokio::task::JoinSet::new();
    let kv = server.kv().await;
    for n in 0..TXNS {
        let mut kv = kv.clone();
        let put = |i| pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(put(
                &format!("{n:04}-{i:03}"),
                &"v".repeat(100),
            ))),
        };
        let request = pb::TxnRequest {
            success: (0..PUTS).map(put).collect(),
            ..Default::default()
        };
        txns.spawn(async move { kv.txn(request).await });
    }
    for done in txns.join_all().await {
        done.unwrap();
    }
    server
}

/// What comes of the work, and the turns that others had meanwhile on its thread.
async fn turns<T>(work: impl Future<Output = T>) -> (T, usize) {
    let mut turns = 0;
    let others = async {
        loop {
            turns += 1;
            tokio::task::yield_now().await;
        }
    };
    let done = tokio::select! {
        biased;
        () = others => unreachable!("it does not end"),
        done = work => done,
    };
    (done, turns)
}

/// Sends eight small reads, which come behind what was sent already; who was answered, in order.
fn small_reads(channel: &Channel, answered: Sender<&'static str>) {
    for _ in 0..8 {
        let (mut kv, answer) = (KvClient::new(channel.clone()), answered.clone());
        tokio::spawn(async move {
            let serializable = pb::RangeRequest {
                serializable: true,
                ..get("a")
            };
            kv.range(serializable).await.unwrap();
            answer.send("a small read").await
        });
    }
}

async fn is_first(mut answers: Receiver<&'static str>) {
    assert_eq!(answers.recv().await, Some("a small read"));
    while answers.recv().await.is_some() {}
}

/// On one thread, so that what is sent first is first on the connection.
#[tokio::test]
async fn other_calls_are_answered_while_a_hash_reads_every_row() {
    let server = filled().await;
    let (hash, turns) = turns(server.store.hash_kv_in_turns(None)).await;
    hash.unwrap();
    let pieces = KEYS / HASH_ROWS;
    assert!(turns >= pieces, "{turns} turns between {pieces} pieces");

    // One connection, so that one thread serves all.
    let connection = server.channel().await;
    let (answered, answers) = channel(9);
    let mut client = MaintenanceClient::new(connection.clone());
    let answer = answered.clone();
    tokio::spawn(async move {
        let request = pb::HashKvRequest { revision: 0 };
        client.hash_kv(request).await.unwrap();
        answer.send("the hash").await
    });
    small_reads(&connection, answered);
    is_first(answers).await;
    server.stop().await;
}

#[tokio::test]
async fn other_calls_are_answered_while_a_range_looks_at_every_key() {
    let server = filled().await;
    let all = Range {
        range: KeyRange::prefix(b""),
        ..Range::default()
    };
    let ((_, range), turns) = turns(server.store.range_in_turns(&all)).await;
    assert_eq!(range.unwrap().kvs.len(), KEYS);
    let pieces = KEYS / RANGE_AT_ONCE.keys;
    assert!(turns >= pieces, "{turns} turns between {pieces} pieces");

    let connection = server.channel().await;
    let (answered, answers) = channel(9);
    let kv = KvClient::new(connection.clone());
    let mut kv = kv.max_decoding_message_size(usize::MAX);
    let answer = answered.clone();
    let large = tokio::spawn(async move {
        let everything = pb::RangeRequest {
            key: vec![0].into(),
            range_end: vec![0].into(),
            // Begun as soon as it has come, as the small ones behind it would be.
            serializable: true,
            ..Default::default()
        };
        let range = kv.range(everything).await.unwrap().into_inner();
        answer.send("the large one").await.unwrap();
        range
    });
    small_reads(&connection, answered);
    is_first(answers).await;
    let range = large.await.unwrap();
    assert_eq!((range.count, range.kvs.len()), (KEYS as i64, KEYS));
    assert!(range.kvs.is_sorted_by(|a, b| a.key < b.key));
    server.stop().await;
}
