//! etcd's Watch service: one client stream, many watches. What is delivered when is the hub's business (`store/watch`); here
//! it becomes etcd's messages.
//! Promise: deliveries are sent in the hub's order; a client that does not read holds only its own stream.

use std::collections::BTreeMap;
use std::rc::Rc;

use barque_proto::etcdserverpb as pb;
use barque_store_env::Env;
use barque_store_node::{ProposeError, WatchStream};
use barque_store_rpc::{Closed, Code, Frames, Requests, Responses, Status};
use barque_store_state::{Event, KeyRange, Refusal, Revision};
use barque_store_watch::{Delivery, WatchId, WatchSpec};
use bytes::Bytes;
use prost::Message;

use crate::core::Core;
use crate::encode::{self, Header, WatchHead};
use crate::limits::{GRPC_OVERHEAD_BYTES, WATCH_SEND_BYTES, WATCHES_PER_STREAM_MAX};
use crate::status::{malformed, not_proposed};

/// etcd's id of "no watch" (a refused creation) and of "all watches" (progress).
const NO_WATCH: i64 = -1;

/// How one watch wants its events written.
#[derive(Clone, Copy, Debug, Default)]
struct Wants {
    prev_kv: bool,
    fragment: bool,
}

enum Next {
    Request(Option<Result<Bytes, Status>>),
    Deliveries(Vec<Delivery>),
    LeaderLost,
    ClientGone,
}

pub(crate) async fn serve<E: Env>(
    core: Rc<Core<E>>,
    require_leader: bool,
    mut requests: Requests,
    mut responses: Responses,
) {
    let mut leader_lost = core.leader_lost();
    let mut stream = ClientStream {
        watches: core.store.watch_stream(),
        wants: BTreeMap::new(),
        frames: Frames::default(),
        core,
    };
    let mut requests_open = true;
    let status = loop {
        // A client that asks faster than it reads its answers is read no further until it has caught up.
        let listens = requests_open && !stream.watches.congested();
        let next = tokio::select! {
            request = requests.next(), if listens => Next::Request(request),
            deliveries = stream.watches.next() => Next::Deliveries(deliveries),
            // The sender lives as long as the core; an error could only mean the end of both.
            _ = leader_lost.changed(), if require_leader => Next::LeaderLost,
            () = responses.closed(), if !requests_open => Next::ClientGone,
        };
        let sent = match next {
            // As etcd: a client that has said everything still gets its events.
            Next::Request(None) => {
                requests_open = false;
                Ok(())
            }
            Next::Request(Some(Err(status))) => break status,
            Next::Request(Some(Ok(bytes))) => match pb::WatchRequest::decode(bytes) {
                Ok(request) => {
                    stream.request(request);
                    stream.flush(&mut responses).await
                }
                Err(error) => break malformed(&error),
            },
            Next::Deliveries(deliveries) => stream.deliver(deliveries, &mut responses).await,
            Next::LeaderLost => break not_proposed(&ProposeError::NoLeader),
            Next::ClientGone => break Status::new(Code::Canceled, "etcdserver: watch canceled"),
        };
        if sent.is_err() {
            return;
        }
    };
    responses.finish(&status);
}

struct ClientStream<E: Env> {
    core: Rc<Core<E>>,
    watches: WatchStream<E>,
    /// Invariant: exactly the watches that were created and not ended.
    wants: BTreeMap<WatchId, Wants>,
    frames: Frames,
}

impl<E: Env> ClientStream<E> {
    fn request(&mut self, request: pb::WatchRequest) {
        use pb::watch_request::RequestUnion;
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(request),
            Some(RequestUnion::CancelRequest(request)) => {
                self.watches.cancel(WatchId(request.watch_id));
            }
            Some(RequestUnion::ProgressRequest(_)) => self.watches.request_progress(),
            // etcd ignores what it does not know here.
            None => {}
        }
    }

    fn create(&mut self, request: pb::WatchCreateRequest) {
        if self.wants.len() >= WATCHES_PER_STREAM_MAX {
            return self.refuse("etcdserver: too many watches on one stream");
        }
        if request.start_revision < 0 {
            return self.refuse(&Refusal::Compacted.to_string());
        }
        let wants = Wants {
            prev_kv: request.prev_kv,
            fragment: request.fragment,
        };
        let filtered =
            |kind: pb::watch_create_request::FilterType| request.filters.contains(&(kind as i32));
        let spec = WatchSpec {
            no_put: filtered(pb::watch_create_request::FilterType::Noput),
            no_delete: filtered(pb::watch_create_request::FilterType::Nodelete),
            start: u64::try_from(request.start_revision)
                .ok()
                .filter(|revision| *revision > 0)
                .map(Revision),
            prev_kv: request.prev_kv,
            progress_notify: request.progress_notify,
            range: KeyRange {
                // No key stands for the first of all.
                key: if request.key.is_empty() {
                    Bytes::from_static(b"\0")
                } else {
                    request.key
                },
                end: request.range_end,
            },
        };
        let id = Some(WatchId(request.watch_id)).filter(|id| id.0 != 0);
        match self.watches.create(id, spec) {
            Ok(id) => {
                self.wants.insert(id, wants);
            }
            Err(error) => self.refuse(&error.to_string()),
        }
    }

    /// etcd's way of refusing a watch: created and canceled in one message.
    fn refuse(&mut self, reason: &str) {
        let head = WatchHead {
            header: self.core.header(self.core.store.revision()),
            watch_id: NO_WATCH,
            created: true,
            canceled: true,
            cancel_reason: reason,
            ..WatchHead::default()
        };
        encode::watch(&mut self.frames, &head, &[], false);
    }

    async fn flush(&mut self, responses: &mut Responses) -> Result<(), Closed> {
        if self.frames.is_empty() {
            return Ok(());
        }
        responses.send(self.frames.finish()).await
    }

    async fn deliver(
        &mut self,
        deliveries: Vec<Delivery>,
        responses: &mut Responses,
    ) -> Result<(), Closed> {
        let header = self.core.header(Revision(0));
        for delivery in deliveries {
            self.write(header, &delivery);
            if self.frames.len() >= WATCH_SEND_BYTES {
                self.flush(responses).await?;
            }
        }
        self.flush(responses).await
    }

    fn write(&mut self, header: Header, delivery: &Delivery) {
        let head = |revision: Revision, watch_id: i64| WatchHead {
            header: header.at(revision),
            watch_id,
            ..WatchHead::default()
        };
        let head = match delivery {
            Delivery::Events {
                id,
                revision,
                events,
            } => {
                let wants = self.wants.get(id).copied().unwrap_or_default();
                return self.write_events(&head(*revision, id.0), events, wants);
            }
            Delivery::Created { id, revision } => WatchHead {
                created: true,
                ..head(*revision, id.0)
            },
            Delivery::Progress { id, revision } => head(*revision, id.map_or(NO_WATCH, |id| id.0)),
            Delivery::Canceled { id, revision } => {
                self.wants.remove(id);
                WatchHead {
                    canceled: true,
                    ..head(*revision, id.0)
                }
            }
            Delivery::Compacted {
                id,
                compact_revision,
            } => {
                self.wants.remove(id);
                // etcd leaves revision and reason empty here; clients go by compact_revision.
                WatchHead {
                    canceled: true,
                    compact_revision: compact_revision.0,
                    ..head(Revision(0), id.0)
                }
            }
        };
        encode::watch(&mut self.frames, &head, &[], false);
    }

    /// One message, or several where the client asked for it and one would be larger than the largest request.
    fn write_events(&mut self, head: &WatchHead<'_>, events: &[Event], wants: Wants) {
        let limit = self.core.rules.max_request_bytes + GRPC_OVERHEAD_BYTES;
        let fitting = |rest: &[Event]| {
            if wants.fragment {
                fragment(rest, wants.prev_kv, limit)
            } else {
                rest.len()
            }
        };
        let mut rest = events;
        let mut fits = fitting(rest);
        while fits < rest.len() {
            let more = WatchHead {
                fragment: true,
                ..*head
            };
            encode::watch(&mut self.frames, &more, &rest[..fits], wants.prev_kv);
            rest = &rest[fits..];
            fits = fitting(rest);
        }
        encode::watch(&mut self.frames, head, rest, wants.prev_kv);
    }
}

/// How many of `events` go into a message of less than `limit` bytes; at least one.
fn fragment(events: &[Event], prev_kv: bool, limit: usize) -> usize {
    let mut bytes = 0;
    for (i, event) in events.iter().enumerate() {
        bytes += encode::watch_event_len(event, prev_kv);
        if i > 0 && bytes >= limit {
            return i;
        }
    }
    events.len()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use barque_store_state::{EventKind, KeyValue};

    use super::*;

    #[test]
    fn fragments_hold_at_least_one_event_and_stay_below_the_limit() {
        let event = |bytes: usize| Event {
            kind: EventKind::Put,
            kv: Arc::new(KeyValue {
                key: Bytes::from_static(b"k"),
                value: vec![0; bytes].into(),
                ..KeyValue::default()
            }),
            prev: None,
        };
        let events = [event(10), event(10), event(5000), event(10)];
        assert_eq!(fragment(&events, false, 1000), 2);
        assert_eq!(fragment(&events[2..], false, 1000), 1);
        assert_eq!(fragment(&events[3..], false, 1000), 1);
        assert_eq!(fragment(&events, false, 100_000), 4);
    }
}
