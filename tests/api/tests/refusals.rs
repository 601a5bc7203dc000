//! Bad input: each a clear error, and nothing lost.

use std::process::Command;

use barque_tests_api::kubectl::{Kubectl, oldest_and_newest};
use barque_tests_api::{Cluster, barque, said};

fn fails(args: &[&str]) -> String {
    let output = Command::new(barque())
        .args(args)
        .output()
        .expect("barque runs");
    assert!(
        !output.status.success(),
        "barque {} should fail, but said: {}",
        args.join(" "),
        said(&output)
    );
    said(&output)
}

#[test]
fn flags_are_refused_by_name_before_anything_is_opened() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let data = data.to_str().expect("UTF-8");
    assert!(fails(&["etcd", "--no-such-flag"]).contains("--no-such-flag"));
    assert!(
        fails(&[
            "etcd",
            "--data-dir",
            data,
            "--listen-client-urls",
            "127.0.0.1:1"
        ])
        .contains("--listen-client-urls")
    );
    assert!(
        fails(&[
            "etcd",
            "--data-dir",
            data,
            "--initial-cluster",
            "other=http://127.0.0.1:1"
        ])
        .contains("--initial-cluster")
    );
    assert!(
        fails(&["etcd", "--data-dir", data, "--heartbeat-interval", "500"])
            .contains("--election-timeout")
    );
    assert!(fails(&["up", "--masters", "2"]).contains("--masters"));
    assert!(!dir.path().join("data").exists(), "nothing was created");
}

struct Etcd(std::process::Child);
impl Drop for Etcd {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a free port")
        .port()
}

#[test]
fn a_taken_port_and_a_second_process_on_one_directory_are_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let data = data.to_str().expect("UTF-8");
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let (client, peer) = (url(free_port()), url(free_port()));
    let cluster = format!("default={peer}");
    let common = [
        "etcd",
        "--data-dir",
        data,
        "--listen-peer-urls",
        &peer,
        "--initial-advertise-peer-urls",
        &peer,
        "--initial-cluster",
        &cluster,
    ];
    let start = |client: &str| -> Vec<String> {
        common
            .iter()
            .map(|s| (*s).to_owned())
            .chain(
                [
                    "--listen-client-urls",
                    client,
                    "--advertise-client-urls",
                    client,
                ]
                .map(String::from),
            )
            .collect()
    };
    let log = std::fs::File::create(dir.path().join("log")).expect("a log");
    let first = Etcd(
        Command::new(barque())
            .args(start(&client))
            .stderr(log)
            .spawn()
            .expect("barque runs"),
    );
    let address = client.trim_start_matches("http://").to_owned();
    barque_tests_api::eventually(
        std::time::Duration::from_secs(20),
        "the first process serves",
        || std::net::TcpStream::connect(&address).is_ok(),
    );

    let second_client = url(free_port());
    let second = Command::new(barque())
        .args(start(&second_client))
        .output()
        .expect("barque runs");
    assert!(
        !second.status.success() && said(&second).contains(data),
        "a second process on one directory names it: {}",
        said(&second)
    );

    let other = dir.path().join("other");
    let other_peer = url(free_port());
    let output = Command::new(barque())
        .args([
            "etcd",
            "--data-dir",
            other.to_str().expect("UTF-8"),
            "--listen-peer-urls",
            &other_peer,
            "--initial-advertise-peer-urls",
            &other_peer,
        ])
        .args([
            "--initial-cluster",
            &format!("default={other_peer}"),
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ])
        .output()
        .expect("barque runs");
    assert!(
        !output.status.success() && said(&output).contains(&address),
        "a taken port names the address: {}",
        said(&output)
    );
    drop(first);
}

#[test]
fn the_gateway_refuses_clearly_and_loses_nothing() {
    let cluster = Cluster::up(1, 1);
    let newest = oldest_and_newest().pop().expect("at least one");
    let kubectl = Kubectl::new(&newest, &cluster.kubeconfig());
    kubectl.ok(&["create", "configmap", "kept", "--from-literal=a=1"]);

    assert!(
        kubectl
            .fails(&["get", "widgets"])
            .contains("the server doesn't have a resource type \"widgets\"")
    );
    let server = barque_tests_api::text(&cluster.status()["masters"][0]["kubernetes"]);
    let pki = cluster.dir().join("pki");
    let curl = |args: &[&str], certificate: bool| -> (String, String) {
        let mut command = Command::new("curl");
        command
            .args(["-sS", "-w", "\n%{http_code}", "--cacert"])
            .arg(pki.join("cluster-ca.crt"));
        if certificate {
            command
                .arg("--cert")
                .arg(pki.join("admin.crt"))
                .arg("--key")
                .arg(pki.join("admin.key"));
        }
        let output = command.args(args).output().expect("curl runs");
        let text = said(&output);
        let (body, code) = text.trim_end().rsplit_once('\n').unwrap_or(("", &text));
        (code.to_owned(), body.to_owned())
    };
    let configmaps = format!("{server}/api/v1/namespaces/default/configmaps");
    let one = format!("{configmaps}/kept");

    let (code, body) = curl(
        &[
            "-X",
            "POST",
            "-H",
            "Content-Type: application/json",
            "-d",
            "{\"apiVersion\":",
            &configmaps,
        ],
        true,
    );
    assert!(
        code == "400" && body.contains("\"kind\":\"Status\""),
        "malformed JSON: {code} {body}"
    );
    let (code, body) = curl(
        &[
            "-X",
            "POST",
            "-H",
            "Content-Type: application/vnd.kubernetes.protobuf",
            "-d",
            "k8s",
            &configmaps,
        ],
        true,
    );
    assert!(
        code == "400" && body.contains("\"kind\":\"Status\""),
        "malformed protobuf: {code} {body}"
    );
    let stale = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"kept","resourceVersion":"1"},"data":{"a":"2"}}"#;
    let (code, body) = curl(
        &[
            "-X",
            "PUT",
            "-H",
            "Content-Type: application/json",
            "-d",
            stale,
            &one,
        ],
        true,
    );
    assert!(
        code == "409" && body.contains("the object has been modified"),
        "a stale resourceVersion: {code} {body}"
    );
    let big = cluster.dir().join("big.json");
    std::fs::write(&big, format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"big"}},"data":{{"a":"{}"}}}}"#, "x".repeat(4 << 20))).expect("a file");
    let (code, body) = curl(
        &[
            "-X",
            "POST",
            "-H",
            "Content-Type: application/json",
            "--data-binary",
            &format!("@{}", big.display()),
            &configmaps,
        ],
        true,
    );
    assert!(code == "413", "an oversized body: {code} {body}");
    let (code, body) = curl(&[&one], false);
    assert!(
        code == "401" || body.contains("certificate required"),
        "no certificate: {code} {body}"
    );
    let (code, body) = curl(
        &[
            "-X",
            "POST",
            "-H",
            "Content-Type: application/json",
            "-d",
            r#"{"apiVersion":"v1","kind":"Widget","metadata":{"name":"w"}}"#,
            &configmaps,
        ],
        true,
    );
    assert!(code == "400", "an unknown kind: {code} {body}");

    // A certificate of another authority.
    let stranger = cluster.dir().join("stranger");
    let ca = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/O=system:masters/CN=mallory",
            "-keyout",
        ])
        .arg(stranger.with_extension("key"))
        .arg("-out")
        .arg(stranger.with_extension("crt"))
        .output()
        .expect("openssl runs");
    assert!(ca.status.success(), "{}", said(&ca));
    let output = Command::new("curl")
        .args(["-sS", "-w", "\n%{http_code}", "--cacert"])
        .arg(pki.join("cluster-ca.crt"))
        .arg("--cert")
        .arg(stranger.with_extension("crt"))
        .arg("--key")
        .arg(stranger.with_extension("key"))
        .arg(&one)
        .output()
        .expect("curl runs");
    assert!(
        !said(&output).contains("\"data\""),
        "a foreign certificate shows nothing: {}",
        said(&output)
    );

    let kept = kubectl.json(&["get", "configmap", "kept"]);
    assert_eq!(kept["data"]["a"], "1", "nothing was lost or changed");
    assert!(
        kubectl
            .fails(&["get", "configmap", "big"])
            .contains("not found")
    );
}
