//! `barque-bench`: the same load against Barque and against a real etcd, in one run, alternating; reports ratios.
//! Promise: both sides get the same client, the same bytes, the same disk and the same order of rounds turned around
//! each time; a run in which one of the two could not be measured is void and exits non-zero.
//! Not here: goals, but for the few that a report names as a bar. The report says what is.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

mod ask;
mod client;
mod cluster;
mod election;
mod elections;
mod fate;
mod find;
mod handover;
mod join;
mod limits;
mod load;
mod machine;
mod member;
mod memory;
mod ports;
mod probe;
mod reads;
mod report;
mod restart;
mod roam;
mod rounds;
mod setup;
mod space;
mod table;
mod wire;
mod work;

#[derive(Parser)]
#[command(
    name = "barque-bench",
    version,
    about = "Measures Barque beside a real etcd, in one run"
)]
struct Args {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Puts in a closed loop: every client sends its next when the last was acknowledged
    Put(PutArgs),
    /// Bytes on disk over live bytes after overwriting with compaction behind, and writes meanwhile
    Space(space::Args),
    /// From the start of a process that was killed under load to its first linearizable read
    Restart(restart::Args),
    /// The most memory a server ever held over load, overwriting and full reads
    Memory(memory::Args),
    /// Point and range reads, of few keys and of all
    Reads(reads::Args),
    /// How long writes stand still when the leader of three is killed or paused
    Election(election::Args),
    /// What clients see when a leader is told to stop, and during a rolling restart
    Handover(handover::Args),
    /// A learner joins three members that hold much data, with and without being killed on its way
    Join(join::Args),
    /// Whether a busy machine alone makes members vote
    Elections(elections::Args),
}

/// What the put scenario is asked to do.
#[derive(Clone, Debug, clap::Args)]
pub struct PutArgs {
    /// Sizes of the clusters to measure
    #[arg(long, value_delimiter = ',', default_values_t = [1])]
    members: Vec<usize>,
    /// Numbers of clients, each with a connection of its own
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100])]
    clients: Vec<usize>,
    /// Measured rounds of each side
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds measured per round
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Seconds of the same load before each round, not counted
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    #[arg(long, default_value_t = 32)]
    key_bytes: usize,
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Distinct keys
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    #[command(flatten)]
    asked: find::Asked,
    /// Also write the figures of every round to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Why there is no result. A run is void, never "passed", when one side could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum Void {
    #[error("{what}: {cause}")]
    Io { what: String, cause: std::io::Error },
    #[error("{0}")]
    Peer(String),
    #[error("{0}")]
    Barque(String),
    #[error("{who} did not become ready: {why}\n{log}")]
    NotReady {
        who: String,
        why: String,
        log: String,
    },
    #[error("{who}: {why}")]
    Load { who: String, why: String },
    #[error("{0}")]
    Asked(String),
    #[error("interrupted")]
    Interrupted,
}

impl Void {
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Void {
        let what = what.into();
        move |cause| Void::Io { what, cause }
    }
}

impl PutArgs {
    fn check(&self) -> Result<(), Void> {
        let asked = |what: &str| Err(Void::Asked(what.to_owned()));
        if self
            .members
            .iter()
            .any(|members| !(1..=9).contains(members))
        {
            return asked("--members: between 1 and 9");
        }
        if self.clients.is_empty() || self.clients.contains(&0) {
            return asked("--clients: at least one");
        }
        if self
            .clients
            .iter()
            .any(|clients| *clients > limits::CLIENTS_MAX)
        {
            return asked("--clients: more than this one process can drive fairly");
        }
        if self.rounds == 0 || self.keys == 0 {
            return asked("--rounds and --keys: at least 1");
        }
        if !(self.seconds > 0.0 && self.seconds <= 3600.0 && (0.0..=3600.0).contains(&self.warm_up))
        {
            return asked("--seconds and --warm-up: at most an hour");
        }
        if self.key_bytes < load::KEY_BYTES_MIN {
            return asked("--key-bytes: too short to tell the keys apart");
        }
        Ok(())
    }

    fn window(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warm_up)
    }
}

fn main() -> ExitCode {
    let Args { scenario } = Args::parse();
    // One thread: the generator must not take both of a small machine's cores from the server.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(cause) => {
            eprintln!("VOID: no runtime: {cause}");
            return ExitCode::from(2);
        }
    };
    // Ends by returning, so that the servers' handles are dropped, which ends the servers.
    let result = runtime.block_on(async {
        tokio::select! {
            result = scenario.run() => result,
            () = interrupted() => Err(Void::Interrupted),
        }
    });
    match result {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(void) => {
            eprintln!("VOID: {void}");
            ExitCode::from(2)
        }
    }
}

impl Scenario {
    async fn run(&self) -> Result<String, Void> {
        match self {
            Scenario::Put(args) => put(args).await,
            Scenario::Space(args) => space::run(args).await,
            Scenario::Restart(args) => restart::run(args).await,
            Scenario::Memory(args) => memory::run(args).await,
            Scenario::Reads(args) => reads::run(args).await,
            Scenario::Election(args) => election::run(args).await,
            Scenario::Handover(args) => handover::run(args).await,
            Scenario::Join(args) => join::run(args).await,
            Scenario::Elections(args) => elections::run(args).await,
        }
    }
}

async fn put(args: &PutArgs) -> Result<String, Void> {
    args.check()?;
    let bench = setup::Bench::new(&args.asked).await?;
    let mut sections = Vec::new();
    for &members in &args.members {
        sections.extend(rounds::put(args, &bench, members).await?);
    }
    if let Some(path) = &args.json {
        let json = report::json(&bench, &sections);
        std::fs::write(path, json).map_err(Void::io(format!("writing {}", path.display())))?;
    }
    Ok(report::markdown(args, &bench, &sections))
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
