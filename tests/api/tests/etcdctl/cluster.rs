//! A static cluster of real processes, of etcd or of Barque, with the same flags.

use std::ffi::OsString;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use barque_tests_api::eventually;

#[derive(Clone, Debug)]
pub struct Member {
    pub name: String,
    pub client_port: u16,
    pub peer_port: u16,
}

impl Member {
    pub fn on_free_ports(count: usize) -> Vec<Member> {
        (1..=count)
            .map(|i| Member {
                name: format!("m{i}"),
                client_port: free_port(),
                peer_port: free_port(),
            })
            .collect()
    }
    /// As `--endpoints` and etcdctl's answers have it.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }
    fn client_url(&self) -> String {
        format!("http://{}", self.endpoint())
    }
    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }
}

/// A port nobody listens on, below the range the kernel gives to outgoing connections: it stays free while one cluster stops
/// and the next starts on it.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() % 10_000).expect("below 10,000");
    loop {
        let port = 20_000 + (offset + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

pub struct Program {
    path: PathBuf,
    /// What comes before the flags.
    subcommand: &'static [&'static str],
}

impl Program {
    pub fn barque() -> Program {
        Program {
            path: barque_tests_api::barque().to_owned(),
            subcommand: &["etcd"],
        }
    }

    /// A real etcd: `BARQUE_PEER_ETCD`, the newer package where `tests/peers.sh` put it, or the one installed.
    #[allow(dead_code, reason = "not every test that shares this compares")]
    pub fn etcd() -> Program {
        let given = std::env::var_os("BARQUE_PEER_ETCD").map(PathBuf::from);
        let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.peer/usr/bin/etcd");
        let installed = std::env::var_os("PATH").and_then(|path| {
            std::env::split_paths(&path)
                .map(|dir| dir.join("etcd"))
                .find(|etcd| etcd.is_file())
        });
        let path = given
            .or_else(|| unpacked.is_file().then_some(unpacked))
            .or(installed);
        let path = path.expect(
            "no real etcd to compare with: set BARQUE_PEER_ETCD or install the package etcd-server",
        );
        Program {
            path,
            subcommand: &[],
        }
    }
}

/// Running members. Dropped, they are gone; if the test fails, the ends of their logs are printed first.
pub struct StoreCluster {
    processes: Vec<Child>,
    dir: tempfile::TempDir,
}

impl StoreCluster {
    pub fn start(program: &Program, members: &[Member]) -> StoreCluster {
        let dir = tempfile::Builder::new()
            .prefix("barque-etcdctl-")
            .tempdir()
            .expect("a temporary directory");
        let mut cluster = StoreCluster {
            processes: Vec::new(),
            dir,
        };
        for member in members {
            cluster.start_member(program, member, members, "new");
        }
        for member in members {
            eventually(
                Duration::from_secs(30),
                &format!("{} is healthy", member.name),
                || {
                    etcdctl(&member.endpoint())
                        .args(["endpoint", "health"])
                        .output()
                        .expect("etcdctl runs (package etcd-client)")
                        .status
                        .success()
                },
            );
            // A member tells its client URLs through the log, some time after its start.
            eventually(
                Duration::from_secs(30),
                "every member has told its client URLs",
                || {
                    let listed = etcdctl(&member.endpoint())
                        .args(["member", "list"])
                        .output()
                        .expect("etcdctl runs");
                    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
                    members.iter().all(|m| listed.contains(&m.client_url()))
                },
            );
        }
        cluster
    }

    /// Starts one more process, which knows of all of `members`.
    pub fn start_member(
        &mut self,
        program: &Program,
        member: &Member,
        members: &[Member],
        state: &str,
    ) {
        self.start_member_with(program, member, members, state, &[]);
    }

    /// The same, with more flags.
    pub fn start_member_with(
        &mut self,
        program: &Program,
        member: &Member,
        members: &[Member],
        state: &str,
        flags: &[&str],
    ) {
        let initial: Vec<String> = members
            .iter()
            .map(|m| format!("{}={}", m.name, m.peer_url()))
            .collect();
        let log =
            File::create(self.dir.path().join(format!("{}.log", member.name))).expect("a log file");
        let mut command = Command::new(&program.path);
        command
            .args(program.subcommand)
            .args(["--name", &member.name])
            .args([
                OsString::from("--data-dir"),
                self.dir.path().join(&member.name).into(),
            ])
            .args(["--listen-client-urls", &member.client_url()])
            .args(["--advertise-client-urls", &member.client_url()])
            .args(["--listen-peer-urls", &member.peer_url()])
            .args(["--initial-advertise-peer-urls", &member.peer_url()])
            .args(["--initial-cluster", &initial.join(",")])
            .args([
                "--initial-cluster-state",
                state,
                "--initial-cluster-token",
                "session",
            ])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log);
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", program.path.display()));
        self.processes.push(child);
    }

    /// The end of the process started as the `nth`, if it has ended.
    #[allow(dead_code, reason = "only one of the tests that share this asks")]
    pub fn ended(&mut self, nth: usize) -> Option<std::process::ExitStatus> {
        self.processes[nth].try_wait().expect("our child")
    }

    /// kill -9 of the process started as the `nth`; returns once it is gone.
    #[allow(dead_code, reason = "only one of the tests that share this asks")]
    pub fn kill(&mut self, nth: usize) {
        let process = &mut self.processes[nth];
        process.kill().expect("our child");
        process.wait().expect("our child");
    }

    #[allow(dead_code, reason = "only one of the tests that share this asks")]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for StoreCluster {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // Fails only where it has ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            for entry in std::fs::read_dir(self.dir.path())
                .into_iter()
                .flatten()
                .flatten()
            {
                if let Ok(log) = std::fs::read_to_string(entry.path()) {
                    let lines: Vec<&str> = log.lines().collect();
                    eprintln!(
                        "--- {}\n{}",
                        entry.path().display(),
                        lines[lines.len().saturating_sub(5)..].join("\n")
                    );
                }
            }
        }
    }
}

/// etcdctl for `endpoints`, not led astray by the caller's environment.
pub fn etcdctl(endpoints: &str) -> Command {
    let mut command = Command::new("etcdctl");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCDCTL_") {
            command.env_remove(name);
        }
    }
    command
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", endpoints]);
    command
}
