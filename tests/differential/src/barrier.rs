//! Waits until etcd has caught up its watches. Its loop for watches that begin in the past comes round every 100 ms, and later on
//! a busy machine; a watch that the loop has not met says nothing, which looks like one that has nothing to say, and a compaction
//! cancels it. So nothing that a round would change is asked before one has passed.

use std::time::Instant;

use barque_proto::etcdserverpb as pb;
use pb::watch_request::RequestUnion;
use prost::Message;

use crate::call::{Client, Sent, framed};
use crate::limits::{SETTLE, SETTLE_POLL};

/// Returns once a watch that was created after this call was given an event of the past: the round that gave it one has met
/// every watch created before.
pub async fn caught_up(etcd: &Client) {
    let everything = pb::RangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        count_only: true,
        ..Default::default()
    };
    let sent = Sent {
        metadata: Vec::new(),
        body: framed(&everything),
    };
    let answer = etcd.call("/etcdserverpb.KV/Range", &sent).await;
    let message = answer.messages.into_iter().next().unwrap_or_default();
    let header = pb::RangeResponse::decode(message)
        .ok()
        .and_then(|r| r.header);
    let revision = header.map_or(0, |header| header.revision);
    // Nothing was ever written: there is no past.
    if revision < 2 {
        return;
    }
    let Ok(mut probe) = etcd.open("/etcdserverpb.Watch/Watch").await else {
        return;
    };
    let create = pb::WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        start_revision: revision,
        ..Default::default()
    };
    let create = pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    probe.send(framed(&create), false).await;
    let begun = Instant::now();
    let told = || {
        probe.count(|message| {
            pb::WatchResponse::decode(message.clone())
                .is_ok_and(|response| !response.events.is_empty() || response.canceled)
        })
    };
    // Bounded: whatever is wrong then shows in the comparison.
    while told() == 0 && begun.elapsed() < SETTLE {
        tokio::time::sleep(SETTLE_POLL).await;
    }
}
