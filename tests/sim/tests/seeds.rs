//! What the simulator must show in CI: many seeds without a violation, the same seed twice the same, and that random runs
//! find what the guards are for when they are switched off. (The scripted scenes stand in `guards.rs`.)

use std::io::Write;
use std::time::Duration;

use barque_tests_sim::{Batch, Failure, Kind, Options, Outcome, guards, run_seeds};

/// Seeds that CI runs, if there is time for them.
const SEEDS: u64 = 200;
/// Real time after which no further seed is begun.
const TIME: Duration = Duration::from_secs(400);
/// Fewer than that would say little; a machine that cannot do them in the time is too slow for this test.
const SEEDS_MIN: usize = 40;

/// Past libtest's capture: the figures belong into the log of a green run too.
fn say(text: impl std::fmt::Display) {
    let mut stderr = std::io::stderr().lock();
    // A closed stderr is nobody's problem here.
    let _ = writeln!(stderr, "{text}");
}

fn fail_on(outcome: &Outcome) {
    if let Some(failure) = outcome.failures.first() {
        panic!("{failure}");
    }
}

#[test]
fn seeds_of_sixty_seconds_are_green() {
    let mut batch = Batch::new(Options::new(1), SEEDS);
    batch.time_limit = Some(TIME);
    let outcome = run_seeds(batch);
    say(outcome.fault_table());
    say(&outcome);
    fail_on(&outcome);
    let seeds = outcome.seeds();
    if seeds < SEEDS as usize {
        say(format_args!(
            "only {seeds} of {SEEDS} seeds within {TIME:?} on this machine"
        ));
    }
    assert!(seeds >= SEEDS_MIN, "{seeds} seeds within {TIME:?}");
    // Runs in which little happened would prove little.
    let (c, n) = (&outcome.counts, seeds as u64);
    assert!(
        c.all_faults() > 20 * n && c.leaders > 5 * n && c.acknowledged > 300 * n,
        "{c:?}"
    );
    assert!(c.watch_events > 300 * n && c.compacted_watches > 0 && c.equal_hashes > n);
    assert!(c.expiries > n / 2 && c.renewals > n && c.ended > n / 4);
    if n >= 100 {
        for kind in Kind::ALL {
            assert!(
                c.faults.0[kind as usize] > 0,
                "{} never happened",
                kind.name()
            );
        }
    }
}

#[test]
fn the_same_seed_twice_gives_the_same_trace() {
    let mut options = Options::new(1_001);
    options.seconds = 20;
    let mut batch = Batch::new(options, 6);
    batch.twice = true;
    let outcome = run_seeds(batch);
    say(format_args!("each seed twice: {outcome}"));
    fail_on(&outcome);
    let mut traces: Vec<u64> = outcome.reports.iter().map(|r| r.trace).collect();
    traces.dedup();
    assert_eq!(traces.len(), 6, "different seeds are different runs");
}

/// Runs seeds with a guard off until the simulator finds what the guard prevents.
fn find(guard: &str, evidence: &'static str, at_most: u64) -> Failure {
    let mut options = Options::new(1);
    options.members = Some(3);
    options.guards = guards::without([guard]).expect("a guard's name");
    let mut batch = Batch::new(options, at_most);
    batch.stop_at = Some(evidence);
    let outcome = run_seeds(batch);
    let mut found = outcome.failures.iter();
    let Some(failure) = found.find(|f| f.what.contains(evidence)) else {
        let others: Vec<&str> = outcome.failures.iter().map(|f| f.what.as_str()).collect();
        panic!("{guard} off: no {evidence:?} in {at_most} seeds, but {others:?}; {outcome}");
    };
    say(format_args!(
        "{guard} off: found {evidence:?} after {} seeds in {:.1} s: seed {}: {}",
        outcome.seeds(),
        outcome.took.as_secs_f64(),
        failure.options.seed,
        failure.what
    ));
    failure.clone()
}

#[test]
fn without_guard_1_acknowledged_writes_are_lost() {
    let failure = find("no-leader-restore", "lost write", 100);
    assert!(
        failure
            .options
            .command()
            .contains("--without no-leader-restore")
    );
}

#[test]
fn without_guard_2_two_members_hold_the_lease_at_one_instant() {
    find("vote-after-lease", "two lease holders", 100);
}

#[test]
fn without_guard_4_a_leader_that_nobody_hears_claims_the_lease() {
    find("leads-by-acks", "two lease holders", 20);
}
