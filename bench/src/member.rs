//! One server process: started, signalled, awaited, started again on the same directory and ports.
//! Promise: only the process started here is signalled, by its own id; dropping the member ends it.
//! Not here: what the members of a cluster know of each other (`cluster`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::Void;
use crate::ask;
use crate::cluster::Side;
use crate::limits::{ASK, LOG_LINES, REQUEST};

/// How a member is to be started.
pub struct Plan<'a> {
    pub side: Side,
    pub program: &'a Path,
    pub name: &'a str,
    /// Its data and its log go below it.
    pub dir: &'a Path,
    pub client_port: u16,
    pub peer_port: u16,
    /// NAME=PEERURL,... of all members.
    pub initial_cluster: &'a str,
    pub flags: &'a [String],
}

pub struct Member {
    side: Side,
    pub name: String,
    command: Command,
    process: Child,
    spawned: Instant,
    client_addr: String,
    pub peer_url: String,
    home: PathBuf,
    log: PathBuf,
}

pub fn peer_url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

impl Member {
    pub fn start(plan: &Plan<'_>) -> Result<Member, Void> {
        let home = plan.dir.join(format!("{}-{}", plan.side, plan.name));
        let log = home.with_extension("log");
        let output = fs::File::create(&log).map_err(Void::io("creating a log file"))?;
        let errors = output.try_clone();
        let errors = errors.map_err(Void::io("creating a log file"))?;
        let client_addr = format!("127.0.0.1:{}", plan.client_port);
        let client_url = format!("http://{client_addr}");
        let peer_url = peer_url(plan.peer_port);
        let mut command = Command::new(plan.program);
        if plan.side == Side::Barque {
            command.arg("etcd");
        }
        command
            .args(["--name", plan.name])
            .arg("--data-dir")
            .arg(&home)
            .args(["--listen-client-urls", &client_url])
            .args(["--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url])
            .args(["--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", plan.initial_cluster])
            .args(plan.flags)
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
        let spawned = Instant::now();
        let process = command.spawn();
        let process = process.map_err(Void::io(format!("starting {}", plan.program.display())))?;
        Ok(Member {
            side: plan.side,
            name: plan.name.to_owned(),
            command,
            process,
            spawned,
            client_addr,
            peer_url,
            home,
            log,
        })
    }

    /// Starts the process again that has ended.
    pub fn start_again(&mut self) -> Result<(), Void> {
        self.spawned = Instant::now();
        let process = self.command.spawn();
        self.process = process.map_err(Void::io("starting a server again"))?;
        Ok(())
    }

    /// Waits until it serves a linearizable read. The time since its start.
    pub async fn ready(&mut self, limit: Duration, retry: Duration) -> Result<Duration, Void> {
        loop {
            let why = match ask::revision(&self.client_addr, REQUEST.min(limit)).await {
                Ok(_) => return Ok(self.spawned.elapsed()),
                Err(why) => why.to_string(),
            };
            self.patience(limit, why)?;
            tokio::time::sleep(retry).await;
        }
    }

    /// An error when it has ended by itself, or when `limit` has passed since its start: `why` it is not ready.
    pub fn patience(&mut self, limit: Duration, why: String) -> Result<(), Void> {
        let why = match self.exited() {
            Some(status) => format!("it ended with {status}"),
            None if self.spawned.elapsed() > limit => why,
            None => return Ok(()),
        };
        Err(Void::NotReady {
            who: format!("{} {}", self.side, self.name),
            why,
            log: self.tail(),
        })
    }

    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Sends it a signal. The moment right after.
    pub fn signal(&self, signal: Signal) -> Result<Instant, Void> {
        let what = || Void::io(format!("sending {signal} to {} {}", self.side, self.name));
        let pid = self.process.id().and_then(|pid| i32::try_from(pid).ok());
        let sent = match pid {
            Some(pid) => kill(Pid::from_raw(pid), signal).map_err(std::io::Error::from),
            None => Err(std::io::ErrorKind::NotFound.into()),
        };
        let now = Instant::now();
        sent.map_err(what())?;
        Ok(now)
    }

    /// Waits until the process is gone.
    pub async fn ended(&mut self, limit: Duration) -> Result<(), Void> {
        match tokio::time::timeout(limit, self.process.wait()).await {
            Ok(status) => status.map(drop).map_err(Void::io("awaiting a server")),
            Err(_) => Err(Void::Load {
                who: format!("{} {}", self.side, self.name),
                why: format!("did not end within {limit:?}\n{}", self.tail()),
            }),
        }
    }

    /// kill -9, and its end.
    pub async fn kill(&mut self) -> Result<(), Void> {
        let killed = self.process.kill().await;
        killed.map_err(Void::io("killing a server"))
    }

    /// Waits until the process that was told to end is gone, and kills it if it does not go within `limit`.
    pub async fn gone(&mut self, limit: Duration) -> Result<(), Void> {
        if self.ended(limit).await.is_err() {
            eprintln!(
                "{} {} did not end within {limit:?}: killed",
                self.side, self.name
            );
            self.kill().await?;
        }
        Ok(())
    }

    /// Whether it says of itself that it can serve: 200 of `/readyz`.
    pub async fn says_ready(&self) -> Result<(), String> {
        match ask::page(&self.client_addr, "/readyz", ASK).await {
            Ok((200, _)) => Ok(()),
            Ok((code, body)) => Err(format!("/readyz says {code}: {}", body.trim())),
            Err(error) => Err(error.to_string()),
        }
    }

    pub fn addr(&self) -> &str {
        &self.client_addr
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    pub fn data(&self) -> &Path {
        &self.home
    }

    /// The last lines it wrote.
    pub fn tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}
