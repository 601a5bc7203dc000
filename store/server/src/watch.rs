//! etcd's Watch service: one client stream, many watches. What is delivered when is the hub's business (`store/watch`); here
//! it becomes etcd's messages.
//! Promise: deliveries are sent in the hub's order; a client that does not read holds only its own stream.

use std::collections::BTreeMap;
use std::rc::Rc;

use barque_proto::etcdserverpb as pb;
use barque_store_env::Env;
use barque_store_node::{ProposeError, WatchStream};
use barque_store_rpc::{Closed, Code, Frames, Requests, Responses, Status};
use barque_store_state::{KeyRange, Refusal, Revision};
use barque_store_watch::{Delivery, WatchEvent, WatchId, WatchSpec};
use bytes::Bytes;
use prost::Message;

use crate::core::Core;
use crate::encode::{self, Header, WatchHead};
use crate::limits::{GRPC_OVERHEAD_BYTES, WATCH_SEND_BYTES, WATCHES_PER_STREAM_MAX};
use crate::status::{history_unreadable, malformed, not_proposed};

/// etcd's id of "no watch" (a refused creation) and of "all watches" (progress).
const NO_WATCH: i64 = -1;

enum Next {
    Request(Option<Result<Bytes, Status>>),
    Deliveries(Vec<Delivery>),
    LeaderLost,
    ClientGone,
}

/// Why nothing more is sent.
enum Ended {
    ClientGone,
    With(Status),
}

impl From<Closed> for Ended {
    fn from(Closed: Closed) -> Self {
        Ended::ClientGone
    }
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
        fragment: BTreeMap::new(),
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
                    Ok(())
                }
                Err(error) => break malformed(&error),
            },
            Next::Deliveries(deliveries) => stream.deliver(deliveries, &mut responses).await,
            Next::LeaderLost => break not_proposed(&ProposeError::NoLeader),
            Next::ClientGone => break Status::new(Code::Canceled, "etcdserver: watch canceled"),
        };
        match sent {
            Ok(()) => {}
            Err(Ended::ClientGone) => return,
            Err(Ended::With(status)) => break status,
        }
    };
    responses.finish(&status);
}

struct ClientStream<E: Env> {
    core: Rc<Core<E>>,
    watches: WatchStream<E>,
    /// Whether each watch wants large messages split.
    /// Invariant: exactly the watches that were created and not ended.
    fragment: BTreeMap<WatchId, bool>,
    frames: Frames,
}

impl<E: Env> ClientStream<E> {
    fn request(&mut self, request: pb::WatchRequest) {
        use pb::watch_request::RequestUnion;
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(request),
            Some(RequestUnion::CancelRequest(request)) => {
                let id = WatchId(request.watch_id);
                self.watches.cancel(id);
                // Here, not when the answer is written: another watch may have the id by then.
                self.fragment.remove(&id);
            }
            Some(RequestUnion::ProgressRequest(_)) => self.watches.request_progress(),
            // etcd ignores what it does not know here.
            None => {}
        }
    }

    fn create(&mut self, request: pb::WatchCreateRequest) {
        if self.fragment.len() >= WATCHES_PER_STREAM_MAX {
            let reason = "etcdserver: too many watches on one stream";
            return self.watches.refuse(reason.to_owned());
        }
        if request.start_revision < 0 {
            return self.watches.refuse(Refusal::Compacted.to_string());
        }
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
                self.fragment.insert(id, request.fragment);
            }
            Err(error) => self.watches.refuse(error.to_string()),
        }
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
    ) -> Result<(), Ended> {
        let header = self.core.header(Revision(0));
        for delivery in deliveries {
            if let Delivery::Failed { .. } = delivery {
                self.flush(responses).await?;
                return Err(Ended::With(history_unreadable()));
            }
            self.write(header, &delivery);
            if self.frames.len() >= WATCH_SEND_BYTES {
                self.flush(responses).await?;
            }
        }
        Ok(self.flush(responses).await?)
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
                let split = self.fragment.get(id).is_some_and(|wanted| *wanted);
                return self.write_events(&head(*revision, id.0), events, split);
            }
            Delivery::Created { id, revision } => WatchHead {
                created: true,
                ..head(*revision, id.0)
            },
            // etcd's way of refusing a watch: created and canceled in one message.
            Delivery::Refused { reason, revision } => WatchHead {
                created: true,
                canceled: true,
                cancel_reason: reason,
                ..head(*revision, NO_WATCH)
            },
            Delivery::Progress { id, revision } => head(*revision, id.map_or(NO_WATCH, |id| id.0)),
            Delivery::Canceled { id, revision } => WatchHead {
                canceled: true,
                ..head(*revision, id.0)
            },
            // The whole stream ends there, see `deliver`.
            Delivery::Failed { .. } => return,
            Delivery::Compacted {
                id,
                compact_revision,
            } => {
                self.fragment.remove(id);
                // etcd leaves revision and reason empty here; clients go by compact_revision.
                WatchHead {
                    canceled: true,
                    compact_revision: compact_revision.0,
                    ..head(Revision(0), id.0)
                }
            }
        };
        encode::watch(&mut self.frames, &head, &[]);
    }

    /// One message, or several where the client asked for it and one would be larger than the largest request.
    fn write_events(&mut self, head: &WatchHead<'_>, events: &[WatchEvent], split: bool) {
        let mut rest = events;
        let limit = self.core.rules.max_request_bytes + GRPC_OVERHEAD_BYTES;
        let len = |event: &WatchEvent| event.encoded(encode::event).len();
        if split && head.len() + events.iter().map(len).sum::<usize>() >= limit {
            let more = WatchHead {
                fragment: true,
                ..*head
            };
            let mut fits = fragment(rest, more.len(), limit);
            while fits < rest.len() {
                encode::watch(&mut self.frames, &more, &rest[..fits]);
                rest = &rest[fits..];
                fits = fragment(rest, more.len(), limit);
            }
        }
        encode::watch(&mut self.frames, head, rest);
    }
}

/// How many of `events` go into a message of less than `limit` bytes, `head` of which are not events; at least one.
fn fragment(events: &[WatchEvent], head: usize, limit: usize) -> usize {
    let mut bytes = head;
    for (i, event) in events.iter().enumerate() {
        bytes += event.encoded(encode::event).len();
        if i > 0 && bytes >= limit {
            return i;
        }
    }
    events.len()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use barque_store_state::{Event, EventKind, KeyValue};

    use super::*;

    #[test]
    fn fragments_hold_at_least_one_event_and_stay_below_the_limit() {
        let event = |bytes: usize| {
            WatchEvent::from(Event {
                kind: EventKind::Put,
                kv: Arc::new(KeyValue {
                    key: Bytes::from_static(b"k"),
                    value: vec![0; bytes].into(),
                    ..KeyValue::default()
                }),
                prev: None,
            })
        };
        let events = [event(10), event(10), event(5000), event(10)];
        assert_eq!(fragment(&events, 0, 1000), 2);
        assert_eq!(fragment(&events, 990, 1000), 1, "the head counts");
        assert_eq!(fragment(&events[2..], 0, 1000), 1);
        assert_eq!(fragment(&events[3..], 0, 1000), 1);
        assert_eq!(fragment(&events, 0, 100_000), 4);
        let two = 2 * events[0].encoded(encode::event).len();
        assert_eq!(
            fragment(&events[..2], 0, two),
            1,
            "etcd's: from the limit on"
        );
        assert_eq!(fragment(&events[..2], 0, two + 1), 2);
    }
}
