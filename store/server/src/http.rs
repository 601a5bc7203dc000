//! etcd's plain HTTP beside gRPC: health, readiness, version, the few metrics there are.

use std::fmt::Write as _;
use std::rc::Rc;

use barque_store_env::Env;
use barque_store_state::{KeyRange, Range};
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};

use crate::core::Core;
use crate::limits::HEALTH_TIMEOUT;
use crate::{ETCD_API_VERSION, ETCD_CLUSTER_VERSION};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

pub(crate) async fn answer<E: Env>(core: Rc<Core<E>>, request: Request<Bytes>) -> Response<Bytes> {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or("");
    let (route, check) = match path.split_once('/').map(|(_, rest)| rest) {
        Some(rest) => rest
            .split_once('/')
            .map_or((rest, None), |(r, c)| (r, Some(c))),
        None => ("", None),
    };
    let known = match (route, check) {
        ("health" | "version" | "metrics", None) | ("livez" | "readyz", _) => true,
        (_, _) => false,
    };
    if !known {
        return respond(
            StatusCode::NOT_FOUND,
            TEXT,
            "404 page not found\n".to_owned(),
        );
    }
    if request.method() != Method::GET {
        let mut refused = respond(
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "Method Not Allowed\n".to_owned(),
        );
        refused
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET"));
        return refused;
    }
    match route {
        "health" => health(&core, query).await,
        "version" => respond(
            StatusCode::OK,
            JSON,
            serde_json::json!({
                "etcdserver": ETCD_API_VERSION,
                "etcdcluster": ETCD_CLUSTER_VERSION,
                "storage": ETCD_CLUSTER_VERSION,
            })
            .to_string(),
        ),
        "metrics" => metrics(&core),
        "livez" => checks(&core, &LIVE, check, query).await,
        _ => checks(&core, &READY, check, query).await,
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Values of `name` in a query string, in order. Names and values used here need no unescaping.
fn values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

async fn health<E: Env>(core: &Core<E>, query: &str) -> Response<Bytes> {
    let serializable = values(query, "serializable").any(|v| v == "true");
    let reason = if serializable {
        serializable_read(core).err()
    } else if core.store.status().leader.is_none() {
        Some("RAFT NO LEADER".to_owned())
    } else {
        linearizable_read(core).await.err()
    };
    let status = match reason {
        None => StatusCode::OK,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = serde_json::json!({
        "health": reason.is_none().to_string(),
        "reason": reason.map_or(String::new(), |r| if r.starts_with("RAFT") { r } else { format!("RANGE ERROR:{r}") }),
    });
    respond(status, TEXT, body.to_string())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

/// In etcd's order.
const READY: [Check; 4] = [
    Check::DataCorruption,
    Check::SerializableRead,
    Check::LinearizableRead,
    Check::NonLearner,
];
const LIVE: [Check; 1] = [Check::SerializableRead];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    async fn run<E: Env>(self, core: &Core<E>) -> Result<(), String> {
        match self {
            // A member that finds its data wrong stops serving altogether; every member votes.
            Check::DataCorruption | Check::NonLearner => Ok(()),
            Check::SerializableRead => serializable_read(core),
            Check::LinearizableRead => linearizable_read(core).await,
        }
    }
}

fn serializable_read<E: Env>(core: &Core<E>) -> Result<(), String> {
    let probe = Range {
        range: KeyRange::point(Bytes::from_static(b"health")),
        count_only: true,
        ..Range::default()
    };
    let (_, result) = core.store.range(&probe);
    result.map(|_| ()).map_err(|refusal| refusal.to_string())
}

async fn linearizable_read<E: Env>(core: &Core<E>) -> Result<(), String> {
    let deadline = E::now() + HEALTH_TIMEOUT;
    core.store
        .read_index(deadline)
        .await
        .map_err(|error| error.to_string())
}

async fn checks<E: Env>(
    core: &Core<E>,
    all: &[Check],
    only: Option<&str>,
    query: &str,
) -> Response<Bytes> {
    let chosen: Vec<Check> = match only {
        None | Some("") => all.to_vec(),
        Some(name) => all.iter().copied().filter(|c| c.name() == name).collect(),
    };
    if chosen.is_empty() {
        return respond(
            StatusCode::NOT_FOUND,
            TEXT,
            "404 page not found\n".to_owned(),
        );
    }
    let mut lines = String::new();
    let mut failed = false;
    for check in chosen {
        let name = check.name();
        let line = if values(query, "exclude").any(|excluded| excluded == name) {
            writeln!(lines, "[+]{name} excluded: ok")
        } else {
            match check.run(core).await {
                Ok(()) => writeln!(lines, "[+]{name} ok"),
                Err(reason) => {
                    failed = true;
                    writeln!(lines, "[-]{name} failed: {reason}")
                }
            }
        };
        debug_assert!(line.is_ok(), "writing into a String cannot fail");
    }
    if failed {
        return respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, lines);
    }
    let verbose = values(query, "verbose").next().is_some();
    let body = if verbose {
        lines + "ok\n"
    } else {
        "ok\n".to_owned()
    };
    respond(StatusCode::OK, TEXT, body)
}

/// etcd's names, as far as there is something to say; the whole list comes with the metrics of every crate.
fn metrics<E: Env>(core: &Core<E>) -> Response<Bytes> {
    let status = core.store.status();
    let leads = status.leader == Some(status.member);
    let gauges = [
        ("etcd_server_has_leader", u64::from(status.leader.is_some())),
        ("etcd_server_is_leader", u64::from(leads)),
        ("etcd_server_is_learner", 0),
        ("etcd_server_proposals_applied_total", status.applied_index),
        ("etcd_debugging_mvcc_current_revision", status.revision.0),
        (
            "etcd_debugging_mvcc_compact_revision",
            core.store.compact_revision().0,
        ),
        ("etcd_mvcc_db_total_size_in_bytes", status.db_size),
        (
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            status.db_size_in_use,
        ),
    ];
    let mut body = String::new();
    for (name, value) in gauges {
        body.push_str(&format!("# TYPE {name} gauge\n{name} {value}\n"));
    }
    body.push_str(&format!(
        "# TYPE etcd_server_version gauge\netcd_server_version{{server_version=\"{ETCD_API_VERSION}\"}} 1\n"
    ));
    respond(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        body,
    )
}
