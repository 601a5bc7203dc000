//! Asking a running cluster of `barque up` how it is: through the gateways as the administrator, and the members through etcd's API.

use std::path::Path;
use std::time::{Duration, Instant};

use barque_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use barque_proto::etcdserverpb::{StatusRequest, StatusResponse};
use barque_proto::objects::objects_client::ObjectsClient;
use barque_proto::objects::{ListRequest, Resource};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::up::layout::{Cluster, Process};
use crate::up::plan::Certificates;
use crate::{Failure, pki};

const CALL_WITHIN: Duration = Duration::from_secs(2);

fn channel(url: String, ca: &Path, pair: &pki::Pair) -> Result<Channel, Failure> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(pki::read(ca)?))
        .identity(Identity::from_pem(
            pki::read(&pair.cert)?,
            pki::read(&pair.key)?,
        ));
    Endpoint::from_shared(url.clone())
        .and_then(|e| {
            e.connect_timeout(CALL_WITHIN)
                .timeout(CALL_WITHIN)
                .tls_config(tls)
        })
        .map(|e| e.connect_lazy())
        .map_err(|cause| Failure::new(format!("cannot reach {url}: {cause}")))
}

/// The member's own word, as etcd's `Status`.
pub async fn member_status(url: String, files: &Certificates) -> Result<StatusResponse, Failure> {
    let channel = channel(url, &files.store_ca, &files.store_client)?;
    match MaintenanceClient::new(channel)
        .status(StatusRequest {})
        .await
    {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(Failure::new(status.message().to_owned())),
    }
}

/// How many nodes that gateway shows as ready.
async fn ready_nodes(channel: Channel) -> Result<usize, Failure> {
    let resource = Resource {
        group: String::new(),
        version: "v1".into(),
        resource: "nodes".into(),
    };
    let request = ListRequest {
        resource: Some(resource),
        ..Default::default()
    };
    let list = ObjectsClient::new(channel)
        .max_decoding_message_size(64 << 20)
        .list(request)
        .await
        .map_err(|status| Failure::new(format!("{}: {}", status.code(), status.message())))?
        .into_inner();
    Ok(list.items.iter().filter(|json| node_is_ready(json)).count())
}

fn node_is_ready(json: &[u8]) -> bool {
    let node: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    let conditions = node["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    conditions
        .iter()
        .any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Waits until every gateway answers and shows every worker as ready. A process that ends meanwhile is a failure, with its last words.
pub async fn wait_ready(
    dir: &Path,
    cluster: &Cluster,
    files: &Certificates,
    within: Duration,
) -> Result<(), Failure> {
    let deadline = Instant::now() + within;
    let mut waiting: Vec<(&str, Channel)> = Vec::new();
    for master in &cluster.masters {
        waiting.push((
            &master.name,
            channel(master.gateway_url(), &files.cluster_ca, &files.admin)?,
        ));
    }
    let mut last = String::from("nothing answered yet");
    while let Some((name, channel)) = waiting.first().cloned() {
        if let Some((dead, _)) = cluster.processes.iter().find(|(_, p)| !Process::runs(p)) {
            return Err(Failure::new(format!(
                "{dead} ended while the cluster started; {}",
                last_words(dir, dead)
            )));
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(format!(
                "not ready within {} s: {last}; the logs are in {}",
                within.as_secs(),
                dir.join("logs").display()
            )));
        }
        match ready_nodes(channel).await {
            Ok(nodes) if nodes >= cluster.workers.len() => {
                say!("  {name} serves, {nodes} nodes ready");
                waiting.remove(0);
                continue;
            }
            Ok(nodes) => {
                last = format!(
                    "{name} shows {nodes} of {} nodes ready",
                    cluster.workers.len()
                )
            }
            Err(failure) => last = format!("{name}: {failure}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn last_words(dir: &Path, name: &str) -> String {
    let path = dir.join("logs").join(format!("{name}.log"));
    match std::fs::read_to_string(&path) {
        Ok(text) => format!(
            "its log {} ends with: {}",
            path.display(),
            text.lines().last().unwrap_or("(nothing)")
        ),
        Err(_) => "it left no log".into(),
    }
}
