//! The simulator's command line: run seeds, repeat one, show its events.

use std::ops::Range;
use std::process::ExitCode;

use barque_store_env::sim;
use barque_tests_sim::{Batch, Options, guards, run_seeds};
use clap::Parser;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Runs members of the store on simulated machines under faults, and judges what clients saw.
#[derive(Debug, Parser)]
struct Args {
    /// One seed, with one line per event.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// The seeds from A on, before B, with one line each.
    #[arg(long, value_name = "A..B", value_parser = range)]
    seeds: Option<Range<u64>>,
    /// How many seeds, from --seed or 1 on, instead of --seeds.
    #[arg(short = 'n', long, conflicts_with = "seeds")]
    count: Option<u64>,
    /// Virtual seconds under faults, per seed.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// So many members, instead of what each seed draws.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=7))]
    members: Option<u32>,
    /// Switches a guard off.
    #[arg(long, value_name = "GUARD", value_parser = clap::builder::PossibleValuesParser::new(guards::names()))]
    without: Vec<String>,
    /// Run each seed twice and compare the traces.
    #[arg(long)]
    twice: bool,
    /// Go on after a failing seed.
    #[arg(long)]
    keep_going: bool,
    /// Seeds run at a time; one for each processor when not given.
    #[arg(short, long)]
    jobs: Option<usize>,
    /// Begin no further seed after so many real seconds.
    #[arg(long)]
    time_limit: Option<u64>,
    /// With --seed: what the members log, too, as RUST_LOG would say it (`debug`, `barque_store_node=trace`), to stderr.
    #[arg(long, value_name = "FILTER", requires = "seed")]
    log: Option<String>,
    /// One line per event, also for several seeds.
    #[arg(short, long)]
    verbose: bool,
    /// No line per seed.
    #[arg(short, long)]
    quiet: bool,
}

/// Virtual time and the machine, before each line that a member logs.
struct WhenAndWhere;

impl FormatTime for WhenAndWhere {
    fn format_time(&self, line: &mut Writer<'_>) -> std::fmt::Result {
        let ms = sim::elapsed().as_micros() as f64 / 1000.0;
        write!(line, "{ms:>10.1}  {}", sim::here())
    }
}

fn log_to_stderr(filter: &str) {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_timer(WhenAndWhere)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let parts = text.split_once("..");
    let number = |part: &str| part.parse::<u64>().ok();
    match parts.and_then(|(from, to)| Some((number(from)?, number(to)?))) {
        Some((from, to)) if from < to => Ok(from..to),
        _ => Err("should look like 1..1000".to_owned()),
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(filter) = &args.log {
        log_to_stderr(filter);
    }
    let from = args.seed.unwrap_or(1);
    let seeds = (args.seeds.clone()).unwrap_or(from..from + args.count.unwrap_or(1));
    let one = args.seed.is_some() && args.count.is_none();
    let verbose = args.verbose || one;
    let first = Options {
        seed: seeds.start,
        seconds: args.seconds,
        guards: guards::without(args.without.iter().map(String::as_str))
            .expect("clap has checked the names"),
        members: args.members,
        verbose,
    };
    let mut batch = Batch::new(first, seeds.end - seeds.start);
    // Events of several seeds at once would be no story.
    batch.jobs = if verbose {
        1
    } else {
        args.jobs.unwrap_or(batch.jobs)
    };
    batch.twice = args.twice;
    batch.stop_at = (!args.keep_going).then_some("");
    batch.time_limit = args.time_limit.map(std::time::Duration::from_secs);
    batch.tell_each = !args.quiet;
    let outcome = run_seeds(batch);
    for failure in &outcome.failures {
        println!("{failure}");
    }
    print!("{}", outcome.fault_table());
    println!("{outcome}");
    if outcome.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
