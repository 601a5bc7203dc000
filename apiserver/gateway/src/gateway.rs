//! The gateway as a whole: what it needs to start, and the handle on a running one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::discovery::{Discovery, Readiness};
use crate::listener::tls::{self, Pem};
use crate::listener::{self, Front};
use crate::pipeline::Pipeline;
use crate::rest::Rest;
use crate::storage::Storage;
use crate::{grpc, housekeeping};

#[derive(Clone, Debug)]
pub struct Config {
    /// `host:port`; port 0 takes a free one, see [`Handle::addr`].
    pub listen: String,
    pub server_cert: Pem,
    pub server_key: Pem,
    /// Signs the certificates of everybody who may come in.
    pub client_ca: Pem,
    /// What discovery tells clients the address is; `None`: where it listens.
    pub advertise: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {addr}")]
    Listen {
        addr: String,
        #[source]
        cause: std::io::Error,
    },
    #[error("cannot read {path}", path = path.display())]
    ReadFile {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("{what}: {why}")]
    Tls { what: &'static str, why: String },
}

pub struct Gateway;

impl Gateway {
    /// Starts on the ambient tokio runtime. Returns once the port is open; it may take until the store has a leader
    /// before [`Handle::ready`].
    pub async fn start(config: Config, storage: Arc<dyn Storage>) -> Result<Handle, StartError> {
        let (acceptor, verifier) =
            tls::acceptor(&config.server_cert, &config.server_key, &config.client_ca).await?;
        let listen_error = |cause| StartError::Listen {
            addr: config.listen.clone(),
            cause,
        };
        let listener = TcpListener::bind(&config.listen)
            .await
            .map_err(listen_error)?;
        let addr = listener.local_addr().map_err(listen_error)?;

        let (stop, stopping) = watch::channel(false);
        let (bootstrapped, ready) = watch::channel(false);
        let pipeline = Arc::new(Pipeline::new(storage, Timestamp::now, stopping.clone()));
        let advertise = config.advertise.unwrap_or_else(|| addr.to_string());
        let readiness = Readiness {
            bootstrapped: ready.clone(),
        };
        let front = Arc::new(Front {
            rest: Rest::new(pipeline.clone(), Discovery::new(&advertise, readiness)),
            grpc: grpc::server(pipeline.clone()),
            acceptor,
            verifier,
        });
        let background = vec![
            tokio::spawn(housekeeping::keep_namespaces(
                pipeline.clone(),
                bootstrapped,
            )),
            tokio::spawn(housekeeping::compact(pipeline)),
        ];
        let listening = tokio::spawn(listener::run(listener, front, stopping));
        Ok(Handle {
            addr,
            stop,
            ready,
            listening,
            background,
        })
    }
}

/// A running gateway. Dropping it stops it without waiting.
pub struct Handle {
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    ready: watch::Receiver<bool>,
    listening: JoinHandle<()>,
    background: Vec<JoinHandle<()>>,
}

impl Handle {
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Waits until the system namespaces exist: the cluster can be used.
    pub async fn ready(&self) {
        let mut ready = self.ready.clone();
        // An error means that bootstrap is gone, which happens on shutdown only.
        drop(ready.wait_for(|ready| *ready).await);
    }

    /// Ends watches, lets other requests finish (up to a bound), closes the port.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        for task in &self.background {
            task.abort();
        }
        if let Err(error) = (&mut self.listening).await {
            tracing::warn!(%error, "the listener did not end well");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for task in &self.background {
            task.abort();
        }
    }
}
