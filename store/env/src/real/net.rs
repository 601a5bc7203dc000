//! TCP, with mutual TLS where it is configured.
//! Promise: Nagle's algorithm is off; with TLS both sides prove themselves against the same CA, and a stranger's slow
//! handshake delays nobody else's.
//! Not here: who a certificate may speak for (the name in it is checked on connect only), reconnecting.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf as IoRead, WriteHalf as IoWrite};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::limits::{
    ACCEPT_RETRY, ACCEPTED_MAX, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, READ_CHUNK, READ_CHUNK_MIN,
};
use crate::{Conn, Listener, Net, ReadHalf, WriteHalf};

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
    #[error("certificate or key not usable: {0}")]
    Rustls(#[from] rustls::Error),
    #[error("CA not usable: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The machine's network; plain TCP or mutual TLS for everything made from it.
#[derive(Clone, Debug, Default)]
pub struct RealNet {
    tls: Option<Arc<Tls>>,
}

#[derive(Debug)]
struct Tls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
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

impl RealNet {
    pub fn plain() -> Self {
        RealNet { tls: None }
    }

    /// Mutual TLS (1.2 or 1.3). The files are read once, here.
    pub fn tls(files: TlsFiles) -> Result<Self, TlsError> {
        // Given explicitly: a process-wide default provider would be chance, decided by whoever links rustls last.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        for ca in certs(&files.ca)? {
            roots.add(ca)?;
        }
        let roots = Arc::new(roots);
        let chain = certs(&files.cert)?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|cause| TlsError::Pem {
            what: "a private key",
            file: files.key.clone(),
            cause,
        })?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(RealNet {
            tls: Some(Arc::new(Tls {
                server: Arc::new(server),
                client: Arc::new(client),
            })),
        })
    }
}

/// The host part of `host:port`, without an IPv6 address's brackets.
fn host(addr: &str) -> &str {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    host.strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host)
}

impl Net for RealNet {
    type Listener = RealListener;
    type Conn = RealConn;

    async fn listen(&self, addr: &str) -> io::Result<RealListener> {
        let tcp = TcpListener::bind(addr).await?;
        let local = tcp.local_addr()?.to_string();
        let source = match &self.tls {
            None => Source::Plain(tcp),
            Some(tls) => {
                let (tx, rx) = mpsc::channel(ACCEPTED_MAX);
                let acceptor = TlsAcceptor::from(tls.server.clone());
                let task = tokio::spawn(accept_tls(tcp, acceptor, tx));
                Source::Tls(rx, task.abort_handle())
            }
        };
        Ok(RealListener { local, source })
    }

    async fn connect(&self, addr: &str) -> io::Result<RealConn> {
        let tcp = TcpStream::connect(addr).await?;
        tcp.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            return Ok(RealConn::Plain(tcp));
        };
        let name = ServerName::try_from(host(addr).to_owned())
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, format!("{addr}: {e}")))?;
        let stream = TlsConnector::from(tls.client.clone())
            .connect(name, tcp)
            .await?;
        Ok(RealConn::Tls(Box::new(stream.into())))
    }
}

#[derive(Debug)]
pub struct RealListener {
    local: String,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Plain(TcpListener),
    Tls(
        mpsc::Receiver<io::Result<RealConn>>,
        tokio::task::AbortHandle,
    ),
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Source::Tls(_, task) = self {
            task.abort();
        }
    }
}

/// Accepts and shakes hands with many at once, so that one silent stranger does not hold up the members.
async fn accept_tls(
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    accepted: mpsc::Sender<io::Result<RealConn>>,
) {
    let slots = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let (stream, peer) = match tcp.accept().await {
            Ok(new) => new,
            Err(e) => {
                if accepted.send(Err(e)).await.is_err() {
                    return;
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
        tokio::spawn(async move {
            let shake = async {
                stream.set_nodelay(true)?;
                acceptor.accept(stream).await
            };
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, shake).await {
                Ok(Ok(tls)) => {
                    // A closed channel means the listener is gone: so is the connection.
                    let _ = accepted.send(Ok(RealConn::Tls(Box::new(tls.into())))).await;
                }
                Ok(Err(e)) => tracing::warn!(%peer, error = %e, "TLS handshake failed"),
                Err(_) => tracing::warn!(%peer, "TLS handshake timed out"),
            }
            drop(slot);
        });
    }
}

impl Listener for RealListener {
    type Conn = RealConn;

    async fn accept(&mut self) -> io::Result<RealConn> {
        match &mut self.source {
            Source::Plain(tcp) => {
                let (stream, _) = tcp.accept().await?;
                stream.set_nodelay(true)?;
                Ok(RealConn::Plain(stream))
            }
            Source::Tls(accepted, _) => accepted
                .recv()
                .await
                .unwrap_or_else(|| Err(io::Error::other("the listener's runtime is gone"))),
        }
    }

    fn local_addr(&self) -> String {
        self.local.clone()
    }
}

#[derive(Debug)]
pub enum RealConn {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

#[derive(Debug)]
pub enum RealRead {
    Plain(OwnedReadHalf),
    Tls(IoRead<TlsStream<TcpStream>>),
}

#[derive(Debug)]
pub enum RealWrite {
    Plain(OwnedWriteHalf),
    Tls(IoWrite<TlsStream<TcpStream>>),
}

impl Conn for RealConn {
    type Read = RealRead;
    type Write = RealWrite;

    fn split(self) -> (RealRead, RealWrite) {
        match self {
            RealConn::Plain(tcp) => {
                let (r, w) = tcp.into_split();
                (RealRead::Plain(r), RealWrite::Plain(w))
            }
            RealConn::Tls(tls) => {
                let (r, w) = tokio::io::split(*tls);
                (RealRead::Tls(r), RealWrite::Tls(w))
            }
        }
    }
}

impl ReadHalf for RealRead {
    async fn read(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        if buf.capacity() - buf.len() < READ_CHUNK_MIN {
            buf.reserve(READ_CHUNK);
        }
        match self {
            RealRead::Plain(r) => r.read_buf(buf).await,
            // A peer that was killed sends no close_notify; every protocol here frames its messages, so a cut is
            // noticed where it matters and an end of file is enough.
            RealRead::Tls(r) => match r.read_buf(buf).await {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                other => other,
            },
        }
    }
}

impl WriteHalf for RealWrite {
    async fn write_all(&mut self, data: Bytes) -> io::Result<()> {
        match self {
            RealWrite::Plain(w) => w.write_all(&data).await,
            RealWrite::Tls(w) => {
                w.write_all(&data).await?;
                w.flush().await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa,
        KeyPair,
    };

    use super::*;

    async fn echo_once(mut listener: RealListener) -> io::Result<()> {
        let (mut r, mut w) = listener.accept().await?.split();
        let mut buf = BytesMut::new();
        while r.read(&mut buf).await? > 0 {
            w.write_all(buf.split().freeze()).await?;
        }
        Ok(())
    }

    async fn ping(net: &RealNet, addr: &str) -> io::Result<Bytes> {
        let (mut r, mut w) = net.connect(addr).await?.split();
        let sent = Bytes::from(vec![7; 300_000]);
        let send = async {
            w.write_all(sent.clone()).await?;
            Ok::<_, io::Error>(w)
        };
        let receive = async {
            let mut buf = BytesMut::new();
            while buf.len() < sent.len() {
                if r.read(&mut buf).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Ok(buf.freeze())
        };
        let (_w, got) = futures::future::try_join(send, receive).await?;
        Ok(got)
    }

    #[tokio::test]
    async fn plain_streams_carry_bytes_and_close() {
        let net = RealNet::plain();
        let listener = net.listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr();
        let server = tokio::spawn(echo_once(listener));
        assert_eq!(ping(&net, &addr).await.unwrap(), vec![7; 300_000]);
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_taken_port_and_a_silent_one_are_errors() {
        let net = RealNet::plain();
        let listener = net.listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr();
        let taken = net.listen(&addr).await.unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        let refused = net.connect(&addr).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn identity(
        dir: &Path,
        name: &str,
        signer: &CertifiedIssuer<'_, KeyPair>,
        trusted: &CertifiedIssuer<'_, KeyPair>,
        san: &str,
    ) -> RealNet {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![san.to_owned()]).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let cert = params.signed_by(&key, signer).unwrap();
        let file = |suffix: &str, text: String| {
            let path = dir.join(format!("{name}.{suffix}"));
            std::fs::write(&path, text).unwrap();
            path
        };
        RealNet::tls(TlsFiles {
            cert: file("crt", cert.pem()),
            key: file("key", key.serialize_pem()),
            ca: file("ca", trusted.pem()),
        })
        .unwrap()
    }

    #[tokio::test]
    async fn tls_lets_in_only_the_same_cas_members() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, foreign) = (authority(), authority());
        let a = identity(dir.path(), "a", &ca, &ca, "127.0.0.1");
        let b = identity(dir.path(), "b", &ca, &ca, "127.0.0.1");
        let listener = a.listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr();

        // A silent stranger, a plain-text one and one of another CA come first and hold up nobody.
        let _silent = TcpStream::connect(&addr).await.unwrap();
        let mut plain = TcpStream::connect(&addr).await.unwrap();
        plain.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let c = identity(dir.path(), "c", &foreign, &ca, "127.0.0.1");
        let refused = tokio::time::timeout(Duration::from_secs(10), ping(&c, &addr));
        assert!(refused.await.unwrap().is_err());

        let server = tokio::spawn(echo_once(listener));
        assert_eq!(ping(&b, &addr).await.unwrap(), vec![7; 300_000]);
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn tls_checks_the_servers_name() {
        let dir = tempfile::tempdir().unwrap();
        let ca = authority();
        let a = identity(dir.path(), "a", &ca, &ca, "127.0.0.2");
        let listener = a.listen("127.0.0.1:0").await.unwrap();
        let wrong = a.connect(&listener.local_addr()).await.unwrap_err();
        assert!(wrong.to_string().contains("certificate"), "{wrong}");
    }

    #[test]
    fn missing_files_are_named() {
        let files = TlsFiles {
            cert: "/nonexistent/tls.crt".into(),
            key: "/nonexistent/tls.key".into(),
            ca: "/nonexistent/ca.crt".into(),
        };
        let e = RealNet::tls(files).unwrap_err().to_string();
        assert!(e.contains("/nonexistent/ca.crt"), "{e}");
    }

    #[test]
    fn hosts() {
        assert_eq!(host("n1:2380"), "n1");
        assert_eq!(host("[::1]:2380"), "::1");
        assert_eq!(host("10.0.0.1:1"), "10.0.0.1");
    }
}
