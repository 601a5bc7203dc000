//! The edge from outside: real sockets, an h2 client, an echo service.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a client of the edge"
)]

mod pki;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use barque_store_rpc::{
    Code, Framed, Frames, Kind, Listening, Reply, Requests, Responses, Running, Service, Settings,
    Status, TlsFiles, bind, limits, start,
};
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response, StatusCode};
use pki::{Authority, client_config, tls};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

const MESSAGE_MAX: usize = 100_000;

fn framed(message: &[u8]) -> Framed {
    Frames::one(message.len(), |buf| buf.extend_from_slice(message))
}

/// Bytes of the answer to `Large`, and how many were given.
const LARGE: usize = 1 << 20;
static LARGE_ANSWERS: AtomicUsize = AtomicUsize::new(0);

/// Calls of `Never` that have come, and those that were given up.
static NEVER: (AtomicUsize, AtomicUsize) = (AtomicUsize::new(0), AtomicUsize::new(0));

struct Echo;
impl Service for Echo {
    fn kind(&self, path: &str) -> Kind {
        match path {
            "/t.Echo/Large" | "/t.Echo/Unary" | "/t.Echo/Fail" | "/t.Echo/Forget"
            | "/t.Echo/Later" | "/t.Echo/Never" => Kind::Unary,
            "/t.Echo/Stream" => Kind::Stream,
            path => Kind::Unknown(Status::unknown_method(path)),
        }
    }
    fn unary(&self, path: &str, request: Bytes, _: &HeaderMap, mut reply: Reply) {
        match path {
            "/t.Echo/Fail" => reply.err(Status::new(Code::NotFound, "no such thing: 50%")),
            "/t.Echo/Forget" => drop(reply),
            "/t.Echo/Large" => {
                LARGE_ANSWERS.fetch_add(1, Ordering::Relaxed);
                reply.ok(framed(&vec![0; LARGE]));
            }
            "/t.Echo/Later" => barque_store_rpc::spawn_local(async move {
                tokio::task::yield_now().await;
                reply.ok(framed(&request));
            }),
            "/t.Echo/Never" => barque_store_rpc::spawn_local(async move {
                NEVER.0.fetch_add(1, Ordering::Relaxed);
                let done = reply.while_wanted(std::future::pending::<()>()).await;
                assert!(done.is_none());
                NEVER.1.fetch_add(1, Ordering::Relaxed);
            }),
            _ => reply.ok(framed(&request)),
        }
    }
    fn stream(&self, _: &str, _: &HeaderMap, mut requests: Requests, mut responses: Responses) {
        barque_store_rpc::spawn_local(async move {
            loop {
                match requests.next().await {
                    Some(Ok(message)) => {
                        if responses.send(framed(&message)).await.is_err() {
                            return;
                        }
                    }
                    Some(Err(status)) => return responses.finish(&status),
                    None => return responses.finish(&Status::OK),
                }
            }
        });
    }
    fn http(&self, request: Request<Bytes>) -> LocalBoxFuture<'static, Response<Bytes>> {
        Box::pin(async move { Response::new(Bytes::from(format!("at {}", request.uri().path()))) })
    }
}

fn serve(listeners: Vec<Listening>) -> Running {
    let settings = Settings {
        cores: 2,
        request_bytes_max: MESSAGE_MAX,
    };
    start(listeners, settings, || Echo).unwrap()
}

fn plain() -> (Running, SocketAddr) {
    let running = serve(vec![bind("127.0.0.1:0", None).unwrap()]);
    let address = running.addresses()[0];
    (running, address)
}

async fn h2_over<T>(io: T) -> SendRequest<Bytes>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn h2(address: SocketAddr) -> SendRequest<Bytes> {
    h2_over(TcpStream::connect(address).await.unwrap()).await
}

fn grpc(path: &str) -> Request<()> {
    Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

fn message(bytes: &[u8]) -> Bytes {
    let mut out = vec![0];
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
    out.extend_from_slice(bytes);
    out.into()
}

/// Messages as raw frames, grpc-status, grpc-message.
struct Answer {
    body: Vec<u8>,
    status: String,
    message: String,
}

async fn call(client: &SendRequest<Bytes>, path: &str, chunks: &[Bytes]) -> Answer {
    let mut client = client.clone().ready().await.unwrap();
    let (response, mut stream) = client.send_request(grpc(path), false).unwrap();
    for (i, chunk) in chunks.iter().enumerate() {
        stream
            .send_data(chunk.clone(), i + 1 == chunks.len())
            .unwrap();
    }
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let (head, mut recv) = response.into_parts();
    let mut body = Vec::new();
    while let Some(chunk) = recv.data().await {
        let chunk = chunk.unwrap();
        recv.flow_control().release_capacity(chunk.len()).unwrap();
        body.extend_from_slice(&chunk);
    }
    let trailers = recv.trailers().await.unwrap().unwrap_or(head.headers);
    let text = |name: &str| {
        trailers
            .get(name)
            .map_or(String::new(), |v| v.to_str().unwrap().to_owned())
    };
    Answer {
        body,
        status: text("grpc-status"),
        message: text("grpc-message"),
    }
}

#[tokio::test]
async fn a_unary_call_echoes_whole_and_in_pieces() {
    let (running, address) = plain();
    let client = h2(address).await;
    let wire = message(b"hello");
    let answer = call(&client, "/t.Echo/Unary", std::slice::from_ref(&wire)).await;
    assert_eq!(
        (answer.body.as_slice(), answer.status.as_str()),
        (&wire[..], "0")
    );
    let pieces: Vec<Bytes> = wire.chunks(3).map(Bytes::copy_from_slice).collect();
    let answer = call(&client, "/t.Echo/Later", &pieces).await;
    assert_eq!(
        (answer.body.as_slice(), answer.status.as_str()),
        (&wire[..], "0")
    );
    running.shutdown().await;
}

#[tokio::test]
async fn many_calls_on_many_connections_each_get_their_own_answer() {
    let (running, address) = plain();
    let mut calls = Vec::new();
    for connection in 0..4u8 {
        let client = h2(address).await;
        for n in 0..100u8 {
            let client = client.clone();
            calls.push(tokio::spawn(async move {
                let wire = message(&[connection, n]);
                let answer = call(&client, "/t.Echo/Unary", std::slice::from_ref(&wire)).await;
                assert_eq!(answer.body, wire);
            }));
        }
    }
    for call in calls {
        call.await.unwrap();
    }
    running.shutdown().await;
}

#[tokio::test]
async fn failures_travel_as_status_and_encoded_message() {
    let (running, address) = plain();
    let client = h2(address).await;
    let one = [message(b"x")];
    let answer = call(&client, "/t.Echo/Fail", &one).await;
    assert_eq!(
        (answer.status.as_str(), answer.message.as_str()),
        ("5", "no such thing: 50%25")
    );
    let answer = call(&client, "/t.Echo/Nothing", &one).await;
    assert_eq!(
        (answer.status.as_str(), answer.message.as_str()),
        ("12", "unknown method Nothing for service t.Echo")
    );
    let answer = call(&client, "/t.Echo/Forget", &one).await;
    assert_eq!(answer.status, "13");
    running.shutdown().await;
}

#[tokio::test]
async fn bodies_that_are_not_one_message_are_met_as_grpc_go_does() {
    let (running, address) = plain();
    let client = h2(address).await;
    let (first, second) = (message(b"one"), message(b"two"));
    let told = async |body: &[Bytes]| {
        let answer = call(&client, "/t.Echo/Unary", body).await;
        (answer.status, answer.message, answer.body)
    };
    let refused = |status: &str, text: &str| (status.to_owned(), text.to_owned(), Vec::new());
    assert_eq!(told(&[Bytes::new()]).await, refused("2", "EOF"));
    let cut = first.slice(..first.len() - 1);
    assert_eq!(told(&[cut]).await, refused("2", "unexpected EOF"));
    let (status, _, body) = told(&[first.clone(), second]).await;
    assert_eq!((status.as_str(), body), ("0", first.to_vec()));
    let compressed = Bytes::from_static(&[1, 0, 0, 0, 1, 7]);
    assert_eq!(
        told(&[compressed]).await,
        refused(
            "13",
            "grpc: compressed flag set with identity or empty encoding"
        )
    );
    running.shutdown().await;
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_and_the_connection_lives_on() {
    let (running, address) = plain();
    let client = h2(address).await;
    let answer = call(
        &client,
        "/t.Echo/Unary",
        &[message(&vec![0; MESSAGE_MAX + 1])],
    )
    .await;
    assert_eq!(answer.status, "8");
    assert_eq!(
        answer.message,
        "grpc: received message larger than max (100001 vs. 100000)"
    );
    let largest = message(&vec![7; MESSAGE_MAX]);
    let answer = call(&client, "/t.Echo/Unary", std::slice::from_ref(&largest)).await;
    assert_eq!(answer.body, largest);
    running.shutdown().await;
}

#[tokio::test]
async fn a_stream_carries_messages_both_ways_until_the_client_ends_it() {
    let (running, address) = plain();
    let client = h2(address).await;
    // More than one window of answers, so that sending has to wait for the client.
    let chunks: Vec<Bytes> = (0..40).map(|i| message(&vec![i; 5_000])).collect();
    let answer = call(&client, "/t.Echo/Stream", &chunks).await;
    assert_eq!(answer.body, chunks.concat());
    assert_eq!(answer.status, "0");
    running.shutdown().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_gets_no_more_than_the_bound_prepared() {
    let (running, address) = plain();
    let client = h2(address).await;
    const CALLS: usize = 300;
    let mut answers = Vec::new();
    for _ in 0..CALLS {
        let mut client = client.clone().ready().await.unwrap();
        let (response, mut stream) = client.send_request(grpc("/t.Echo/Large"), false).unwrap();
        stream.send_data(message(b""), true).unwrap();
        answers.push(response);
    }
    // Nothing is read of the bodies while the heads of the first answers come.
    let first = answers.remove(0).await.unwrap();
    // The bound is passed by the answer that reaches it, and what fits into the client's windows and the kernel has left.
    let bound = limits::UNREAD_RESPONSE_BYTES_MAX / LARGE + 10;
    let prepared = LARGE_ANSWERS.load(Ordering::Relaxed);
    assert!(prepared <= bound, "{prepared} answers were prepared");
    // Reading lets the others come, each whole.
    let whole = async |response: Response<h2::RecvStream>| {
        let mut body = response.into_body();
        let mut read = 0;
        while let Some(chunk) = body.data().await {
            let chunk = chunk.unwrap();
            body.flow_control().release_capacity(chunk.len()).unwrap();
            read += chunk.len();
        }
        read
    };
    let others = answers
        .into_iter()
        .map(async |response| whole(response.await.unwrap()).await);
    let (first, others) = tokio::join!(whole(first), futures::future::join_all(others));
    let read = first + others.iter().sum::<usize>();
    assert_eq!(read, CALLS * (LARGE + 5));
    running.shutdown().await;
}

#[tokio::test]
async fn http1_and_http2_share_the_port() {
    let (running, address) = plain();
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket
        .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.ends_with("at /health"), "{text}");

    let mut client = h2(address).await.ready().await.unwrap();
    let get = Request::get("http://localhost/health").body(()).unwrap();
    let (response, _) = client.send_request(get, true).unwrap();
    assert_eq!(
        response.await.unwrap().status(),
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
    running.shutdown().await;
}

#[tokio::test]
async fn a_url_as_authority_is_served() {
    let (running, address) = plain();
    let mut socket = TcpStream::connect(address).await.unwrap();
    let mut wire = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    wire.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    // :method POST, :scheme http, then literals: :path, :authority, content-type.
    let mut block = vec![0x83, 0x86];
    for (index, value) in [
        (0x04, "/t.Echo/Unary"),
        (0x41, "http://127.0.0.1:2379"),
        (0x1f, "application/grpc"),
    ] {
        block.push(index);
        if index == 0x1f {
            block.push(31 - 15);
        }
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value.as_bytes());
    }
    wire.extend([0, 0, u8::try_from(block.len()).unwrap(), 1, 4, 0, 0, 0, 1]);
    wire.extend(&block);
    wire.extend([0, 0, 5, 0, 1, 0, 0, 0, 1]);
    wire.extend(message(b""));
    socket.write_all(&wire).await.unwrap();
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await.unwrap();
        let len = usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; len];
        socket.read_exact(&mut payload).await.unwrap();
        assert_ne!(head[3], 3, "the stream was reset");
        if head[3] == 1 {
            // :status 200 stands in HPACK's static table.
            assert_eq!(payload[0], 0x88);
            break;
        }
    }
    running.shutdown().await;
}

#[tokio::test]
async fn a_taken_port_is_an_error_of_binding() {
    let (running, address) = plain();
    let error = bind(&address.to_string(), None).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    running.shutdown().await;
}

#[tokio::test]
async fn shutdown_ends_open_streams() {
    let (running, address) = plain();
    let mut client = h2(address).await.ready().await.unwrap();
    let (response, mut stream) = client.send_request(grpc("/t.Echo/Stream"), false).unwrap();
    stream.send_data(message(b"x"), false).unwrap();
    let mut recv = response.await.unwrap().into_body();
    assert!(recv.data().await.unwrap().is_ok());
    running.shutdown().await;
    let ended = poll_fn(|cx| recv.poll_data(cx)).await;
    assert!(
        !matches!(ended, Some(Ok(_))),
        "a stream outlived the server"
    );
}

#[tokio::test]
async fn tls_serves_both_protocols_to_clients_with_a_certificate_only() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    std::fs::write(dir.path().join("ca.crt"), authority.ca.pem()).unwrap();
    authority.issue(dir.path(), "server");
    authority.issue(dir.path(), "client");
    Authority::new().issue(dir.path(), "stranger");
    let files = TlsFiles {
        cert: dir.path().join("server.crt"),
        key: dir.path().join("server.key"),
        client_ca: Some(dir.path().join("ca.crt")),
    };
    let config = files.load().unwrap();
    let running = serve(vec![bind("127.0.0.1:0", Some(config)).unwrap()]);
    let address = running.addresses()[0];

    let socket = tls(address, client_config(dir.path(), Some("client"), b"h2")).await;
    let client = h2_over(socket).await;
    let answer = call(&client, "/t.Echo/Unary", &[message(b"secret")]).await;
    assert_eq!(answer.body, message(b"secret"));
    let mut plain = client.ready().await.unwrap();
    let get = Request::get("https://localhost/version").body(()).unwrap();
    let (response, _) = plain.send_request(get, true).unwrap();
    assert_eq!(response.await.unwrap().status(), StatusCode::OK);

    let mut socket = tls(
        address,
        client_config(dir.path(), Some("client"), b"http/1.1"),
    )
    .await;
    socket
        .write_all(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("at /version"), "{text}");

    for identity in [None, Some("stranger")] {
        // TLS 1.3: the client believes in the handshake until it reads the refusal.
        let mut socket = tls(address, client_config(dir.path(), identity, b"http/1.1")).await;
        let _ = socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut text = Vec::new();
        assert!(
            socket.read_to_end(&mut text).await.is_err(),
            "{identity:?} got in: {text:?}"
        );
    }
    running.shutdown().await;
}

#[test]
fn a_missing_certificate_file_is_named() {
    let files = TlsFiles {
        cert: "/nowhere/server.crt".into(),
        key: "/nowhere/server.key".into(),
        client_ca: None,
    };
    let error = files.load().unwrap_err();
    assert!(
        error.to_string().contains("/nowhere/server.key")
            || error.to_string().contains("/nowhere/server.crt")
    );
}

#[tokio::test]
async fn work_for_a_client_that_is_gone_is_given_up() {
    let (running, address) = plain();
    let until = async |counter: &AtomicUsize, count: usize| {
        while counter.load(Ordering::Relaxed) < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    for (n, ends_call) in [(1, true), (2, false)] {
        let (client, connection) =
            h2::client::handshake(TcpStream::connect(address).await.unwrap())
                .await
                .unwrap();
        let connection = tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let (_answer, mut stream) = client.send_request(grpc("/t.Echo/Never"), false).unwrap();
        stream.send_data(message(b"x"), true).unwrap();
        until(&NEVER.0, n).await;
        assert_eq!(NEVER.1.load(Ordering::Relaxed), n - 1);
        match ends_call {
            true => stream.send_reset(h2::Reason::CANCEL),
            false => connection.abort(),
        }
        tokio::time::timeout(Duration::from_secs(10), until(&NEVER.1, n))
            .await
            .expect("given up");
    }
    running.shutdown().await;
}
