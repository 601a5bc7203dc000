//! What a handler sees of a call: its path, bytes, metadata, and a way to answer, now or later, on the same core.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use h2::SendStream;
use h2::server::SendResponse;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};

use crate::body::MessageBody;
use crate::frame::{Framed, PREFIX_BYTES};
use crate::output::{Output, Unread};
use crate::status::{Code, Status};

/// How a method's path is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Unary,
    /// Any number of messages each way.
    Stream,
    Unknown(Status),
}

/// The handlers of one core. Made on the core's thread and never leaves it; calls come one at a time.
pub trait Service: 'static {
    fn kind(&self, path: &str) -> Kind;
    /// `reply` may be kept and answered later on this core.
    fn unary(&self, path: &str, request: Bytes, metadata: &HeaderMap, reply: Reply);
    fn stream(&self, path: &str, metadata: &HeaderMap, requests: Requests, responses: Responses);
    /// Plain HTTP beside gRPC.
    fn http(&self, request: Request<Bytes>) -> LocalBoxFuture<'static, Response<Bytes>>;
}

/// The client is gone; nothing more can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client closed the call")]
pub struct Closed;

/// How the calls of one method ended, by code, and the bytes of their messages. One per core, so that counting costs next to
/// nothing.
#[derive(Debug, Default)]
pub struct Tally {
    ended: [AtomicU64; Code::ALL.len()],
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

impl Tally {
    fn end(&self, code: Code) {
        self.ended[code as usize].fetch_add(1, Ordering::Relaxed);
    }
    fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
    /// A message of so many bytes came; its frame counts too.
    pub fn received(&self, bytes: usize) {
        let framed = bytes + PREFIX_BYTES;
        self.received_bytes
            .fetch_add(framed as u64, Ordering::Relaxed);
    }
    /// Calls that ended with `code` since the start.
    pub fn ended_with(&self, code: Code) -> u64 {
        self.ended[code as usize].load(Ordering::Relaxed)
    }
    /// Bytes of messages sent and received since the start.
    pub fn bytes(&self) -> (u64, u64) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (of(&self.sent_bytes), of(&self.received_bytes))
    }
}

/// The answer of one unary call. Dropped unanswered it answers Internal, so that no client waits for nothing.
pub struct Reply {
    respond: Option<SendResponse<Output>>,
    unread: Unread,
    tally: Option<Arc<Tally>>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

fn response_head() -> Response<()> {
    let mut head = Response::new(());
    head.headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    head
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    status.write_to(&mut trailers);
    trailers
}

impl Reply {
    pub(crate) fn new(respond: SendResponse<Output>, unread: Unread) -> Self {
        Reply {
            respond: Some(respond),
            unread,
            tally: None,
        }
    }

    /// Has the end of this call counted, and its answer.
    pub fn counted(mut self, tally: Arc<Tally>) -> Self {
        self.tally = Some(tally);
        self
    }

    /// What comes of the work; `None`, when the client does not wait for it any more (its deadline passed, or its connection ended).
    pub async fn while_wanted<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            let gone = match &mut self.respond {
                Some(respond) => respond.poll_reset(cx).is_ready(),
                None => true,
            };
            if gone {
                Poll::Ready(None)
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Answers with one message. A client that is gone already is no error of ours.
    pub fn ok(mut self, message: Framed) {
        if let Some(status) = message.refused() {
            return self.err(status);
        }
        let Some(mut respond) = self.respond.take() else {
            return;
        };
        if let Some(tally) = &self.tally {
            tally.end(Code::Ok);
            tally.sent(message.len());
        }
        let _ = respond
            .send_response(response_head(), false)
            .and_then(|mut stream| {
                // More than the window waits in the stream's own queue as shared bytes.
                for piece in message.pieces() {
                    stream.send_data(self.unread.output(piece), false)?;
                }
                stream.send_trailers(trailers(&Status::OK))
            });
    }

    pub fn err(mut self, status: Status) {
        self.fail(&status);
    }

    pub fn done(self, result: Result<Framed, Status>) {
        match result {
            Ok(message) => self.ok(message),
            Err(status) => self.err(status),
        }
    }

    fn fail(&mut self, status: &Status) {
        if let Some(mut respond) = self.respond.take() {
            if let Some(tally) = &self.tally {
                tally.end(status.code);
            }
            let mut head = response_head();
            status.write_to(head.headers_mut());
            let _ = respond.send_response(head, true);
        }
    }

    /// Refuses a call that is not gRPC's.
    pub(crate) fn refuse(mut self, status: StatusCode) {
        if let Some(mut respond) = self.respond.take() {
            let mut head = Response::new(());
            *head.status_mut() = status;
            let _ = respond.send_response(head, true);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.fail(&Status::new(
            Code::Internal,
            "the server dropped the call unanswered",
        ));
    }
}

/// The client's messages of a streaming call.
#[derive(Debug)]
pub struct Requests {
    body: MessageBody,
    ended: bool,
    tally: Option<Arc<Tally>>,
}

impl Requests {
    pub(crate) fn new(body: MessageBody) -> Self {
        Requests {
            body,
            ended: false,
            tally: None,
        }
    }

    /// Has what comes counted.
    pub fn counted(mut self, tally: Arc<Tally>) -> Self {
        self.tally = Some(tally);
        self
    }

    /// The next message; `None` once the client has ended its side. An error (a malformed message, a client gone) is final.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        if self.ended {
            return None;
        }
        let next = poll_fn(|cx| self.body.poll_message(cx)).await;
        self.ended = !matches!(next, Some(Ok(_)));
        if let (Some(tally), Some(Ok(message))) = (&self.tally, &next) {
            tally.received(message.len());
        }
        next
    }
}

/// Our messages of a streaming call. Headers have been sent when a handler gets it: some clients wait for them.
pub struct Responses {
    stream: SendStream<Output>,
    unread: Unread,
    tally: Option<Arc<Tally>>,
}

impl fmt::Debug for Responses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responses").finish_non_exhaustive()
    }
}

impl Responses {
    pub(crate) fn open(mut respond: SendResponse<Output>, unread: Unread) -> Result<Self, Closed> {
        match respond.send_response(response_head(), false) {
            Ok(stream) => Ok(Responses {
                stream,
                unread,
                tally: None,
            }),
            Err(_) => Err(Closed),
        }
    }

    /// Has the end of this call counted, and what is sent; one that is dropped unfinished counts as canceled.
    pub fn counted(mut self, tally: Arc<Tally>) -> Self {
        self.tally = Some(tally);
        self
    }

    /// Sends messages, waiting while the client's window and our buffer are full.
    pub async fn send(&mut self, messages: Framed) -> Result<(), Closed> {
        if let Some(tally) = &self.tally {
            tally.sent(messages.len());
        }
        for mut bytes in messages.pieces() {
            while !bytes.is_empty() {
                self.stream.reserve_capacity(bytes.len());
                let mut capacity = self.stream.capacity();
                while capacity == 0 {
                    capacity = match poll_fn(|cx| self.stream.poll_capacity(cx)).await {
                        Some(Ok(capacity)) => capacity,
                        Some(Err(_)) | None => return Err(Closed),
                    };
                }
                let chunk = bytes.split_to(capacity.min(bytes.len()));
                let chunk = self.unread.output(chunk);
                self.stream.send_data(chunk, false).map_err(|_| Closed)?;
            }
        }
        Ok(())
    }

    /// Resolves when the client gave the call up. Cancel-safe.
    pub async fn closed(&mut self) {
        poll_fn(|cx| match self.stream.poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        })
        .await;
    }

    pub fn finish(mut self, status: &Status) {
        let _ = self.stream.send_trailers(trailers(status));
        if let Some(tally) = self.tally.take() {
            tally.end(status.code);
        }
    }
}

impl Drop for Responses {
    fn drop(&mut self) {
        if let Some(tally) = self.tally.take() {
            tally.end(Code::Canceled);
        }
    }
}
