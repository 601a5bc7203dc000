//! Starts with settings of etcd's that Barque does not have, and with mistakes in the client listener: what is refused leaves
//! nothing behind, and what is taken starts.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::Duration;

use barque_tests_api::{barque, eventually, said};

fn bound() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    (listener, port)
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// A single member in `data`, whose client listener comes besides.
fn etcd(data: &Path, peer: u16) -> Command {
    let peer = url(peer);
    let mut command = Command::new(barque());
    command.args(["etcd", "--data-dir"]).arg(data).args([
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
    ]);
    command
}

fn listening_on(command: &mut Command, client: &str) {
    command.args([
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
    ]);
}

fn refused(command: &mut Command, data: &Path) -> String {
    let output: Output = command.output().expect("barque runs");
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(!data.exists(), "nothing was created: {text}");
    text
}

#[test]
fn a_setting_that_must_not_be_passed_over_ends_the_start() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let (_, peer) = bound();
    let text = refused(
        etcd(&data, peer)
            .env("ETCD_DISCOVERY_SRV", "example.com")
            .arg("--wal-dir=/wal"),
        &data,
    );
    assert!(text.contains("ETCD_DISCOVERY_SRV: "), "{text}");
    assert!(text.contains("--wal-dir: "), "{text}");
}

#[test]
fn a_mistake_in_the_client_listener_is_found_before_the_member_is() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let (_, peer) = bound();

    let cert = dir.path().join("server.crt");
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(&cert, pem).expect("a file");
    let key = dir.path().join("no-such.key");
    let mut command = etcd(&data, peer);
    listening_on(&mut command, "https://127.0.0.1:0");
    command.arg("--cert-file").arg(&cert);
    command.arg("--key-file").arg(&key);
    let text = refused(&mut command, &data);
    for part in [key.to_str().expect("UTF-8"), "No such file"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }

    let (taken, port) = bound();
    let mut command = etcd(&data, peer);
    listening_on(&mut command, &url(port));
    let text = refused(&mut command, &data);
    for part in [url(port).as_str(), "in use"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    drop(taken);
}

struct Running(Child);
impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn settings_without_effect_and_unknown_ones_are_told_and_the_member_starts() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let log = dir.path().join("log");
    let ((_, peer), (_, client)) = (bound(), bound());
    let mut command = etcd(&dir.path().join("data"), peer);
    listening_on(&mut command, &url(client));
    command
        .args(["--snapshot-count=10000", "--client-cert-auth=false"])
        .args(["-logger", "zap"])
        .env("ETCD_NO_SUCH", "1")
        .env("ETCD_TRUSTED_CA_FILE", "")
        .stderr(std::fs::File::create(&log).expect("a log"));
    let member = Running(command.spawn().expect("barque runs"));
    let log = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually(Duration::from_secs(30), "the member serves", || {
        log().contains("serving client traffic insecurely; this is strongly discouraged!")
    });
    let log = log();
    for part in [
        "unrecognized environment variable",
        "ETCD_NO_SUCH",
        "--snapshot-count, --logger",
    ] {
        assert!(log.contains(part), "{part} is not in {log}");
    }
    drop(member);
}
