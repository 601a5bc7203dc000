//! What a cluster of `barque up` consists of: its processes, ports and files, kept in `cluster.json` under its directory.
//! Promise: the same directory always gives the same cluster; a process is known by its pid and start time, so that a reused pid
//! is never taken for ours.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::pki;

/// Written by this version; a file of a newer one is refused.
const FORMAT: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cluster {
    format: u32,
    pub masters: Vec<Master>,
    pub workers: Vec<Worker>,
    /// Running or once started processes, by name.
    pub processes: std::collections::BTreeMap<String, Process>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Master {
    pub name: String,
    pub gateway_port: u16,
    pub client_port: u16,
    pub peer_port: u16,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Worker {
    pub name: String,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    /// Clock ticks after boot, from `/proc/PID/stat`.
    pub started: u64,
}

impl Master {
    pub fn gateway_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.gateway_port)
    }
    pub fn client_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.client_port)
    }
    pub fn peer_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.peer_port)
    }
}

impl Process {
    /// Whether that very process still runs (a zombie does not).
    pub fn runs(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }
}

/// The process's start time; `None` when it is gone or only waits to be reaped.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name stands in parentheses and may hold anything; fields are counted after it.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if matches!(fields.first(), Some(&"Z" | &"X")) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

fn file(dir: &Path) -> PathBuf {
    dir.join("cluster.json")
}

impl Cluster {
    /// A new cluster on free ports of this machine.
    pub fn plan(masters: usize, workers: usize) -> Result<Cluster, Failure> {
        let mut ports = free_ports(masters * 3)?.into_iter();
        let mut next = || ports.next().expect("three per master were asked for");
        let masters = (1..=masters)
            .map(|n| Master {
                name: format!("master-{n}"),
                gateway_port: next(),
                client_port: next(),
                peer_port: next(),
            })
            .collect();
        let workers = (1..=workers)
            .map(|n| Worker {
                name: format!("worker-{n}"),
            })
            .collect();
        Ok(Cluster {
            format: FORMAT,
            masters,
            workers,
            processes: Default::default(),
        })
    }

    /// The cluster of that directory, if there is one.
    pub fn load(dir: &Path) -> Result<Option<Cluster>, Failure> {
        let path = file(dir);
        if !path.exists() {
            return Ok(None);
        }
        let cluster: Cluster = serde_json::from_str(&pki::read(&path)?).map_err(|cause| {
            Failure::new(format!(
                "{} is not a cluster description: {cause}; remove the directory to start afresh",
                path.display()
            ))
        })?;
        if cluster.format > FORMAT {
            return Err(Failure::new(format!(
                "{} was written by a newer barque (format {}); use that one",
                path.display(),
                cluster.format
            )));
        }
        Ok(Some(cluster))
    }

    pub fn save(&self, dir: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self).expect("plain data");
        pki::write(&file(dir), &text, 0o600)
    }

    pub fn running(&self) -> impl Iterator<Item = (&String, &Process)> {
        self.processes.iter().filter(|(_, process)| process.runs())
    }
}

/// Ports nobody listens on now. All are held at once, so they differ; they are free again when this returns.
fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    let failed =
        |cause: std::io::Error| Failure::new(format!("no free port on 127.0.0.1: {cause}"));
    let held: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    held.iter()
        .map(|l| l.local_addr().map(|a| a.port()))
        .collect::<Result<_, _>>()
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_pid_is_not_ours() {
        let pid = i32::try_from(std::process::id()).expect("a pid fits");
        let started = start_time(pid).expect("this process runs");
        assert!(Process { pid, started }.runs());
        assert!(
            !Process {
                pid,
                started: started + 1
            }
            .runs()
        );
    }

    #[test]
    fn a_plan_has_distinct_ports() {
        let cluster = Cluster::plan(3, 2).expect("ports are free");
        let mut ports: Vec<u16> = cluster
            .masters
            .iter()
            .flat_map(|m| [m.gateway_port, m.client_port, m.peer_port])
            .collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 9);
        assert_eq!(cluster.workers.len(), 2);
    }
}
