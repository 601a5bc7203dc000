//! Ports for servers that come and go.
//! Promise: none of them is one the kernel gives to outgoing connections. While a member is down its port would else be taken by
//! some client, and its peers, dialling it, could even be connected to themselves.

use std::io;
use std::net::TcpListener;
use std::time::SystemTime;

/// Below it stand well-known services.
const LOWEST: u16 = 10_000;

/// So many ports nobody listens on. All are held until all are found, so that they differ.
pub fn free(count: usize) -> io::Result<Vec<u16>> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let end = first_outgoing(&range.unwrap_or_default());
    let span = usize::from(end.saturating_sub(LOWEST));
    let mut held = Vec::new();
    // Runs beside each other begin at different places.
    let begin = some_number() % span.max(1);
    for n in 0..span {
        if held.len() == count {
            break;
        }
        let offset = u16::try_from((begin + n) % span).expect("it is below the span, a u16");
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", LOWEST + offset)) {
            held.push(listener);
        }
    }
    // A machine set up so that there are none below: better than nothing.
    while held.len() < count {
        held.push(TcpListener::bind("127.0.0.1:0")?);
    }
    held.iter().map(|l| Ok(l.local_addr()?.port())).collect()
}

fn some_number() -> usize {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanos = now.map_or(0, |now| now.subsec_nanos());
    (nanos ^ std::process::id().rotate_left(12)) as usize
}

fn first_outgoing(range: &str) -> u16 {
    let first = range.split_whitespace().next();
    first.and_then(|port| port.parse().ok()).unwrap_or(32_768)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ_and_are_not_those_of_clients() {
        let mut ports = free(20).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 20);
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let end = first_outgoing(&range);
        assert!(end < 12_000 || ports.iter().all(|port| *port < end));
        assert_eq!(first_outgoing("20000\t60999\n"), 20_000);
        assert_eq!(first_outgoing(""), 32_768);
    }
}
