//! The kubelet: runs the pods that are bound to its node and tells how they do.
//! Promise: a pod is started once, stopped before it is removed, and its status is what the runtime has; after a restart or a lost
//! master it goes on where it was, from a watch.
//! Not here: which node a pod gets, and real containers (they come with the CRI runtime).

pub mod core;
pub mod hollow;
pub mod limits;
mod run;

use std::future::Future;
use std::time::Duration;

use barque_agents_client::{Client, ClientConfig};
use thiserror::Error;

use crate::core::Addresses;
use crate::core::node::Identity;

/// What a kubelet needs to run.
#[derive(Clone, Debug)]
pub struct Config {
    pub client: ClientConfig,
    pub node_name: String,
    /// The node's own address, told as InternalIP and as the pods' host address.
    pub address: String,
    /// IPv4 range for this node's pods.
    pub pod_cidr: String,
    pub cpus: u32,
    /// A Kubernetes quantity.
    pub memory: String,
    pub max_pods: u32,
    /// How often the node's lease is renewed.
    pub lease_interval: Duration,
}

impl Config {
    pub fn new(client: ClientConfig, node_name: &str, pod_cidr: &str) -> Config {
        Config {
            client,
            node_name: node_name.to_owned(),
            address: "127.0.0.1".to_owned(),
            pod_cidr: pod_cidr.to_owned(),
            cpus: 8,
            memory: "32Gi".to_owned(),
            max_pods: 110,
            lease_interval: Duration::from_secs(10),
        }
    }

    fn identity(&self) -> Identity {
        Identity {
            name: self.node_name.clone(),
            address: self.address.clone(),
            pod_cidr: self.pod_cidr.clone(),
            cpus: self.cpus,
            memory: self.memory.clone(),
            pods: self.max_pods,
            runtime: "hollow://0.1",
        }
    }
}

/// Why the kubelet cannot run.
#[derive(Debug, Error)]
pub enum Error {
    #[error("the kubelet's client cannot be made: {0}")]
    Client(#[from] barque_agents_client::Error),
    #[error("--pod-cidr: {0}")]
    PodCidr(String),
}

/// Runs on the hollow runtime until `shutdown`. Lost masters are waited for. Pods are left as they are: another start goes on.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let addresses = Addresses::new(&config.pod_cidr).map_err(Error::PodCidr)?;
    let client = Client::new(&config.client)?;
    let work = run::kubelet(client, config, addresses);
    futures::pin_mut!(work, shutdown);
    futures::future::select(work, shutdown).await;
    Ok(())
}
