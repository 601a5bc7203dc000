//! What `barque etcd` and `barque server` do alike: the etcd front's config from the flags, and waiting for the end.

use barque_store_env::real::RealEnv;
use barque_store_node::Store;
use barque_store_rpc::TlsFiles;
use tracing::error;

use crate::Failure;
use crate::store_flags::StoreFlags;

/// The etcd front that the store's flags describe.
pub fn front_config(flags: &StoreFlags) -> Result<barque_store_server::Config, Failure> {
    flags.check_client_urls()?;
    let tls = match (&flags.cert_file, &flags.key_file) {
        (Some(cert), Some(key)) => Some(TlsFiles {
            cert: cert.clone(),
            key: key.clone(),
            // As etcd: naming the CA is asking for certificates, with or without --client-cert-auth.
            client_ca: flags.trusted_ca_file.clone(),
        }),
        _ => None,
    };
    Ok(barque_store_server::Config {
        listen: flags.listen_client_urls.clone(),
        tls,
        max_request_bytes: flags.max_request_bytes,
        election: std::time::Duration::from_millis(flags.election_timeout),
        cores: 0,
    })
}

/// Until a signal asks to stop, or the member can no longer be trusted (which is a failure).
pub async fn until_stopped(
    store: &Store<RealEnv>,
    stop: impl Future<Output = ()>,
) -> Result<(), Failure> {
    tokio::select! {
        () = stop => Ok(()),
        reason = store.failed() => {
            error!(reason, "this member stops: it can no longer trust its disk or state");
            // The store's thread may hang on the very disk that failed; nothing more is acknowledged either way.
            eprintln!("barque: {reason}");
            std::process::exit(1);
        }
    }
}
