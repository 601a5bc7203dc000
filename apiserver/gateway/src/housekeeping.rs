//! What a gateway does on its own account: creates the namespaces every cluster has, and compacts old history.
//! Every master does both; whoever comes second finds it done.

use std::sync::Arc;
use std::time::Duration;

use barque_apiserver_rules::{Group, User, admission::SYSTEM_NAMESPACES};
use barque_store_state::Revision;
use serde_json::json;
use tokio::sync::watch;

use crate::pipeline::Pipeline;
use crate::requests::body::RequestBody;
use crate::requests::options::Options;
use crate::requests::path::ResourcePath;
use crate::requests::{ResourceRequest, Verb};
use crate::status::ApiError;
use crate::storage::Consistency;

/// Between two tries while the store has no leader.
const RETRY: Duration = Duration::from_millis(200);
/// History is kept at least this long, as kube-apiserver's `--etcd-compaction-interval`: a client that was away for
/// less resumes its watch.
const COMPACTION_INTERVAL: Duration = Duration::from_secs(300);

/// How often the system namespaces are looked after; kube-apiserver's number.
const NAMESPACES_INTERVAL: Duration = Duration::from_secs(60);

/// Creates the system namespaces, and again whenever one was deleted: nodes keep their leases in them.
pub async fn keep_namespaces(pipeline: Arc<Pipeline>, done: watch::Sender<bool>) {
    loop {
        bootstrap(&pipeline).await;
        done.send_replace(true);
        tokio::time::sleep(NAMESPACES_INTERVAL).await;
    }
}

/// Creates the system namespaces, however long it takes until the store can.
pub async fn bootstrap(pipeline: &Pipeline) {
    let Some(myself) =
        User::from_subject("system:apiserver", vec![Group::Masters.name().to_owned()])
    else {
        return;
    };
    for name in SYSTEM_NAMESPACES {
        while let Err(error) = ensure_namespace(pipeline, &myself, name).await {
            tracing::debug!(%error, namespace = name, "not created yet");
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn ensure_namespace(pipeline: &Pipeline, myself: &User, name: &str) -> Result<(), ApiError> {
    let request = |verb, name: Option<&str>, body: String| ResourceRequest {
        verb,
        path: ResourcePath {
            version: "v1".to_owned(),
            resource: "namespaces".to_owned(),
            name: name.map(str::to_owned),
            ..ResourcePath::default()
        },
        options: Options::default(),
        content_type: None,
        body: RequestBody::Bytes(body.into()),
    };
    // Looked for first: a write, even one that is refused, costs an entry of the log.
    let there = request(Verb::Get, Some(name), String::new());
    match pipeline.handle(Some(myself), there).await {
        Err(error) if error.code == 404 => {}
        other => return other.map(drop),
    }
    let body = json!({"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}});
    let create = request(Verb::Create, None, body.to_string());
    match pipeline.handle(Some(myself), create).await {
        Ok(_) => Ok(()),
        Err(error) if error.reason == "AlreadyExists" => Ok(()),
        Err(error) => Err(error),
    }
}

/// Compacts, every interval, to the revision that was current one interval ago.
pub async fn compact(pipeline: Arc<Pipeline>) {
    let storage = pipeline.objects().storage().clone();
    let mut previous: Option<Revision> = None;
    loop {
        tokio::time::sleep(COMPACTION_INTERVAL).await;
        let Ok(current) = storage.revision(Consistency::Local).await else {
            continue;
        };
        if let Some(revision) = previous
            && let Err(error) = storage.compact(revision).await
        {
            tracing::warn!(%error, "compaction put off");
            continue;
        }
        previous = Some(current);
    }
}
