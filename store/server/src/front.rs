//! Starting and stopping the front: addresses, TLS, one service per core.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use barque_store_env::Env;
use barque_store_node::Store;
use barque_store_rpc::{Listening, Running, Settings, TlsError, TlsFiles, bind, start};

use crate::core::Rules;
use crate::limits::{GRPC_OVERHEAD_BYTES, REQUEST_BYTES_DEFAULT};
use crate::pages::Pages;
use crate::service::{EtcdService, MetricsService};

#[derive(Clone, Debug)]
pub struct Config {
    /// `http://host:port` or `https://host:port` (etcd's `--listen-client-urls`); port 0: any free one.
    pub listen: Vec<String>,
    /// Needed for `https` URLs. With a client CA only clients with a certificate of it get in.
    pub tls: Option<TlsFiles>,
    /// etcd's `--max-request-bytes`.
    pub max_request_bytes: usize,
    /// The store's election timeout; the shortest lease and the request timeout follow from it.
    pub election: Duration,
    /// Threads that serve connections; 0: one per processor.
    pub cores: usize,
}

impl Default for Config {
    /// etcd's defaults.
    fn default() -> Self {
        Config {
            listen: vec!["http://localhost:2379".to_owned()],
            tls: None,
            max_request_bytes: REQUEST_BYTES_DEFAULT,
            election: Duration::from_millis(1000),
            cores: 0,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{flag}: {url:?} is not http://host:port or https://host:port")]
    Url { flag: &'static str, url: String },
    #[error("{flag}: {url} needs --cert-file and --key-file")]
    NoCertificate { flag: &'static str, url: String },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{flag}: cannot listen on {url}: {cause}")]
    Listen {
        flag: &'static str,
        url: String,
        cause: std::io::Error,
    },
    #[error("cannot serve clients: {0}")]
    Serve(std::io::Error),
}

/// etcd's front of a store.
#[derive(Clone, Copy, Debug)]
pub struct EtcdFront;

impl EtcdFront {
    /// Binds every address, then serves until [`Handle::shutdown`]. Needs no runtime around it.
    pub fn start<E: Env>(config: Config, store: Store<E>) -> Result<Handle, StartError> {
        Self::bind(config)?.serve(store, Pages::default())
    }

    /// Loads the TLS files and binds every address, and serves nothing yet: so that a mistake in either is found before there is
    /// a store. Until [`BoundFront::serve`] clients are refused.
    pub fn bind(config: Config) -> Result<BoundFront, StartError> {
        let (listeners, schemes) =
            listen("--listen-client-urls", &config.listen, config.tls.as_ref())?;
        Ok(BoundFront {
            config,
            listeners,
            schemes,
        })
    }

    /// Serves the pages alone (etcd's `--listen-metrics-urls`). May be started before there is a store.
    pub fn start_metrics<E: Env>(
        urls: &[String],
        tls: Option<&TlsFiles>,
        pages: Pages<E>,
    ) -> Result<Handle, StartError> {
        let (listeners, schemes) = listen("--listen-metrics-urls", urls, tls)?;
        let settings = Settings {
            // Pages are few and small.
            cores: 1,
            request_bytes_max: GRPC_OVERHEAD_BYTES,
        };
        let make = move || MetricsService {
            pages: pages.clone(),
        };
        let running = start(listeners, settings, make).map_err(StartError::Serve)?;
        Ok(Handle { running, schemes })
    }
}

/// A front with its addresses, before there is a store behind it. Dropped, it gives them back.
#[derive(Debug)]
pub struct BoundFront {
    config: Config,
    listeners: Vec<Listening>,
    /// Whether each address is TLS.
    schemes: Vec<bool>,
}

impl BoundFront {
    /// Serves until [`Handle::shutdown`]. The pages may be ones that others serve as well ([`EtcdFront::start_metrics`]); makes
    /// them ready. Needs no runtime around it.
    pub fn serve<E: Env>(self, store: Store<E>, pages: Pages<E>) -> Result<Handle, StartError> {
        let config = self.config;
        pages.ready(store.clone());
        let settings = Settings {
            cores: config.cores,
            request_bytes_max: config.max_request_bytes.saturating_add(GRPC_OVERHEAD_BYTES),
        };
        let rules = Arc::new(Rules {
            max_request_bytes: config.max_request_bytes,
            election: config.election,
        });
        let running = start(self.listeners, settings, move || {
            EtcdService::new(store.clone(), rules.clone(), pages.clone())
        })
        .map_err(StartError::Serve)?;
        Ok(Handle {
            running,
            schemes: self.schemes,
        })
    }
}

/// Binds every URL of a flag. Gives the sockets, and whether each is TLS.
fn listen(
    flag: &'static str,
    urls: &[String],
    tls: Option<&TlsFiles>,
) -> Result<(Vec<Listening>, Vec<bool>), StartError> {
    let mut listeners = Vec::new();
    let mut schemes = Vec::new();
    for url in urls {
        let parsed = ListenUrl::parse(url).ok_or_else(|| StartError::Url {
            flag,
            url: url.clone(),
        })?;
        let tls = match (parsed.secure, tls) {
            (false, _) => None,
            (true, Some(files)) => Some(files.load()?),
            (true, None) => {
                return Err(StartError::NoCertificate {
                    flag,
                    url: url.clone(),
                });
            }
        };
        let listening = bind(parsed.address, tls).map_err(|cause| StartError::Listen {
            flag,
            url: url.clone(),
            cause,
        })?;
        listeners.push(listening);
        schemes.push(parsed.secure);
    }
    Ok((listeners, schemes))
}

struct ListenUrl<'a> {
    secure: bool,
    address: &'a str,
}

impl<'a> ListenUrl<'a> {
    fn parse(url: &'a str) -> Option<Self> {
        let (secure, rest) = match url.split_once("://")? {
            ("http", rest) => (false, rest),
            ("https", rest) => (true, rest),
            _ => return None,
        };
        let address = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = address.rsplit_once(':')?;
        (!host.is_empty() && port.parse::<u16>().is_ok() && !address.contains('/'))
            .then_some(ListenUrl { secure, address })
    }
}

/// A running front. Dropping it stops it without waiting.
pub struct Handle {
    running: Running,
    /// Whether each address is TLS.
    schemes: Vec<bool>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.addresses()).finish()
    }
}

impl Handle {
    /// The URLs served, with the ports that were really bound, in the order they were configured.
    pub fn addresses(&self) -> Vec<String> {
        self.schemes
            .iter()
            .zip(self.running.addresses())
            .map(|(secure, address)| {
                let scheme = if *secure { "https" } else { "http" };
                format!("{scheme}://{address}")
            })
            .collect()
    }

    /// Stops accepting, gives running calls a moment, then closes every connection.
    pub async fn shutdown(self) {
        self.running.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_urls_are_scheme_host_and_port() {
        for url in [
            "http://127.0.0.1:2379",
            "https://[::1]:0",
            "http://localhost:1/",
        ] {
            assert!(ListenUrl::parse(url).is_some(), "{url}");
        }
        for url in [
            "127.0.0.1:2379",
            "ftp://x:1",
            "http://x",
            "http://:1",
            "http://x:99999",
            "http://x:1/y",
        ] {
            assert!(ListenUrl::parse(url).is_none(), "{url}");
        }
    }
}
