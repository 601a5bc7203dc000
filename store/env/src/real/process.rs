//! What the kernel tells of this process, for metrics. Read anew at each call; what cannot be read is left out.

use std::fs;

use nix::time::{ClockId, clock_gettime};

/// Figures of this process. Units as Prometheus' `process_*` metrics have them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessStats {
    pub cpu_seconds: Option<f64>,
    pub open_fds: Option<u64>,
    /// The soft limit.
    pub max_fds: Option<u64>,
    pub resident_bytes: Option<u64>,
    pub virtual_bytes: Option<u64>,
    /// Seconds since 1970.
    pub start_time_seconds: Option<f64>,
}

/// The unit of times in `/proc`, per second: part of the kernel's interface, 100 on every architecture we build for.
const USER_HZ: f64 = 100.0;

pub fn process_stats() -> ProcessStats {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let kib = |name: &str| Some(number(&status, name, 0)?.saturating_mul(1024));
    ProcessStats {
        cpu_seconds: clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)
            .ok()
            .map(|t| t.tv_sec() as f64 + t.tv_nsec() as f64 / 1e9),
        // Reading the directory opens one more.
        open_fds: fs::read_dir("/proc/self/fd")
            .ok()
            .map(|entries| (entries.count() as u64).saturating_sub(1)),
        max_fds: number(&limits, "Max open files", 0),
        resident_bytes: kib("VmRSS:"),
        virtual_bytes: kib("VmSize:"),
        start_time_seconds: start_time(),
    }
}

/// Word number `word` after `name` at the beginning of a line.
fn number(text: &str, name: &str, word: usize) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().nth(word)?.parse().ok()
}

fn start_time() -> Option<f64> {
    let booted = number(&fs::read_to_string("/proc/stat").ok()?, "btime", 0)?;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything; field 22 is the 20th after it.
    let after = stat.rsplit_once(')')?.1;
    let ticks: f64 = after.split_whitespace().nth(19)?.parse().ok()?;
    Some(booted as f64 + ticks / USER_HZ)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_known() {
        let stats = process_stats();
        assert!(stats.resident_bytes.unwrap() > 1 << 20, "{stats:?}");
        assert!(stats.virtual_bytes >= stats.resident_bytes, "{stats:?}");
        assert!(stats.open_fds.unwrap() >= 3, "{stats:?}");
        assert!(stats.max_fds >= stats.open_fds, "{stats:?}");
        assert!(stats.cpu_seconds.unwrap() >= 0.0, "{stats:?}");
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs_f64();
        let age = now - stats.start_time_seconds.unwrap();
        assert!((-2.0..86_400.0).contains(&age), "started {age} s ago");
    }
}
