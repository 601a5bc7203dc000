//! The controllers: deployments, replica sets, node lifecycle, garbage collection, namespace deletion.
//! Promise: they act only while this process holds their Lease; every write carries the resourceVersion (or uid) it was decided on, and a
//! conflict means "look again"; nothing is remembered that a watch cannot rebuild.
//! Not here: evicting pods from lost nodes, and all other kinds.

pub mod core;
pub mod limits;
mod run;
mod world;

use std::future::Future;
use std::time::Duration;

use barque_agents_client::core::election::{BadSettings, Settings};
use barque_agents_client::{Client, ClientConfig, ElectionConfig, lead};
use thiserror::Error;

/// What the controllers need to run.
#[derive(Clone, Debug)]
pub struct Config {
    pub client: ClientConfig,
    /// This process' name: holder of the lease, host of the events. Unique among running controllers.
    pub identity: String,
    pub election: Settings,
    /// A node whose lease and status stood still for this long is unreachable.
    pub node_grace: Duration,
    /// How often each node is looked at.
    pub node_period: Duration,
}

impl Config {
    pub fn new(client: ClientConfig, identity: &str) -> Config {
        Config {
            client,
            identity: identity.to_owned(),
            election: Settings::default(),
            node_grace: Duration::from_secs(40),
            node_period: Duration::from_secs(5),
        }
    }
}

/// Why the controllers cannot run.
#[derive(Debug, Error)]
pub enum Error {
    #[error("the controllers' client cannot be made")]
    Client(#[from] barque_agents_client::Error),
    #[error(transparent)]
    Election(#[from] BadSettings),
}

/// Runs until `shutdown`. Lost masters are waited for; only a configuration that cannot work ends it early.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    config.election.check()?;
    let client = Client::new(&config.client)?;
    let mut election = ElectionConfig::new("barque-controllers", &config.identity);
    election.settings = config.election;
    lead(&client, election, shutdown, || {
        run::control(client.clone(), config.clone())
    })
    .await;
    Ok(())
}
