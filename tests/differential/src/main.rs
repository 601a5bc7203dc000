//! `differential --seed 1 -n 100 --steps 2000 --keep-going`: compares Barque with a real etcd and tells every difference.

use std::collections::BTreeMap;
use std::process::ExitCode;

use barque_tests_differential::run::{Plan, run};
use barque_tests_differential::servers::Programs;
use barque_tests_differential::shrink::shrink;
use clap::Parser;

/// Sends the same random requests to etcd 3.5.16 and Barque and compares every answer.
///
/// The programs are those named by BARQUE_PEER_ETCD and BARQUE_BIN, else `.peer/usr/bin/etcd` (tests/peers.sh .peer) and what
/// cargo builds.
#[derive(Parser)]
struct Args {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, one after the other.
    #[arg(short, long, default_value_t = 1)]
    number: u64,
    /// Requests per seed.
    #[arg(long, default_value_t = 500)]
    steps: usize,
    /// Goes on after a difference; each kind is told once.
    #[arg(long)]
    keep_going: bool,
    /// Tells only differences whose kind has this text in it.
    #[arg(long, default_value = "")]
    only: String,
    /// Shortens what led to each difference by trying parts of it on fresh servers.
    #[arg(long)]
    shrink: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    match runtime.block_on(compare(&args)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(kinds) => {
            println!("{kinds} kinds of differences");
            ExitCode::FAILURE
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}

async fn compare(args: &Args) -> Result<usize, String> {
    let programs = Programs::find()?;
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for seed in args.seed..args.seed + args.number {
        let plan = Plan {
            seed,
            steps: args.steps,
            keep_going: args.keep_going,
        };
        let report = run(&programs, plan).await?;
        println!(
            "seed {seed}: {} steps, {:.1} s, {} kinds of differences; accepted: {}",
            report.steps,
            report.took.as_secs_f32(),
            report.kinds.len(),
            report
                .accepted
                .iter()
                .map(|(reason, count)| format!("{} {count}", reason.name()))
                .collect::<Vec<_>>()
                .join(", ")
        );
        for death in &report.etcd_deaths {
            println!("etcd ended after {death}");
        }
        for found in &report.found {
            let kind = &found.difference.kind;
            if kinds.contains_key(kind) || !kind.contains(&args.only) {
                continue;
            }
            println!(
                "--- seed {seed} step {} [{}]\n{}",
                found.at_step, found.difference.kind, found.difference
            );
            if args.shrink {
                let steps = shrink(&programs, found).await?;
                println!("after:");
                for step in &steps {
                    println!("    {step}");
                }
            } else {
                println!(
                    "again: differential --seed {seed} --steps {}",
                    found.at_step
                );
            }
        }
        for (kind, count) in report.kinds {
            *kinds.entry(kind).or_default() += count;
        }
        if !kinds.is_empty() && !args.keep_going {
            break;
        }
    }
    for (kind, count) in &kinds {
        println!("{count:6} x {kind}");
    }
    Ok(kinds.len())
}
