//! TLS for listeners: reads certificate files, offers HTTP/2 and HTTP/1.1 by ALPN.
//! Promise: with a client CA given, a client without a certificate of it never gets past the handshake. Files that are replaced
//! take effect with the next handshake, the CA's too; see [`Reloading`] for what happens while they cannot be used.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use barque_store_env::real::Reloading;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// PEM files of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, followed by its intermediates.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Given: clients must show a certificate signed by one of these.
    pub client_ca: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {} from {}", what, path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        cause: rustls_pki_types::pem::Error,
    },
    #[error("{} holds no certificate", path.display())]
    Empty { path: PathBuf },
    #[error("the certificate in {} cannot be used, or not with its key", path.display())]
    Rejected {
        path: PathBuf,
        #[source]
        cause: rustls::Error,
    },
    #[error("the client CA in {} cannot be used", path.display())]
    ClientCa {
        path: PathBuf,
        #[source]
        cause: rustls::server::VerifierBuilderError,
    },
}

/// TLS of a listener, as its files are now.
#[derive(Debug)]
pub struct Tls(Arc<Reloading<ServerConfig>>);

impl Tls {
    /// For the next handshake.
    pub(crate) async fn latest(&self) -> Arc<ServerConfig> {
        self.0.latest().await
    }
}

impl TlsFiles {
    /// Reads the files; they are read again when a handshake begins and they have changed.
    pub fn load(&self) -> Result<Arc<Tls>, TlsError> {
        let mut paths = vec![self.cert.clone(), self.key.clone()];
        paths.extend(self.client_ca.clone());
        let files = self.clone();
        let tls = Reloading::new(paths, move || files.read())?;
        Ok(Arc::new(Tls(Arc::new(tls))))
    }

    fn read(&self) -> Result<ServerConfig, TlsError> {
        // Named explicitly: a process-wide default would depend on who else links rustls.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = certificates("the certificate", &self.cert)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|cause| TlsError::File {
            what: "the private key",
            path: self.key.clone(),
            cause,
        })?;
        let rejected = |cause| TlsError::Rejected {
            path: self.cert.clone(),
            cause,
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(rejected)?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates("the client CA", path)? {
                    roots.add(certificate).map_err(|cause| TlsError::Rejected {
                        path: path.clone(),
                        cause,
                    })?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .map_err(|cause| TlsError::ClientCa {
                            path: path.clone(),
                            cause,
                        })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(rejected)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |cause| TlsError::File {
        what,
        path: path.to_owned(),
        cause,
    };
    let found = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    if found.is_empty() {
        return Err(TlsError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(found)
}
