//! A gRPC client that can say anything: raw request bytes, any path, any metadata; and shows what came back as it came.
//! Promise: an answer holds every message, status and text the server sent, or how the connection broke.
//! Not here: what the bytes mean (`fields`), TLS, retries.

use std::sync::{Arc, Mutex};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use prost::Message;
use tokio::net::TcpStream;

use crate::limits::CALL;

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Status {
        code: String,
        text: String,
    },
    /// Not gRPC: the HTTP status.
    Http(u16),
    /// The stream or connection broke, or nothing came in time.
    Broken(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub messages: Vec<Bytes>,
    pub end: End,
}

/// What goes into one call beside its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub metadata: Vec<(String, Vec<u8>)>,
    /// The body with its frame heads, so that these can be wrong too.
    pub body: Bytes,
}

/// gRPC's frame around one message.
pub fn frame(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(5 + message.len());
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).expect("requests are below 4 GiB"));
    out.put_slice(message);
    out.freeze()
}

pub fn framed(message: &impl Message) -> Bytes {
    frame(&message.encode_to_vec())
}

/// The messages in a body, when it consists of whole, uncompressed frames.
pub fn unframed(mut body: Bytes) -> Option<Vec<Bytes>> {
    let mut messages = Vec::new();
    while !body.is_empty() {
        messages.push(split_message(&mut body)?);
    }
    Some(messages)
}

fn split_message(body: &mut Bytes) -> Option<Bytes> {
    let head = body.get(..5)?;
    let len = u32::from_be_bytes(head[1..].try_into().expect("four bytes")) as usize;
    if head[0] != 0 || body.len() < 5 + len {
        return None;
    }
    body.advance(5);
    Some(body.split_to(len))
}

/// One connection.
#[derive(Clone)]
pub struct Client {
    requests: SendRequest<Bytes>,
    addr: String,
}

impl Client {
    pub async fn connect(addr: &str) -> Result<Self, String> {
        let socket = TcpStream::connect(addr).await.map_err(|e| e.to_string())?;
        socket.set_nodelay(true).map_err(|e| e.to_string())?;
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(8 << 20)
            .initial_connection_window_size(16 << 20)
            .enable_push(false)
            .handshake(socket)
            .await
            .map_err(|e| e.to_string())?;
        // Ends with the connection; its error reaches every caller through the streams.
        tokio::spawn(connection);
        Ok(Client {
            requests,
            addr: addr.to_owned(),
        })
    }

    /// Sends the whole body, ends the request, and gathers everything until the end.
    pub async fn call(&self, path: &str, sent: &Sent) -> Answer {
        let log = Arc::new(Mutex::new(Vec::new()));
        let exchange = async {
            let (response, mut stream) = self.begin(path, &sent.metadata).await?;
            send(&mut stream, sent.body.clone(), true).await;
            Ok::<End, String>(receive(response, &log).await)
        };
        let end = match tokio::time::timeout(CALL, exchange).await {
            Ok(Ok(end)) => end,
            Ok(Err(error)) => End::Broken(error),
            Err(_) => End::Broken(format!("no answer within {} s", CALL.as_secs())),
        };
        let messages = std::mem::take(&mut *log.lock().expect("no holder panics"));
        Answer { messages, end }
    }

    async fn begin(
        &self,
        path: &str,
        metadata: &[(String, Vec<u8>)],
    ) -> Result<(ResponseFuture, SendStream<Bytes>), String> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{path}", self.addr))
            .header("te", "trailers")
            .body(())
            .map_err(|e| format!("this path cannot be asked for: {e}"))?;
        let headers = request.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        for (name, value) in metadata {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| e.to_string())?;
            let value = HeaderValue::from_bytes(value).map_err(|e| e.to_string())?;
            headers.insert(name, value);
        }
        let requests = self.requests.clone();
        let mut requests = requests.ready().await.map_err(|e| e.to_string())?;
        requests
            .send_request(request, false)
            .map_err(|e| e.to_string())
    }

    /// A call both sides of which stay open.
    pub async fn open(&self, path: &str) -> Result<Open, String> {
        let (response, stream) = self.begin(path, &[]).await?;
        let received = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(Mutex::new(None));
        let (log, end) = (received.clone(), ended.clone());
        let reader = tokio::spawn(async move {
            let how = receive(response, &log).await;
            *end.lock().expect("no holder panics") = Some(how);
        });
        Ok(Open {
            stream,
            received,
            ended,
            reader,
        })
    }
}

/// A running stream. Dropped, it is reset.
pub struct Open {
    stream: SendStream<Bytes>,
    received: Arc<Mutex<Vec<Bytes>>>,
    ended: Arc<Mutex<Option<End>>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Open {
    pub async fn send(&mut self, body: Bytes, last: bool) {
        send(&mut self.stream, body, last).await;
    }
    /// What came since the last time.
    pub fn take(&self) -> Vec<Bytes> {
        std::mem::take(&mut *self.received.lock().expect("no holder panics"))
    }
    /// How many of those not yet taken are so.
    pub fn count(&self, is: impl Fn(&Bytes) -> bool) -> usize {
        let received = self.received.lock().expect("no holder panics");
        received.iter().filter(|message| is(message)).count()
    }
    pub fn ended(&self) -> Option<End> {
        self.ended.lock().expect("no holder panics").clone()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.stream.send_reset(h2::Reason::CANCEL);
        self.reader.abort();
    }
}

/// A server may end a call before it has read everything; what it said then is the answer, so errors are not told here.
async fn send(stream: &mut SendStream<Bytes>, mut body: Bytes, last: bool) {
    if body.is_empty() && last {
        let _ = stream.send_data(body, true);
        return;
    }
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let Some(Ok(capacity)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return;
        };
        let chunk = body.split_to(capacity.min(body.len()));
        if stream.send_data(chunk, last && body.is_empty()).is_err() {
            return;
        }
    }
}

async fn receive(response: ResponseFuture, log: &Mutex<Vec<Bytes>>) -> End {
    let response = match response.await {
        Ok(response) => response,
        Err(error) => return End::Broken(told(&error)),
    };
    if response.status() != http::StatusCode::OK {
        return End::Http(response.status().as_u16());
    }
    // A response without a message carries its status in the headers.
    if let Some(end) = status(response.headers()) {
        return end;
    }
    let mut body = response.into_body();
    let mut rest = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = match data {
            Ok(data) => data,
            Err(error) => return End::Broken(told(&error)),
        };
        let _ = body.flow_control().release_capacity(data.len());
        rest.extend_from_slice(&data);
        while let Some(len) = whole(&rest) {
            let mut message = rest.split_to(len);
            message.advance(5);
            log.lock().expect("no holder panics").push(message.freeze());
        }
    }
    match body.trailers().await {
        Ok(Some(trailers)) => {
            status(&trailers).unwrap_or_else(|| End::Broken("no grpc-status".to_owned()))
        }
        Ok(None) => End::Broken("no trailers".to_owned()),
        Err(error) => End::Broken(told(&error)),
    }
}

/// The reason alone: addresses and stream numbers differ from run to run.
fn told(error: &h2::Error) -> String {
    match error.reason() {
        Some(reason) => format!("stream reset: {reason:?}"),
        None => error.to_string(),
    }
}

fn whole(bytes: &[u8]) -> Option<usize> {
    let len = u32::from_be_bytes(bytes.get(1..5)?.try_into().expect("four bytes")) as usize;
    (bytes.len() >= 5 + len).then_some(5 + len)
}

fn status(headers: &HeaderMap) -> Option<End> {
    let text = |name| {
        let value = headers.get(name);
        value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    Some(End::Status {
        code: text("grpc-status")?,
        text: text("grpc-message").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_uncompressed_frames_are_messages() {
        let two = [frame(b"a"), frame(b"")].concat();
        assert_eq!(unframed(two.into()).unwrap(), ["a", ""]);
        assert_eq!(unframed(Bytes::from_static(b"\0\0\0\0\x02a")), None);
        assert_eq!(unframed(Bytes::from_static(b"\x01\0\0\0\x01a")), None);
    }
}
