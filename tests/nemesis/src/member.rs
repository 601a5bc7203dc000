//! The processes under test: started, killed, stopped and started again on the same directory and ports.
//! Promise: only processes started here are ended, by their own ids; one that goes out of scope is killed.
//! Not here: when, and what it proves.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use barque_proto::etcdserverpb::RangeRequest;
use barque_proto::etcdserverpb::kv_client::KvClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::transport::{Channel, Endpoint};

use crate::Failure;
use crate::limits::{LOG_LINES, MESSAGE_BYTES_MAX, READY, READY_RETRY, STOP};

/// What is under test. A real etcd stands beside Barque so that every verdict can be compared.
#[derive(Clone, Debug)]
pub enum Program {
    Barque(PathBuf),
    Etcd(PathBuf),
}

impl Program {
    /// `BARQUE_BIN`, or what cargo has built beside this program.
    pub fn barque() -> Result<Program, Failure> {
        if let Some(path) = std::env::var_os("BARQUE_BIN") {
            return Ok(Program::Barque(path.into()));
        }
        let me = std::env::current_exe().map_err(Failure::io("finding this program"))?;
        // Tests are one directory below the programs.
        let beside = me.ancestors().skip(1).take(2).map(|dir| dir.join("barque"));
        let found = beside.into_iter().find(|path| path.is_file());
        found.map(Program::Barque).ok_or_else(|| {
            Failure::Void(format!(
                "no program under test beside {}: build it (cargo build --workspace --bins) or name it in BARQUE_BIN",
                me.display()
            ))
        })
    }

    pub fn path(&self) -> &Path {
        match self {
            Program::Barque(path) | Program::Etcd(path) => path,
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Program::Barque(_) => "barque",
            Program::Etcd(_) => "etcd",
        }
    }
}

/// One member of a cluster, running or not.
pub struct Member {
    program: Program,
    pub name: String,
    data: PathBuf,
    log: PathBuf,
    client_addr: String,
    peer_url: String,
    initial_cluster: String,
    through: Vec<String>,
    environment: Vec<(OsString, OsString)>,
    process: Option<Child>,
    paused: bool,
    spawned: Instant,
}

/// Where a member's files are, where it listens, and what its program is started by.
#[derive(Clone, Debug)]
pub struct Place {
    pub data: PathBuf,
    pub client_addr: String,
    pub peer_addr: String,
    /// A command that ends in starting another, such as nsenter; empty for none.
    pub through: Vec<String>,
}

/// Places on loopback, one for each data directory.
pub fn local_places(data: &[PathBuf]) -> Result<Vec<Place>, Failure> {
    let ports = free_ports(2 * data.len())?;
    let places = data.iter().zip(ports.chunks(2)).map(|(data, ports)| Place {
        data: data.clone(),
        client_addr: format!("127.0.0.1:{}", ports[0]),
        peer_addr: format!("127.0.0.1:{}", ports[1]),
        through: Vec::new(),
    });
    Ok(places.collect())
}

fn name(n: usize) -> String {
    format!("m{}", n + 1)
}

/// Members that make one cluster, none running yet. `data` and `logs` are directories; a member's log is not in its data.
pub fn cluster(
    program: &Program,
    size: usize,
    data: &Path,
    logs: &Path,
) -> Result<Vec<Member>, Failure> {
    let data: Vec<PathBuf> = (0..size).map(|n| data.join(name(n))).collect();
    Ok(cluster_at(program, &local_places(&data)?, logs))
}

/// The same, each member in its place.
pub fn cluster_at(program: &Program, places: &[Place], logs: &Path) -> Vec<Member> {
    let peer_url = |place: &Place| format!("http://{}", place.peer_addr);
    let initial: Vec<String> = places
        .iter()
        .enumerate()
        .map(|(n, place)| format!("{}={}", name(n), peer_url(place)))
        .collect();
    let members = places.iter().enumerate().map(|(n, place)| Member {
        program: program.clone(),
        name: name(n),
        data: place.data.clone(),
        log: logs.join(format!("{}.log", name(n))),
        client_addr: place.client_addr.clone(),
        peer_url: peer_url(place),
        initial_cluster: initial.join(","),
        through: place.through.clone(),
        environment: Vec::new(),
        process: None,
        paused: false,
        spawned: Instant::now(),
    });
    members.collect()
}

/// Starts all and waits until each of them serves a linearizable read.
pub async fn start_all(members: &mut [Member]) -> Result<(), Failure> {
    for member in members.iter_mut() {
        member.start()?;
    }
    for member in members {
        member.ready().await?;
    }
    Ok(())
}

impl Member {
    pub fn program(&self) -> &Program {
        &self.program
    }

    pub fn addr(&self) -> &str {
        &self.client_addr
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Set for every later start.
    pub fn set_environment(&mut self, environment: Vec<(OsString, OsString)>) {
        self.environment = environment;
    }

    pub fn start(&mut self) -> Result<(), Failure> {
        assert!(self.process.is_none(), "started twice");
        let what = || format!("the log {}", self.log.display());
        let output = OpenOptions::new().create(true).append(true).open(&self.log);
        let output = output.map_err(Failure::io(what()))?;
        let errors = output.try_clone().map_err(Failure::io(what()))?;
        let client_url = format!("http://{}", self.client_addr);
        let mut words: Vec<OsString> = self.through.iter().map(OsString::from).collect();
        words.push(self.program.path().into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        if let Program::Barque(_) = self.program {
            command.arg("etcd");
        }
        // What is set for the operator's own etcd must not reach these.
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(key);
            }
        }
        command
            .args(["--name", &self.name])
            .arg("--data-dir")
            .arg(&self.data)
            .args(["--listen-client-urls", &client_url])
            .args(["--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &self.peer_url])
            .args(["--initial-advertise-peer-urls", &self.peer_url])
            .args(["--initial-cluster", &self.initial_cluster])
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        let process = command.spawn();
        let path = self.program.path().display();
        self.process = Some(process.map_err(Failure::io(format!("starting {path}")))?);
        self.paused = false;
        self.spawned = Instant::now();
        Ok(())
    }

    /// Waits until it serves a linearizable read; the time since its start.
    pub async fn ready(&mut self) -> Result<Duration, Failure> {
        let asked = Instant::now();
        loop {
            match answers(&self.client_addr).await {
                Ok(()) => return Ok(self.spawned.elapsed()),
                Err(why) if asked.elapsed() > READY => {
                    return Err(self.failure(format!("not ready within {READY:?}: {why}")));
                }
                Err(_) => {}
            }
            if let Some(status) = self.exited() {
                return Err(self.failure(format!("ended by itself ({status}) instead of serving")));
            }
            tokio::time::sleep(READY_RETRY).await;
        }
    }

    /// Its status, if it has ended by itself.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.try_wait().ok().flatten()?;
        self.process = None;
        Some(status)
    }

    /// A violation when it has ended by itself.
    pub fn still_runs(&mut self) -> Result<(), Failure> {
        match self.exited() {
            Some(status) => Err(self.failure(format!("ended by itself ({status})"))),
            None if self.process.is_none() => Err(self.failure("does not run")),
            None => Ok(()),
        }
    }

    /// kill -9, and gone when this returns.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself just now; either way it is reaped.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    pub fn is_paused(&self) -> bool {
        self.paused
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let Some(process) = self.process.as_ref() else {
            return Err(self.failure("does not run"));
        };
        let pid = Pid::from_raw(i32::try_from(process.id()).expect("pids fit"));
        // It may have ended by itself just now: whoever looks next will say so.
        let _ = kill(pid, signal);
        Ok(())
    }

    /// SIGSTOP: it stands still until it is resumed or killed.
    pub fn pause(&mut self) -> Result<(), Failure> {
        self.signal(Signal::SIGSTOP)?;
        self.paused = true;
        Ok(())
    }

    pub fn resume(&mut self) -> Result<(), Failure> {
        self.signal(Signal::SIGCONT)?;
        self.paused = false;
        Ok(())
    }

    /// SIGTERM: it must end by itself, and well.
    pub async fn stop(&mut self) -> Result<(), Failure> {
        self.signal(Signal::SIGTERM)?;
        let end = Instant::now() + STOP;
        loop {
            if let Some(status) = self.exited() {
                // etcd re-raises the signal it was stopped by.
                return if status.success() || status.signal() == Some(Signal::SIGTERM as i32) {
                    Ok(())
                } else {
                    Err(self.failure(format!("ended with {status} when asked to stop")))
                };
            }
            if Instant::now() > end {
                self.kill();
                return Err(self.failure(format!("did not end within {STOP:?} of SIGTERM")));
            }
            tokio::time::sleep(READY_RETRY).await;
        }
    }

    /// A violation by this member, with the end of what it said.
    pub fn failure(&self, what: impl std::fmt::Display) -> Failure {
        Failure::Violated(vec![format!(
            "{} {what}\n{}",
            self.name,
            tail(&self.said(), LOG_LINES)
        )])
    }

    /// All that it has written since its log was last emptied.
    pub fn said(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn forget_log(&self) -> Result<(), Failure> {
        match File::create(&self.log) {
            Ok(_) => Ok(()),
            Err(cause) => Err(Failure::io("emptying a log")(cause)),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A connection, made now.
pub async fn connect(addr: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))?;
    endpoint
        .connect_timeout(Duration::from_secs(1))
        .connect()
        .await
}

pub fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Whether it serves a linearizable read now; else why not.
pub async fn answers(addr: &str) -> Result<(), String> {
    let channel = connect(addr).await.map_err(|e| e.to_string())?;
    let request = RangeRequest {
        key: "ready".into(),
        ..RangeRequest::default()
    };
    let mut client = kv(channel);
    let answer = tokio::time::timeout(Duration::from_secs(2), client.range(request)).await;
    match answer {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(status.to_string()),
        Err(_) => Err("no answer".into()),
    }
}

/// Ports nobody listens on. All are held until all are found, so that they differ.
fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    let listeners: Result<Vec<_>, _> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect();
    listeners
        .and_then(|listeners| {
            listeners
                .iter()
                .map(|l| Ok(l.local_addr()?.port()))
                .collect()
        })
        .map_err(Failure::io("finding free ports"))
}
