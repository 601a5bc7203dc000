//! The simulator's command line: run seeds, repeat one, show its events.

use std::process::ExitCode;

use barque_store_consensus::Guards;
use barque_tests_sim::{Batch, Options, run_seeds};
use clap::{ArgAction, Parser, ValueEnum};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Runs three members of the store on simulated machines under faults, and judges what clients saw.
#[derive(Debug, Parser)]
struct Args {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, from the first on.
    #[arg(short = 'n', long, default_value_t = 1)]
    count: u64,
    /// Virtual seconds under faults, per seed.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Off: a restarted leader resumes its term.
    #[arg(long, value_enum, default_value_t = Switch::On)]
    guard1: Switch,
    /// Off: a restarted member votes at once.
    #[arg(long, value_enum, default_value_t = Switch::On)]
    guard2: Switch,
    /// Run each seed twice and compare the traces.
    #[arg(long)]
    twice: bool,
    /// Go on after a failing seed.
    #[arg(long)]
    keep_going: bool,
    /// Threads; one for each processor when not given.
    #[arg(long)]
    threads: Option<usize>,
    /// One line per event.
    #[arg(short, long, action = ArgAction::SetTrue)]
    verbose: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // Events of several seeds at once would be no story.
    let threads = if args.verbose {
        1
    } else {
        args.threads.unwrap_or(cores)
    };
    let outcome = run_seeds(Batch {
        first: Options {
            seed: args.seed,
            seconds: args.seconds,
            guards: Guards {
                no_leader_restore: args.guard1 == Switch::On,
                vote_after_lease: args.guard2 == Switch::On,
                ..Guards::default()
            },
            verbose: args.verbose,
        },
        count: args.count,
        threads,
        twice: args.twice,
        stop_at: (!args.keep_going).then_some(""),
    });
    if args.count == 1 || args.verbose {
        for report in &outcome.reports {
            println!(
                "seed {}: trace {:016x}, {:?}",
                report.options.seed, report.trace, report.counts
            );
        }
    }
    for failure in &outcome.failures {
        println!("{failure}");
    }
    println!("{outcome}");
    if outcome.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
