//! The scheduler: gives every pending pod a node.
//! Promise: it acts only while it holds its Lease; a pod is bound at most once, and never on capacity that an earlier, still
//! unanswered binding may have taken. Not here: preemption, priorities, spreading constraints, volumes.

pub mod core;
pub mod limits;
mod run;

use std::future::Future;

use barque_agents_client::core::election::{BadSettings, Settings};
use barque_agents_client::{Client, ClientConfig, ElectionConfig, lead};
use thiserror::Error;

/// What a scheduler needs to run.
#[derive(Clone, Debug)]
pub struct Config {
    pub client: ClientConfig,
    /// This process' name: holder of the lease, host of the events. Unique among running schedulers.
    pub identity: String,
    pub election: Settings,
    /// Pods that ask for this scheduler are taken.
    pub scheduler_name: String,
}

impl Config {
    pub fn new(client: ClientConfig, identity: &str) -> Config {
        Config {
            client,
            identity: identity.to_owned(),
            election: Settings::default(),
            scheduler_name: "default-scheduler".to_owned(),
        }
    }
}

/// Why the scheduler cannot run.
#[derive(Debug, Error)]
pub enum Error {
    #[error("the scheduler's client cannot be made")]
    Client(#[from] barque_agents_client::Error),
    #[error(transparent)]
    Election(#[from] BadSettings),
}

/// Runs until `shutdown`. Lost masters are waited for; only a configuration that cannot work ends it early.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    config.election.check()?;
    let client = Client::new(&config.client)?;
    let mut election = ElectionConfig::new("barque-scheduler", &config.identity);
    election.settings = config.election;
    lead(&client, election, shutdown, || {
        run::schedule_pods(client.clone(), config.clone())
    })
    .await;
    Ok(())
}
