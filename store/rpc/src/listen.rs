//! Listening sockets: bound before anything else starts, so that a taken port is an error of the start.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;

use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::limits::{LISTEN_BACKLOG, TCP_KEEPALIVE_IDLE, TCP_KEEPALIVE_INTERVAL};

/// A bound socket. The kernel queues connections from here on; they are answered once the server runs.
#[derive(Debug)]
pub struct Listening {
    pub(crate) socket: TcpListener,
    pub(crate) tls: Option<Arc<ServerConfig>>,
    address: SocketAddr,
}

impl Listening {
    /// The bound address; tells the port when port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Binds `host:port` (a name means the first address it resolves to).
pub fn bind(address: &str, tls: Option<Arc<ServerConfig>>) -> io::Result<Listening> {
    let resolved = address.to_socket_addrs()?.next().ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "the name resolves to no address")
    })?;
    let socket = Socket::new(
        Domain::for_address(resolved),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A restarted server must not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&resolved.into())?;
    // Accepted sockets inherit it.
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(TCP_KEEPALIVE_IDLE)
            .with_interval(TCP_KEEPALIVE_INTERVAL),
    )?;
    socket.listen(LISTEN_BACKLOG)?;
    socket.set_nonblocking(true)?;
    let socket = TcpListener::from(socket);
    Ok(Listening {
        address: socket.local_addr()?,
        socket,
        tls,
    })
}
