//! The TLS port: connections, HTTP/1.1 and HTTP/2, REST and gRPC side by side.
//! Promise: bounded in connections and streams; a broken client disturbs nobody else; a shutdown ends watches at once
//! and lets the other requests finish.

pub mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use barque_proto::objects::objects_server::ObjectsServer;
use http::{Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::grpc::{ObjectsService, Peer};
use crate::limits::{
    CONNECTIONS_MAX, DRAIN_TIMEOUT, HANDSHAKE_TIMEOUT, HEADER_BYTES_MAX, STREAMS_PER_CONNECTION_MAX,
};
use crate::requests::body::BodyError;
use crate::rest::{Body, Rest, text_header};
use tls::{Identity, Verifier};

/// A dead peer is noticed within this and half of it again.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(15);
/// A client that opens a connection must say what it wants within this.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// After an accept that failed for want of something (file descriptors), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every connection needs.
pub struct Front {
    pub rest: Rest,
    pub grpc: ObjectsServer<ObjectsService>,
    pub acceptor: TlsAcceptor,
    pub verifier: Arc<Verifier>,
}

/// Accepts until `stopping` turns true, then waits for what is under way.
pub async fn run(listener: TcpListener, front: Arc<Front>, mut stopping: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            _ = async { drop(stopping.wait_for(|stop| *stop).await) } => break,
            // Finished connections are collected, so that the set does not grow.
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = accept(&listener, &slots) => accepted,
        };
        match accepted {
            Ok((stream, peer, slot)) => {
                let front = front.clone();
                let stopping = stopping.clone();
                connections.spawn(async move {
                    connection(stream, peer, front, stopping).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, async {
        while connections.join_next().await.is_some() {}
    });
    if drained.await.is_err() {
        tracing::warn!(left = connections.len(), "connections were cut at shutdown");
        connections.shutdown().await;
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots
        .clone()
        .acquire_owned()
        .await
        .map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, slot))
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    front: Arc<Front>,
    mut stopping: watch::Receiver<bool>,
) {
    // Small answers must not wait for the peer's acknowledgements.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "nodelay");
    }
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, front.acceptor.accept(stream));
    let stream = match handshake.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "TLS handshake failed");
            return;
        }
        Err(_) => {
            tracing::debug!(%peer, "TLS handshake took too long");
            return;
        }
    };
    let identity = Arc::new(
        front
            .verifier
            .identify(stream.get_ref().1.peer_certificates()),
    );
    if let Identity::Refused(why) = identity.as_ref() {
        tracing::info!(%peer, why, "client certificate refused");
    }
    let service = service_fn(move |request| {
        let (front, identity) = (front.clone(), identity.clone());
        async move { Ok::<_, Infallible>(answer(&front, &identity, request).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .max_header_list_size(HEADER_BYTES_MAX)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut draining = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "connection ended");
                }
                return;
            }
            _ = async { drop(stopping.wait_for(|stop| *stop).await) }, if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

fn body_error(error: impl std::fmt::Display) -> BodyError {
    BodyError(error.to_string())
}

async fn answer(front: &Front, identity: &Identity, request: Request<Incoming>) -> Response<Body> {
    let user = identity.user();
    let is_grpc = text_header(request.headers(), header::CONTENT_TYPE)
        .is_some_and(|content_type| content_type.starts_with("application/grpc"));
    let request = request.map(|body| body.map_err(body_error).boxed_unsync());
    if is_grpc {
        let mut request = request;
        request.extensions_mut().insert(Peer(user.cloned()));
        let response = match front.grpc.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        return response.map(|body| body.map_err(body_error).boxed_unsync());
    }
    front.rest.serve(user, request).await
}
