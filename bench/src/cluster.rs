//! Clusters of server processes, started and ended here.
//! Promise: only processes started here are ended, by their own ids; dropping a cluster ends it.
//! Not here: which programs (`find`), what load.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use barque_proto::etcdserverpb::{RangeRequest, RangeResponse};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::Void;
use crate::client::Client;
use crate::limits::{FIRST_READ, FIRST_READ_RETRY, LOG_LINES, READY, READY_RETRY, STOP};

/// One of the two that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Barque,
    Etcd,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Side::Barque => "barque",
            Side::Etcd => "etcd",
        })
    }
}

struct Member {
    name: String,
    command: Command,
    process: Child,
    client_addr: String,
    home: PathBuf,
    log: PathBuf,
}

/// A running cluster.
pub struct Cluster {
    pub side: Side,
    members: Vec<Member>,
}

impl Cluster {
    /// Starts `size` members with their data under `dir` and waits until each of them serves linearizable reads.
    pub async fn start(side: Side, program: &Path, size: usize, dir: &Path) -> Result<Self, Void> {
        Cluster::start_with(side, program, size, dir, &[]).await
    }

    /// The same, with more flags for each member.
    pub async fn start_with(
        side: Side,
        program: &Path,
        size: usize,
        dir: &Path,
        more: &[String],
    ) -> Result<Self, Void> {
        let ports = free_ports(2 * size)?;
        let names: Vec<String> = (1..=size).map(|n| format!("m{n}")).collect();
        let peer_url = |n: usize| format!("http://127.0.0.1:{}", ports[2 * n + 1]);
        let initial: Vec<String> = names
            .iter()
            .enumerate()
            .map(|(n, name)| format!("{name}={}", peer_url(n)))
            .collect();
        let mut cluster = Cluster {
            side,
            members: Vec::new(),
        };
        for (n, name) in names.iter().enumerate() {
            let home = dir.join(format!("{side}-{name}"));
            let log = home.with_extension("log");
            let output = fs::File::create(&log).map_err(Void::io("creating a log file"))?;
            let errors = output
                .try_clone()
                .map_err(Void::io("creating a log file"))?;
            let client_addr = format!("127.0.0.1:{}", ports[2 * n]);
            let client_url = format!("http://{client_addr}");
            let mut command = Command::new(program);
            if side == Side::Barque {
                command.arg("etcd");
            }
            command
                .args(["--name", name])
                .arg("--data-dir")
                .arg(&home)
                .args(["--listen-client-urls", &client_url])
                .args(["--advertise-client-urls", &client_url])
                .args(["--listen-peer-urls", &peer_url(n)])
                .args(["--initial-advertise-peer-urls", &peer_url(n)])
                .args(["--initial-cluster", &initial.join(",")])
                .args(more)
                .stdin(Stdio::null())
                .stdout(output)
                .stderr(errors)
                .kill_on_drop(true);
            // What is set for the operator's own etcd must not reach these.
            for (key, _) in std::env::vars_os() {
                if key.to_string_lossy().starts_with("ETCD_") {
                    command.env_remove(key);
                }
            }
            let process = command
                .spawn()
                .map_err(Void::io(format!("starting {}", program.display())))?;
            cluster.members.push(Member {
                name: name.clone(),
                command,
                process,
                client_addr,
                home,
                log,
            });
        }
        for n in 0..size {
            cluster.wait_ready(n).await?;
        }
        Ok(cluster)
    }

    async fn wait_ready(&mut self, n: usize) -> Result<(), Void> {
        let side = self.side;
        let member = &mut self.members[n];
        let end = Instant::now() + READY;
        loop {
            let why = match revision(&member.client_addr).await {
                Ok(_) => return Ok(()),
                Err(why) => why,
            };
            let exited = member.process.try_wait().ok().flatten();
            let why = match exited {
                Some(status) => format!("it ended with {status}"),
                None if Instant::now() > end => why,
                None => {
                    tokio::time::sleep(READY_RETRY).await;
                    continue;
                }
            };
            return Err(Void::NotReady {
                who: format!("{side} {}", member.name),
                why,
                log: tail(&member.log),
            });
        }
    }

    /// Where clients connect, one address per member.
    pub fn addrs(&self) -> Vec<&str> {
        self.members
            .iter()
            .map(|member| member.client_addr.as_str())
            .collect()
    }

    /// The store's revision, as a linearizable read sees it.
    pub async fn revision(&self) -> Result<i64, Void> {
        revision(&self.members[0].client_addr)
            .await
            .map_err(|why| self.load_error(why))
    }

    /// The first member's data directory.
    pub fn data(&self) -> &Path {
        &self.members[0].home
    }

    /// kill -9 of the first member, and its end.
    pub async fn kill(&mut self) -> Result<(), Void> {
        let member = &mut self.members[0];
        member
            .process
            .kill()
            .await
            .map_err(Void::io("killing a server"))
    }

    /// Starts the killed member again. The time until its first linearizable read.
    pub async fn start_again(&mut self) -> Result<Duration, Void> {
        let side = self.side;
        let member = &mut self.members[0];
        let began = Instant::now();
        member.process = member
            .command
            .spawn()
            .map_err(Void::io("starting a server again"))?;
        loop {
            let why = match revision(&member.client_addr).await {
                Ok(_) => return Ok(began.elapsed()),
                Err(why) => why,
            };
            let exited = member.process.try_wait().ok().flatten();
            if exited.is_none() && began.elapsed() < FIRST_READ {
                tokio::time::sleep(FIRST_READ_RETRY).await;
                continue;
            }
            let why = exited.map_or(why, |status| format!("it ended with {status}"));
            return Err(Void::NotReady {
                who: format!("{side} {}", member.name),
                why,
                log: tail(&member.log),
            });
        }
    }

    /// The void of a load that failed, with what the servers say.
    pub fn load_error(&self, why: impl std::fmt::Display) -> Void {
        let logs = self
            .members
            .iter()
            .map(|member| format!("--- {} {}\n{}", self.side, member.name, tail(&member.log)));
        Void::Load {
            who: self.side.to_string(),
            why: format!("{why}\n{}", logs.collect::<Vec<_>>().join("\n")),
        }
    }

    pub fn pids(&self) -> Vec<u32> {
        self.members
            .iter()
            .filter_map(|member| member.process.id())
            .collect()
    }

    /// Ends every member: SIGTERM, and SIGKILL for whoever does not go.
    pub async fn stop(mut self) -> Result<(), Void> {
        for member in &self.members {
            if let Some(pid) = member.process.id() {
                let pid = Pid::from_raw(i32::try_from(pid).expect("pids fit"));
                // It may have ended by itself just now.
                let _ = kill(pid, Signal::SIGTERM);
            }
        }
        for member in &mut self.members {
            if tokio::time::timeout(STOP, member.process.wait())
                .await
                .is_err()
            {
                eprintln!(
                    "{} {} did not end within {STOP:?}: killed",
                    self.side, member.name
                );
                member
                    .process
                    .kill()
                    .await
                    .map_err(Void::io("ending a server"))?;
            }
        }
        Ok(())
    }
}

async fn revision(addr: &str) -> Result<i64, String> {
    let ask = async {
        let client = Client::connect(addr).await?;
        let request = RangeRequest {
            key: "bench".into(),
            ..Default::default()
        };
        client
            .call::<RangeResponse>(&client.target("/etcdserverpb.KV/Range"), &request)
            .await
    };
    match ask.await {
        Ok(RangeResponse {
            header: Some(header),
            ..
        }) => Ok(header.revision),
        Ok(_) => Err("a response without a header".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Ports nobody listens on. All are held until all are found, so that they differ.
fn free_ports(count: usize) -> Result<Vec<u16>, Void> {
    let listeners: Result<Vec<_>, _> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect();
    listeners
        .and_then(|listeners| {
            let ports = listeners.iter().map(|l| Ok(l.local_addr()?.port()));
            ports.collect()
        })
        .map_err(Void::io("finding free ports"))
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ() {
        let mut ports = free_ports(20).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 20);
    }

    #[tokio::test]
    async fn a_server_that_ends_at_once_is_reported_with_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("server");
        fs::write(&script, "#!/bin/sh\necho cannot do \"$2\"\nexit 3\n").unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let result = Cluster::start(Side::Etcd, &script, 1, dir.path()).await;
        let error = result.err().unwrap().to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("cannot do m1"),
            "{error}"
        );
    }
}
