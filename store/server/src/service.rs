//! Which path is which handler. The one table of methods.

use std::rc::Rc;
use std::sync::Arc;

use barque_proto::health::{self, health_check_response::ServingStatus};
use barque_store_env::Env;
use barque_store_node::Store;
use barque_store_rpc::{Code, Framed, Kind, Reply, Requests, Responses, Service, Status};
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use http::{HeaderMap, Request, Response};
use prost::Message;

use crate::core::{Core, Rules, wants_leader};
use crate::maintenance::framed;
use crate::status::{malformed, not_served};
use crate::{cluster, http as plain_http, kv, lease, maintenance, watch};

/// Methods of etcd's that answer Unimplemented by name, so that their users learn it is not a typing error.
const NOT_SERVED: &[&str] = &[
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.Cluster/MemberAdd",
    "/etcdserverpb.Cluster/MemberRemove",
    "/etcdserverpb.Cluster/MemberUpdate",
    "/etcdserverpb.Cluster/MemberPromote",
    "/etcdserverpb.Maintenance/Snapshot",
    "/etcdserverpb.Maintenance/MoveLeader",
    "/etcdserverpb.Maintenance/Downgrade",
];
const SERVICES_NOT_SERVED: &[&str] = &[
    "/etcdserverpb.Auth/",
    "/v3electionpb.Election/",
    "/v3lockpb.Lock/",
];

pub(crate) struct EtcdService<E: Env> {
    core: Rc<Core<E>>,
}

impl<E: Env> EtcdService<E> {
    pub fn new(store: Store<E>, rules: Arc<Rules>) -> Self {
        EtcdService {
            core: Core::start(store, rules),
        }
    }
}

impl<E: Env> Service for EtcdService<E> {
    fn kind(&self, path: &str) -> Kind {
        match path {
            "/etcdserverpb.KV/Range"
            | "/etcdserverpb.KV/Put"
            | "/etcdserverpb.KV/DeleteRange"
            | "/etcdserverpb.KV/Txn"
            | "/etcdserverpb.KV/Compact"
            | "/etcdserverpb.Lease/LeaseGrant"
            | "/etcdserverpb.Lease/LeaseRevoke"
            | "/etcdserverpb.Lease/LeaseTimeToLive"
            | "/etcdserverpb.Lease/LeaseLeases"
            | "/etcdserverpb.Cluster/MemberList"
            | "/etcdserverpb.Maintenance/Alarm"
            | "/etcdserverpb.Maintenance/Status"
            | "/etcdserverpb.Maintenance/Defragment"
            | "/etcdserverpb.Maintenance/Hash"
            | "/etcdserverpb.Maintenance/HashKV"
            | "/grpc.health.v1.Health/Check" => Kind::Unary,
            "/etcdserverpb.Watch/Watch"
            | "/etcdserverpb.Lease/LeaseKeepAlive"
            | "/grpc.health.v1.Health/Watch" => Kind::Stream,
            path => Kind::Unknown(
                if NOT_SERVED.contains(&path)
                    || SERVICES_NOT_SERVED.iter().any(|s| path.starts_with(s))
                {
                    not_served(path)
                } else {
                    Status::unknown_method(path)
                },
            ),
        }
    }

    fn unary(&self, path: &str, request: Bytes, metadata: &HeaderMap, reply: Reply) {
        let core = &self.core;
        if let Err(status) = core.require_leader(metadata) {
            return reply.err(status);
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
            "/etcdserverpb.Lease/LeaseLeases" => lease::leases(core, reply),
            "/etcdserverpb.Cluster/MemberList" => cluster::member_list(core, request, reply),
            "/etcdserverpb.Maintenance/Alarm" => maintenance::alarm(core, request, reply),
            "/etcdserverpb.Maintenance/Status" => maintenance::status(core, reply),
            "/etcdserverpb.Maintenance/Defragment" => maintenance::defragment(reply),
            "/etcdserverpb.Maintenance/Hash" => maintenance::hash(core, reply),
            "/etcdserverpb.Maintenance/HashKV" => maintenance::hash_kv(core, request, reply),
            "/grpc.health.v1.Health/Check" => reply.done(health_status(request)),
            path => reply.err(Status::unknown_method(path)),
        }
    }

    fn stream(&self, path: &str, metadata: &HeaderMap, requests: Requests, responses: Responses) {
        if let Err(status) = self.core.require_leader(metadata) {
            return responses.finish(&status);
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
            path => responses.finish(&Status::unknown_method(path)),
        }
    }

    fn http(&self, request: Request<Bytes>) -> LocalBoxFuture<'static, Response<Bytes>> {
        Box::pin(plain_http::answer(self.core.clone(), request))
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
