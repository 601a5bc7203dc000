//! etcd's flags of a static cluster, as `barque etcd` and `barque server` share them.
//! Promise: a mistake is refused before anything is opened, with the flag's name.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use barque_store_engine::Kind;
use barque_store_env::real::{RealNet, TlsFiles};
use barque_store_node::{Config, SpaceRules};
use clap::Args;

use crate::Failure;

#[derive(Args, Clone, Debug)]
pub struct StoreFlags {
    /// Human-readable name for this member
    #[arg(long, env = "ETCD_NAME", default_value = "default")]
    pub name: String,
    /// Path to the data directory [default: NAME.etcd]
    #[arg(long, env = "ETCD_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// URLs to listen on for client traffic
    #[arg(
        long,
        env = "ETCD_LISTEN_CLIENT_URLS",
        value_delimiter = ',',
        default_value = "http://localhost:2379"
    )]
    pub listen_client_urls: Vec<String>,
    /// This member's client URLs to advertise to the rest of the cluster
    #[arg(long, env = "ETCD_ADVERTISE_CLIENT_URLS", value_delimiter = ',')]
    pub advertise_client_urls: Vec<String>,
    /// URLs to listen on for peer traffic (the first is used)
    #[arg(
        long,
        env = "ETCD_LISTEN_PEER_URLS",
        value_delimiter = ',',
        default_value = "http://localhost:2380"
    )]
    pub listen_peer_urls: Vec<String>,
    /// This member's peer URLs to advertise to the rest of the cluster
    #[arg(
        long,
        env = "ETCD_INITIAL_ADVERTISE_PEER_URLS",
        value_delimiter = ',',
        default_value = "http://localhost:2380"
    )]
    pub initial_advertise_peer_urls: Vec<String>,
    /// Initial cluster configuration, NAME=PEERURL,... [default: this member alone]
    #[arg(long, env = "ETCD_INITIAL_CLUSTER")]
    pub initial_cluster: Option<String>,
    /// Initial cluster token
    #[arg(
        long,
        env = "ETCD_INITIAL_CLUSTER_TOKEN",
        default_value = "etcd-cluster"
    )]
    pub initial_cluster_token: String,
    /// Initial cluster state: new, or existing for a member that was added to a running cluster
    #[arg(long, env = "ETCD_INITIAL_CLUSTER_STATE", default_value = "new", value_parser = ["new", "existing"])]
    pub initial_cluster_state: String,
    /// Refuse changes of members that would cost the cluster its quorum
    #[arg(long, env = "ETCD_STRICT_RECONFIG_CHECK", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub strict_reconfig_check: bool,
    /// Time between heartbeats, in milliseconds
    #[arg(long, env = "ETCD_HEARTBEAT_INTERVAL", default_value_t = 100)]
    pub heartbeat_interval: u64,
    /// Time for an election to timeout, in milliseconds
    #[arg(long, env = "ETCD_ELECTION_TIMEOUT", default_value_t = 1000)]
    pub election_timeout: u64,
    /// Time between progress notifications of watches that ask for them, such as 10m or 5s
    #[arg(long, alias = "experimental-watch-progress-notify-interval", env = "ETCD_WATCH_PROGRESS_NOTIFY_INTERVAL", default_value = "10m", value_parser = duration)]
    pub watch_progress_notify_interval: Duration,
    /// Maximum client request size in bytes
    #[arg(long, env = "ETCD_MAX_REQUEST_BYTES", default_value_t = 1_572_864)]
    pub max_request_bytes: usize,
    /// Bytes of values kept in memory for reading; what is beyond is read from disk
    #[arg(long, env = "BARQUE_VALUE_CACHE_BYTES", default_value_t = barque_store_state::limits::VALUE_CACHE_BYTES)]
    pub value_cache_bytes: u64,
    /// What keeps the rows: segments; memory (all rows in memory and in one plain file, for comparison); sled (builds with that feature)
    #[arg(long, env = "BARQUE_STORAGE_ENGINE", default_value_t, value_parser = storage_engine)]
    pub storage_engine: Kind,
    /// URLs for /metrics, /health, /livez and /readyz alone, served from the very start
    #[arg(long, env = "ETCD_LISTEN_METRICS_URLS", value_delimiter = ',')]
    pub listen_metrics_urls: Vec<String>,
    /// Live bytes beyond which nothing is added; 0: 2 GiB; negative: no quota
    #[arg(
        long,
        env = "ETCD_QUOTA_BACKEND_BYTES",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pub quota_backend_bytes: i64,
    /// Free bytes of the data directory's file system below which nothing is added [default: 5 % of it, 128 to 256 MiB]
    #[arg(long, env = "BARQUE_DISK_RESERVE_BYTES")]
    pub disk_reserve_bytes: Option<u64>,
    /// Client server TLS certificate file
    #[arg(long, env = "ETCD_CERT_FILE", requires = "key_file")]
    pub cert_file: Option<PathBuf>,
    /// Client server TLS key file
    #[arg(long, env = "ETCD_KEY_FILE", requires = "cert_file")]
    pub key_file: Option<PathBuf>,
    /// Let only clients in whose certificate --trusted-ca-file signed
    #[arg(long, env = "ETCD_CLIENT_CERT_AUTH", requires = "trusted_ca_file")]
    pub client_cert_auth: bool,
    /// CA that signs clients' certificates; given, nobody else gets in
    #[arg(long, env = "ETCD_TRUSTED_CA_FILE")]
    pub trusted_ca_file: Option<PathBuf>,
    /// Peer TLS certificate file, used both as server and as client
    #[arg(
        long,
        env = "ETCD_PEER_CERT_FILE",
        requires = "peer_key_file",
        requires = "peer_trusted_ca_file"
    )]
    pub peer_cert_file: Option<PathBuf>,
    /// Peer TLS key file
    #[arg(long, env = "ETCD_PEER_KEY_FILE", requires = "peer_cert_file")]
    pub peer_key_file: Option<PathBuf>,
    /// CA that signs the peers' certificates; peers without one are refused
    #[arg(long, env = "ETCD_PEER_TRUSTED_CA_FILE")]
    pub peer_trusted_ca_file: Option<PathBuf>,
    /// Accepted for compatibility: with a peer CA, peers must always show a certificate
    #[arg(long, env = "ETCD_PEER_CLIENT_CERT_AUTH", requires = "peer_cert_file")]
    pub peer_client_cert_auth: bool,
    /// Log level: debug, info, warn or error
    #[arg(long, env = "ETCD_LOG_LEVEL", default_value = "info", value_parser = ["debug", "info", "warn", "error"])]
    pub log_level: String,
}

/// An engine that this program was built with.
fn storage_engine(name: &str) -> Result<Kind, String> {
    let kind: Kind = name.parse().map_err(|e| format!("{e}"))?;
    match kind.is_built() {
        true => Ok(kind),
        false => Err(format!(
            "this program was built without {kind}: build it with --features {kind}"
        )),
    }
}

/// A Go duration of one or more number-unit pairs, such as 1m30s or 500ms.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration such as 10m, 5s or 500ms");
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(rest.len(), |at| digits + at);
        let seconds = match &rest[digits..unit_end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(bad()),
        };
        total += Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
        rest = &rest[unit_end..];
    }
    if total.is_zero() {
        Err(bad())
    } else {
        Ok(total)
    }
}

/// `host:port` of a URL to listen on, and whether it asks for TLS.
pub fn listen_address(flag: &str, url: &str) -> Result<(String, bool), Failure> {
    let (rest, tls) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
        (Some(rest), _) => (rest, false),
        (_, Some(rest)) => (rest, true),
        _ => {
            return Err(Failure::new(format!(
                "--{flag}: {url:?} is not a URL; it should look like http://127.0.0.1:2379"
            )));
        }
    };
    let address = rest.trim_end_matches('/');
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok((address.to_owned(), tls))
        }
        _ => Err(Failure::new(format!(
            "--{flag}: {url:?} names no host and port"
        ))),
    }
}

impl StoreFlags {
    /// The client and metrics URLs are URLs, and where one asks for TLS there is a certificate.
    pub fn check_client_urls(&self) -> Result<(), Failure> {
        if self.listen_client_urls.is_empty() {
            return Err(Failure::new("--listen-client-urls names no URL".into()));
        }
        for (flag, urls) in [
            ("listen-client-urls", &self.listen_client_urls),
            ("listen-metrics-urls", &self.listen_metrics_urls),
        ] {
            for url in urls {
                let (_, secure) = listen_address(flag, url)?;
                if secure && self.cert_file.is_none() {
                    return Err(Failure::new(format!(
                        "--{flag}: {url} asks for https; give --cert-file and --key-file"
                    )));
                }
            }
        }
        Ok(())
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
                self.initial_advertise_peer_urls.clone(),
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
        if let Some(urls) = members.get(&self.name) {
            let (mut listed, mut advertised) =
                (urls.clone(), self.initial_advertise_peer_urls.clone());
            listed.sort();
            advertised.sort();
            if listed != advertised {
                return Err(Failure::new(format!(
                    "--initial-cluster has {}={} but --initial-advertise-peer-urls is {}; they must be equal",
                    self.name,
                    listed.join(","),
                    advertised.join(",")
                )));
            }
        }
        Ok(members)
    }

    /// The node's config and the peers' network.
    pub fn node(&self) -> Result<(Config, RealNet), Failure> {
        let first = self
            .listen_peer_urls
            .first()
            .ok_or_else(|| Failure::new("--listen-peer-urls names no URL".into()))?;
        let (listen_peer, secure) = listen_address("listen-peer-urls", first)?;
        let net = match (&self.peer_cert_file, &self.peer_key_file, &self.peer_trusted_ca_file) {
            (Some(cert), Some(key), Some(ca)) if secure => {
                RealNet::tls(TlsFiles { cert: cert.clone(), key: key.clone(), ca: ca.clone() }).map_err(|cause| Failure::new(format!("--peer-cert-file, --peer-key-file, --peer-trusted-ca-file: {cause}")))?
            }
            (None, None, None) if !secure => RealNet::plain(),
            _ if secure => return Err(Failure::new("--listen-peer-urls asks for https: give --peer-cert-file, --peer-key-file and --peer-trusted-ca-file".into())),
            _ => return Err(Failure::new("--peer-cert-file is given, but --listen-peer-urls does not say https".into())),
        };
        if !self.listen_client_urls.is_empty()
            && self.advertise_client_urls.is_empty()
            && self.listen_client_urls[0] != "http://localhost:2379"
        {
            return Err(Failure::new(
                "--advertise-client-urls is required when --listen-client-urls is set explicitly"
                    .into(),
            ));
        }
        let advertise_client_urls = if self.advertise_client_urls.is_empty() {
            self.listen_client_urls.clone()
        } else {
            self.advertise_client_urls.clone()
        };
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
            joins: self.initial_cluster_state == "existing",
            strict_reconfig: self.strict_reconfig_check,
            heartbeat: Duration::from_millis(self.heartbeat_interval),
            election: Duration::from_millis(self.election_timeout),
            progress_interval: self.watch_progress_notify_interval,
            space: self.space(),
            guards: barque_store_consensus::Guards::default(),
            engine: self.storage_engine,
            value_cache_bytes: self.value_cache_bytes,
            ..Config::default()
        };
        Ok((config, net))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations() {
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        for bad in ["", "5", "s", "5x", "-1s", "0s"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(
            listen_address("f", "https://127.0.0.1:1").unwrap(),
            ("127.0.0.1:1".into(), true)
        );
        assert_eq!(
            listen_address("f", "http://[::1]:2379/").unwrap(),
            ("[::1]:2379".into(), false)
        );
        for bad in [
            "127.0.0.1:1",
            "http://",
            "http://h",
            "http://h:x",
            "unix://x:1",
        ] {
            assert!(
                listen_address("f", bad)
                    .unwrap_err()
                    .to_string()
                    .starts_with("--f: "),
                "{bad}"
            );
        }
    }
}
