//! etcd's Lease service.

use std::rc::Rc;

use barque_proto::etcdserverpb as pb;
use barque_store_env::Env;
use barque_store_rpc::{Frames, Reply, Requests, Responses, Status};
use barque_store_state::{Command, LeaseId, Refusal};
use bytes::Bytes;
use futures::future::FutureExt;
use futures::stream::{FuturesOrdered, StreamExt};
use prost::Message;

use crate::core::Core;
use crate::limits::KEEP_ALIVES_PER_STREAM_MAX;
use crate::maintenance::{framed, header};
use crate::status::{malformed, not_proposed, refused};

/// etcd's longest TTL; the state machine has the same bound.
const TTL_MAX_S: i64 = 9_000_000_000;

pub(crate) fn grant<E: Env>(core: &Core<E>, request: Bytes, reply: Reply) {
    let request = match pb::LeaseGrantRequest::decode(request) {
        Ok(request) => request,
        Err(error) => return reply.err(malformed(&error)),
    };
    if request.ttl > TTL_MAX_S {
        return reply.err(refused(&Refusal::LeaseTtlTooLarge));
    }
    let ttl_s = request.ttl.max(core.rules.lease_ttl_min_s()).unsigned_abs();
    let id = match request.id {
        0 => chosen_id::<E>(),
        id => LeaseId(id),
    };
    core.proposals
        .propose(Command::LeaseGrant { id, ttl_s }, reply);
}

/// A random positive id. Two equal ones among millions of leases are not to be expected; the second would be refused.
fn chosen_id<E: Env>() -> LeaseId {
    LeaseId((E::random() >> 1).max(1).cast_signed())
}

pub(crate) fn revoke<E: Env>(core: &Core<E>, request: Bytes, reply: Reply) {
    match pb::LeaseRevokeRequest::decode(request) {
        Err(error) => reply.err(malformed(&error)),
        Ok(request) => core.proposals.propose(
            Command::LeaseRevoke {
                id: LeaseId(request.id),
            },
            reply,
        ),
    }
}

pub(crate) fn time_to_live<E: Env>(core: &Rc<Core<E>>, request: Bytes, reply: Reply) {
    let request = match pb::LeaseTimeToLiveRequest::decode(request) {
        Ok(request) => request,
        Err(error) => return reply.err(malformed(&error)),
    };
    let at = core.clone();
    core.reads.linearizable(move |ready| {
        reply.done(ready.map(|()| {
            let lease = at.store.lease_ttl(LeaseId(request.id), request.keys);
            framed(&pb::LeaseTimeToLiveResponse {
                header: header(&at, at.store.revision()),
                id: request.id,
                // etcd's sign for "no such lease".
                ttl: lease.as_ref().map_or(-1, |lease| lease.ttl_s),
                granted_ttl: lease
                    .as_ref()
                    .map_or(0, |lease| lease.granted_ttl_s.cast_signed()),
                keys: lease.map_or_else(Vec::new, |lease| lease.keys),
            })
        }));
    });
}

pub(crate) fn leases<E: Env>(core: &Rc<Core<E>>, reply: Reply) {
    let at = core.clone();
    core.reads.linearizable(move |ready| {
        reply.done(ready.map(|()| {
            framed(&pb::LeaseLeasesResponse {
                header: header(&at, at.store.revision()),
                leases: at
                    .store
                    .leases()
                    .into_iter()
                    .map(|id| pb::LeaseStatus { id: id.0 })
                    .collect(),
            })
        }));
    });
}

/// Requests are read ahead and each renewal begins at once, so that those of one stream share an entry; clients put all their
/// leases on one stream. Answers go out in the order of the requests.
pub(crate) async fn keep_alive<E: Env>(
    core: Rc<Core<E>>,
    mut requests: Requests,
    mut responses: Responses,
) {
    let mut renewals = FuturesOrdered::new();
    // How the stream ends, once everything read before is answered.
    let mut end = None;
    let status = loop {
        let reads = end.is_none() && renewals.len() < KEEP_ALIVES_PER_STREAM_MAX;
        let ready = tokio::select! {
            // Requests first: what has arrived together is renewed together.
            biased;
            request = requests.next(), if reads => {
                match asked(request) {
                    Ok(id) => renewals.push_back(renewal(core.clone(), id)),
                    Err(status) => end = Some(status),
                }
                continue;
            }
            Some(ready) = renewals.next() => ready,
            else => break end.unwrap_or(Status::OK),
        };
        let mut frames = Frames::default();
        let mut next = Some(ready);
        let failed = loop {
            match next {
                Some(Ok(response)) => frames.message(|buf| {
                    // A BytesMut grows: encoding into it cannot fail.
                    let _ = response.encode(buf);
                }),
                Some(Err(status)) => break Some(status),
                None => break None,
            }
            next = renewals.next().now_or_never().flatten();
        };
        if !frames.is_empty() && responses.send(frames.finish()).await.is_err() {
            return;
        }
        if let Some(status) = failed {
            break status;
        }
    };
    responses.finish(&status);
}

/// The lease of a request, or how the stream ends.
fn asked(request: Option<Result<Bytes, Status>>) -> Result<LeaseId, Status> {
    let bytes = request.ok_or(Status::OK)??;
    match pb::LeaseKeepAliveRequest::decode(bytes) {
        Ok(request) => Ok(LeaseId(request.id)),
        Err(error) => Err(malformed(&error)),
    }
}

async fn renewal<E: Env>(
    core: Rc<Core<E>>,
    id: LeaseId,
) -> Result<pb::LeaseKeepAliveResponse, Status> {
    match core.store.lease_keep_alive(id, core.deadline()).await {
        Err(error) => Err(not_proposed(&error)),
        Ok((revision, ttl_s)) => Ok(pb::LeaseKeepAliveResponse {
            header: header(&core, revision),
            id: id.0,
            // 0 says that there is no such lease.
            ttl: ttl_s.unwrap_or(0).cast_signed(),
        }),
    }
}
