//! One client connection from accept to close: TLS, protocol, HTTP/2 streams. Runs wholly on the core that got it.
//! Promise: all requests that arrived together are handled before the connection writes, so their answers share a write.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::TcpStream as StdTcpStream;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Method, Request, StatusCode};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::body::{MessageBody, UnaryBody};
use crate::call::{Kind, Reply, Requests, Responses, Service};
use crate::core::Core;
use crate::http::{answer_http2, serve_http1};
use crate::limits;
use crate::output::{Output, Unread};
use crate::socket::{Protocol, Socket};
use crate::status::{Code, Status};
use crate::tls::Tls;

/// A connection on its way to a core.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub stream: StdTcpStream,
    pub tls: Option<Arc<Tls>>,
}

pub(crate) async fn serve<S: Service>(core: Rc<Core<S>>, accepted: Accepted) {
    let peer = accepted.stream.peer_addr().ok();
    let hello = tokio::time::timeout(limits::HELLO_TIMEOUT, hello(accepted));
    let (socket, protocol) = match hello.await {
        Ok(Ok(Some(ready))) => ready,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => {
            warn!(remote_addr = ?peer, %error, "rejected connection on client endpoint");
            return;
        }
        Err(_) => {
            debug!(remote_addr = ?peer, "closed a connection that said nothing");
            return;
        }
    };
    match protocol {
        Protocol::Http1 => serve_http1(core, socket).await,
        Protocol::Http2 => serve_http2(core, socket).await,
    }
}

async fn hello(accepted: Accepted) -> std::io::Result<Option<(Socket, Protocol)>> {
    accepted.stream.set_nonblocking(true)?;
    let stream = TcpStream::from_std(accepted.stream)?;
    // Answers are batched by us; Nagle would only add the peer's delayed acknowledgement to each.
    stream.set_nodelay(true)?;
    let mut socket = match accepted.tls {
        None => Socket::plain(stream),
        Some(tls) => Socket::tls(TlsAcceptor::from(tls.latest().await).accept(stream).await?),
    };
    Ok(socket.protocol().await?.map(|protocol| (socket, protocol)))
}

type Incoming = (Request<RecvStream>, SendResponse<Output>);

/// What one wake-up of the connection brought.
enum Turn {
    Requests(Vec<Incoming>),
    Stop,
    Closed,
}

async fn serve_http2<S: Service>(core: Rc<Core<S>>, mut socket: Socket) {
    socket.mend_authority();
    let secure = socket.is_tls();
    let handshake = h2::server::Builder::new()
        .initial_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .max_frame_size(limits::FRAME_BYTES_MAX)
        .max_concurrent_streams(limits::CONCURRENT_STREAMS_MAX)
        .max_header_list_size(limits::HEADER_LIST_BYTES_MAX)
        .max_pending_accept_reset_streams(limits::PENDING_RESETS_MAX)
        .max_send_buffer_size(limits::STREAM_SEND_BUFFER_BYTES)
        .handshake::<_, Output>(socket);
    let mut connection = match tokio::time::timeout(limits::HELLO_TIMEOUT, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            debug!(%error, "HTTP/2 did not begin");
            return;
        }
        Err(_) => return,
    };
    let unread = Unread::default();
    // Requests of one turn that found the client's unread answers at their bound.
    let mut held = VecDeque::new();
    let mut stop = pin!(core.stopped());
    let mut stopping = false;
    loop {
        let turn = poll_fn(|cx| {
            if !stopping && stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Turn::Stop);
            }
            poll_turn(&mut connection, &unread, cx)
        })
        .await;
        match turn {
            Turn::Requests(requests) => {
                held.extend(requests);
                while !unread.is_full()
                    && let Some((request, respond)) = held.pop_front()
                {
                    dispatch(&core, request, respond, &unread, secure);
                }
            }
            Turn::Stop => {
                stopping = true;
                connection.graceful_shutdown();
            }
            Turn::Closed => return,
        }
    }
}

/// Takes everything that has arrived. Polling for the next request also writes; so no request is handled in between.
fn poll_turn(
    connection: &mut Connection<Socket, Output>,
    unread: &Unread,
    cx: &mut Context<'_>,
) -> Poll<Turn> {
    if unread.is_full() {
        // Writes, and so makes room; what the client still sends waits in its windows.
        if connection.poll_closed(cx).is_ready() {
            return Poll::Ready(Turn::Closed);
        }
        // What was held goes first.
        return if unread.is_full() {
            Poll::Pending
        } else {
            Poll::Ready(Turn::Requests(Vec::new()))
        };
    }
    let mut requests = Vec::new();
    while requests.len() < limits::REQUESTS_PER_TURN_MAX {
        match connection.poll_accept(cx) {
            Poll::Ready(Some(Ok(incoming))) => requests.push(incoming),
            // What came before the end is still answered where it can be; the next turn ends the connection.
            Poll::Ready(Some(Err(_)) | None) if requests.is_empty() => {
                return Poll::Ready(Turn::Closed);
            }
            Poll::Ready(Some(Err(_)) | None) => break,
            Poll::Pending if requests.is_empty() => return Poll::Pending,
            Poll::Pending => break,
        }
    }
    Poll::Ready(Turn::Requests(requests))
}

fn dispatch<S: Service>(
    core: &Rc<Core<S>>,
    request: Request<RecvStream>,
    respond: SendResponse<Output>,
    unread: &Unread,
    secure: bool,
) {
    let (parts, recv) = request.into_parts();
    if !is_grpc(&parts) {
        if secure {
            tokio::task::spawn_local(answer_http2(
                core.clone(),
                parts,
                recv,
                respond,
                unread.clone(),
            ));
        } else {
            // As etcd: cleartext HTTP/2 is gRPC's alone.
            Reply::new(respond, unread.clone()).refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        return;
    }
    if parts.method != Method::POST {
        return Reply::new(respond, unread.clone()).refuse(StatusCode::METHOD_NOT_ALLOWED);
    }
    let body = MessageBody::new(recv, core.settings.request_bytes_max);
    match core.service.kind(parts.uri.path()) {
        Kind::Unary => {
            let mut body = UnaryBody::new(body);
            let reply = Reply::new(respond, unread.clone());
            // Small requests arrive whole with their headers: no task for them.
            match body.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(request) => answer_unary(core, &parts, request, reply),
                Poll::Pending => {
                    let core = core.clone();
                    tokio::task::spawn_local(async move {
                        let request = poll_fn(|cx| body.poll(cx)).await;
                        answer_unary(&core, &parts, request, reply);
                    });
                }
            }
        }
        Kind::Stream => {
            if let Ok(responses) = Responses::open(respond, unread.clone()) {
                core.service.stream(
                    parts.uri.path(),
                    &parts.headers,
                    Requests::new(body),
                    responses,
                );
            }
        }
        Kind::Unknown(status) => Reply::new(respond, unread.clone()).err(status),
    }
}

fn answer_unary<S: Service>(
    core: &Rc<Core<S>>,
    parts: &Parts,
    request: Result<Bytes, Status>,
    reply: Reply,
) {
    match request {
        Ok(request) => core
            .service
            .unary(parts.uri.path(), request, &parts.headers, reply),
        Err(status) => {
            if status.code != Code::Canceled {
                debug!(path = parts.uri.path(), ?status, "refused a request");
            }
            reply.err(status);
        }
    }
}

fn is_grpc(parts: &Parts) -> bool {
    parts
        .headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
