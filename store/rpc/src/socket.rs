//! A client's byte stream: TCP or TLS, with bytes already read put back in front.
//! Promise: it never claims vectored writes, so that h2 copies small answers into one buffer and writes them together
//! (with vectored writes it flushes after each response: 40-60 % fewer gets, a third of the watch events).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::authority::Mender;

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

#[derive(Debug)]
pub(crate) struct Socket {
    /// Bytes read ahead of the protocol's decision; given back first.
    put_back: Bytes,
    /// For HTTP/2 only.
    mender: Option<Mender>,
    stream: Stream,
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Socket {
    pub fn plain(stream: TcpStream) -> Self {
        Socket {
            put_back: Bytes::new(),
            mender: None,
            stream: Stream::Plain(stream),
        }
    }
    pub fn tls(stream: TlsStream<TcpStream>) -> Self {
        Socket {
            put_back: Bytes::new(),
            mender: None,
            stream: Stream::Tls(Box::new(stream)),
        }
    }
    pub fn is_tls(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// From here on the bytes are HTTP/2's, beginning with its preface.
    pub fn mend_authority(&mut self) {
        self.mender = Some(Mender::new());
    }

    /// Tells HTTP/2 with prior knowledge from HTTP/1.1 by the first bytes, which stay readable. `None`: the client left first.
    pub async fn protocol(&mut self) -> io::Result<Option<Protocol>> {
        if let Stream::Tls(tls) = &self.stream
            && let Some(agreed) = tls.get_ref().1.alpn_protocol()
        {
            return Ok(Some(if agreed == b"h2" {
                Protocol::Http2
            } else {
                Protocol::Http1
            }));
        }
        let mut seen = Vec::with_capacity(HTTP2_PREFACE.len());
        let protocol = loop {
            let mut chunk = [0; HTTP2_PREFACE.len()];
            let room = HTTP2_PREFACE.len() - seen.len();
            let len = self.read(&mut chunk[..room]).await?;
            if len == 0 {
                return Ok(None);
            }
            seen.extend_from_slice(&chunk[..len]);
            if !HTTP2_PREFACE.starts_with(&seen) {
                break Protocol::Http1;
            }
            if seen.len() == HTTP2_PREFACE.len() {
                break Protocol::Http2;
            }
        };
        self.put_back = seen.into();
        Ok(Some(protocol))
    }
}

impl Socket {
    fn poll_raw(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.put_back.is_empty() {
            give(&mut self.put_back, buf);
            return Poll::Ready(Ok(()));
        }
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

fn give(from: &mut impl Buf, buf: &mut ReadBuf<'_>) {
    let len = from.remaining().min(buf.remaining());
    let chunk = from.chunk().len().min(len);
    buf.put_slice(&from.chunk()[..chunk]);
    from.advance(chunk);
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if let Some(mender) = &mut self.mender
                && !mender.ready().is_empty()
            {
                give(mender.ready(), buf);
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            ready!(self.poll_raw(cx, buf))?;
            let read = buf.filled().len() - before;
            let Some(mender) = &mut self.mender else {
                return Poll::Ready(Ok(()));
            };
            if read == 0 {
                return Poll::Ready(Ok(()));
            }
            let passed = mender.pass(&buf.filled()[before..]);
            buf.set_filled(before + passed);
            // Nothing passed: the frame is held until it is whole, and an empty read would mean the end.
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
    fn is_write_vectored(&self) -> bool {
        false
    }
}
