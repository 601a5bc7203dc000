//! Describes the machine a figure was measured on: a figure without it means nothing.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Void;

pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_gib: u64,
    pub system: String,
    pub kernel: String,
    pub file_system: String,
    /// Median of one appending write of 4 KiB with its fdatasync, one at a time.
    pub fdatasync: Duration,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} x {}, {} GiB, {}, Linux {}, {}, one appended 4 KiB + fdatasync {} us",
            self.cores,
            self.cpu,
            self.memory_gib,
            self.system,
            self.kernel,
            self.file_system,
            self.fdatasync.as_micros()
        )
    }
}

/// `dir`: where the data directories will be; the system's temporary directory when not given.
pub fn describe(dir: Option<&Path>) -> Result<Machine, Void> {
    let temp = std::env::temp_dir();
    let dir = dir.unwrap_or(&temp);
    let failed = || Void::io(format!("measuring fdatasync in {}", dir.display()));
    Ok(Machine {
        cpu: field("/proc/cpuinfo", "model name", ':').unwrap_or_else(|| "unknown CPU".into()),
        cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
        memory_gib: memory_gib(),
        system: field("/etc/os-release", "PRETTY_NAME", '=').unwrap_or_else(|| "unknown".into()),
        kernel: read("/proc/sys/kernel/osrelease"),
        file_system: file_system(dir),
        fdatasync: fdatasync(dir).map_err(failed())?,
    })
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn field(path: &str, name: &str, separator: char) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    let (_, value) = line.split_once(separator)?;
    Some(value.trim().trim_matches('"').to_owned())
}

fn memory_gib() -> u64 {
    let total = field("/proc/meminfo", "MemTotal", ':').unwrap_or_default();
    let kib: u64 = total
        .split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    // Rounded: the kernel keeps a little for itself.
    (kib + (1 << 19)) >> 20
}

/// The type of the mount that holds `dir`: the one with the longest matching mount point.
fn file_system(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mount_type(&mounts, &dir).unwrap_or_else(|| "unknown file system".into())
}

fn mount_type(mounts: &str, dir: &Path) -> Option<String> {
    let holding = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (point, kind) = (words.next()?, words.next()?);
        dir.starts_with(point).then_some((point.len(), kind))
    });
    // The last of equals hides the others.
    holding
        .max_by_key(|(len, _)| *len)
        .map(|(_, kind)| kind.to_owned())
}

fn fdatasync(dir: &Path) -> io::Result<Duration> {
    let mut file = tempfile::tempfile_in(dir)?;
    let mut times = Vec::new();
    for _ in 0..101 {
        let start = Instant::now();
        file.write_all(&[1; 4096])?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_counts() {
        let mounts = "a / ext4 rw 0 0\nb /tmp tmpfs rw 0 0\nc /tmpx xfs rw 0 0\n";
        let kind = |dir: &str| mount_type(mounts, Path::new(dir)).unwrap();
        assert_eq!(kind("/tmp/x"), "tmpfs");
        assert_eq!(kind("/tmpx"), "xfs");
        assert_eq!(kind("/home"), "ext4");
    }

    #[test]
    fn this_machine_can_be_described() {
        let machine = describe(None).unwrap();
        assert!(
            machine.cores >= 1 && machine.memory_gib >= 1 && machine.fdatasync > Duration::ZERO
        );
    }
}
