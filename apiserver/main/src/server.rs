//! `barque server`: a master. The store, etcd's API beside it, and the Kubernetes API gateway over it, in one process.

use std::path::PathBuf;
use std::sync::Arc;

use barque_apiserver_gateway::storage::embedded::Embedded;
use barque_apiserver_gateway::{Gateway, Pem};
use clap::Args;
use tracing::info;

use crate::store_flags::{ENVIRONMENT_HELP, Notices, StoreFlags};
use crate::{Failure, master, with_causes};

#[derive(Args)]
#[command(args_override_self = true, after_help = ENVIRONMENT_HELP)]
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

pub fn run(flags: ServerFlags, notices: &Notices) -> Result<(), Failure> {
    let gateway = barque_apiserver_gateway::Config {
        listen: flags.listen.clone(),
        server_cert: Pem::File(flags.tls_cert_file.clone()),
        server_key: Pem::File(flags.tls_private_key_file.clone()),
        client_ca: Pem::File(flags.client_ca_file.clone()),
        advertise: None,
    };
    master::run(&flags.store, notices, 2, async |store, front| {
        let gateway = Gateway::start(gateway, Arc::new(Embedded::new(store)))
            .await
            .map_err(|e| Failure::new(with_causes(&e)))?;
        info!(kubernetes = %gateway.addr(), etcd = ?front.addresses(), "serving");
        Ok(Some(gateway))
    })
}
