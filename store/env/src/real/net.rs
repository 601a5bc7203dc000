//! TCP, with mutual TLS where it is configured.
//! Promise: Nagle's algorithm is off; with TLS both sides prove themselves against the same CA, and a stranger's slow
//! handshake delays nobody else's.
//! Not here: who a certificate may speak for (the name in it is checked on connect only), reconnecting.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf as IoRead, WriteHalf as IoWrite};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::Reloading;
use super::tls::{Tls, TlsError, TlsFiles};
use crate::limits::{
    ACCEPT_RETRY, ACCEPTED_MAX, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, READ_CHUNK, READ_CHUNK_MIN,
};
use crate::{Conn, Listener, Net, ReadHalf, WriteHalf};

/// The machine's network; plain TCP or mutual TLS for everything made from it.
#[derive(Clone, Debug, Default)]
pub struct RealNet {
    tls: Option<Arc<Reloading<Tls>>>,
}

impl RealNet {
    pub fn plain() -> Self {
        RealNet { tls: None }
    }

    /// Mutual TLS (1.2 or 1.3). The files are read here, and again when a handshake begins and they have changed.
    pub fn tls(files: TlsFiles) -> Result<Self, TlsError> {
        Ok(RealNet {
            tls: Some(Arc::new(files.load()?)),
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
                let task = tokio::spawn(accept_tls(tcp, tls.clone(), tx));
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
        let stream = TlsConnector::from(tls.latest().await.client.clone())
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
    tls: Arc<Reloading<Tls>>,
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
        let (tls, accepted) = (tls.clone(), accepted.clone());
        tokio::spawn(async move {
            let shake = async {
                stream.set_nodelay(true)?;
                let acceptor = TlsAcceptor::from(tls.latest().await.server.clone());
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
    use std::path::Path;
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa,
        KeyPair,
    };
    use rustls_pki_types::CertificateDer;

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

    /// Writes the files of a member, and gives its certificate.
    fn issue(
        dir: &Path,
        name: &str,
        signer: &CertifiedIssuer<'_, KeyPair>,
        trusted: &CertifiedIssuer<'_, KeyPair>,
        san: &str,
    ) -> (TlsFiles, CertificateDer<'static>) {
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
        let files = TlsFiles {
            cert: file("crt", cert.pem()),
            key: file("key", key.serialize_pem()),
            ca: file("ca", trusted.pem()),
        };
        (files, cert.der().clone())
    }

    fn identity(
        dir: &Path,
        name: &str,
        signer: &CertifiedIssuer<'_, KeyPair>,
        trusted: &CertifiedIssuer<'_, KeyPair>,
        san: &str,
    ) -> RealNet {
        RealNet::tls(issue(dir, name, signer, trusted, san).0).unwrap()
    }

    /// The certificates that a new connection shows: the listener's and the connecting member's.
    async fn shown(
        net: &RealNet,
        listener: &mut RealListener,
    ) -> io::Result<[CertificateDer<'static>; 2]> {
        let addr = listener.local_addr();
        let of_peer = |conn: &RealConn| match conn {
            RealConn::Tls(stream) => stream.get_ref().1.peer_certificates().unwrap()[0].clone(),
            RealConn::Plain(_) => panic!("plain text"),
        };
        let both = futures::future::try_join(net.connect(&addr), listener.accept());
        let (dialed, accepted) = tokio::time::timeout(Duration::from_secs(10), both)
            .await
            .map_err(io::Error::other)??;
        Ok([of_peer(&dialed), of_peer(&accepted)])
    }

    #[tokio::test]
    async fn replaced_files_take_effect_with_the_next_handshake_in_both_directions() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, next_ca) = (authority(), authority());
        let at = "127.0.0.1";
        let (a_files, a_first) = issue(dir.path(), "a", &ca, &ca, at);
        let (b_files, b_first) = issue(dir.path(), "b", &ca, &ca, at);
        let a = RealNet::tls(a_files.clone()).unwrap();
        let b = RealNet::tls(b_files).unwrap();
        let mut listener = a.listen("127.0.0.1:0").await.unwrap();
        let first = shown(&b, &mut listener).await.unwrap();
        assert_eq!(first, [a_first, b_first]);

        let (_, a_second) = issue(dir.path(), "a", &ca, &ca, at);
        let (_, b_second) = issue(dir.path(), "b", &ca, &ca, at);
        let second = [a_second, b_second];
        assert_eq!(shown(&b, &mut listener).await.unwrap(), second);

        // Half written, then a certificate whose key is not there yet.
        let whole = std::fs::read(&a_files.cert).unwrap();
        std::fs::write(&a_files.cert, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(shown(&b, &mut listener).await.unwrap(), second);
        let key = std::fs::read(&a_files.key).unwrap();
        let (_, a_third) = issue(dir.path(), "a", &ca, &ca, at);
        let new_key = std::fs::read(&a_files.key).unwrap();
        std::fs::write(&a_files.key, key).unwrap();
        assert_eq!(shown(&b, &mut listener).await.unwrap(), second);
        std::fs::write(&a_files.key, new_key).unwrap();
        let third = [a_third, second[1].clone()];
        assert_eq!(shown(&b, &mut listener).await.unwrap(), third);

        // Another CA: whoever has not changed to it does not get in, and is not believed.
        let (_, a_fourth) = issue(dir.path(), "a", &next_ca, &next_ca, at);
        assert!(b.connect(&listener.local_addr()).await.is_err());
        let (_, b_fourth) = issue(dir.path(), "b", &next_ca, &next_ca, at);
        let fourth = [a_fourth, b_fourth];
        assert_eq!(shown(&b, &mut listener).await.unwrap(), fourth);
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
