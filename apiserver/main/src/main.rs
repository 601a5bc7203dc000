//! The program `barque`: flags to config to run. Subcommands only dispatch.

use std::process::ExitCode;

pub use barque_store_env::real::with_causes;
use clap::{Parser, Subcommand};

/// Prints a line. A reader that has gone away (`barque up | head`) is no reason to stop half-way.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod agents;
mod ending;
mod etcd;
mod kubeconfig;
mod master;
mod pki;
mod server;
mod signals;
mod status;
mod store_flags;
mod store_thread;
mod up;

/// Why a command ends; printed as it is, with exit status 1.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

impl Failure {
    pub fn new(text: String) -> Self {
        Failure(text)
    }
}

/// A Kubernetes control plane in one program, on an etcd-compatible store of its own.
#[derive(Parser)]
#[command(name = "barque", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a whole cluster of real processes on this machine, for trying
    Up(up::UpFlags),
    /// Stop the cluster of `barque up`
    Down(up::DownFlags),
    /// Show the processes and endpoints of the cluster of `barque up`
    Status(status::StatusFlags),
    /// A master: the store, its etcd API and the Kubernetes API gateway
    Server(server::ServerFlags),
    /// The store alone, with etcd's flags
    Etcd(etcd::EtcdFlags),
    /// Binds pods to nodes
    Scheduler(agents::SchedulerFlags),
    /// Runs the controllers
    Controller(agents::ControllerFlags),
    /// Runs pods on a node
    Kubelet(agents::KubeletFlags),
}

fn main() -> ExitCode {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .expect("no other provider was installed before");
    let given = match store_flags::Given::merge(std::env::args_os(), std::env::vars_os()) {
        Ok(given) => given,
        Err(failure) => return failed(&failure),
    };
    let cli = match Cli::try_parse_from(&given.args) {
        Ok(cli) => cli,
        Err(error) => {
            // Not for --help, which names every flag.
            if error.use_stderr()
                && let Some(origin) = given.origin(&error.to_string())
            {
                eprintln!("{origin}");
            }
            error.exit()
        }
    };
    let result = match cli.command {
        Command::Up(flags) => up::up(flags),
        Command::Down(flags) => up::down(flags),
        Command::Status(flags) => status::run(flags),
        Command::Server(flags) => server::run(flags, &given.notices),
        Command::Etcd(flags) => etcd::run(flags, &given.notices),
        Command::Scheduler(flags) => agents::scheduler(flags),
        Command::Controller(flags) => agents::controller(flags),
        Command::Kubelet(flags) => agents::kubelet(flags),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failed(&failure),
    }
}

fn failed(failure: &Failure) -> ExitCode {
    eprintln!("barque: {failure}");
    ExitCode::FAILURE
}

/// Logs to stderr; `RUST_LOG` refines `level`.
pub fn log_to_stderr(level: &str) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new(format!(
            "{level},openraft=error,h2=warn,hyper=warn,rustls=warn"
        ))
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}
