//! URLs of flags: which are taken, and what they say.

use crate::Failure;

/// `host:port` of a URL, and whether it asks for TLS. `flag` names where it stands.
pub fn address(flag: &str, url: &str) -> Result<(String, bool), Failure> {
    let (rest, tls) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
        (Some(rest), _) => (rest, false),
        (_, Some(rest)) => (rest, true),
        _ => {
            return Err(Failure::new(format!(
                "--{flag}: {url:?} is not a URL; it should look like http://127.0.0.1:2379"
            )));
        }
    };
    let address = rest.strip_suffix('/').unwrap_or(rest);
    match address.rsplit_once(':') {
        Some((host, port)) if is_host(host) && port.parse::<u16>().is_ok() => {
            Ok((address.to_owned(), tls))
        }
        _ => Err(Failure::new(format!(
            "--{flag}: {url:?} names no host and port; it should look like http://127.0.0.1:2379"
        ))),
    }
}

/// A name, an IPv4 address, or an IPv6 address in brackets (with a zone, perhaps).
fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => {
            let address = v6.split('%').next().unwrap_or(v6);
            address.parse::<std::net::Ipv6Addr>().is_ok()
        }
        None => {
            let named = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            !host.is_empty() && host.chars().all(named)
        }
    }
}

/// Whether only this machine reaches it. `address` as from [`address`].
pub fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (url, expected) in [
            ("https://127.0.0.1:1", ("127.0.0.1:1", true)),
            ("http://[::1]:2379/", ("[::1]:2379", false)),
            ("http://node_1.example:80", ("node_1.example:80", false)),
            ("http://0.0.0.0:0", ("0.0.0.0:0", false)),
        ] {
            let (host_port, tls) = address("f", url).unwrap();
            assert_eq!((host_port.as_str(), tls), expected);
        }
        for bad in [
            "127.0.0.1:1",
            "http://",
            "http://h",
            "http://h:x",
            "http://h:70000",
            "http://:1",
            "http://::1:1",
            "http://h:1/path",
            "http://user@h:1",
            "unix://x:1",
        ] {
            let refused = address("f", bad).unwrap_err().to_string();
            assert!(refused.starts_with("--f: "), "{bad}: {refused}");
        }
    }

    #[test]
    fn loopback() {
        for here in ["localhost:1", "127.0.0.2:1", "[::1]:1"] {
            assert!(is_loopback(here), "{here}");
        }
        for anywhere in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "localhost.example:1"] {
            assert!(!is_loopback(anywhere), "{anywhere}");
        }
    }
}
