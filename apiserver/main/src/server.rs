//! `barque server`: a master. The store, etcd's API beside it, and the Kubernetes API gateway over it, in one process.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use barque_apiserver_gateway::storage::embedded::Embedded;
use barque_apiserver_gateway::{Gateway, Pem};
use barque_store_server::{EtcdFront, Pages};
use clap::Args;
use tracing::info;

use crate::store_flags::StoreFlags;
use crate::store_thread::StoreThread;
use crate::{Failure, log_to_stderr, master, signals, with_causes};

#[derive(Args)]
pub struct ServerFlags {
    #[command(flatten)]
    store: StoreFlags,
    /// HOST:PORT of the Kubernetes API
    #[arg(long)]
    listen: String,
    /// The Kubernetes API's certificate
    #[arg(long)]
    tls_cert_file: PathBuf,
    /// Its key
    #[arg(long)]
    tls_private_key_file: PathBuf,
    /// CA that signs the certificates of the cluster's clients; nobody else gets in
    #[arg(long)]
    client_ca_file: PathBuf,
}

pub fn run(flags: ServerFlags) -> Result<(), Failure> {
    log_to_stderr(&flags.store.log_level);
    let front = master::front_config(&flags.store)?;
    let (config, net) = flags.store.node()?;
    let gateway = barque_apiserver_gateway::Config {
        listen: flags.listen.clone(),
        server_cert: Pem::File(flags.tls_cert_file.clone()),
        server_key: Pem::File(flags.tls_private_key_file.clone()),
        client_ca: Pem::File(flags.client_ca_file.clone()),
        advertise: None,
    };
    let runtime = signals::runtime(2)?;
    let stop = runtime.block_on(async { signals::stop_signal() })?;
    let pages = Pages::default();
    let metrics = master::start_metrics(&flags.store, &front, &pages)?;
    let mut stop = pin!(stop);
    let starting = StoreThread::start(config, net, stop.as_mut());
    let store = match runtime.block_on(starting)? {
        Ok(store) => store,
        Err(signal) => {
            signal.die();
            return Ok(());
        }
    };
    let ending = runtime.block_on(async {
        // Whoever probes it may know from now on what it waits for.
        pages.ready(store.store.clone());
        if let Some(ending) = master::caught_up(&store.store, stop.as_mut()).await {
            return Ok(ending);
        }
        let front = EtcdFront::start_with(front, store.store.clone(), pages)
            .map_err(|e| Failure::new(e.to_string()))?;
        let storage = Arc::new(Embedded::new(store.store.clone()));
        let gateway = Gateway::start(gateway, storage)
            .await
            .map_err(|e| Failure::new(with_causes(&e)))?;
        info!(kubernetes = %gateway.addr(), etcd = ?front.addresses(), "serving");
        master::announce_ready(&front.addresses());
        let outcome = master::until_stopped(&store.store, stop).await;
        gateway.shutdown().await;
        front.shutdown().await;
        if let Some(metrics) = metrics {
            metrics.shutdown().await;
        }
        outcome
    })?;
    store.stop()?;
    ending.die();
    Ok(())
}
