//! The peers' TLS: files to the settings of both directions.
//! Promise: both sides prove themselves against the same CA. Files that are replaced take effect with the next handshake, the CA's
//! too; see [`Reloading`] for what happens while they cannot be used.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::Reloading;

/// PEM files of a TLS identity: this side's certificate chain and key, and the CA the other side must come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
}

/// The TLS identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {what} from {file}: {cause}")]
    Pem {
        what: &'static str,
        file: PathBuf,
        cause: rustls_pki_types::pem::Error,
    },
    #[error("no certificate in {0}")]
    Empty(PathBuf),
    #[error("the certificate in {cert} and the key in {key} cannot be used: {cause}")]
    Identity {
        cert: PathBuf,
        key: PathBuf,
        cause: rustls::Error,
    },
    #[error("the CA in {file} cannot be used: {cause}")]
    Ca { file: PathBuf, cause: rustls::Error },
    #[error("the CA in {file} cannot be used: {cause}")]
    Verifier {
        file: PathBuf,
        cause: rustls::server::VerifierBuilderError,
    },
}

/// What both directions of a connection between peers need.
#[derive(Debug)]
pub(super) struct Tls {
    pub server: Arc<ServerConfig>,
    pub client: Arc<ClientConfig>,
}

fn certs(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |cause| TlsError::Pem {
        what: "certificates",
        file: file.to_owned(),
        cause,
    };
    let certs = CertificateDer::pem_file_iter(file)
        .map_err(pem)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(pem)?;
    if certs.is_empty() {
        return Err(TlsError::Empty(file.to_owned()));
    }
    Ok(certs)
}

impl TlsFiles {
    /// Reads the files, and again whenever they change.
    pub(super) fn load(self) -> Result<Reloading<Tls>, TlsError> {
        let files = [&self.cert, &self.key, &self.ca].map(Clone::clone);
        Reloading::new(files.to_vec(), move || self.read())
    }

    /// TLS 1.2 or 1.3, both sides with certificates.
    fn read(&self) -> Result<Tls, TlsError> {
        // Given explicitly: a process-wide default provider would be chance, decided by whoever links rustls last.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        for ca in certs(&self.ca)? {
            roots.add(ca).map_err(|cause| TlsError::Ca {
                file: self.ca.clone(),
                cause,
            })?;
        }
        let roots = Arc::new(roots);
        let chain = certs(&self.cert)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|cause| TlsError::Pem {
            what: "a private key",
            file: self.key.clone(),
            cause,
        })?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|cause| TlsError::Verifier {
                file: self.ca.clone(),
                cause,
            })?;
        let unusable = |cause| TlsError::Identity {
            cert: self.cert.clone(),
            key: self.key.clone(),
            cause,
        };
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(unusable)?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(unusable)?;
        Ok(Tls {
            server: Arc::new(server),
            client: Arc::new(client),
        })
    }
}
