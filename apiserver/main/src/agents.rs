//! `barque scheduler`, `barque controller` and `barque kubelet`: flags to config to run.

use std::path::PathBuf;
use std::time::Duration;

use barque_agents_client::core::election::Settings;
use barque_agents_client::{ClientConfig, Tls};
use clap::{Args, ValueEnum};

use crate::store_flags::duration;
use crate::{Failure, log_to_stderr, pki, signals, with_causes};

#[derive(Args)]
struct MasterFlags {
    /// All masters, https://HOST:PORT,...
    #[arg(long, value_delimiter = ',', required = true)]
    masters: Vec<String>,
    /// Certificate that says who this process is
    #[arg(long)]
    client_certificate: PathBuf,
    /// Its key
    #[arg(long)]
    client_key: PathBuf,
    /// CA that signed the masters' certificates
    #[arg(long)]
    certificate_authority: PathBuf,
    /// Log level: debug, info, warn or error
    #[arg(long, default_value = "info", value_parser = ["debug", "info", "warn", "error"])]
    log_level: String,
}

impl MasterFlags {
    fn client(&self, user_agent: &str) -> Result<ClientConfig, Failure> {
        let tls = Tls {
            certificate: pki::read(&self.client_certificate)?,
            key: pki::read(&self.client_key)?,
            authority: pki::read(&self.certificate_authority)?,
        };
        Ok(ClientConfig::new(self.masters.clone(), tls, user_agent))
    }
}

#[derive(Args)]
struct ElectionFlags {
    /// Name of this process in the election; unique among those that compete
    #[arg(long)]
    identity: String,
    /// How long a leader that is not heard of keeps its place
    #[arg(long, default_value = "15s", value_parser = duration)]
    leader_elect_lease_duration: Duration,
    /// How long the leader tries to renew before it gives up
    #[arg(long, default_value = "10s", value_parser = duration)]
    leader_elect_renew_deadline: Duration,
    /// Time between tries
    #[arg(long, default_value = "2s", value_parser = duration)]
    leader_elect_retry_period: Duration,
}

#[derive(Args)]
pub struct SchedulerFlags {
    #[command(flatten)]
    masters: MasterFlags,
    #[command(flatten)]
    election: ElectionFlags,
}

#[derive(Args)]
pub struct ControllerFlags {
    #[command(flatten)]
    masters: MasterFlags,
    #[command(flatten)]
    election: ElectionFlags,
    /// A node that is not heard of for this long is no longer ready
    #[arg(long, default_value = "40s", value_parser = duration)]
    node_monitor_grace_period: Duration,
}

#[derive(Clone, Copy, ValueEnum)]
enum Runtime {
    /// No containers, real API traffic: for tests and for large runs on one machine
    Hollow,
}

#[derive(Args)]
pub struct KubeletFlags {
    #[command(flatten)]
    masters: MasterFlags,
    /// Name of this node
    #[arg(long)]
    node_name: String,
    /// What runs the containers
    #[arg(long, value_enum)]
    runtime: Runtime,
    /// Addresses for this node's pods
    #[arg(long, default_value = "10.244.0.0/24")]
    pod_cidr: String,
}

impl ElectionFlags {
    fn settings(&self) -> Settings {
        Settings {
            lease_duration: self.leader_elect_lease_duration,
            renew_deadline: self.leader_elect_renew_deadline,
            retry_period: self.leader_elect_retry_period,
        }
    }
}

/// Runs an agent on a small runtime of its own until a signal asks it to stop.
fn run<E: std::error::Error + 'static, W: Future<Output = Result<(), E>>>(
    level: &str,
    agent: impl FnOnce(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) -> W,
) -> Result<(), Failure> {
    log_to_stderr(level);
    signals::runtime(1)?.block_on(async {
        let stop = signals::stop_asked()?;
        agent(Box::pin(stop))
            .await
            .map_err(|error| Failure::new(with_causes(&error)))
    })
}

pub fn scheduler(flags: SchedulerFlags) -> Result<(), Failure> {
    let mut config = barque_agents_scheduler::Config::new(
        flags.masters.client("barque-scheduler")?,
        &flags.election.identity,
    );
    config.election = flags.election.settings();
    run(&flags.masters.log_level, |stop| {
        barque_agents_scheduler::run(config, stop)
    })
}

pub fn controller(flags: ControllerFlags) -> Result<(), Failure> {
    let mut config = barque_agents_controllers::Config::new(
        flags.masters.client("barque-controller")?,
        &flags.election.identity,
    );
    config.election = flags.election.settings();
    config.node_grace = flags.node_monitor_grace_period;
    run(&flags.masters.log_level, |stop| {
        barque_agents_controllers::run(config, stop)
    })
}

pub fn kubelet(flags: KubeletFlags) -> Result<(), Failure> {
    let Runtime::Hollow = flags.runtime;
    let client = flags.masters.client("barque-kubelet")?;
    let config = barque_agents_kubelet::Config::new(client, &flags.node_name, &flags.pod_cidr);
    run(&flags.masters.log_level, |stop| {
        barque_agents_kubelet::run(config, stop)
    })
}
