//! What programs hold of the simulated network: listeners, connections, their halves.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::{Conn, Listener, Net, ReadHalf, WriteHalf};

use super::{
    BACKLOG, Buf, ConnId, Listening, NodeId, SYN_RETRIES, SYN_RETRY, Segment, Side, WINDOW,
};
use crate::sim::sleep;
use crate::sim::world::{try_with, with};

/// Bytes go out in pieces of at most this, so that reads and faults fall between them.
const SEGMENT: usize = 16 * 1024;
/// Ports given out for port 0.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// A machine's network.
#[derive(Clone, Debug)]
pub struct SimNet {
    pub(in crate::sim) node: NodeId,
}

fn bad(addr: &str, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{addr}: {why}"))
}

impl SimNet {
    /// `n3:2380` is port 2380 of machine 3; the loopback names and addresses are the machine itself.
    fn resolve(&self, addr: &str) -> io::Result<(NodeId, u16)> {
        let (host, port) = addr.rsplit_once(':').ok_or_else(|| bad(addr, "no port"))?;
        let port = port.parse().map_err(|_| bad(addr, "no port"))?;
        let node = match host {
            "localhost" | "127.0.0.1" | "[::1]" | "0.0.0.0" | "[::]" | "" => self.node,
            _ => {
                let number = host.strip_prefix('n').and_then(|n| n.parse().ok());
                NodeId(number.ok_or_else(|| bad(addr, "unknown host"))?)
            }
        };
        Ok((node, port))
    }
}

impl Net for SimNet {
    type Listener = SimListener;
    type Conn = SimConn;

    async fn listen(&self, addr: &str) -> io::Result<SimListener> {
        let (node, port) = self.resolve(addr)?;
        if node != self.node {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        with(|w| {
            let taken = |port: u16| w.net.listening.contains_key(&(node, port));
            let port = match port {
                0 => EPHEMERAL.into_iter().find(|p| !taken(*p)),
                _ => (!taken(port)).then_some(port),
            };
            let port = port.ok_or(io::ErrorKind::AddrInUse)?;
            let number = w.net.number();
            let listening = Listening {
                number,
                backlog: VecDeque::new(),
                waker: None,
            };
            w.net.listening.insert((node, port), listening);
            Ok(SimListener { node, port, number })
        })
    }

    async fn connect(&self, addr: &str) -> io::Result<SimConn> {
        let (from, (to, port)) = (self.node, self.resolve(addr)?);
        for attempt in 0..=SYN_RETRIES {
            sleep(Duration::from_nanos(with(|w| w.net_delay(from, to)))).await;
            // A lost packet of the handshake, either way, is only noticed by silence.
            if with(|w| w.net_reaches(from, to) && w.net_reaches(to, from)) {
                let listening = with(|w| w.net.listening.get(&(to, port)).map(|l| l.backlog.len()));
                let conn = with(|w| w.net_connect(from, to, port)).map(|id| SimConn {
                    end: Half { id, side: 0 },
                    split: false,
                });
                if conn.is_some() || listening.is_none_or(|waiting| waiting < BACKLOG) {
                    sleep(Duration::from_nanos(with(|w| w.net_delay(to, from)))).await;
                    return conn.ok_or_else(|| io::ErrorKind::ConnectionRefused.into());
                }
            }
            sleep(SYN_RETRY * 2u32.pow(attempt)).await;
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

#[derive(Debug)]
pub struct SimListener {
    node: NodeId,
    port: u16,
    number: u64,
}

impl Listener for SimListener {
    type Conn = SimConn;

    async fn accept(&mut self) -> io::Result<SimConn> {
        poll_fn(|cx| {
            with(|w| {
                let listening = w.net.listening.get_mut(&(self.node, self.port));
                let Some(listening) = listening.filter(|l| l.number == self.number) else {
                    let gone = io::Error::other("this listener's process has died");
                    return Poll::Ready(Err(gone));
                };
                match listening.backlog.pop_front() {
                    Some(id) => Poll::Ready(Ok(SimConn {
                        end: Half { id, side: 1 },
                        split: false,
                    })),
                    None => {
                        listening.waker = Some(cx.waker().clone());
                        Poll::Pending
                    }
                }
            })
        })
        .await
    }

    fn local_addr(&self) -> String {
        format!("{}:{}", self.node, self.port)
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let at = (self.node, self.port);
        try_with(|w| {
            if w.net.listening.get(&at).map(|l| l.number) == Some(self.number)
                && let Some(listening) = w.net.listening.remove(&at)
            {
                for id in listening.backlog {
                    w.net_close(id, 1, true, true);
                }
            }
        });
    }
}

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
struct Half {
    id: ConnId,
    side: Side,
}

#[derive(Debug)]
pub struct SimConn {
    end: Half,
    split: bool,
}
#[derive(Debug)]
pub struct SimRead(Half);
#[derive(Debug)]
pub struct SimWrite(Half);

impl Conn for SimConn {
    type Read = SimRead;
    type Write = SimWrite;
    fn split(mut self) -> (SimRead, SimWrite) {
        self.split = true;
        (SimRead(self.end), SimWrite(self.end))
    }
}

impl Drop for SimConn {
    fn drop(&mut self) {
        if !self.split {
            try_with(|w| w.net_close(self.end.id, self.end.side, true, true));
        }
    }
}
impl Drop for SimRead {
    fn drop(&mut self) {
        try_with(|w| w.net_close(self.0.id, self.0.side, true, false));
    }
}
impl Drop for SimWrite {
    fn drop(&mut self) {
        try_with(|w| w.net_close(self.0.id, self.0.side, false, true));
    }
}

impl Half {
    fn poll_read(self, buf: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        with(|w| {
            let Some(connection) = w.net.connections.get_mut(&self.id) else {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            };
            let end = connection.ends[self.side];
            let pipe = &mut connection.pipes[1 - self.side];
            if pipe.arrived.is_empty() {
                return if end.reset || !end.reading {
                    Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
                } else if pipe.ended {
                    Poll::Ready(Ok(0))
                } else {
                    pipe.reader = Some(cx.waker().clone());
                    Poll::Pending
                };
            }
            // Usually everything that is there; sometimes the read stops in the middle of a piece.
            let there: usize = pipe.arrived.iter().map(Bytes::len).sum();
            let mut left = if w.rng.chance(0.1) {
                1 + w.rng.below(there as u64) as usize
            } else {
                there
            };
            let mut taken = 0;
            while left > 0
                && let Some(piece) = pipe.arrived.front_mut()
            {
                let n = piece.len().min(left);
                buf.extend_from_slice(&piece[..n]);
                piece.advance(n);
                if piece.is_empty() {
                    pipe.arrived.pop_front();
                }
                left -= n;
                taken += n;
            }
            pipe.unread -= taken;
            if let Some(waker) = pipe.writer.take() {
                waker.wake();
            }
            Poll::Ready(Ok(taken))
        })
    }

    fn poll_write(self, data: &mut Bytes, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with(|w| {
            while !data.is_empty() {
                let Some(connection) = w.net.connections.get_mut(&self.id) else {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                };
                let end = connection.ends[self.side];
                if end.reset || !end.writing {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                let pipe = &mut connection.pipes[self.side];
                if pipe.unread >= WINDOW {
                    pipe.writer = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                let piece = data.split_to(data.len().min(SEGMENT));
                w.net_send(self.id, self.side, Segment::Data(piece));
            }
            Poll::Ready(Ok(()))
        })
    }
}

impl ReadHalf for SimRead {
    async fn read(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        poll_fn(|cx| self.0.poll_read(buf, cx)).await
    }
}

impl WriteHalf for SimWrite {
    async fn write_all(&mut self, mut data: Bytes) -> io::Result<()> {
        poll_fn(|cx| self.0.poll_write(&mut data, cx)).await
    }
}
