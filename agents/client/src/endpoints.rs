//! Connections to the masters. Promise: connecting never takes longer than its timeout per master, a connection that failed is not
//! used again, and everybody who holds one learns that it was left.
//! Not here: which master (`core::rotation` decides), what failed means (`error` judges).

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::config::{ClientConfig, ConfigError};
use crate::core::rotation::Rotation;
use crate::error::Error;
use crate::limits::ENDPOINT_COOLDOWN;

pub(crate) struct Endpoints {
    masters: Vec<Endpoint>,
    names: Vec<String>,
    connect_timeout: Duration,
    choice: Mutex<Choice>,
    /// One caller connects, the others wait for it.
    connecting: tokio::sync::Mutex<()>,
    epochs: watch::Sender<u64>,
    origin: Instant,
}

struct Choice {
    rotation: Rotation,
    /// The connection to the current master, if there is one. Invariant: made for `rotation`'s current epoch.
    channel: Option<Channel>,
}

/// A connection, the master's name and the choice it belongs to.
#[derive(Clone)]
pub(crate) struct Connection {
    pub channel: Channel,
    pub endpoint: String,
    pub epoch: u64,
}

impl Endpoints {
    pub fn new(config: &ClientConfig) -> Result<Endpoints, ConfigError> {
        let masters = config
            .endpoints
            .iter()
            .map(|endpoint| endpoint_of(config, endpoint))
            .collect::<Result<Vec<_>, _>>()?;
        if masters.is_empty() {
            return Err(ConfigError::NoEndpoints);
        }
        let start = rand::random_range(0..masters.len());
        Ok(Endpoints {
            choice: Mutex::new(Choice {
                rotation: Rotation::new(masters.len(), start, ENDPOINT_COOLDOWN),
                channel: None,
            }),
            masters,
            names: config.endpoints.clone(),
            connect_timeout: config.timeouts.connect,
            connecting: tokio::sync::Mutex::new(()),
            epochs: watch::channel(0).0,
            origin: Instant::now(),
        })
    }

    pub fn count(&self) -> usize {
        self.masters.len()
    }

    /// Raised whenever a master is left.
    pub fn epochs(&self) -> watch::Receiver<u64> {
        self.epochs.subscribe()
    }

    /// The connection in use, or a new one to the first master that lets itself be reached; each is tried once.
    pub async fn connection(&self) -> Result<Connection, Error> {
        if let Ok(connection) = self.established() {
            return Ok(connection);
        }
        let _turn = self.connecting.lock().await;
        let mut failures = vec![];
        for _ in 0..self.count() {
            let (index, epoch) = match self.established() {
                Ok(connection) => return Ok(connection),
                Err(choice) => choice,
            };
            let error = match timeout(self.connect_timeout, self.masters[index].connect()).await {
                Ok(Ok(channel)) => {
                    let mut choice = self.choice();
                    if choice.rotation.current() == (index, epoch) {
                        choice.channel = Some(channel);
                    }
                    continue; // `established` takes it from there
                }
                Ok(Err(error)) => describe(&error),
                Err(_) => format!("no connection within {:?}", self.connect_timeout),
            };
            tracing::debug!(endpoint = self.names[index], error, "cannot reach master");
            failures.push(format!("{}: {error}", self.names[index]));
            self.failed(epoch);
        }
        self.established().map_err(|_| Error::Unreachable {
            detail: failures.join("; "),
        })
    }

    fn established(&self) -> Result<Connection, (usize, u64)> {
        let choice = self.choice();
        let (index, epoch) = choice.rotation.current();
        match &choice.channel {
            Some(channel) => Ok(Connection {
                channel: channel.clone(),
                endpoint: self.names[index].clone(),
                epoch,
            }),
            None => Err((index, epoch)),
        }
    }

    /// The master chosen in `epoch` failed a call: leave it.
    pub fn failed(&self, epoch: u64) {
        let mut choice = self.choice();
        if choice.rotation.failed(epoch, self.origin.elapsed()) {
            choice.channel = None;
            let (_, epoch) = choice.rotation.current();
            drop(choice);
            self.epochs.send_replace(epoch);
        }
    }

    pub fn worked(&self, epoch: u64) {
        self.choice().rotation.worked(epoch);
    }

    fn choice(&self) -> std::sync::MutexGuard<'_, Choice> {
        self.choice
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

fn endpoint_of(config: &ClientConfig, url: &str) -> Result<Endpoint, ConfigError> {
    let bad = |cause| ConfigError::Endpoint {
        endpoint: url.to_owned(),
        cause,
    };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(bad)?;
    if endpoint.uri().port().is_none() {
        return Err(ConfigError::NoPort {
            endpoint: url.to_owned(),
        });
    }
    let timeouts = &config.timeouts;
    let endpoint = endpoint
        .user_agent(config.user_agent.clone())
        .map_err(bad)?
        .connect_timeout(timeouts.connect)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(timeouts.keepalive_interval)
        .keep_alive_timeout(timeouts.keepalive_timeout)
        .keep_alive_while_idle(true);
    if endpoint.uri().scheme_str() != Some("https") {
        return Ok(endpoint);
    }
    let Some(tls) = &config.tls else {
        return Err(ConfigError::NoCertificate {
            endpoint: url.to_owned(),
        });
    };
    let settings = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&tls.authority))
        .identity(Identity::from_pem(&tls.certificate, &tls.key));
    endpoint
        .tls_config(settings)
        .map_err(|cause| ConfigError::Certificate {
            endpoint: url.to_owned(),
            cause,
        })
}
