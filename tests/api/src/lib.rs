//! What the tests with real clients share: the built program, clusters of `barque up`, kubectl and etcdctl.
//! Promise: a cluster that goes out of scope leaves no process and no directory, also when its test fails (then its logs' ends
//! are printed first).

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

pub mod clients;
pub mod kubectl;

/// The program under test: `BARQUE_BIN`, or what cargo builds now.
pub fn barque() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("BARQUE_BIN") {
            return path.into();
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args([
                "build",
                "--package",
                "barque",
                "--message-format",
                "json-render-diagnostics",
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs, it has just run this test");
        assert!(
            output.status.success(),
            "barque does not build:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let messages = String::from_utf8_lossy(&output.stdout);
        messages
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|m| m["reason"] == "compiler-artifact" && m["target"]["name"] == "barque")
            .find_map(|m| m["executable"].as_str().map(PathBuf::from))
            .expect("cargo names the executable it built")
    })
}

/// A cluster of `barque up --detach` in a directory of its own.
pub struct Cluster {
    dir: tempfile::TempDir,
}

impl Cluster {
    pub fn up(masters: usize, workers: usize) -> Cluster {
        let cluster = Cluster {
            dir: tempfile::Builder::new()
                .prefix("barque-test-")
                .tempdir()
                .expect("a temporary directory"),
        };
        let output = cluster.start_missing_with(&[
            "--masters",
            &masters.to_string(),
            "--workers",
            &workers.to_string(),
        ]);
        assert!(
            output.contains("ready in"),
            "barque up says when it is ready: {output}"
        );
        cluster
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `barque up` again: starts what does not run, and waits until all is ready.
    pub fn start_missing(&self) -> String {
        self.start_missing_with(&[])
    }

    fn start_missing_with(&self, more: &[&str]) -> String {
        let output = Command::new(barque())
            .args(["up", "--detach", "--dir"])
            .arg(self.dir())
            .args(more)
            .output()
            .expect("barque runs");
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "barque up failed: {text}");
        text
    }

    pub fn status(&self) -> Value {
        let output = Command::new(barque())
            .args(["status", "-o", "json", "--dir"])
            .arg(self.dir())
            .output()
            .expect("barque runs");
        assert!(
            output.status.success(),
            "barque status failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).expect("status -o json prints JSON")
    }

    /// Name of the leading master, waited for.
    pub fn leader(&self) -> String {
        let mut found = None;
        eventually(Duration::from_secs(20), "a master leads", || {
            found = self.status()["masters"]
                .as_array()
                .expect("masters")
                .iter()
                .find(|m| m["leader"] == true)
                .map(|m| text(&m["name"]));
            found.is_some()
        });
        found.expect("just found")
    }

    pub fn masters(&self) -> Vec<String> {
        self.status()["masters"]
            .as_array()
            .expect("masters")
            .iter()
            .map(|m| text(&m["name"]))
            .collect()
    }

    /// kill -9 of that process; returns once it is gone.
    pub fn kill(&self, name: &str) {
        let status = self.status();
        let rows = status["masters"]
            .as_array()
            .into_iter()
            .chain(status["agents"].as_array())
            .flatten();
        let pid = rows
            .clone()
            .find(|row| row["name"] == name)
            .and_then(|row| row["pid"].as_i64())
            .unwrap_or_else(|| panic!("{name} runs"));
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)
            .expect("the process is ours");
        eventually(Duration::from_secs(5), "the killed process is gone", || {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .map_or(true, |stat| stat.contains(") Z "))
        });
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir().join("kubeconfig")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        let output = Command::new(barque())
            .args(["down", "--dir"])
            .arg(self.dir())
            .output();
        if let Ok(output) = output
            && !output.status.success()
        {
            eprintln!(
                "barque down failed: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
}

impl Cluster {
    fn print_logs(&self) {
        const LINES: usize = 25;
        let Ok(entries) = std::fs::read_dir(self.dir().join("logs")) else {
            return;
        };
        for entry in entries.flatten() {
            let Ok(log) = std::fs::read_to_string(entry.path()) else {
                continue;
            };
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- {}\n{}",
                entry.path().display(),
                lines[lines.len().saturating_sub(LINES)..].join("\n")
            );
        }
    }
}

/// A JSON string's text.
pub fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("a string, not {value}"))
        .to_owned()
}

/// Polls until `true`, or fails with what was waited for.
pub fn eventually(within: Duration, what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !check() {
        assert!(
            Instant::now() < deadline,
            "not within {} s: {what}",
            within.as_secs()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Both streams of a finished command, for messages.
pub fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
