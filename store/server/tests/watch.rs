//! The Watch service through tonic's client.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a client of the edge"
)]

mod common;

use std::time::Duration;

use barque_proto::{etcdserverpb as pb, mvccpb};
use common::{Server, get, put, start};
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

struct Watcher {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
}

async fn watcher(server: &Server) -> Watcher {
    let (requests, receiver) = mpsc::channel(16);
    let responses = WatchClient::new(server.channel().await)
        .max_decoding_message_size(64 << 20)
        .watch(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    Watcher {
        requests,
        responses,
    }
}

impl Watcher {
    async fn ask(&self, request: RequestUnion) {
        let request = pb::WatchRequest {
            request_union: Some(request),
        };
        self.requests.send(request).await.unwrap();
    }
    async fn create(&mut self, request: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.ask(RequestUnion::CreateRequest(request)).await;
        let response = self.next().await;
        assert!(response.created, "{response:?}");
        response
    }
    async fn next(&mut self) -> pb::WatchResponse {
        tokio::time::timeout(Duration::from_secs(10), self.responses.message())
            .await
            .expect("a response within ten seconds")
            .unwrap()
            .expect("the stream goes on")
    }
    /// The next `count` events of one watch, however they are packed.
    async fn events(&mut self, id: i64, count: usize) -> Vec<mvccpb::Event> {
        let mut events = Vec::new();
        while events.len() < count {
            let response = self.next().await;
            assert_eq!(response.watch_id, id, "{response:?}");
            assert!(!response.events.is_empty(), "{response:?}");
            events.extend(response.events);
        }
        events
    }
}

fn from(key: &str, start_revision: i64) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: key.to_owned().into(),
        start_revision,
        ..Default::default()
    }
}

fn short(event: &mvccpb::Event) -> String {
    let kv = event.kv.as_ref().unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    let prev = event
        .prev_kv
        .as_ref()
        .map_or(String::new(), |p| format!(" was {}", text(&p.value)));
    match event.r#type() {
        mvccpb::event::EventType::Put => {
            format!(
                "{}={}@{}{prev}",
                text(&kv.key),
                text(&kv.value),
                kv.mod_revision
            )
        }
        mvccpb::event::EventType::Delete => {
            assert!(kv.value.is_empty() && kv.version == 0 && kv.create_revision == 0);
            format!("-{}@{}{prev}", text(&kv.key), kv.mod_revision)
        }
    }
}

async fn delete(server: &Server, key: &str) {
    let request = pb::DeleteRangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    };
    server.kv().await.delete_range(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_sees_history_and_then_what_happens() {
    let server = start(1).await;
    let mut kv = server.kv().await;
    kv.put(put("a", "1")).await.unwrap();
    kv.put(put("a", "2")).await.unwrap();
    let mut watcher = watcher(&server).await;
    let request = pb::WatchCreateRequest {
        prev_kv: true,
        ..from("a", 2)
    };
    let created = watcher.create(request).await;
    assert_eq!((created.watch_id, created.header.unwrap().revision), (0, 3));
    let mut seen = watcher.events(0, 2).await;
    kv.put(put("a", "3")).await.unwrap();
    delete(&server, "a").await;
    seen.extend(watcher.events(0, 2).await);
    let seen: Vec<String> = seen.iter().map(short).collect();
    assert_eq!(seen, ["a=1@2", "a=2@3 was 1", "a=3@4 was 2", "-a@5 was 3"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_carries_many_watches_with_ranges_and_filters() {
    let server = start(1).await;
    let mut kv = server.kv().await;
    let mut watcher = watcher(&server).await;
    let first = watcher.create(from("a", 0)).await;
    let chosen = pb::WatchCreateRequest {
        watch_id: 7,
        filters: vec![1],
        key: "a".into(),
        range_end: "c".into(),
        ..Default::default()
    };
    let second = watcher.create(chosen.clone()).await;
    let third = watcher.create(from("z", 0)).await;
    assert_eq!((first.watch_id, second.watch_id, third.watch_id), (0, 7, 1));

    let duplicate = watcher.create(chosen).await;
    assert!(duplicate.canceled);
    assert_eq!(duplicate.watch_id, -1);
    assert_eq!(
        duplicate.cancel_reason,
        "mvcc: duplicate watch ID provided on the WatchStream"
    );
    let empty = pb::WatchCreateRequest {
        range_end: "a".into(),
        ..from("b", 0)
    };
    let empty = watcher.create(empty).await;
    assert_eq!((empty.watch_id, empty.canceled), (-1, true));
    assert_eq!(empty.cancel_reason, "mvcc: watcher range is empty");
    let negative = watcher.create(from("b", -1)).await;
    assert_eq!((negative.watch_id, negative.canceled), (-1, true));

    kv.put(put("a", "1")).await.unwrap();
    delete(&server, "a").await;
    kv.put(put("b", "2")).await.unwrap();
    let mut seen = std::collections::BTreeMap::<i64, Vec<String>>::new();
    while seen.values().map(Vec::len).sum::<usize>() < 4 {
        let response = watcher.next().await;
        let events = response.events.iter().map(short);
        seen.entry(response.watch_id).or_default().extend(events);
    }
    assert_eq!(seen[&0], ["a=1@2", "-a@3"]);
    assert_eq!(seen[&7], ["a=1@2", "b=2@4"], "no deletes for this one");

    // Canceled means no more events; unknown ids are met with silence.
    for watch_id in [99, 7] {
        let cancel = pb::WatchCancelRequest { watch_id };
        watcher.ask(RequestUnion::CancelRequest(cancel)).await;
    }
    let canceled = watcher.next().await;
    assert_eq!((canceled.watch_id, canceled.canceled), (7, true));
    assert_eq!(canceled.cancel_reason, "");
    kv.put(put("b", "3")).await.unwrap();
    kv.put(put("z", "4")).await.unwrap();
    let seen: Vec<String> = watcher.events(1, 1).await.iter().map(short).collect();
    assert_eq!(seen, ["z=4@6"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_in_the_order_of_what_was_asked() {
    let server = start(1).await;
    let mut watcher = watcher(&server).await;
    let chosen = pb::WatchCreateRequest {
        watch_id: 3,
        ..from("a", 0)
    };
    let asked = [
        from("a", 0),
        chosen.clone(),
        chosen,
        from("a", -1),
        from("a", 0),
    ];
    for request in asked {
        watcher.ask(RequestUnion::CreateRequest(request)).await;
    }
    let cancel = pb::WatchCancelRequest { watch_id: 3 };
    watcher.ask(RequestUnion::CancelRequest(cancel)).await;
    let mut answers = Vec::new();
    for _ in 0..6 {
        let response = watcher.next().await;
        answers.push((response.watch_id, response.created, response.canceled));
    }
    let expected = [
        (0, true, false),
        (3, true, false),
        (-1, true, true),
        (-1, true, true),
        (1, true, false),
        (3, false, true),
    ];
    assert_eq!(answers, expected);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_start_is_created_and_then_canceled_without_a_revision() {
    let server = start(1).await;
    let mut kv = server.kv().await;
    for value in ["1", "2", "3"] {
        kv.put(put("a", value)).await.unwrap();
    }
    let compact = pb::CompactionRequest {
        revision: 3,
        physical: true,
    };
    kv.compact(compact).await.unwrap();
    let mut watcher = watcher(&server).await;
    let created = watcher.create(from("a", 2)).await;
    assert!(!created.canceled);
    let canceled = watcher.next().await;
    assert!(canceled.canceled);
    assert_eq!(canceled.compact_revision, 3);
    assert_eq!(canceled.cancel_reason, "");
    assert_eq!(canceled.header.unwrap().revision, 0);
    let at_the_edge = watcher.create(from("a", 3)).await;
    let seen = watcher.events(at_the_edge.watch_id, 2).await;
    let seen: Vec<String> = seen.iter().map(short).collect();
    assert_eq!(seen, ["a=2@3", "a=3@4"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_on_request_and_when_idle() {
    let server = start(1).await;
    let mut kv = server.kv().await;
    let mut watcher = watcher(&server).await;
    watcher.create(from("quiet", 0)).await;
    kv.put(put("other", "1")).await.unwrap();
    watcher
        .ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}))
        .await;
    let progress = watcher.next().await;
    assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
    assert_eq!(progress.header.unwrap().revision, 2);

    let notified = pb::WatchCreateRequest {
        progress_notify: true,
        ..from("idle", 0)
    };
    let created = watcher.create(notified).await;
    let progress = watcher.next().await;
    assert_eq!(progress.watch_id, created.watch_id);
    assert!(progress.events.is_empty() && !progress.canceled && !progress.created);
    assert_eq!(progress.header.unwrap().revision, 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_replays_are_split_only_where_asked() {
    let server = start(1).await;
    let mut kv = server.kv().await;
    let value = "x".repeat(90_000);
    const PUTS: usize = 20;
    for n in 0..PUTS {
        kv.put(put(&format!("k{n:02}"), &value)).await.unwrap();
    }
    let request = pb::WatchCreateRequest {
        key: "k".into(),
        range_end: "l".into(),
        start_revision: 2,
        fragment: true,
        ..Default::default()
    };
    let mut watcher = watcher(&server).await;
    watcher.create(request).await;
    let mut keys = Vec::new();
    let mut fragments = 0;
    while keys.len() < PUTS {
        let response = watcher.next().await;
        assert!(prost_len(&response) < common::MAX_REQUEST_BYTES + (512 << 10));
        fragments += usize::from(response.fragment);
        keys.extend(response.events.into_iter().map(|e| e.kv.unwrap().key));
        if keys.len() == PUTS {
            assert!(!response.fragment, "the last part says so");
        }
    }
    assert!(fragments >= 2, "1.8 MB do not fit into two parts of 612 kB");
    assert!(keys.is_sorted());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_replay_is_not_split_where_it_was_not_asked() {
    let server = start(1).await;
    let mut kv = server.kv().await;
    let value = "x".repeat(90_000);
    const PUTS: usize = 12;
    for n in 0..PUTS {
        kv.put(put(&format!("k{n:02}"), &value)).await.unwrap();
    }
    let request = pb::WatchCreateRequest {
        range_end: "l".into(),
        ..from("k", 2)
    };
    let mut watcher = watcher(&server).await;
    watcher.create(request).await;
    let response = watcher.next().await;
    assert_eq!((response.events.len(), response.fragment), (PUTS, false));
    assert!(prost_len(&response) > common::MAX_REQUEST_BYTES + (512 << 10));
    assert_eq!(response.header.unwrap().revision, PUTS as i64 + 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_in_the_future_is_told_nothing_before() {
    let server = start(1).await;
    let mut kv = server.kv().await;
    let mut watcher = watcher(&server).await;
    let created = watcher.create(from("a", 4)).await;
    assert_eq!(created.header.unwrap().revision, 1);
    watcher
        .ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}))
        .await;
    for value in ["2", "3", "4"] {
        kv.put(put("a", value)).await.unwrap();
    }
    let mut events = Vec::new();
    while events.is_empty() {
        let response = watcher.next().await;
        // Progress is true from the revision before its start on.
        let revision = response.header.as_ref().unwrap().revision;
        assert!(revision >= 3, "{response:?}");
        events.extend(response.events);
    }
    assert_eq!(short(&events[0]), "a=4@4");
    server.stop().await;
}

/// Rows beyond what a connection and this end of it take without being read.
const UNREAD_PUTS: usize = 220;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_loses_nothing_and_holds_nobody() {
    let server = start(1).await;
    let mut kv = server.kv().await;
    let (mut slow, mut quick) = (watcher(&server).await, watcher(&server).await);
    for watcher in [&mut slow, &mut quick] {
        watcher.create(from("a", 0)).await;
    }
    let value = "x".repeat(90_000);
    for n in 0..UNREAD_PUTS {
        kv.put(put("a", &value)).await.unwrap();
        let seen = quick.events(0, 1).await;
        assert_eq!(seen[0].kv.as_ref().unwrap().mod_revision, n as i64 + 2);
    }
    slow.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}))
        .await;
    let seen = slow.events(0, UNREAD_PUTS).await;
    let revisions: Vec<i64> = seen
        .iter()
        .map(|e| e.kv.as_ref().unwrap().mod_revision)
        .collect();
    assert_eq!(revisions, (2..UNREAD_PUTS as i64 + 2).collect::<Vec<_>>());
    let progress = slow.next().await;
    assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_overtaken_by_a_compaction_is_told_so() {
    let server = start(1).await;
    let mut kv = server.kv().await;
    let value = "x".repeat(90_000);
    for _ in 0..UNREAD_PUTS {
        kv.put(put("a", &value)).await.unwrap();
    }
    let last = UNREAD_PUTS as i64 + 1;
    let mut slow = watcher(&server).await;
    slow.create(from("a", 2)).await;
    // It has read some, and far from all.
    let mut seen = slow.events(0, 1).await;
    let compact = pb::CompactionRequest {
        revision: last,
        physical: true,
    };
    kv.compact(compact).await.unwrap();
    let canceled = loop {
        let response = slow.next().await;
        if response.canceled {
            break response;
        }
        seen.extend(response.events);
    };
    assert_eq!(canceled.compact_revision, last);
    assert_eq!(canceled.header.unwrap().revision, 0);
    assert_eq!(canceled.cancel_reason, "");
    let revisions: Vec<i64> = seen
        .iter()
        .map(|e| e.kv.as_ref().unwrap().mod_revision)
        .collect();
    let told = 2..revisions.len() as i64 + 2;
    assert_eq!(revisions, told.collect::<Vec<_>>());
    assert!(revisions.len() < UNREAD_PUTS);
    server.stop().await;
}

fn prost_len(message: &impl prost::Message) -> usize {
    message.encoded_len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_its_leader_is_refused_when_the_client_demands_one() {
    let server = start(3).await;
    let (_requests, receiver) = mpsc::channel::<pb::WatchRequest>(1);
    let mut request = tonic::Request::new(ReceiverStream::new(receiver));
    request
        .metadata_mut()
        .insert("hasleader", "true".parse().unwrap());
    let mut client = WatchClient::new(server.channel().await);
    let status = match client.watch(request).await {
        Err(status) => status,
        Ok(response) => response.into_inner().message().await.unwrap_err(),
    };
    assert_eq!(status.code() as i32, 14);
    assert_eq!(status.message(), "etcdserver: no leader");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_goes_away_leaves_the_others_alone() {
    let server = start(1).await;
    let mut kv = server.kv().await;
    let mut staying = watcher(&server).await;
    staying.create(from("a", 0)).await;
    let mut leaving = watcher(&server).await;
    leaving.create(from("a", 0)).await;
    drop(leaving);
    for n in 0..50 {
        kv.put(put("a", &n.to_string())).await.unwrap();
    }
    let seen = staying.events(0, 50).await;
    let revisions: Vec<i64> = seen
        .iter()
        .map(|e| e.kv.as_ref().unwrap().mod_revision)
        .collect();
    assert_eq!(revisions, (2..52).collect::<Vec<_>>());
    assert_eq!(
        kv.range(get("a")).await.unwrap().into_inner().kvs[0].version,
        50
    );
    server.stop().await;
}
