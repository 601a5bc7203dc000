//! Starting and stopping the processes of `barque up`.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command as OsCommand, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::Failure;
use crate::up::layout::{Cluster, Process, start_time};
use crate::up::plan::Command;

/// How long a process may take to stop by itself before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Starts `barque ARGS...` in a process group of its own, so that a terminal's Ctrl-C reaches only `barque up`.
pub fn start(command: &Command) -> Result<Process, Failure> {
    let failed =
        |cause: std::io::Error| Failure::new(format!("cannot start {}: {cause}", command.name));
    let program = std::env::current_exe().map_err(failed)?;
    if let Some(parent) = command.log.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&command.log)
        .map_err(failed)?;
    let child = OsCommand::new(program)
        .args(&command.args)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let pid = i32::try_from(child.id()).expect("the kernel's pids fit");
    let started = start_time(pid).ok_or_else(|| {
        Failure::new(format!(
            "{} ended at once; its log is {}",
            command.name,
            command.log.display()
        ))
    })?;
    Ok(Process { pid, started })
}

/// Asks the processes to stop, agents first so that they can still write their last words, and kills what does not.
pub fn stop_all(dir: &Path, cluster: &mut Cluster) -> Result<(), Failure> {
    let (masters, agents): (Vec<_>, Vec<_>) = cluster
        .running()
        .map(|(name, p)| (name.clone(), *p))
        .partition(|(name, _)| cluster.masters.iter().any(|m| m.name == *name));
    for group in [agents, masters] {
        for (_, process) in &group {
            signal(process, Signal::SIGTERM);
        }
        let deadline = Instant::now() + STOP_WITHIN;
        for (name, process) in &group {
            while runs(process) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            if runs(process) {
                eprintln!(
                    "{name} (pid {}) did not stop within {} s and is killed",
                    process.pid,
                    STOP_WITHIN.as_secs()
                );
                signal(process, Signal::SIGKILL);
                while runs(process) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }
    cluster.processes.clear();
    cluster.save(dir)?;
    say!("stopped");
    Ok(())
}

fn signal(process: &Process, signal: Signal) {
    if process.runs() {
        // It may end between the check and the signal; then there is nothing left to stop.
        let _ = kill(Pid::from_raw(process.pid), signal);
    }
}

/// Whether it runs; reaps it if it is our own child and has ended.
fn runs(process: &Process) -> bool {
    let _ = waitpid(Pid::from_raw(process.pid), Some(WaitPidFlag::WNOHANG));
    process.runs()
}
