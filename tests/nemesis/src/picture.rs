//! Everything a client can read of a store at rest, to be compared with what it was before.

use std::collections::BTreeMap;
use std::time::Duration;

use barque_proto::etcdserverpb::lease_client::LeaseClient;
use barque_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use barque_proto::etcdserverpb::watch_client::WatchClient;
use barque_proto::etcdserverpb::watch_request::RequestUnion;
use barque_proto::etcdserverpb::{
    HashKvRequest, LeaseLeasesRequest, LeaseTimeToLiveRequest, RangeRequest, WatchCreateRequest,
    WatchRequest,
};
use barque_proto::mvccpb::{Event, KeyValue};
use tonic::Status;
use tonic::transport::Channel;

use crate::clients::revision;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::member::{connect, kv};

/// The very last write: where the log ends, a flipped bit looks like a write that a crash cut off.
pub const LAST: &str = "z/last";

/// Everything a client can read of a store.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    pub revision: u64,
    compacted: i64,
    rows: Vec<KeyValue>,
    hash: u32,
    /// Every event that is not compacted.
    events: Vec<Event>,
    /// Rows at revisions in between.
    past: Vec<(u64, Vec<KeyValue>)>,
    /// Lease and its granted TTL.
    leases: BTreeMap<i64, i64>,
    attached: BTreeMap<i64, Vec<bytes::Bytes>>,
}

pub async fn picture(addr: &str, within: Duration) -> Result<Picture, String> {
    let channel = connect(addr).await.map_err(|e| e.to_string())?;
    tokio::time::timeout(within, read_all(channel))
        .await
        .map_err(|_| "it does not answer".to_owned())?
        .map_err(|status| format!("it answers {status}"))
}

async fn read_all(channel: Channel) -> Result<Picture, Status> {
    let mut client = kv(channel.clone());
    let mut maintenance = MaintenanceClient::new(channel.clone());
    let mut lessor = LeaseClient::new(channel.clone());
    let now = client.range(all(0)).await?.into_inner();
    let last = revision(&now.header);
    let hash = maintenance
        .hash_kv(HashKvRequest { revision: 0 })
        .await?
        .into_inner();
    let compacted = hash.compact_revision;
    let oldest = u64::try_from(compacted).unwrap_or(0) + 1;
    let mut past = Vec::new();
    for step in 0..4 {
        let at = oldest + (last.saturating_sub(oldest)) * step / 4;
        past.push((at, client.range(all(at)).await?.into_inner().kvs));
    }
    let events = events(channel, oldest, last).await?;
    let mut leases = BTreeMap::new();
    let mut attached = BTreeMap::new();
    for lease in lessor
        .lease_leases(LeaseLeasesRequest {})
        .await?
        .into_inner()
        .leases
    {
        let request = LeaseTimeToLiveRequest {
            id: lease.id,
            keys: true,
        };
        let mut one = lessor.lease_time_to_live(request).await?.into_inner();
        leases.insert(lease.id, one.granted_ttl);
        one.keys.sort();
        attached.insert(lease.id, one.keys);
    }
    Ok(Picture {
        revision: last,
        compacted,
        rows: now.kvs,
        hash: hash.hash,
        events,
        past,
        leases,
        attached,
    })
}

async fn events(channel: Channel, from: u64, last: u64) -> Result<Vec<Event>, Status> {
    let mut watch = WatchClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let create = WatchCreateRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        start_revision: i64::try_from(from).unwrap_or(i64::MAX),
        ..WatchCreateRequest::default()
    };
    let (requests, stream) = tokio::sync::mpsc::channel(1);
    let create = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    requests.try_send(create).expect("the channel is new");
    let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
    let mut answers = watch.watch(stream).await?.into_inner();
    let mut events: Vec<Event> = Vec::new();
    let seen = |events: &[Event]| {
        events
            .last()
            .and_then(|e| e.kv.as_ref())
            .map_or(0, |kv| kv.mod_revision)
    };
    while from <= last && seen(&events) < i64::try_from(last).unwrap_or(i64::MAX) {
        let Some(answer) = answers.message().await? else {
            return Err(Status::data_loss("the watch ended early"));
        };
        if answer.canceled {
            return Err(Status::data_loss(format!(
                "the watch was canceled: {}",
                answer.cancel_reason
            )));
        }
        events.extend(answer.events);
    }
    drop(requests);
    Ok(events)
}

/// The log's end is where a flipped bit cannot be told from a write that a crash cut off: the store may lack the very last write,
/// and nothing else.
pub fn without_the_last(truth: &Picture, seen: &Picture) -> bool {
    let rows: Vec<&KeyValue> = truth
        .rows
        .iter()
        .filter(|kv| kv.key != LAST.as_bytes())
        .collect();
    let events = &truth.events[..truth.events.len().saturating_sub(1)];
    seen.revision + 1 == truth.revision
        && seen.compacted == truth.compacted
        && seen.rows.iter().eq(rows)
        && seen.events == events
        && seen.leases == truth.leases
        && seen.attached == truth.attached
}

pub fn difference(truth: &Picture, seen: &Picture) -> String {
    let mut parts = Vec::new();
    let mut part = |name: &str, same: bool, what: String| {
        if !same {
            parts.push(format!("{name} {what}"));
        }
    };
    let pair = |a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| format!("{b:?} instead of {a:?}");
    part(
        "revision",
        truth.revision == seen.revision,
        pair(&truth.revision, &seen.revision),
    );
    part(
        "compacted",
        truth.compacted == seen.compacted,
        pair(&truth.compacted, &seen.compacted),
    );
    part(
        "hash",
        truth.hash == seen.hash,
        pair(&truth.hash, &seen.hash),
    );
    part(
        "rows",
        truth.rows == seen.rows,
        pair(&truth.rows.len(), &seen.rows.len()),
    );
    part(
        "events",
        truth.events == seen.events,
        pair(&truth.events.len(), &seen.events.len()),
    );
    part("past", truth.past == seen.past, "differ".to_owned());
    part(
        "leases",
        truth.leases == seen.leases,
        pair(&truth.leases, &seen.leases),
    );
    part(
        "attached",
        truth.attached == seen.attached,
        pair(&truth.attached, &seen.attached),
    );
    parts.join("; ")
}

/// A range over everything.
pub fn all(revision: u64) -> RangeRequest {
    RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        revision: i64::try_from(revision).unwrap_or(i64::MAX),
        ..RangeRequest::default()
    }
}
