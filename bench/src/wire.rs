//! Bytes on the loopback interface, where all members of a bench talk: what the kernel counted, whoever says what it sent.
//! Not here: whose bytes they are. Other programs of the machine that use the interface are counted too.

use std::time::Instant;

/// All bytes received on the loopback interface since the machine started.
pub fn bytes() -> Option<u64> {
    loopback(&std::fs::read_to_string("/proc/net/dev").ok()?)
}

fn loopback(devices: &str) -> Option<u64> {
    let line = devices
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("lo:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Bytes from some moment on that go beyond a steady rate.
#[derive(Clone, Copy, Debug)]
pub struct Beyond {
    from: u64,
    since: Instant,
    rate: f64,
}

impl Beyond {
    /// `rate`: bytes per second of what goes on anyway.
    pub fn new(rate: f64) -> Beyond {
        Beyond {
            from: bytes().unwrap_or(0),
            since: Instant::now(),
            rate,
        }
    }

    /// NaN where the kernel does not tell.
    pub fn bytes(&self) -> f64 {
        let all = bytes().map_or(f64::NAN, |now| now.saturating_sub(self.from) as f64);
        all - self.rate * self.since.elapsed().as_secs_f64()
    }

    /// Bytes per second since then.
    pub fn per_second(&self) -> f64 {
        self.bytes() / self.since.elapsed().as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_line_is_found_among_others() {
        let devices =
            " face |bytes packets\n  eth0: 7 1 0\n    lo:    3193      29    0 0 0 0 0 0 3193 29\n";
        assert_eq!(loopback(devices), Some(3193));
        assert_eq!(loopback("eth0: 1 2"), None);
    }

    #[test]
    fn what_goes_over_loopback_is_counted() {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let beyond = Beyond::new(0.0);
        let mut out = std::net::TcpStream::connect(addr).unwrap();
        let (mut taken, _) = listener.accept().unwrap();
        out.write_all(&[7; 50_000]).unwrap();
        drop(out);
        taken.read_to_end(&mut Vec::new()).unwrap();
        assert!(beyond.bytes() >= 50_000.0 && beyond.per_second() > 0.0);
    }
}
