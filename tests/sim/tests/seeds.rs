//! What the simulator must show in CI: many seeds without a violation, the same seed twice the same, and that it finds
//! what the guards are for when they are switched off.

use std::io::Write;

use barque_store_consensus::Guards;
use barque_tests_sim::{Batch, Failure, Options, Outcome, run_seeds};

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Past libtest's capture: the figures belong into the log of a green run too.
fn say(text: impl std::fmt::Display) {
    let mut stderr = std::io::stderr().lock();
    // A closed stderr is nobody's problem here.
    let _ = writeln!(stderr, "{text}");
}

fn batch(seed: u64, count: u64) -> Batch {
    Batch {
        first: Options::new(seed),
        count,
        threads: threads(),
        twice: false,
        stop_at: Some(""),
    }
}

fn fail_on(outcome: &Outcome) {
    if let Some(failure) = outcome.failures.first() {
        panic!("{failure}");
    }
}

#[test]
fn a_hundred_seeds_of_thirty_seconds_are_green() {
    let outcome = run_seeds(batch(1, 100));
    say(&outcome);
    fail_on(&outcome);
    assert_eq!(outcome.seeds(), 100);
    // A run in which little happened would prove little.
    let faults: u64 = outcome.reports.iter().map(|r| r.counts.faults).sum();
    let written: u64 = outcome.reports.iter().map(|r| r.counts.acknowledged).sum();
    let watched: u64 = outcome.reports.iter().map(|r| r.counts.watch_events).sum();
    let leaders: u64 = outcome.reports.iter().map(|r| r.counts.leaders).sum();
    assert!(
        faults > 2_000 && leaders > 500,
        "{faults} faults, {leaders} leaders"
    );
    assert!(
        written > 20_000 && watched > 50_000,
        "{written} written, {watched} watched"
    );
}

#[test]
fn the_same_seed_twice_gives_the_same_trace() {
    let outcome = run_seeds(Batch {
        twice: true,
        ..batch(1_001, 4)
    });
    say(format_args!("each seed twice: {outcome}"));
    fail_on(&outcome);
    let mut traces: Vec<u64> = outcome.reports.iter().map(|r| r.trace).collect();
    traces.dedup();
    assert_eq!(traces.len(), 4, "different seeds are different runs");
}

/// Runs seeds with a guard off until the simulator finds what the guard prevents.
fn find(name: &str, guards: Guards, evidence: &'static str, at_most: u64) -> Failure {
    let batch = batch(1, at_most);
    let outcome = run_seeds(Batch {
        first: Options {
            guards,
            ..batch.first
        },
        stop_at: Some(evidence),
        ..batch
    });
    let mut found = outcome.failures.iter();
    let Some(failure) = found.find(|f| f.what.contains(evidence)) else {
        let others: Vec<&str> = outcome.failures.iter().map(|f| f.what.as_str()).collect();
        panic!("{name} off: no {evidence:?} in {at_most} seeds, but {others:?}; {outcome}");
    };
    say(format_args!(
        "{name} off: found {evidence:?} after {} seeds in {:.1} s: seed {}: {}",
        outcome.seeds(),
        outcome.took.as_secs_f64(),
        failure.options.seed,
        failure.what
    ));
    failure.clone()
}

#[test]
fn without_guard_1_acknowledged_writes_are_lost() {
    let guards = Guards {
        no_leader_restore: false,
        ..Guards::default()
    };
    let failure = find("guard 1", guards, "lost write", 100);
    assert!(failure.options.command().contains("--guard1 off"));
}

#[test]
fn without_guard_2_two_members_hold_the_lease_at_one_instant() {
    let guards = Guards {
        vote_after_lease: false,
        ..Guards::default()
    };
    let failure = find("guard 2", guards, "two lease holders", 100);
    assert!(failure.options.command().contains("--guard2 off"));
}
