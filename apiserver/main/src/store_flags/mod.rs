//! etcd's flags of a static cluster, as `barque etcd` and `barque server` share them.
//! Promise: a mistake is refused before anything is opened, with the flag's name.
//! Not here: how the command line and the environment become flags (`given`), flags that Barque does not have (`known`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use barque_store_engine::Kind;
use barque_store_env::real::{RealNet, TlsFiles};
use barque_store_node::{Config, SpaceRules};
use clap::{ArgAction, Args};

use crate::{Failure, with_causes};

mod auto_compaction;
mod checks;
mod given;
mod known;
mod urls;
mod values;

pub use given::{Given, Notices};
pub use values::duration;
use values::{Urls, boolean, storage_engine, urls};

/// For `--help`.
pub const ENVIRONMENT_HELP: &str = "\
Every flag is also an environment variable: ETCD_ and its name in capitals, such as ETCD_LISTEN_CLIENT_URLS (BARQUE_ for \
--value-cache-bytes, --storage-engine and --disk-reserve-bytes). The command line comes first; an empty variable is none.
etcd's other flags are taken: most have no effect, which the log says; some are refused by name.";

const CLIENTS_DEFAULT: &str = "http://localhost:2379";
const PEERS_DEFAULT: &str = "http://localhost:2380";

fn default_clients() -> Urls {
    Urls(vec![CLIENTS_DEFAULT.to_owned()])
}

#[derive(Args, Clone, Debug)]
pub struct StoreFlags {
    /// Human-readable name for this member
    #[arg(long, default_value = "default")]
    pub name: String,
    /// Path to the data directory [default: NAME.etcd]
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// URLs to listen on for client traffic
    #[arg(long, value_parser = urls, default_value = CLIENTS_DEFAULT)]
    pub listen_client_urls: Urls,
    /// This member's client URLs to advertise to the rest of the cluster
    #[arg(long, value_parser = urls)]
    pub advertise_client_urls: Option<Urls>,
    /// URL to listen on for peer traffic
    #[arg(long, value_parser = urls, default_value = PEERS_DEFAULT)]
    pub listen_peer_urls: Urls,
    /// This member's peer URLs to advertise to the rest of the cluster
    #[arg(long, value_parser = urls, default_value = PEERS_DEFAULT)]
    pub initial_advertise_peer_urls: Urls,
    /// Initial cluster configuration, NAME=PEERURL,... [default: this member alone]
    #[arg(long)]
    pub initial_cluster: Option<String>,
    /// Initial cluster token
    #[arg(long, default_value = "etcd-cluster")]
    pub initial_cluster_token: String,
    /// Initial cluster state: new, or existing for a member that was added to a running cluster
    #[arg(long, default_value = "new", value_parser = ["new", "existing"])]
    pub initial_cluster_state: String,
    /// The majority is lost for good: go on as a cluster of this member alone, with the data it has. Stop all others first
    #[arg(long, default_value_t = false, action = ArgAction::Set, value_parser = boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub force_new_cluster: bool,
    /// Refuse changes of members that would cost the cluster its quorum
    #[arg(long, default_value_t = true, action = ArgAction::Set, value_parser = boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub strict_reconfig_check: bool,
    /// Time between heartbeats, in milliseconds
    #[arg(long, default_value_t = 100)]
    pub heartbeat_interval: u64,
    /// Time for an election to timeout, in milliseconds
    #[arg(long, default_value_t = 1000)]
    pub election_timeout: u64,
    /// Time between progress notifications of watches that ask for them, such as 10m or 5s
    #[arg(long, alias = "experimental-watch-progress-notify-interval", default_value = "10m", value_parser = duration)]
    pub watch_progress_notify_interval: Duration,
    /// Maximum client request size in bytes
    #[arg(long, default_value_t = 1_572_864)]
    pub max_request_bytes: usize,
    /// Bytes of values kept in memory for reading; what is beyond is read from disk
    #[arg(long, default_value_t = barque_store_state::limits::VALUE_CACHE_BYTES)]
    pub value_cache_bytes: u64,
    /// What keeps the rows: segments; memory (all rows in memory and in one plain file, for comparison); sled (builds with that feature)
    #[arg(long, default_value_t, value_parser = storage_engine)]
    pub storage_engine: Kind,
    /// URLs for /metrics, /health, /livez and /readyz alone, served from the very start
    #[arg(long, value_parser = urls)]
    pub listen_metrics_urls: Option<Urls>,
    /// Live bytes beyond which nothing is added; 0: 2 GiB; negative: no quota
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub quota_backend_bytes: i64,
    /// Free bytes of the data directory's file system below which nothing is added [default: 5 % of it, 128 to 256 MiB]
    #[arg(long)]
    pub disk_reserve_bytes: Option<u64>,
    /// How --auto-compaction-retention is meant: periodic or revision
    #[arg(long, default_value = "periodic")]
    pub auto_compaction_mode: String,
    /// History that is kept when older history is to go by itself: hours or a duration (periodic), or a number of revisions (revision); 0: none goes
    #[arg(long, default_value = "0")]
    pub auto_compaction_retention: String,
    /// Client server TLS certificate file
    #[arg(long)]
    pub cert_file: Option<PathBuf>,
    /// Client server TLS key file
    #[arg(long)]
    pub key_file: Option<PathBuf>,
    /// Let only clients in whose certificate --trusted-ca-file signed
    #[arg(long, default_value_t = false, action = ArgAction::Set, value_parser = boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub client_cert_auth: bool,
    /// CA that signs clients' certificates; given, nobody else gets in
    #[arg(long)]
    pub trusted_ca_file: Option<PathBuf>,
    /// Peer TLS certificate file, used both as server and as client
    #[arg(long)]
    pub peer_cert_file: Option<PathBuf>,
    /// Peer TLS key file
    #[arg(long)]
    pub peer_key_file: Option<PathBuf>,
    /// CA that signs the peers' certificates; peers without one are refused
    #[arg(long)]
    pub peer_trusted_ca_file: Option<PathBuf>,
    /// Accepted for compatibility: with a peer CA, peers must always show a certificate
    #[arg(long, default_value_t = false, action = ArgAction::Set, value_parser = boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub peer_client_cert_auth: bool,
    /// Log level: debug, info, warn, error; etcd's higher ones mean error
    #[arg(long, default_value = "info", value_parser = ["debug", "info", "warn", "error", "dpanic", "panic", "fatal"])]
    pub log_level: String,
}

impl StoreFlags {
    /// URLs of the pages alone; none unless asked for.
    pub fn metrics_urls(&self) -> &[String] {
        self.listen_metrics_urls.as_deref().unwrap_or_default()
    }

    /// The level as `tracing` names it.
    pub fn log_level(&self) -> &str {
        match self.log_level.as_str() {
            "dpanic" | "panic" | "fatal" => "error",
            level => level,
        }
    }

    /// etcd's reading of its quota flag.
    fn space(&self) -> SpaceRules {
        let default = SpaceRules::default();
        SpaceRules {
            quota_bytes: match self.quota_backend_bytes {
                0 => default.quota_bytes,
                given => u64::try_from(given).ok(),
            },
            disk_reserve_bytes: self.disk_reserve_bytes,
        }
    }

    fn members(&self) -> Result<BTreeMap<String, Vec<String>>, Failure> {
        let Some(text) = &self.initial_cluster else {
            return Ok(BTreeMap::from([(
                self.name.clone(),
                self.initial_advertise_peer_urls.to_vec(),
            )]));
        };
        let mut members: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for part in text.split(',') {
            let (name, url) = part
                .split_once('=')
                .filter(|(name, url)| !name.is_empty() && !url.is_empty())
                .ok_or_else(|| {
                    Failure::new(format!("--initial-cluster: {part:?} is not NAME=PEERURL"))
                })?;
            members
                .entry(name.to_owned())
                .or_default()
                .push(url.to_owned());
        }
        Ok(members)
    }

    /// The node's config and the peers' network. For flags that passed [`StoreFlags::check`].
    pub fn node(&self) -> Result<(Config, RealNet), Failure> {
        let first = &self.listen_peer_urls[0];
        let (listen_peer, _) = urls::address("listen-peer-urls", first)?;
        let files = (
            &self.peer_cert_file,
            &self.peer_key_file,
            &self.peer_trusted_ca_file,
        );
        let net = match files {
            (Some(cert), Some(key), Some(ca)) => {
                let files = TlsFiles {
                    cert: cert.clone(),
                    key: key.clone(),
                    ca: ca.clone(),
                };
                RealNet::tls(files).map_err(|cause| {
                    Failure::new(format!(
                        "--peer-cert-file, --peer-key-file, --peer-trusted-ca-file: {}",
                        with_causes(&cause)
                    ))
                })?
            }
            _ => RealNet::plain(),
        };
        let advertised = self.advertise_client_urls.as_ref();
        let advertise_client_urls = advertised.unwrap_or(&self.listen_client_urls).to_vec();
        let config = Config {
            name: self.name.clone(),
            data_dir: self
                .data_dir
                .clone()
                .unwrap_or_else(|| PathBuf::from(format!("{}.etcd", self.name))),
            cluster_token: self.initial_cluster_token.clone(),
            listen_peer,
            advertise_client_urls,
            initial_cluster: self.members()?,
            advertise_peer_urls: self.initial_advertise_peer_urls.to_vec(),
            joins: self.initial_cluster_state == "existing",
            force_new_cluster: self.force_new_cluster,
            strict_reconfig: self.strict_reconfig_check,
            heartbeat: Duration::from_millis(self.heartbeat_interval),
            election: Duration::from_millis(self.election_timeout),
            progress_interval: self.watch_progress_notify_interval,
            auto_compaction: auto_compaction::rule(
                &self.auto_compaction_mode,
                &self.auto_compaction_retention,
            )
            .map_err(Failure::new)?,
            space: self.space(),
            guards: barque_store_consensus::Guards::default(),
            engine: self.storage_engine,
            value_cache_bytes: self.value_cache_bytes,
            ..Config::default()
        };
        config
            .check_timing()
            .map_err(|e| Failure::new(e.to_string()))?;
        Ok((config, net))
    }
}
