//! `barque up` and `barque down`: a whole cluster of real processes on one machine.
//! Promise: each process has its own directory and log file; `up` on an existing directory starts only what does not run;
//! Ctrl-C in the foreground, or `down`, leaves no process.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use nix::fcntl::{Flock, FlockArg};

pub mod layout;
mod plan;
pub use plan::certificates;
pub mod probe;
mod processes;

use crate::{Failure, kubeconfig, pki, signals};
use layout::Cluster;

/// How long a start may take before it is called failed.
const READY_WITHIN: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct UpFlags {
    /// Directory of the cluster: certificates, data, logs, kubeconfig
    #[arg(long, default_value = ".barque")]
    dir: PathBuf,
    /// Number of masters: 1, 3 or 5
    #[arg(long, default_value_t = 3, value_parser = masters)]
    masters: usize,
    /// Number of workers
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Return when the cluster is ready and leave it running
    #[arg(long)]
    detach: bool,
}

#[derive(Args)]
pub struct DownFlags {
    /// Directory of the cluster
    #[arg(long, default_value = ".barque")]
    dir: PathBuf,
    /// Remove the directory too
    #[arg(long)]
    clean: bool,
}

fn masters(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ (1 | 3 | 5)) => Ok(n),
        _ => Err("a cluster has 1, 3 or 5 masters: an even number tolerates no more failures than one fewer".into()),
    }
}

/// Keeps a second `up` or `down` off the same directory while this one works.
fn lock(dir: &Path) -> Result<Flock<std::fs::File>, Failure> {
    let path = dir.join("lock");
    let file = std::fs::File::create(&path)
        .map_err(|cause| Failure::new(format!("cannot create {}: {cause}", path.display())))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        Failure::new(format!(
            "another barque up or down works on {} now",
            dir.display()
        ))
    })
}

pub fn up(flags: UpFlags) -> Result<(), Failure> {
    let begun = Instant::now();
    std::fs::create_dir_all(&flags.dir)
        .map_err(|cause| Failure::new(format!("cannot create {}: {cause}", flags.dir.display())))?;
    let dir = std::fs::canonicalize(&flags.dir)
        .map_err(|cause| Failure::new(format!("cannot find {}: {cause}", flags.dir.display())))?;
    let working = lock(&dir)?;
    let mut cluster = match Cluster::load(&dir)? {
        Some(cluster) => {
            say!(
                "cluster in {} exists: starting what does not run",
                dir.display()
            );
            if cluster.masters.len() != flags.masters || cluster.workers.len() != flags.workers {
                say!(
                    "  it has {} masters and {} workers; --masters and --workers count only for a new one",
                    cluster.masters.len(),
                    cluster.workers.len()
                );
            }
            cluster
        }
        None => Cluster::plan(flags.masters, flags.workers)?,
    };
    let files = plan::certificates(&dir, &cluster)?;
    write_kubeconfig(&dir, &cluster, &files)?;
    cluster.save(&dir)?;

    let runtime = signals::runtime(2)?;
    runtime.block_on(async {
        let stop = signals::stop_asked()?;
        tokio::pin!(stop);
        let started = async {
            for command in plan::commands(&dir, &cluster.clone(), &files) {
                if cluster
                    .processes
                    .get(&command.name)
                    .is_some_and(layout::Process::runs)
                {
                    continue;
                }
                let process = processes::start(&command)?;
                say!(
                    "  {:<14} pid {:<8} {}",
                    command.name,
                    process.pid,
                    command.log.display()
                );
                cluster.processes.insert(command.name.clone(), process);
                cluster.save(&dir)?;
            }
            probe::wait_ready(&dir, &cluster, &files, READY_WITHIN).await
        };
        let outcome = tokio::select! {
            outcome = started => outcome.map(|()| true),
            () = &mut stop => Ok(false),
        };
        match outcome {
            Ok(true) => {}
            Ok(false) => {
                say!("stopped before the cluster was ready");
                return processes::stop_all(&dir, &mut cluster);
            }
            Err(failure) => {
                processes::stop_all(&dir, &mut cluster)?;
                return Err(failure);
            }
        }
        say!("ready in {:.1} s", begun.elapsed().as_secs_f64());
        for master in &cluster.masters {
            say!(
                "  {}   kubernetes {}   etcd {}",
                master.name,
                master.gateway_url(),
                master.client_url()
            );
        }
        say!("export KUBECONFIG={}", dir.join("kubeconfig").display());
        if flags.detach {
            say!("stop it with: barque down --dir {}", flags.dir.display());
            return Ok(());
        }
        drop(working);
        say!("Ctrl-C stops the cluster");
        stop.await;
        say!("stopping");
        let _working = lock(&dir)?;
        // Another command may have restarted processes meanwhile.
        let mut cluster = Cluster::load(&dir)?.unwrap_or(cluster);
        processes::stop_all(&dir, &mut cluster)
    })
}

pub fn down(flags: DownFlags) -> Result<(), Failure> {
    if !flags.dir.exists() {
        say!("no cluster in {}", flags.dir.display());
        return Ok(());
    }
    let dir = std::fs::canonicalize(&flags.dir)
        .map_err(|cause| Failure::new(format!("cannot find {}: {cause}", flags.dir.display())))?;
    let found = Cluster::load(&dir)?;
    let Some(mut cluster) = found else {
        return Err(Failure::new(format!(
            "{} holds no cluster of barque up; nothing was touched",
            dir.display()
        )));
    };
    let _working = lock(&dir)?;
    processes::stop_all(&dir, &mut cluster)?;
    if flags.clean {
        if clean(&dir, &cluster)? {
            say!("removed {}", dir.display());
        } else {
            say!(
                "removed the cluster; other files are in {}, they stay",
                dir.display()
            );
        }
    }
    Ok(())
}

/// Removes what `up` made, never more: the directory may be somebody's home. Says whether the directory is gone too.
fn clean(dir: &Path, cluster: &Cluster) -> Result<bool, Failure> {
    let masters = cluster.masters.iter().map(|master| master.name.as_str());
    // What tells that this is a cluster goes last, so that a clean that broke off can be repeated.
    let own = masters.chain(["pki", "logs", "kubeconfig", "lock", "cluster.json"]);
    for path in own.map(|name| dir.join(name)) {
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        match removed {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::new(format!(
                    "cannot remove {}: {cause}",
                    path.display()
                )));
            }
            _ => {}
        }
    }
    match std::fs::remove_dir(dir) {
        Ok(()) => Ok(true),
        Err(cause) if cause.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(cause) => Err(Failure::new(format!(
            "cannot remove {}: {cause}",
            dir.display()
        ))),
    }
}

/// Written once: its user may have chosen another context since, and what it names does not change.
fn write_kubeconfig(
    dir: &Path,
    cluster: &Cluster,
    files: &plan::Certificates,
) -> Result<(), Failure> {
    let path = dir.join("kubeconfig");
    if path.exists() {
        return Ok(());
    }
    let servers: Vec<kubeconfig::Server> = cluster
        .masters
        .iter()
        .map(|m| kubeconfig::Server {
            name: m.name.clone(),
            url: m.gateway_url(),
        })
        .collect();
    let text = kubeconfig::render(
        &servers,
        &pki::read(&files.cluster_ca)?,
        &pki::read(&files.admin.cert)?,
        &pki::read(&files.admin.key)?,
    );
    pki::write(&path, &text, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_leaves_files_that_up_did_not_make() {
        let dir = std::env::temp_dir().join(format!("barque-clean-{}", std::process::id()));
        let cluster = Cluster::plan(1, 1).expect("ports are free");
        let make = || {
            for inner in ["master-1/member", "pki/store", "logs"] {
                std::fs::create_dir_all(dir.join(inner)).expect("a directory is made");
            }
            for file in ["kubeconfig", "lock", "cluster.json"] {
                std::fs::write(dir.join(file), "x").expect("a file is written");
            }
        };
        make();
        std::fs::write(dir.join("notes.txt"), "mine").expect("a file is written");
        assert!(!clean(&dir, &cluster).expect("it is cleaned"));
        let left: Vec<_> = std::fs::read_dir(&dir)
            .expect("it is still there")
            .map(|entry| entry.expect("an entry is read").file_name())
            .collect();
        assert_eq!(left, ["notes.txt"]);
        make();
        std::fs::remove_file(dir.join("notes.txt")).expect("a file is removed");
        assert!(clean(&dir, &cluster).expect("it is cleaned"));
        assert!(!dir.exists());
    }
}
