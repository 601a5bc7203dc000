//! A lean unary gRPC client on one HTTP/2 connection. The same for both sides, and cheap, so that it is the servers
//! that are measured.
//! Promise: a call succeeded only when `grpc-status` said 0 and the message was whole.
//! Not here: retries, TLS, streams, what a failed call may have done (`fate`).

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Method, Request, Uri};
use prost::Message;
use tokio::net::TcpStream;

use crate::limits::{REQUEST, RESPONSE_BYTES_MAX};

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("connecting to {addr}: {cause}")]
    Connect { addr: String, cause: std::io::Error },
    /// Before the request's last byte was handed to the connection: no server has acted on it.
    #[error("not sent: {0}")]
    NotSent(h2::Error),
    #[error("http/2: {0}")]
    Http(#[from] h2::Error),
    #[error("http status {0}")]
    Status(http::StatusCode),
    #[error("grpc status {code}: {message}")]
    Grpc { code: String, message: String },
    #[error("the response is not a gRPC message: {0}")]
    Malformed(&'static str),
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
}

/// One connection.
#[derive(Clone)]
pub struct Client {
    requests: SendRequest<Bytes>,
    authority: String,
}

/// A method's address on one server, made once.
#[derive(Clone)]
pub struct Target(Uri);

impl Client {
    pub async fn connect(addr: &str) -> Result<Self, CallError> {
        let failed = |cause| CallError::Connect {
            addr: addr.to_owned(),
            cause,
        };
        let socket = TcpStream::connect(addr).await.map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(1 << 20)
            .enable_push(false)
            .handshake(socket)
            .await
            .map_err(CallError::NotSent)?;
        // Ends with the connection; its error reaches every caller through the streams.
        tokio::spawn(connection);
        Ok(Client {
            requests,
            authority: addr.to_owned(),
        })
    }

    /// `path` as in `/etcdserverpb.KV/Put`.
    pub fn target(&self, path: &str) -> Target {
        let uri = format!("http://{}{path}", self.authority);
        Target(uri.parse().expect("a host:port and a path make a URI"))
    }

    pub async fn call<R: Message + Default>(
        &self,
        target: &Target,
        request: &impl Message,
    ) -> Result<R, CallError> {
        let answer = self.exchange(target, frame(request), None);
        decoded(tokio::time::timeout(REQUEST, answer).await, REQUEST)
    }

    /// The same with a deadline, of which the server is told as gRPC clients do. After it the stream is reset.
    pub async fn call_within<R: Message + Default>(
        &self,
        target: &Target,
        request: &impl Message,
        deadline: Duration,
    ) -> Result<R, CallError> {
        let answer = self.exchange(target, frame(request), Some(deadline));
        decoded(tokio::time::timeout(deadline, answer).await, deadline)
    }

    async fn exchange(
        &self,
        target: &Target,
        body: Bytes,
        deadline: Option<Duration>,
    ) -> Result<Bytes, CallError> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(target.0.clone())
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(deadline) = deadline {
            request = request.header("grpc-timeout", format!("{}m", deadline.as_millis()));
        }
        let request = request.body(()).expect("these parts make a request");
        let ready = self.requests.clone().ready().await;
        let mut requests = ready.map_err(CallError::NotSent)?;
        let opened = requests.send_request(request, false);
        let (response, mut stream) = opened.map_err(CallError::NotSent)?;
        stream.send_data(body, true).map_err(CallError::NotSent)?;
        receive(response).await
    }
}

fn decoded<R: Message + Default>(
    answer: Result<Result<Bytes, CallError>, tokio::time::error::Elapsed>,
    deadline: Duration,
) -> Result<R, CallError> {
    let message = answer.map_err(|_| CallError::Timeout(deadline))??;
    R::decode(message).map_err(|_| CallError::Malformed("not protobuf"))
}

fn frame(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut out = BytesMut::with_capacity(5 + len);
    out.put_u8(0);
    out.put_u32(u32::try_from(len).expect("requests are small"));
    message.encode(&mut out).expect("the buffer grows");
    out.freeze()
}

async fn receive(response: ResponseFuture) -> Result<Bytes, CallError> {
    let response = response.await?;
    if response.status() != http::StatusCode::OK {
        return Err(CallError::Status(response.status()));
    }
    // A response without a message carries its status in the headers.
    if response.headers().contains_key("grpc-status") {
        check(response.headers())?;
    }
    let mut body = response.into_body();
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        if first.is_empty() && joined.is_empty() {
            first = data;
        } else {
            // A small message comes whole and is not copied; a page of rows comes in many pieces.
            joined.extend_from_slice(&std::mem::take(&mut first));
            joined.extend_from_slice(&data);
        }
        if first.len() + joined.len() > RESPONSE_BYTES_MAX {
            return Err(CallError::Malformed("too long"));
        }
    }
    let message = if joined.is_empty() {
        first
    } else {
        joined.freeze()
    };
    let Some(trailers) = body.trailers().await? else {
        return Err(CallError::Malformed("no trailers"));
    };
    check(&trailers)?;
    match message.get(..5) {
        Some([0, len @ ..])
            if u32::from_be_bytes(len.try_into().expect("four")) as usize == message.len() - 5 =>
        {
            Ok(message.slice(5..))
        }
        _ => Err(CallError::Malformed("not one whole, uncompressed message")),
    }
}

fn check(headers: &HeaderMap) -> Result<(), CallError> {
    let text = |name| {
        let value = headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()));
        value.unwrap_or_default().into_owned()
    };
    match text("grpc-status").as_str() {
        "0" => Ok(()),
        "" => Err(CallError::Malformed("no grpc-status")),
        code => Err(CallError::Grpc {
            code: code.to_owned(),
            message: text("grpc-message"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barque_proto::etcdserverpb::{PutRequest, PutResponse, ResponseHeader};

    /// Serves one connection: answers each put whose key is a gRPC status code with it.
    async fn server() -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(socket).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                tokio::spawn(async move {
                    assert_eq!(request.uri().path(), "/etcdserverpb.KV/Put");
                    assert_eq!(request.headers()["content-type"], "application/grpc");
                    let told = request.headers().get("grpc-timeout").cloned();
                    let mut body = request.into_body();
                    let mut bytes = BytesMut::new();
                    while let Some(data) = body.data().await {
                        bytes.extend_from_slice(&data.unwrap());
                    }
                    let put = PutRequest::decode(&bytes[5..]).unwrap();
                    let status = String::from_utf8(put.key.to_vec()).unwrap();
                    if status == "late" {
                        assert_eq!(told.unwrap(), "50m");
                        return std::future::pending().await;
                    }
                    let response = http::Response::builder().status(200).body(()).unwrap();
                    let mut stream = respond.send_response(response, false).unwrap();
                    let answer = PutResponse {
                        header: Some(ResponseHeader {
                            revision: put.value.len() as i64,
                            ..Default::default()
                        }),
                        prev_kv: None,
                    };
                    let answer = frame(&answer);
                    // In two pieces: a message need not come in one frame.
                    let (front, back) = (answer.slice(..3), answer.slice(3..));
                    stream.send_data(front, false).unwrap();
                    if status != "cut" {
                        stream.send_data(back, false).unwrap();
                    }
                    let status = if status == "cut" {
                        "0".to_owned()
                    } else {
                        status
                    };
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", status.parse().unwrap());
                    trailers.insert("grpc-message", "so it is".parse().unwrap());
                    stream.send_trailers(trailers).unwrap();
                });
            }
        });
        addr
    }

    #[tokio::test]
    async fn a_call_succeeds_only_with_status_0_and_a_whole_message() {
        let client = Client::connect(&server().await).await.unwrap();
        let target = client.target("/etcdserverpb.KV/Put");
        let put = |key: &'static str| PutRequest {
            key: key.into(),
            value: "four".into(),
            ..Default::default()
        };
        let ok: PutResponse = client.call(&target, &put("0")).await.unwrap();
        assert_eq!(ok.header.unwrap().revision, 4);
        let refused = client
            .call::<PutResponse>(&target, &put("14"))
            .await
            .unwrap_err();
        assert_eq!(refused.to_string(), "grpc status 14: so it is");
        let cut = client
            .call::<PutResponse>(&target, &put("cut"))
            .await
            .unwrap_err();
        assert!(matches!(cut, CallError::Malformed(_)), "{cut}");
        let deadline = Duration::from_millis(50);
        let late = client
            .call_within::<PutResponse>(&target, &put("late"), deadline)
            .await
            .unwrap_err();
        assert!(
            matches!(late, CallError::Timeout(after) if after == deadline),
            "{late}"
        );
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_with_the_address() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = Client::connect(&addr).await.err().unwrap();
        assert!(error.to_string().contains(&addr), "{error}");
    }
}
