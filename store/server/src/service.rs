//! Which path is which handler. The methods that are served are listed in `pages`, which counts them.

use std::rc::Rc;
use std::sync::Arc;

use barque_proto::etcdserverpb as pb;
use barque_proto::health::{self, health_check_response::ServingStatus};
use barque_store_env::Env;
use barque_store_node::Store;
use barque_store_rpc::{Code, Framed, Kind, Reply, Requests, Responses, Service, Status};
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use http::{HeaderMap, Request, Response};
use prost::Message;

use crate::core::{Core, Rules, check_client_version, wants_leader};
use crate::http::Surface;
use crate::maintenance::framed;
use crate::pages::{self, Calls, MethodType, Pages};
use crate::status::{malformed, not_for_learners, not_served};
use crate::{cluster, http as plain_http, kv, lease, maintenance, watch};

/// Methods of etcd's that answer Unimplemented by name, so that their users learn it is not a typing error.
const NOT_SERVED: &[&str] = &[
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.Maintenance/Snapshot",
];
const SERVICES_NOT_SERVED: &[&str] = &[
    "/etcdserverpb.Auth/",
    "/v3electionpb.Election/",
    "/v3lockpb.Lock/",
];

/// Services that some method is served of, here or by name.
const SERVICES: &[&str] = &[
    "/etcdserverpb.KV/",
    "/etcdserverpb.Watch/",
    "/etcdserverpb.Lease/",
    "/etcdserverpb.Cluster/",
    "/etcdserverpb.Maintenance/",
    "/grpc.health.v1.Health/",
];

/// etcd's isRPCSupportedForLearner, and its health service.
fn serves_as_learner(path: &str, request: &Bytes) -> bool {
    match path {
        "/etcdserverpb.Maintenance/Status" => true,
        "/etcdserverpb.KV/Range" => {
            pb::RangeRequest::decode(request.clone()).is_ok_and(|range| range.serializable)
        }
        path => !path.starts_with("/etcdserverpb."),
    }
}

/// grpc-go tells a method it does not know from a service it does not know.
fn unknown(path: &str) -> Status {
    let service = path.rfind('/').map_or(path, |slash| &path[..=slash]);
    if SERVICES.contains(&service) {
        Status::unknown_method(path)
    } else {
        Status::unknown_service(path)
    }
}

/// The reply, if the request is a message at all. For requests that say nothing but must say it rightly.
fn well_formed<M: Message + Default>(request: Bytes, reply: Reply) -> Option<Reply> {
    match M::decode(request) {
        Ok(_) => Some(reply),
        Err(error) => {
            reply.err(malformed(&error));
            None
        }
    }
}

pub(crate) struct EtcdService<E: Env> {
    core: Rc<Core<E>>,
    pages: Pages<E>,
    calls: Arc<Calls>,
}

impl<E: Env> EtcdService<E> {
    pub fn new(store: Store<E>, rules: Arc<Rules>, pages: Pages<E>) -> Self {
        EtcdService {
            core: Core::start(store, rules),
            calls: pages.core(),
            pages,
        }
    }
}

impl<E: Env> Service for EtcdService<E> {
    fn kind(&self, path: &str) -> Kind {
        match pages::method(path) {
            Some(MethodType::Unary) => Kind::Unary,
            Some(MethodType::Bidi) => Kind::Stream,
            None => Kind::Unknown(
                if NOT_SERVED.contains(&path)
                    || SERVICES_NOT_SERVED.iter().any(|s| path.starts_with(s))
                {
                    not_served(path)
                } else {
                    unknown(path)
                },
            ),
        }
    }

    fn unary(&self, path: &str, request: Bytes, metadata: &HeaderMap, reply: Reply) {
        let core = &self.core;
        let reply = match self.calls.begin(path) {
            Some(tally) => {
                tally.received(request.len());
                reply.counted(tally)
            }
            None => reply,
        };
        let allowed = check_client_version(metadata).and_then(|()| core.require_leader(metadata));
        if let Err(status) = allowed {
            return reply.err(status);
        }
        if core.store.is_learner() && !serves_as_learner(path, &request) {
            return reply.err(not_for_learners());
        }
        match path {
            "/etcdserverpb.KV/Range" => kv::range(core, request, reply),
            "/etcdserverpb.KV/Put" => kv::put(core, request, reply),
            "/etcdserverpb.KV/DeleteRange" => kv::delete_range(core, request, reply),
            "/etcdserverpb.KV/Txn" => kv::txn(core, request, reply),
            "/etcdserverpb.KV/Compact" => kv::compact(core, request, reply),
            "/etcdserverpb.Lease/LeaseGrant" => lease::grant(core, request, reply),
            "/etcdserverpb.Lease/LeaseRevoke" => lease::revoke(core, request, reply),
            "/etcdserverpb.Lease/LeaseTimeToLive" => lease::time_to_live(core, request, reply),
            "/etcdserverpb.Lease/LeaseLeases" => {
                if let Some(reply) = well_formed::<pb::LeaseLeasesRequest>(request, reply) {
                    lease::leases(core, reply);
                }
            }
            "/etcdserverpb.Cluster/MemberList" => cluster::member_list(core, request, reply),
            "/etcdserverpb.Cluster/MemberAdd" => cluster::member_add(core, request, reply),
            "/etcdserverpb.Cluster/MemberRemove" => cluster::member_remove(core, request, reply),
            "/etcdserverpb.Cluster/MemberUpdate" => cluster::member_update(core, request, reply),
            "/etcdserverpb.Cluster/MemberPromote" => cluster::member_promote(core, request, reply),
            "/etcdserverpb.Maintenance/Alarm" => maintenance::alarm(core, request, reply),
            "/etcdserverpb.Maintenance/Status" => {
                if let Some(reply) = well_formed::<pb::StatusRequest>(request, reply) {
                    maintenance::status(core, reply);
                }
            }
            "/etcdserverpb.Maintenance/Defragment" => {
                if let Some(reply) = well_formed::<pb::DefragmentRequest>(request, reply) {
                    maintenance::defragment(reply);
                }
            }
            "/etcdserverpb.Maintenance/Hash" => {
                if let Some(reply) = well_formed::<pb::HashRequest>(request, reply) {
                    maintenance::hash(core, reply);
                }
            }
            "/etcdserverpb.Maintenance/HashKV" => maintenance::hash_kv(core, request, reply),
            "/etcdserverpb.Maintenance/MoveLeader" => {
                maintenance::move_leader(core, request, reply);
            }
            "/etcdserverpb.Maintenance/Downgrade" => maintenance::downgrade(request, reply),
            "/grpc.health.v1.Health/Check" => reply.done(health_status(request)),
            path => reply.err(unknown(path)),
        }
    }

    fn stream(&self, path: &str, metadata: &HeaderMap, requests: Requests, responses: Responses) {
        let (requests, responses) = match self.calls.begin(path) {
            Some(tally) => (requests.counted(tally.clone()), responses.counted(tally)),
            None => (requests, responses),
        };
        let allowed =
            check_client_version(metadata).and_then(|()| self.core.require_leader(metadata));
        if let Err(status) = allowed {
            return responses.finish(&status);
        }
        if self.core.store.is_learner() && path.starts_with("/etcdserverpb.") {
            return responses.finish(&not_for_learners());
        }
        let core = self.core.clone();
        match path {
            "/etcdserverpb.Watch/Watch" => barque_store_rpc::spawn_local(watch::serve(
                core,
                wants_leader(metadata),
                requests,
                responses,
            )),
            "/etcdserverpb.Lease/LeaseKeepAlive" => {
                barque_store_rpc::spawn_local(lease::keep_alive(core, requests, responses));
            }
            "/grpc.health.v1.Health/Watch" => {
                barque_store_rpc::spawn_local(watch_health(requests, responses));
            }
            path => responses.finish(&unknown(path)),
        }
    }

    fn http(&self, request: Request<Bytes>) -> LocalBoxFuture<'static, Response<Bytes>> {
        Box::pin(plain_http::answer(
            self.pages.clone(),
            Surface::Client,
            request,
        ))
    }
}

/// The pages alone, for `--listen-metrics-urls`.
pub(crate) struct MetricsService<E: Env> {
    pub pages: Pages<E>,
}

impl<E: Env> Service for MetricsService<E> {
    fn kind(&self, path: &str) -> Kind {
        Kind::Unknown(Status::unknown_method(path))
    }
    fn unary(&self, path: &str, _request: Bytes, _metadata: &HeaderMap, reply: Reply) {
        reply.err(Status::unknown_method(path));
    }
    fn stream(&self, path: &str, _metadata: &HeaderMap, _requests: Requests, responses: Responses) {
        responses.finish(&Status::unknown_method(path));
    }
    fn http(&self, request: Request<Bytes>) -> LocalBoxFuture<'static, Response<Bytes>> {
        Box::pin(plain_http::answer(
            self.pages.clone(),
            Surface::Metrics,
            request,
        ))
    }
}

/// A server that answers is serving; what it can do for clients is told by `Status` and `/readyz`.
fn health_status(request: Bytes) -> Result<Framed, Status> {
    let request = health::HealthCheckRequest::decode(request).map_err(|e| malformed(&e))?;
    if !request.service.is_empty() {
        return Err(Status::new(Code::NotFound, "unknown service"));
    }
    Ok(framed(&health::HealthCheckResponse {
        status: ServingStatus::Serving.into(),
    }))
}

async fn watch_health(mut requests: Requests, mut responses: Responses) {
    let request = match requests.next().await {
        Some(Ok(request)) => request,
        Some(Err(status)) => return responses.finish(&status),
        None => return responses.finish(&Status::new(Code::Internal, "no request")),
    };
    let answer = match health_status(request) {
        Ok(serving) => serving,
        Err(status) if status.code == Code::NotFound => framed(&health::HealthCheckResponse {
            status: ServingStatus::ServiceUnknown.into(),
        }),
        Err(status) => return responses.finish(&status),
    };
    if responses.send(answer).await.is_ok() {
        // Nothing changes while the server runs; the stream ends with it or with the client.
        responses.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_method_and_an_unknown_service_are_told_apart() {
        let text = |path| unknown(path).message.into_owned();
        assert_eq!(
            text("/etcdserverpb.KV/Nothing"),
            "unknown method Nothing for service etcdserverpb.KV"
        );
        assert_eq!(text("/KV/Range"), "unknown service KV");
        assert_eq!(text("/a/b/c"), "unknown service a/b");
        assert_eq!(text("KV"), "malformed method name: \"KV\"");
    }
}
