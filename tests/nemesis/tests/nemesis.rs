//! Each fault a little, in CI: the full counts are the binary's commands. What this machine cannot do is skipped with its reason.

use std::io::Write;
use std::time::Duration;

use barque_tests_nemesis::disk_error::{self, Kind};
use barque_tests_nemesis::member::Program;
use barque_tests_nemesis::mount::FileSystem;
use barque_tests_nemesis::report::Report;
use barque_tests_nemesis::{
    Failure, calm, flip, kills, partitions, pauses, power, quorum, rolling,
};

/// Past libtest's capture: figures and skips belong into the log of a green run too.
fn say(text: impl std::fmt::Display) {
    let mut stderr = std::io::stderr().lock();
    // A closed stderr is nobody's problem here.
    let _ = writeln!(stderr, "{text}");
}

/// On a line of its own, whatever libtest has begun: `tests/all.sh` looks for it.
fn skip(name: &str, why: &str) {
    say(format!("\nSKIP nemesis {name}: {why}"));
}

fn program() -> Program {
    Program::Barque(barque_tests_api::barque().to_owned())
}

/// Runs to the end; a skip is said, everything else that is not a pass is a failure.
fn passes(name: &str, run: impl Future<Output = Result<Report, Failure>>) -> Option<Report> {
    match block_on(run) {
        Ok(report) => {
            say(&report);
            Some(report)
        }
        Err(Failure::Skip(why)) => {
            skip(name, &why);
            None
        }
        Err(other) => panic!("nemesis {name}: {other}"),
    }
}

fn block_on<T>(run: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(run)
}

/// Another seed each day would find more and repeat less: these are for ever, the soaks' are new.
const SEED: u64 = 20_261_128;

#[test]
fn killed_members_keep_every_promise() {
    let options = kills::Options {
        program: program(),
        seed: SEED,
        members: 1,
        lasting: Duration::from_secs(16),
        kills: 8,
        all: false,
    };
    let report = passes("kill", kills::run(&options));
    assert!(report.is_some(), "kills need nothing special");
}

#[test]
fn members_killed_by_turns_and_together_keep_every_promise() {
    for (all, kills) in [(false, 6), (true, 2)] {
        let options = kills::Options {
            program: program(),
            seed: SEED,
            members: 3,
            lasting: Duration::from_secs(kills * 2),
            kills: kills as u32,
            all,
        };
        let report = passes("kill", kills::run(&options));
        assert!(report.is_some(), "kills need nothing special");
    }
}

#[test]
fn members_that_stand_still_answer_nothing_stale() {
    let options = pauses::Options {
        program: program(),
        seed: SEED,
        members: 3,
        pauses: 4,
        between: Duration::from_secs(1),
    };
    let report = passes("pause", pauses::run(&options));
    assert!(report.is_some(), "pauses need nothing special");
}

#[test]
fn members_that_are_cut_off_answer_nothing_stale() {
    let options = partitions::Options {
        program: program(),
        seed: SEED,
        members: 3,
        partitions: 5,
        between: Duration::from_millis(500),
    };
    passes("partition", partitions::run(&options));
}

#[test]
fn a_busy_machine_elects_nobody() {
    let options = calm::Options {
        program: program(),
        seed: SEED,
        members: 3,
        lasting: Duration::from_secs(8),
        // One a core: a debug build takes its time as it is.
        burners: 2,
        slow_sync: (5, 50),
    };
    passes("full-cpu", calm::run(&options));
}

#[test]
fn without_a_majority_requests_are_refused_in_words() {
    let options = quorum::Options {
        program: program(),
        seed: SEED,
        members: 5,
        rounds: 1,
        reduced: Duration::from_secs(1),
    };
    let report = passes("five", quorum::run(&options));
    assert!(report.is_some(), "losing members needs nothing special");
}

#[test]
fn a_rolling_restart_fails_no_request_for_good() {
    let options = rolling::Options {
        program: program(),
        seed: SEED,
        members: 3,
        rounds: 2,
        // The bars stand in the soak, on a quiet machine and a release build: here they only stop a client that waits for an election.
        gap_of_leader: Duration::from_millis(1000),
        gap: Duration::from_millis(1000),
    };
    let report = passes("rolling", rolling::run(&options));
    assert!(report.is_some(), "restarts need nothing special");
}

fn power_options(file_system: FileSystem, cuts: u32) -> power::Options {
    power::Options {
        program: program(),
        seed: SEED,
        members: 1,
        cuts,
        cuts_of_one: 0,
        file_systems: vec![file_system],
        between: Duration::from_millis(1500),
        lying_disk: false,
    }
}

#[test]
fn power_cuts_on_ext4_lose_nothing_acknowledged() {
    passes("power", power::run(&power_options(FileSystem::Ext4, 2)));
}

#[test]
fn power_cuts_on_xfs_lose_nothing_acknowledged() {
    passes("power", power::run(&power_options(FileSystem::Xfs, 1)));
}

#[test]
fn power_cuts_of_all_members_at_once_lose_nothing_acknowledged() {
    let options = power::Options {
        members: 3,
        cuts_of_one: 1,
        file_systems: vec![FileSystem::Ext4, FileSystem::Xfs],
        ..power_options(FileSystem::Ext4, 2)
    };
    passes("power", power::run(&options));
}

/// A disk that only says that it has synced: what that loses must be noticed, or the two tests above prove nothing.
#[test]
fn a_disk_that_lies_is_found_out() {
    let options = power::Options {
        lying_disk: true,
        ..power_options(FileSystem::Ext4, 1)
    };
    match block_on(power::run(&options)) {
        Err(Failure::Violated(what)) => {
            say(format!("found, as it must be: {:.300}", what.concat()))
        }
        Err(Failure::Skip(why)) => skip("power", &why),
        Err(other) => panic!("{other}"),
        Ok(report) => panic!("a power cut on a lying disk went unnoticed:\n{report}"),
    }
}

#[test]
fn the_first_disk_error_is_final() {
    for kind in Kind::ALL {
        for always in [false, true] {
            let options = disk_error::Options {
                program: program(),
                seed: SEED,
                kind,
                always,
                // A second is what is promised; the rest is for a busy machine.
                within: Duration::from_secs(5),
            };
            if passes("error", disk_error::run(&options)).is_none() {
                return;
            }
        }
    }
}

#[test]
fn flipped_bits_are_refused_or_change_nothing() {
    let options = flip::Options {
        program: program(),
        seed: SEED,
        flips: 40,
        writes: 300,
    };
    let report = passes("flip", flip::run(&options));
    assert!(report.is_some(), "flips need nothing special");
}
