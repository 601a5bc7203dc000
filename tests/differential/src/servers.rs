//! The two programs as processes of one member each.
//! Promise: a server that goes out of scope is ended (by its own id) and its directory removed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use barque_proto::etcdserverpb::RangeRequest;

use crate::call::{Client, End, Sent, framed};
use crate::limits::{READY, READY_RETRY};

/// One of the two that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Etcd,
    Barque,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Side::Etcd => "etcd",
            Side::Barque => "barque",
        })
    }
}

/// Where the two programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    pub etcd: PathBuf,
    pub barque: PathBuf,
}

impl Programs {
    /// `BARQUE_PEER_ETCD` or what `tests/peers.sh .peer` fetched; `BARQUE_BIN` or what cargo builds now. `Err`: there is no
    /// etcd to compare with.
    pub fn find() -> Result<Self, String> {
        let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.peer/usr/bin/etcd");
        let etcd = std::env::var_os("BARQUE_PEER_ETCD").map_or(fetched, PathBuf::from);
        if !etcd.is_file() {
            return Err(format!(
                "{} is not there: run tests/peers.sh .peer, or set BARQUE_PEER_ETCD",
                etcd.display()
            ));
        }
        Ok(Programs {
            etcd,
            barque: barque_tests_api::barque().to_owned(),
        })
    }
}

pub struct Server {
    pub side: Side,
    pub client: Client,
    process: Child,
    dir: tempfile::TempDir,
}

impl Server {
    /// Starts a new, empty member and waits until it serves linearizable reads.
    pub async fn start(side: Side, programs: &Programs) -> Result<Self, String> {
        let dir = tempfile::Builder::new()
            .prefix("barque-differential-")
            .tempdir()
            .map_err(|e| format!("a temporary directory: {e}"))?;
        let [client_addr, peer_addr] = free_addresses()?;
        let client_url = format!("http://{client_addr}");
        let peer_url = format!("http://{peer_addr}");
        let program = match side {
            Side::Etcd => &programs.etcd,
            Side::Barque => &programs.barque,
        };
        let log = std::fs::File::create(dir.path().join("log")).map_err(|e| e.to_string())?;
        let errors = log.try_clone().map_err(|e| e.to_string())?;
        let mut command = Command::new(program);
        if side == Side::Barque {
            command.arg("etcd");
        }
        command
            .args(["--name", "m1"])
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .args(["--listen-client-urls", &client_url])
            .args(["--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url])
            .args(["--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("m1={peer_url}")])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        // What is set for the operator's own etcd must not reach these.
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(key);
            }
        }
        let mut process = command
            .spawn()
            .map_err(|e| format!("starting {}: {e}", program.display()))?;
        match ready(&client_addr, &mut process).await {
            Ok(client) => Ok(Server {
                side,
                client,
                process,
                dir,
            }),
            Err(why) => {
                end(&mut process);
                Err(format!(
                    "{side} does not serve: {why}\n{}",
                    tail(&dir.path().join("log"))
                ))
            }
        }
    }

    /// How the process ended and what it said last, if it has.
    pub fn death(&mut self) -> Option<String> {
        let status = self.process.try_wait().ok().flatten()?;
        Some(format!("{status}\n{}", tail(&self.dir.path().join("log"))))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// A process that is gone already is what was wanted.
fn end(process: &mut Child) {
    let _ = process.kill();
    let _ = process.wait();
}

async fn ready(addr: &str, process: &mut Child) -> Result<Client, String> {
    let until = Instant::now() + READY;
    let probe = Sent {
        metadata: Vec::new(),
        body: framed(&RangeRequest {
            key: "probe".into(),
            ..RangeRequest::default()
        }),
    };
    loop {
        let why = match Client::connect(addr).await {
            Ok(client) => match client.call("/etcdserverpb.KV/Range", &probe).await.end {
                End::Status { code, .. } if code == "0" => return Ok(client),
                other => format!("{other:?}"),
            },
            Err(why) => why,
        };
        if let Ok(Some(status)) = process.try_wait() {
            return Err(format!("it ended with {status}"));
        }
        if Instant::now() > until {
            return Err(why);
        }
        tokio::time::sleep(READY_RETRY).await;
    }
}

/// Taken and given back: another process could take one before ours does; then the start fails and says so.
fn free_addresses() -> Result<[String; 2], String> {
    let listen = || std::net::TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string());
    let (one, two) = (listen()?, listen()?);
    let addr = |l: &std::net::TcpListener| l.local_addr().map(|a| a.to_string());
    Ok([
        addr(&one).map_err(|e| e.to_string())?,
        addr(&two).map_err(|e| e.to_string())?,
    ])
}

fn tail(log: &Path) -> String {
    const LINES: usize = 30;
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    // A Go panic tells its reason before the stacks of all goroutines.
    let from = lines
        .iter()
        .position(|line| line.starts_with("panic:") || line.starts_with("fatal error:"))
        .unwrap_or(lines.len().saturating_sub(LINES));
    lines[from..lines.len().min(from + LINES)].join("\n")
}
