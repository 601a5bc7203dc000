//! Where the masters are and how an agent proves who it is.

use std::time::Duration;

use thiserror::Error;

/// A client certificate, its key, and the authority that signed the masters' certificates. All PEM.
#[derive(Clone)]
pub struct Tls {
    pub certificate: String,
    pub key: String,
    pub authority: String,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls { .. }") // holds a private key
    }
}

/// How long to wait for what. The defaults suit a local network.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// TCP, TLS and HTTP/2 together.
    pub connect: Duration,
    /// One call from request to answer, over all masters tried.
    pub call: Duration,
    /// One master's share of a call that may safely be repeated on another.
    pub attempt: Duration,
    /// A connection without traffic is pinged this often, so that a frozen master is noticed.
    pub keepalive_interval: Duration,
    /// No answer to a ping for this long: the connection is dead.
    pub keepalive_timeout: Duration,
    /// A watch without any message (not even a bookmark) for this long is opened again.
    pub watch_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(2),
            call: Duration::from_secs(10),
            attempt: Duration::from_secs(4),
            keepalive_interval: Duration::from_secs(3),
            keepalive_timeout: Duration::from_secs(3),
            watch_idle: Duration::from_secs(120),
        }
    }
}

/// How to reach the masters.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// All masters, `https://host:port`. `http://` is accepted for tests only: a master refuses it.
    pub endpoints: Vec<String>,
    /// None only with `http://`.
    pub tls: Option<Tls>,
    /// The program's name for the masters' logs.
    pub user_agent: String,
    pub timeouts: Timeouts,
}

impl ClientConfig {
    /// The usual configuration: all masters, one identity, default timeouts.
    pub fn new(endpoints: Vec<String>, tls: Tls, user_agent: &str) -> ClientConfig {
        ClientConfig {
            endpoints,
            tls: Some(tls),
            user_agent: user_agent.to_owned(),
            timeouts: Timeouts::default(),
        }
    }
}

/// The configuration cannot be used; said before anything is tried.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("no master endpoints given")]
    NoEndpoints,
    #[error("master endpoint {endpoint:?} is not a URL like https://host:port")]
    Endpoint {
        endpoint: String,
        #[source]
        cause: tonic::transport::Error,
    },
    #[error("master endpoint {endpoint:?} has no port")]
    NoPort { endpoint: String },
    #[error("master endpoint {endpoint:?} needs a client certificate")]
    NoCertificate { endpoint: String },
    #[error("the certificates for {endpoint:?} cannot be used")]
    Certificate {
        endpoint: String,
        #[source]
        cause: tonic::transport::Error,
    },
}
