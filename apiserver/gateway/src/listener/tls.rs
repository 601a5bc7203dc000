//! Certificates: the server's own, and who a client is.
//! Promise: only a certificate that the client authority signed, that is valid now and whose key the client has,
//! names a user. A client without one is let through the handshake on purpose: it gets a 401 Status, which its user
//! can read, instead of a TLS alert.

use std::path::PathBuf;
use std::sync::Arc;

use barque_apiserver_rules::User;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::StartError;

/// PEM text, or the file it is in.
#[derive(Clone)]
pub enum Pem {
    File(PathBuf),
    Bytes(Vec<u8>),
}

impl std::fmt::Debug for Pem {
    /// Never the bytes: they may be a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Pem::File(path) => write!(f, "File({})", path.display()),
            Pem::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
        }
    }
}

impl Pem {
    async fn read(&self) -> Result<Vec<u8>, StartError> {
        match self {
            Pem::Bytes(bytes) => Ok(bytes.clone()),
            Pem::File(path) => tokio::fs::read(path)
                .await
                .map_err(|cause| StartError::ReadFile {
                    path: path.clone(),
                    cause,
                }),
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    // Named, never the process default: another crate may have switched on a second provider.
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The acceptor for a server certificate, and the verifier for its clients.
pub async fn acceptor(
    certificate: &Pem,
    key: &Pem,
    client_ca: &Pem,
) -> Result<(TlsAcceptor, Arc<Verifier>), StartError> {
    let wrong = |what: &'static str| {
        move |why: &dyn std::fmt::Display| StartError::Tls {
            what,
            why: why.to_string(),
        }
    };
    let certificates = certificates(&certificate.read().await?)
        .map_err(|why| wrong("server certificate")(&why))?;
    let key = PrivateKeyDer::from_pem_slice(&key.read().await?)
        .map_err(|why| wrong("server key")(&why))?;
    let verifier = Arc::new(
        Verifier::new(&client_ca.read().await?).map_err(|why| wrong("client authority")(&why))?,
    );
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|why| wrong("protocol versions")(&why))?
        .with_client_cert_verifier(verifier.clone())
        .with_single_cert(certificates, key)
        .map_err(|why| wrong("server certificate and key")(&why))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), verifier))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(list) if list.is_empty() => Err("no certificate in it".to_owned()),
        Ok(list) => Ok(list),
        Err(error) => Err(error.to_string()),
    }
}

/// Who a connection's certificate says the client is.
#[derive(Debug)]
pub enum Identity {
    /// No certificate was offered.
    None,
    Refused(String),
    Known {
        user: User,
        /// Seconds since 1970; a connection outlives its certificate, the identity does not.
        until: i64,
    },
}

impl Identity {
    pub fn user(&self) -> Option<&User> {
        match self {
            Identity::Known { user, until } => {
                let now = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
                (now <= *until).then_some(user)
            }
            Identity::None | Identity::Refused(_) => None,
        }
    }
}

/// Lets every certificate through the handshake that the client has the key of, and judges it afterwards.
#[derive(Debug)]
pub struct Verifier {
    strict: Arc<dyn ClientCertVerifier>,
}

impl Verifier {
    fn new(client_ca: &[u8]) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(client_ca)? {
            roots.add(certificate).map_err(|error| error.to_string())?;
        }
        let strict = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Verifier { strict })
    }

    pub fn identify(&self, chain: Option<&[CertificateDer<'_>]>) -> Identity {
        let Some((own, intermediates)) = chain.and_then(<[_]>::split_first) else {
            return Identity::None;
        };
        if let Err(error) = self
            .strict
            .verify_client_cert(own, intermediates, UnixTime::now())
        {
            return Identity::Refused(error.to_string());
        }
        let parsed = match X509Certificate::from_der(own) {
            Ok((_, parsed)) => parsed,
            Err(error) => return Identity::Refused(error.to_string()),
        };
        let subject = parsed.subject();
        let name = subject
            .iter_common_name()
            .last()
            .and_then(|name| name.as_str().ok())
            .unwrap_or_default();
        let groups = subject
            .iter_organization()
            .filter_map(|group| group.as_str().ok())
            .map(str::to_owned)
            .collect();
        match User::from_subject(name, groups) {
            Some(user) => Identity::Known {
                user,
                until: parsed.validity().not_after.timestamp(),
            },
            None => Identity::Refused("the subject has no common name".to_owned()),
        }
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.strict.root_hint_subjects()
    }
    /// Judged by [`Verifier::identify`] once the handshake is done.
    fn verify_client_cert(
        &self,
        _own: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.strict
            .verify_tls12_signature(message, certificate, signature)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.strict
            .verify_tls13_signature(message, certificate, signature)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.strict.supported_verify_schemes()
    }
}
