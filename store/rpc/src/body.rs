//! Request bodies of HTTP/2 streams as gRPC messages. Gives the flow-control window back as bytes are taken.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;

use crate::frame::Decoder;
use crate::status::{Code, Status};

/// Messages of one request body, in order.
#[derive(Debug)]
pub(crate) struct MessageBody {
    recv: RecvStream,
    decoder: Decoder,
}

impl MessageBody {
    pub fn new(recv: RecvStream, message_bytes_max: usize) -> Self {
        MessageBody {
            recv,
            decoder: Decoder::new(message_bytes_max),
        }
    }

    /// The next message; `None` after the last. An error is final.
    pub fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            match self.decoder.next() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(chunk)) => {
                    // Fails only where the stream is gone already; the next read tells.
                    let _ = self.recv.flow_control().release_capacity(chunk.len());
                    self.decoder.push(chunk);
                }
                Some(Err(_)) => {
                    return Poll::Ready(Some(Err(Status::new(Code::Canceled, "context canceled"))));
                }
                None if self.decoder.is_between() => return Poll::Ready(None),
                None => {
                    return Poll::Ready(Some(Err(Status::new(
                        // What Go's gRPC lets through of its own reader's error.
                        Code::Unknown,
                        "unexpected EOF",
                    ))));
                }
            }
        }
    }
}

/// The one message of a unary call.
#[derive(Debug)]
pub(crate) struct UnaryBody {
    body: MessageBody,
    message: Option<Bytes>,
}

impl UnaryBody {
    pub fn new(body: MessageBody) -> Self {
        UnaryBody {
            body,
            message: None,
        }
    }

    /// Ready once the client has ended its side.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        loop {
            match ready!(self.body.poll_message(cx)) {
                Some(Ok(message)) if self.message.is_none() => self.message = Some(message),
                // The first one is the request, as in grpc-go; others are read and forgotten.
                Some(Ok(_)) => {}
                Some(Err(status)) => return Poll::Ready(Err(status)),
                None => {
                    return Poll::Ready(
                        self.message
                            .take()
                            .ok_or_else(|| Status::new(Code::Unknown, "EOF")),
                    );
                }
            }
        }
    }
}
