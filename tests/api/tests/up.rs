//! `barque up` in the foreground and `barque down`: what they start they also end.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use barque_tests_api::{Cluster, barque, eventually, said};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Processes whose command line names that directory.
fn processes_of(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().expect("UTF-8");
    let entries = std::fs::read_dir("/proc").expect("procfs").flatten();
    entries
        .filter(|e| e.file_name().to_string_lossy().parse::<u32>().is_ok())
        .filter_map(|e| std::fs::read_to_string(e.path().join("cmdline")).ok())
        .filter(|line| line.contains(dir))
        .collect()
}

/// Ends what a failed test would leave behind.
struct Down<'a>(&'a Path);
impl Drop for Down<'_> {
    fn drop(&mut self) {
        if !processes_of(self.0).is_empty() {
            drop(
                Command::new(barque())
                    .args(["down", "--dir"])
                    .arg(self.0)
                    .output(),
            );
        }
    }
}

#[test]
fn ctrl_c_leaves_no_process() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let _down = Down(dir.path());
    let mut up = Command::new(barque())
        .args(["up", "--masters", "1", "--workers", "1", "--dir"])
        .arg(dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("barque runs");
    let lines = BufReader::new(up.stdout.take().expect("piped")).lines();
    let mut seen = Vec::new();
    for line in lines.map_while(Result::ok) {
        let last = line.contains("Ctrl-C");
        seen.push(line);
        if last {
            break;
        }
    }
    assert!(seen.iter().any(|l| l.starts_with("ready in ")), "{seen:?}");
    assert!(
        seen.iter().any(|l| l.starts_with("export KUBECONFIG=")),
        "{seen:?}"
    );
    // A master, a scheduler, a controller, a kubelet, and `barque up` itself.
    assert_eq!(processes_of(dir.path()).len(), 5);
    let pid = Pid::from_raw(i32::try_from(up.id()).expect("a pid"));
    kill(pid, Signal::SIGINT).expect("it is ours");
    let status = up.wait().expect("it ends");
    assert!(status.success(), "{status}");
    eventually(Duration::from_secs(5), "no process is left", || {
        processes_of(dir.path()).is_empty()
    });
}

#[test]
fn down_with_clean_leaves_nothing_and_again_says_so() {
    let cluster = Cluster::up(1, 0);
    let dir = cluster.dir().to_owned();
    assert!(!processes_of(&dir).is_empty());
    let down = || {
        let output = Command::new(barque())
            .args(["down", "--clean", "--dir"])
            .arg(&dir)
            .output()
            .expect("barque runs");
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    };
    assert!(down().contains("removed"));
    assert!(processes_of(&dir).is_empty() && !dir.exists());
    assert!(down().contains("no cluster"));
}

#[test]
fn down_touches_nothing_that_is_not_a_cluster() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("precious"), "data").expect("a file");
    let output = Command::new(barque())
        .args(["down", "--clean", "--dir"])
        .arg(dir.path())
        .output()
        .expect("barque runs");
    assert!(!output.status.success());
    assert!(
        said(&output).contains("holds no cluster"),
        "{}",
        said(&output)
    );
    assert!(dir.path().join("precious").exists());
}
