//! `nemesis`: real processes under faults, judged by history. Exit status: 0 passed, 1 a promise was broken, 2 nothing was proved.

mod args;

use std::process::ExitCode;

use args::{Args, ErrorKind, Fault, Server};
use barque_tests_nemesis::disk_error::{self, Kind};
use barque_tests_nemesis::member::Program;
use barque_tests_nemesis::report::Report;
use barque_tests_nemesis::{
    Failure, calm, flip, kills, partitions, pauses, power, quorum, rolling,
};
use clap::Parser;

fn main() -> ExitCode {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_secs())
    });
    eprintln!("seed {seed}");
    // One thread: the members need the machine's cores, and a network of our own is a thread's.
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
    let name = args.fault.name();
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

fn program(args: &Args) -> Result<Program, Failure> {
    match (&args.barque, &args.etcd, args.server) {
        (Some(path), _, _) => Ok(Program::Barque(path.clone())),
        (None, Some(path), _) => Ok(Program::Etcd(path.clone())),
        (None, None, Server::Barque) => Program::barque(),
        (None, None, Server::Etcd) => match std::env::var_os("BARQUE_PEER_ETCD") {
            Some(path) => Ok(Program::Etcd(path.into())),
            None => Err(Failure::Void(
                "no etcd: run tests/peers.sh .peer and name it in BARQUE_PEER_ETCD".into(),
            )),
        },
    }
}

async fn run(args: &Args, seed: u64) -> Result<Vec<Report>, Failure> {
    let program = program(args)?;
    let report = match args.fault {
        Fault::Kill {
            lasting,
            kills,
            members,
        }
        | Fault::KillAll {
            lasting,
            kills,
            members,
        } => {
            let options = kills::Options {
                program,
                seed,
                members,
                lasting,
                kills,
                all: matches!(args.fault, Fault::KillAll { .. }),
            };
            kills::run(&options).await?
        }
        Fault::Power {
            cuts,
            cuts_of_one,
            fs,
            between,
            lying_disk,
            members,
        } => {
            let options = power::Options {
                program,
                seed,
                members,
                cuts,
                cuts_of_one,
                file_systems: fs.systems(),
                between,
                lying_disk,
            };
            power::run(&options).await?
        }
        Fault::Pause {
            pauses,
            between,
            members,
        } => {
            let options = pauses::Options {
                program,
                seed,
                members,
                pauses,
                between,
            };
            pauses::run(&options).await?
        }
        Fault::Partition {
            partitions,
            between,
            members,
        } => {
            let options = partitions::Options {
                program,
                seed,
                members,
                partitions,
                between,
            };
            partitions::run(&options).await?
        }
        Fault::FullCpu {
            lasting,
            burners,
            ref slow_sync,
            members,
        } => {
            let options = calm::Options {
                program,
                seed,
                members,
                lasting,
                burners,
                slow_sync: (slow_sync[0], slow_sync[1]),
            };
            calm::run(&options).await?
        }
        Fault::Five { rounds, members } => {
            let options = quorum::Options {
                program,
                seed,
                members,
                rounds,
                reduced: std::time::Duration::from_secs(3),
            };
            quorum::run(&options).await?
        }
        Fault::Rolling {
            rounds,
            members,
            gap_of_leader,
            gap,
        } => {
            let options = rolling::Options {
                program,
                seed,
                members,
                rounds,
                gap_of_leader,
                gap,
            };
            rolling::run(&options).await?
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
            return Ok(reports);
        }
        Fault::Flip { flips, writes } => {
            let options = flip::Options {
                program,
                seed,
                flips,
                writes,
            };
            flip::run(&options).await?
        }
    };
    Ok(vec![report])
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
