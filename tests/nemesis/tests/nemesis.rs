//! Each fault a little, in CI: the full counts are the binary's commands. What this machine cannot do is skipped with its reason.

use std::io::Write;
use std::time::Duration;

use barque_tests_nemesis::disk_error::{self, Kind};
use barque_tests_nemesis::member::Program;
use barque_tests_nemesis::mount::FileSystem;
use barque_tests_nemesis::report::Report;
use barque_tests_nemesis::{Failure, flip, kills, power};

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
        lasting: Duration::from_secs(16),
        kills: 8,
    };
    let report = passes("kill", kills::run(&options));
    assert!(report.is_some(), "kills need nothing special");
}

fn power_options(file_system: FileSystem, cuts: u32) -> power::Options {
    power::Options {
        program: program(),
        seed: SEED,
        cuts,
        file_system,
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
