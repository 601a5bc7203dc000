//! etcd's plain HTTP beside gRPC: health, readiness, version, metrics. On the metrics URLs it is there before the store is.

use std::fmt::Write as _;

use barque_store_env::Env;
use barque_store_node::{ProposeError, Store};
use barque_store_state::{Alarm, AlarmKind, KeyRange, Range};
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};

use crate::limits::HEALTH_TIMEOUT;
use crate::pages::Pages;
use crate::{ETCD_API_VERSION, version_text};
use crate::{exposition, metrics};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Where a request came in, and so which pages there are (etcd's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surface {
    Client,
    Metrics,
}

/// Why nothing can be read yet.
const RECOVERING: &str = "etcdserver: the member is recovering its log";

pub(crate) async fn answer<E: Env>(
    pages: Pages<E>,
    surface: Surface,
    request: Request<Bytes>,
) -> Response<Bytes> {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or("");
    let (route, check) = match path.split_once('/').map(|(_, rest)| rest) {
        Some(rest) => rest
            .split_once('/')
            .map_or((rest, None), |(r, c)| (r, Some(c))),
        None => ("", None),
    };
    let known = match (route, check) {
        ("health" | "metrics", None) | ("livez" | "readyz", _) => true,
        ("version", None) => surface == Surface::Client,
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
        "health" => health(&pages, query).await,
        "version" => respond(StatusCode::OK, JSON, versions(&pages)),
        "metrics" => respond(
            StatusCode::OK,
            exposition::CONTENT_TYPE,
            metrics::page(&pages),
        ),
        "livez" => checks(&pages, &LIVE, check, query).await,
        _ => checks(&pages, &READY, check, query).await,
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

/// etcd's words for what the first leader has not found out yet.
fn versions<E: Env>(pages: &Pages<E>) -> String {
    let decided = pages.store().and_then(|s| s.status().cluster_version);
    let or = |otherwise: &str| decided.map_or_else(|| otherwise.to_owned(), version_text);
    serde_json::json!({
        "etcdserver": ETCD_API_VERSION,
        "etcdcluster": or("not_decided"),
        "storage": or("unknown"),
    })
    .to_string()
}

/// Values of `name` in a query string, in order. Names and values used here need no unescaping.
fn values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

async fn health<E: Env>(pages: &Pages<E>, query: &str) -> Response<Bytes> {
    let reason = unhealthy(pages, query).await;
    pages.health_checked(reason.is_none());
    let status = match reason {
        None => StatusCode::OK,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = serde_json::json!({
        "health": reason.is_none().to_string(),
        "reason": reason.unwrap_or_default(),
    });
    respond(status, TEXT, body.to_string())
}

/// In etcd's order: alarms, leader, a read.
async fn unhealthy<E: Env>(pages: &Pages<E>, query: &str) -> Option<String> {
    let Some(store) = pages.store() else {
        return Some("RAFT NO LEADER".to_owned());
    };
    for alarm in alarms_here(store) {
        let name = match alarm.kind {
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
        };
        if !values(query, "exclude").any(|excluded| excluded == name) {
            return Some(format!("ALARM {name}"));
        }
    }
    let read = if values(query, "serializable").any(|v| v == "true") {
        serializable_read(store)
    } else if store.leader().is_none() {
        return Some("RAFT NO LEADER".to_owned());
    } else {
        linearizable_read(store).await
    };
    read.err().map(|reason| format!("RANGE ERROR:{reason}"))
}

/// The alarms that speak against this member.
fn alarms_here<E: Env>(store: &Store<E>) -> impl Iterator<Item = Alarm> {
    let (me, _) = store.ids();
    let all = store.alarms().into_iter();
    all.filter(move |alarm| alarm.concerns(me))
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

    async fn run<E: Env>(self, store: &Store<E>) -> Result<(), String> {
        match self {
            Check::DataCorruption => {
                let mut alarms = alarms_here(store);
                if alarms.any(|alarm| alarm.kind == AlarmKind::Corrupt) {
                    return Err("alarm activated: CORRUPT".to_owned());
                }
                Ok(())
            }
            // A learner refuses nearly everything: whoever balances load by this page must not send it any.
            Check::NonLearner if store.is_learner() => Err("not supported for learner".to_owned()),
            Check::NonLearner => Ok(()),
            Check::SerializableRead => serializable_read(store),
            Check::LinearizableRead => linearizable_read(store).await,
        }
    }
}

fn serializable_read<E: Env>(store: &Store<E>) -> Result<(), String> {
    let probe = Range {
        range: KeyRange::point(Bytes::from_static(b"health")),
        count_only: true,
        ..Range::default()
    };
    let (_, result) = store.range(&probe);
    result.map(|_| ()).map_err(|refusal| refusal.to_string())
}

/// Without a leader it fails at once: waiting for one would only hold up whoever probes.
async fn linearizable_read<E: Env>(store: &Store<E>) -> Result<(), String> {
    if store.leader().is_none() {
        return Err(ProposeError::NoLeader.to_string());
    }
    store
        .read_index(E::now() + HEALTH_TIMEOUT)
        .await
        .map_err(|error| error.to_string())
}

async fn checks<E: Env>(
    pages: &Pages<E>,
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
            let result = match pages.store() {
                Some(store) => check.run(store).await,
                // It works on its log; killing it would only have it begin again.
                None if all == LIVE => Ok(()),
                None => Err(RECOVERING.to_owned()),
            };
            match result {
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
