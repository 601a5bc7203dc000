//! The command line: faults and how much of each. Durations are such as 90s, 10m or 1h.

use std::path::PathBuf;
use std::time::Duration;

use barque_tests_nemesis::mount::FileSystem;
use clap::{Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(
    name = "nemesis",
    version,
    about = "Runs members under faults and judges them by what their clients saw"
)]
pub struct Args {
    #[command(subcommand)]
    pub fault: Fault,
    /// Chance's seed; from the clock when not given
    #[arg(long, global = true)]
    pub seed: Option<u64>,
    /// The program under test [default: BARQUE_BIN, or the one beside this program]
    #[arg(long, global = true)]
    pub barque: Option<PathBuf>,
    /// Test this etcd instead, to compare
    #[arg(long, global = true, conflicts_with = "barque")]
    pub etcd: Option<PathBuf>,
    /// "etcd" tests the one that BARQUE_PEER_ETCD names
    #[arg(long, global = true, value_enum, default_value_t = Server::Barque, conflicts_with_all = ["barque", "etcd"])]
    pub server: Server,
    /// Also write the report to this file, as markdown
    #[arg(long, global = true)]
    pub report: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Server {
    Barque,
    Etcd,
}

#[derive(Subcommand)]
pub enum Fault {
    /// kill -9 at random moments under load; with several members also two at a time
    Kill {
        /// How long the load lasts
        #[arg(long = "for", alias = "seconds", default_value = "1m", value_parser = duration)]
        lasting: Duration,
        #[arg(long, default_value_t = 20)]
        kills: u32,
        #[arg(long, default_value_t = 1)]
        members: usize,
    },
    /// kill -9 of all members at once
    KillAll {
        /// How long the load lasts
        #[arg(long = "for", alias = "seconds", default_value = "2m", value_parser = duration)]
        lasting: Duration,
        /// Times that all are killed
        #[arg(long, default_value_t = 20)]
        kills: u32,
        #[arg(long, default_value_t = 3)]
        members: usize,
    },
    /// The power of the data directories' file systems is cut under load (root)
    Power {
        /// Cuts of all members at once
        #[arg(long, default_value_t = 20)]
        cuts: u32,
        /// Cuts of one member, in between
        #[arg(long, default_value_t = 0)]
        cuts_of_one: u32,
        #[arg(long, value_enum, default_value_t = Fs::Ext4)]
        fs: Fs,
        /// Load between two cuts, about
        #[arg(long, default_value = "2s", value_parser = duration)]
        between: Duration,
        /// A disk that only says that it has synced: the run must fail (gcc)
        #[arg(long)]
        lying_disk: bool,
        #[arg(long, default_value_t = 1)]
        members: usize,
    },
    /// Members stand still (SIGSTOP) for longer than a lease and an election, and go on
    Pause {
        #[arg(long, default_value_t = 20)]
        pauses: u32,
        /// Load between two pauses, about
        #[arg(long, default_value = "2s", value_parser = duration)]
        between: Duration,
        #[arg(long, default_value_t = 3)]
        members: usize,
    },
    /// Links between members are cut, wholly or in one direction (root)
    Partition {
        #[arg(long, default_value_t = 20)]
        partitions: u32,
        /// Load between two partitions, about
        #[arg(long, default_value = "2s", value_parser = duration)]
        between: Duration,
        #[arg(long, default_value_t = 3)]
        members: usize,
    },
    /// Every core busy and every sync slow, and nobody gone: the term must not change (gcc)
    FullCpu {
        /// How long the load lasts
        #[arg(long = "for", alias = "seconds", default_value = "10m", value_parser = duration)]
        lasting: Duration,
        /// Threads that only burn; 0: two a core
        #[arg(long, default_value_t = 0)]
        burners: usize,
        /// Milliseconds that each sync takes longer, from and to; 0 0: none
        #[arg(long, num_args = 2, default_values_t = [5, 50])]
        slow_sync: Vec<u32>,
        #[arg(long, default_value_t = 3)]
        members: usize,
    },
    /// A minority is lost, then the majority, then one comes back
    Five {
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        #[arg(long, default_value_t = 5)]
        members: usize,
    },
    /// Every member is stopped by SIGTERM and started again, in turn, under load
    Rolling {
        #[arg(long, default_value_t = 10)]
        rounds: u32,
        #[arg(long, default_value_t = 3)]
        members: usize,
        /// The longest a writer may be without an acknowledged write around a stop of the leader
        #[arg(long, default_value = "100ms", value_parser = duration)]
        gap_of_leader: Duration,
        /// The same, of another member
        #[arg(long, default_value = "150ms", value_parser = duration)]
        gap: Duration,
    },
    /// One call to the disk fails (gcc)
    Error {
        /// Which; all of them when not given
        #[arg(long, value_enum)]
        kind: Option<ErrorKind>,
        /// All calls of the kind fail from then on
        #[arg(long)]
        always: bool,
        /// How often, of each kind
        #[arg(long, default_value_t = 1)]
        times: u32,
        /// How soon the process must be gone
        #[arg(long, default_value = "1s", value_parser = duration)]
        within: Duration,
    },
    /// One bit of the stopped member's files is flipped, again and again
    Flip {
        #[arg(long, default_value_t = 1000)]
        flips: u32,
        /// Writes in the directory
        #[arg(long, default_value_t = 300)]
        writes: u32,
    },
}

impl Fault {
    pub fn name(&self) -> &'static str {
        match self {
            Fault::Kill { .. } => "kill",
            Fault::KillAll { .. } => "kill-all",
            Fault::Power { .. } => "power",
            Fault::Pause { .. } => "pause",
            Fault::Partition { .. } => "partition",
            Fault::FullCpu { .. } => "full-cpu",
            Fault::Five { .. } => "five",
            Fault::Rolling { .. } => "rolling",
            Fault::Error { .. } => "error",
            Fault::Flip { .. } => "flip",
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Fs {
    Ext4,
    Xfs,
    /// Members have one and the other, in turn
    Both,
}

impl Fs {
    pub fn systems(self) -> Vec<FileSystem> {
        match self {
            Fs::Ext4 => vec![FileSystem::Ext4],
            Fs::Xfs => vec![FileSystem::Xfs],
            Fs::Both => vec![FileSystem::Ext4, FileSystem::Xfs],
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum ErrorKind {
    Write,
    Fdatasync,
    Rename,
    Dirsync,
}

/// A number of seconds, or a number with its unit.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration such as 90s, 10m or 1h");
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..unit_at].parse().map_err(|_| bad())?;
    let milliseconds = match &text[unit_at..] {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    number
        .checked_mul(milliseconds)
        .map(Duration::from_millis)
        .ok_or_else(bad)
}
