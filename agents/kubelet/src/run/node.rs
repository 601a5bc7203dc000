//! Keeps the node's object, status and lease in the API.

use barque_agents_client::core::reflector::Key;
use barque_agents_client::resources::{LEASES, NODES};
use barque_agents_client::{Client, Error};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::Config;
use crate::core::node;
use crate::limits::{LEASE_SECONDS, NODE_STATUS_INTERVAL, RETRY_INTERVAL};

const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Registers the node, then renews its lease and tells its status, for ever. What is deleted meanwhile is made again.
pub(crate) async fn keep_registered(client: Client, config: Config) {
    let identity = config.identity();
    let mut told: Option<Instant> = None;
    loop {
        let outcome = async {
            if told.is_none_or(|at| at.elapsed() >= NODE_STATUS_INTERVAL) {
                tell_status(&client, &identity).await?;
                told = Some(Instant::now());
            }
            renew(&client, &config.node_name).await
        };
        match outcome.await {
            Ok(()) => sleep(config.lease_interval).await,
            Err(error) => {
                tracing::warn!(%error, "cannot tell of the node, trying again");
                // Whatever it was, the node's object may be gone.
                told = None;
                sleep(RETRY_INTERVAL).await;
            }
        }
        if let Ok(false) = is_ready(&client, &config.node_name).await {
            told = None;
        }
    }
}

/// Whether the API shows this node as ready. A controller that had lost sight of it writes otherwise.
async fn is_ready(client: &Client, name: &str) -> Result<bool, Error> {
    match client.get::<Node>(NODES, "", name).await {
        Ok(node) => {
            let conditions = node.status.and_then(|s| s.conditions).unwrap_or_default();
            Ok(conditions
                .iter()
                .any(|c| c.type_ == "Ready" && c.status == "True"))
        }
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

async fn tell_status(client: &Client, identity: &node::Identity) -> Result<(), Error> {
    let existing = match client.get::<Node>(NODES, "", &identity.name).await {
        Ok(existing) => existing,
        Err(error) if error.is_not_found() => {
            client.create(NODES, "", &node::object(identity)).await?
        }
        Err(error) => return Err(error),
    };
    let before = existing
        .status
        .and_then(|s| s.conditions)
        .unwrap_or_default();
    let patch = json!({ "status": node::status(identity, &before, Timestamp::now()) });
    client
        .patch::<Value>(NODES, &Key::new("", &identity.name), "status", &patch)
        .await
        .map(drop)
}

async fn renew(client: &Client, name: &str) -> Result<(), Error> {
    let lease = node::lease(name, LEASE_SECONDS, Timestamp::now());
    let patch = json!({ "spec": lease["spec"] });
    match client
        .patch::<Value>(LEASES, &Key::new(LEASE_NAMESPACE, name), "", &patch)
        .await
    {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => client
            .create::<Value>(LEASES, LEASE_NAMESPACE, &lease)
            .await
            .map(drop),
        Err(error) => Err(error),
    }
}
