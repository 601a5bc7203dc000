//! Listening sockets: bound before anything else starts, so that a taken port is an error of the start. They listen only once
//! somebody serves them: until then a client is refused, and goes on to the next endpoint, instead of waiting in a queue.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::limits::{LISTEN_BACKLOG, TCP_KEEPALIVE_IDLE, TCP_KEEPALIVE_INTERVAL};
use crate::tls::Tls;

/// A bound socket: nobody else gets its port from here on, and connections are refused until [`crate::start`] serves it.
#[derive(Debug)]
pub struct Listening {
    pub(crate) socket: TcpListener,
    pub(crate) tls: Option<Arc<Tls>>,
    address: SocketAddr,
}

impl Listening {
    /// The bound address; tells the port when port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From here on the kernel queues connections. An error if another process bound the port too, and listened first.
    pub(crate) fn listen(&self) -> io::Result<()> {
        SockRef::from(&self.socket).listen(LISTEN_BACKLOG)
    }
}

/// Of the addresses of a name, the one to bind: as Go's `net.Listen`, an IPv4 address before others. Clients that are told
/// `localhost` try that first, or nothing else.
fn preferred(resolved: &[SocketAddr]) -> Option<SocketAddr> {
    let v4 = resolved.iter().find(|address| address.is_ipv4());
    v4.or(resolved.first()).copied()
}

/// Binds `host:port`; a name that resolves to several addresses means one of them (an IPv4 address, if there is any).
pub fn bind(address: &str, tls: Option<Arc<Tls>>) -> io::Result<Listening> {
    let resolved: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    let resolved = preferred(&resolved).ok_or_else(|| {
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
    socket.set_nonblocking(true)?;
    let socket = TcpListener::from(socket);
    Ok(Listening {
        address: socket.local_addr()?,
        socket,
        tls,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_addresses_of_both_kinds_means_the_first_ipv4_one() {
        let chosen = |resolved: &[&str]| {
            let resolved: Vec<SocketAddr> = resolved.iter().map(|a| a.parse().unwrap()).collect();
            preferred(&resolved).map(|address| address.to_string())
        };
        for (resolved, expected) in [
            (&["[::1]:1", "127.0.0.1:1"][..], Some("127.0.0.1:1")),
            (&["10.0.0.1:1", "[::1]:1", "10.0.0.2:1"], Some("10.0.0.1:1")),
            (&["[::1]:1", "[::2]:1"], Some("[::1]:1")),
            (&[], None),
        ] {
            assert_eq!(chosen(resolved).as_deref(), expected, "{resolved:?}");
        }
    }

    #[test]
    fn a_bound_port_is_taken_once_it_listens_and_refuses_until_then() {
        let listening = bind("127.0.0.1:0", None).unwrap();
        let address = listening.address();
        let refused = std::net::TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        listening.listen().unwrap();
        std::net::TcpStream::connect(address).unwrap();
        let taken = bind(&address.to_string(), None).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }
}
