//! `nemesis`: real processes under faults, judged by history. Exit status: 0 passed, 1 a promise was broken, 2 nothing was proved.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use barque_tests_nemesis::disk_error::{self, Kind};
use barque_tests_nemesis::member::Program;
use barque_tests_nemesis::mount::FileSystem;
use barque_tests_nemesis::report::Report;
use barque_tests_nemesis::{Failure, flip, kills, power};
use clap::{Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(
    name = "nemesis",
    version,
    about = "Runs a member under faults and judges it by what its clients saw"
)]
struct Args {
    #[command(subcommand)]
    fault: Fault,
    /// Chance's seed; from the clock when not given
    #[arg(long, global = true)]
    seed: Option<u64>,
    /// The program under test [default: BARQUE_BIN, or the one beside this program]
    #[arg(long, global = true)]
    barque: Option<PathBuf>,
    /// Test this etcd instead, to compare
    #[arg(long, global = true, conflicts_with = "barque")]
    etcd: Option<PathBuf>,
    /// Also write the report to this file, as markdown
    #[arg(long, global = true)]
    report: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Fault {
    /// kill -9 at random moments under load
    Kill {
        /// How long the load lasts, such as 90s, 10m or 1h
        #[arg(long = "for", default_value = "1m", value_parser = duration)]
        lasting: Duration,
        #[arg(long, default_value_t = 20)]
        kills: u32,
    },
    /// The power of the data directory's file system is cut under load (root)
    Power {
        #[arg(long, default_value_t = 20)]
        cuts: u32,
        #[arg(long, value_enum, default_value_t = Fs::Ext4)]
        fs: Fs,
        /// Load between two cuts, about
        #[arg(long, default_value = "2s", value_parser = duration)]
        between: Duration,
        /// A disk that only says that it has synced: the run must fail (gcc)
        #[arg(long)]
        lying_disk: bool,
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

#[derive(Clone, Copy, ValueEnum)]
enum Fs {
    Ext4,
    Xfs,
}

#[derive(Clone, Copy, ValueEnum)]
enum ErrorKind {
    Write,
    Fdatasync,
    Rename,
    Dirsync,
}

fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration such as 90s, 10m or 1h");
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let number: u64 = text[..unit_at].parse().map_err(|_| bad())?;
    let milliseconds = match &text[unit_at..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    number
        .checked_mul(milliseconds)
        .map(Duration::from_millis)
        .ok_or_else(bad)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_secs())
    });
    eprintln!("seed {seed}");
    // One thread: the member needs the machine's cores.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(cause) => {
            eprintln!("void: no runtime: {cause}");
            return ExitCode::from(2);
        }
    };
    // Ends by returning, so that members and mounts go with their values.
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = run(&args, seed) => outcome,
            () = interrupted() => Err(Failure::Interrupted),
        }
    });
    let name = match args.fault {
        Fault::Kill { .. } => "kill",
        Fault::Power { .. } => "power",
        Fault::Error { .. } => "error",
        Fault::Flip { .. } => "flip",
    };
    match outcome {
        Ok(reports) => {
            let text: Vec<String> = reports.iter().map(Report::to_string).collect();
            let text = text.join("\n");
            print!("{text}");
            match args
                .report
                .map(|path| std::fs::write(&path, &text).map_err(|e| (path, e)))
            {
                Some(Err((path, cause))) => {
                    eprintln!("{}: {cause}", path.display());
                    ExitCode::from(2)
                }
                _ => ExitCode::SUCCESS,
            }
        }
        Err(Failure::Violated(what)) => {
            println!("FAILED nemesis {name}, seed {seed}:\n{}", what.join("\n"));
            ExitCode::FAILURE
        }
        Err(Failure::Skip(why)) => {
            println!("SKIP nemesis {name}: {why}");
            ExitCode::from(2)
        }
        Err(other) => {
            eprintln!("nemesis {name}, seed {seed}: {other}");
            ExitCode::from(2)
        }
    }
}

async fn run(args: &Args, seed: u64) -> Result<Vec<Report>, Failure> {
    let program = match (&args.barque, &args.etcd) {
        (Some(path), _) => Program::Barque(path.clone()),
        (None, Some(path)) => Program::Etcd(path.clone()),
        (None, None) => Program::barque()?,
    };
    match args.fault {
        Fault::Kill { lasting, kills } => {
            let options = kills::Options {
                program,
                seed,
                lasting,
                kills,
            };
            Ok(vec![kills::run(&options).await?])
        }
        Fault::Power {
            cuts,
            fs,
            between,
            lying_disk,
        } => {
            let options = power::Options {
                program,
                seed,
                cuts,
                file_system: match fs {
                    Fs::Ext4 => FileSystem::Ext4,
                    Fs::Xfs => FileSystem::Xfs,
                },
                between,
                lying_disk,
            };
            Ok(vec![power::run(&options).await?])
        }
        Fault::Error {
            kind,
            always,
            times,
            within,
        } => {
            let kinds = match kind {
                None => Kind::ALL.to_vec(),
                Some(ErrorKind::Write) => vec![Kind::Write],
                Some(ErrorKind::Fdatasync) => vec![Kind::Fdatasync],
                Some(ErrorKind::Rename) => vec![Kind::Rename],
                Some(ErrorKind::Dirsync) => vec![Kind::Dirsync],
            };
            let mut reports = Vec::new();
            for n in 0..u64::from(times) {
                for kind in &kinds {
                    let options = disk_error::Options {
                        program: program.clone(),
                        seed: seed + n,
                        kind: *kind,
                        always,
                        within,
                    };
                    reports.push(disk_error::run(&options).await?);
                }
            }
            Ok(reports)
        }
        Fault::Flip { flips, writes } => {
            let options = flip::Options {
                program,
                seed,
                flips,
                writes,
            };
            Ok(vec![flip::run(&options).await?])
        }
    }
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
