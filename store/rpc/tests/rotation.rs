//! Certificates that are replaced under a listener that runs.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a client of the edge"
)]

mod pki;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use barque_store_rpc::{
    Kind, Reply, Requests, Responses, Service, Settings, Status, TlsFiles, bind, start,
};
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use http::{HeaderMap, Request, Response};
use pki::{Authority, client_config, tls};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Pages;
impl Service for Pages {
    fn kind(&self, path: &str) -> Kind {
        Kind::Unknown(Status::unknown_method(path))
    }
    fn unary(&self, _: &str, _: Bytes, _: &HeaderMap, reply: Reply) {
        drop(reply);
    }
    fn stream(&self, _: &str, _: &HeaderMap, _: Requests, _: Responses) {}
    fn http(&self, _: Request<Bytes>) -> LocalBoxFuture<'static, Response<Bytes>> {
        Box::pin(async { Response::new(Bytes::from("let in")) })
    }
}

/// The certificate that a new connection is shown, and whether the client gets in with its own.
async fn shown(dir: &Path, address: SocketAddr) -> (CertificateDer<'static>, bool) {
    let mut socket = tls(address, client_config(dir, Some("client"), b"http/1.1")).await;
    let certificates = socket.get_ref().1.peer_certificates().unwrap();
    let certificate = certificates[0].clone().into_owned();
    let get = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut text = Vec::new();
    // Who is refused may hear of it at either.
    let written = socket.write_all(get).await.is_ok();
    let read = socket.read_to_end(&mut text).await.is_ok();
    (certificate, written && read && text.ends_with(b"let in"))
}

#[tokio::test]
async fn the_next_handshake_has_the_new_files_and_the_old_ones_while_those_cannot_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, authority) = (dir.path(), Authority::new());
    let ca = dir.join("client-ca.crt");
    fs::write(dir.join("ca.crt"), authority.ca.pem()).unwrap();
    fs::write(&ca, authority.ca.pem()).unwrap();
    authority.issue(dir, "client");
    authority.issue(dir, "server");
    let (cert, key) = (dir.join("server.crt"), dir.join("server.key"));
    let of_file = || CertificateDer::from_pem_file(&cert).unwrap();
    let files = TlsFiles {
        cert: cert.clone(),
        key: key.clone(),
        client_ca: Some(ca.clone()),
    };
    let settings = Settings {
        cores: 2,
        request_bytes_max: 1000,
    };
    let listener = bind("127.0.0.1:0", Some(files.load().unwrap())).unwrap();
    let running = start(vec![listener], settings, || Pages).unwrap();
    let address = running.addresses()[0];
    let first = of_file();
    assert_eq!(shown(dir, address).await, (first.clone(), true));

    authority.issue(dir, "server");
    let second = of_file();
    assert_ne!(first, second);
    assert_eq!(shown(dir, address).await, (second.clone(), true));

    // Half written; gone; there, but without its key.
    let whole = fs::read(&cert).unwrap();
    fs::write(&cert, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(shown(dir, address).await, (second.clone(), true));
    fs::remove_file(&cert).unwrap();
    assert_eq!(shown(dir, address).await, (second.clone(), true));
    let old_key = fs::read(&key).unwrap();
    authority.issue(dir, "server");
    let third = of_file();
    let new_key = fs::read(&key).unwrap();
    fs::write(&key, old_key).unwrap();
    assert_eq!(shown(dir, address).await, (second, true));
    fs::write(&key, new_key).unwrap();
    assert_eq!(shown(dir, address).await, (third.clone(), true));

    // Another CA for clients: who has not changed to it is refused.
    let next = Authority::new();
    fs::write(&ca, next.ca.pem()).unwrap();
    assert_eq!(shown(dir, address).await, (third.clone(), false));
    next.issue(dir, "client");
    assert_eq!(shown(dir, address).await, (third, true));
    running.shutdown().await;
}
