//! One member as its operator meets it: quota, a full or read-only file system, probes without a quorum, signals. Real
//! processes of the built program. What needs mounts runs as root only, and says so otherwise.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use barque_proto::etcdserverpb as pb;
use barque_tests_api::{barque, eventually, said};
use pb::kv_client::KvClient;
use tonic::transport::Channel;

const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
/// Generous: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a free port")
        .port()
}

/// `barque etcd` of a cluster of `members`, of which only this one runs.
struct Member {
    child: Child,
    client: u16,
    metrics: u16,
    peers: Vec<u16>,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

/// `peers`: a port of each member of the cluster, the first one's is this member's.
fn command(data: &Path, client: u16, peers: &[u16]) -> Command {
    let cluster: Vec<String> = peers
        .iter()
        .enumerate()
        .map(|(i, port)| format!("m{i}=http://127.0.0.1:{port}"))
        .collect();
    let peer = format!("http://127.0.0.1:{}", peers[0]);
    let client = format!("http://127.0.0.1:{client}");
    let mut command = Command::new(barque());
    command
        .args(["etcd", "--name", "m0", "--data-dir"])
        .arg(data);
    command.args(["--listen-peer-urls", &peer]);
    command.args(["--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &cluster.join(",")]);
    command.args(["--listen-client-urls", &client]);
    command.args(["--advertise-client-urls", &client]);
    command
}

impl Member {
    fn start(data: Option<&Path>, members: usize, more: &[&str]) -> Member {
        let dir = tempfile::Builder::new()
            .prefix("barque-test-")
            .tempdir()
            .expect("a temporary directory");
        let data = data.map_or_else(|| dir.path().join("data"), Path::to_path_buf);
        let log = dir.path().join("log");
        let (client, metrics) = (free_port(), free_port());
        let peers: Vec<u16> = (0..members).map(|_| free_port()).collect();
        let url = format!("http://127.0.0.1:{metrics}");
        let child = command(&data, client, &peers)
            .args(["--listen-metrics-urls", &url])
            .args(more)
            .stderr(std::fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("barque runs");
        Member {
            child,
            client,
            metrics,
            peers,
            log,
            _dir: dir,
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn wait_ready(self) -> Member {
        eventually(PATIENCE, "the member is ready", || {
            self.log().contains("ready to serve client requests")
        });
        self
    }

    async fn kv(&self) -> KvClient<Channel> {
        let url = format!("http://127.0.0.1:{}", self.client);
        KvClient::connect(url).await.expect("the member answers")
    }

    /// Status and body of a page of the metrics URL; `None` while nothing listens.
    fn page(&self, path: &str) -> Option<(u16, String)> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.metrics)).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).ok()?;
        let mut text = String::new();
        socket.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    }

    fn eventually_page(&self, path: &str, status: u16, part: &str) {
        let mut last = None;
        eventually(PATIENCE, &format!("{path}: {status} with {part:?}"), || {
            last = self.page(path);
            last.as_ref()
                .is_some_and(|(s, body)| *s == status && body.contains(part))
        });
    }

    fn signal(&mut self, signal: nix::sys::signal::Signal) -> ExitStatus {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("it is ours");
        let mut ended = None;
        eventually(PATIENCE, "the member stops", || {
            ended = self.child.try_wait().expect("a child of ours");
            ended.is_some()
        });
        ended.expect("just seen")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the member\n{}", self.log());
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A tmpfs of its own, unmounted when it goes out of scope.
struct Tmpfs {
    dir: tempfile::TempDir,
}

impl Tmpfs {
    fn mount(mib: u32) -> Tmpfs {
        let dir = tempfile::Builder::new()
            .prefix("barque-test-")
            .tempdir()
            .expect("a temporary directory");
        let size = format!("size={mib}m,mode=700");
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path())
            .output()
            .expect("mount runs");
        assert!(output.status.success(), "{}", said(&output));
        Tmpfs { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn remount(&self, options: &str) {
        let output = Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(self.path())
            .output()
            .expect("mount runs");
        assert!(output.status.success(), "{}", said(&output));
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a process that a failed test left behind must not keep it.
        drop(Command::new("umount").arg("-l").arg(self.path()).status());
    }
}

/// Whether file systems can be mounted here; says why not otherwise.
fn can_mount(test: &str) -> bool {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let able = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(dir.path())
        .output()
        .is_ok_and(|output| output.status.success());
    if able {
        drop(Command::new("umount").arg(dir.path()).status());
    }
    if !able {
        println!("SKIP {test}: mounting a tmpfs needs root");
    }
    able
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    }
}

/// Puts until one is refused or accepted, as wanted.
async fn put_until(kv: &mut KvClient<Channel>, refused: bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        match kv.put(put("probe", "1")).await {
            Ok(_) if !refused => return,
            Err(status) if refused && status.message() == NO_SPACE => return,
            Err(status) => assert_eq!(status.message(), NO_SPACE),
            Ok(_) => {}
        }
        assert!(
            std::time::Instant::now() < deadline,
            "not in time: a put is refused: {refused}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn the_quota_warns_raises_its_alarm_and_clears_it_by_itself() {
    let member = Member::start(None, 1, &["--quota-backend-bytes", "400000"]).wait_ready();
    member.eventually_page("/health", 200, "true");
    runtime().block_on(async {
        let mut kv = member.kv().await;
        let value = "v".repeat(4_000);
        let mut revision = 0;
        let refused = loop {
            match kv.put(put("k", &value)).await {
                Ok(answer) => revision = answer.into_inner().header.expect("a header").revision,
                Err(status) => break status,
            }
        };
        assert_eq!(refused.message(), NO_SPACE);
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        member.eventually_page("/health", 503, "ALARM NOSPACE");
        member.eventually_page("/readyz", 200, "ok");
        assert!(member.log().contains("near the quota"), "{}", member.log());
        let compaction = pb::CompactionRequest {
            revision,
            ..Default::default()
        };
        kv.compact(compaction).await.expect("compactions go on");
        member.eventually_page("/health", 200, "true");
        kv.put(put("k", &value)).await.expect("there is room again");
    });
    let (_, metrics) = member.page("/metrics").expect("a page");
    assert!(
        metrics.contains("\netcd_server_quota_backend_bytes 400000\n"),
        "{metrics}"
    );
}

#[test]
fn growth_stops_before_the_file_system_is_full_and_goes_on_when_there_is_room() {
    if !can_mount("growth_stops_before_the_file_system_is_full_and_goes_on_when_there_is_room") {
        return;
    }
    // The log takes 64 MiB of it.
    let tmpfs = Tmpfs::mount(300);
    let data = tmpfs.path().join("data");
    let reserve = (120u64 << 20).to_string();
    let mut member =
        Member::start(Some(&data), 1, &["--disk-reserve-bytes", &reserve]).wait_ready();
    let balloon = tmpfs.path().join("balloon");
    runtime().block_on(async {
        let mut kv = member.kv().await;
        kv.put(put("kept", "1")).await.expect("there is room");
        let file = std::fs::File::create(&balloon).expect("a file");
        nix::fcntl::posix_fallocate(&file, 0, 160 << 20).expect("room for the balloon");
        // An open file keeps its room after it was removed.
        drop(file);
        put_until(&mut kv, true).await;
        member.eventually_page("/health", 503, "ALARM NOSPACE");
        let delete = pb::DeleteRangeRequest {
            key: "kept".into(),
            ..Default::default()
        };
        let deleted = kv.delete_range(delete).await.expect("deletes go on");
        assert_eq!(deleted.into_inner().deleted, 1);
        let range = pb::RangeRequest {
            key: "kept".into(),
            ..Default::default()
        };
        let read = kv.range(range).await.expect("reads go on");
        assert_eq!(read.into_inner().count, 0);
        std::fs::remove_file(&balloon).expect("the balloon is ours");
        put_until(&mut kv, false).await;
        member.eventually_page("/health", 200, "true");
    });
    member.signal(nix::sys::signal::Signal::SIGTERM);
}

#[test]
fn a_full_or_read_only_file_system_is_refused_at_the_start() {
    if !can_mount("a_full_or_read_only_file_system_is_refused_at_the_start") {
        return;
    }
    let refused = |data: &Path, peers: &[u16]| {
        let output = command(data, free_port(), peers)
            .output()
            .expect("barque runs");
        assert!(!output.status.success(), "{}", said(&output));
        let text = said(&output);
        assert!(text.contains(&data.display().to_string()), "{text}");
        text
    };
    let small = Tmpfs::mount(16);
    let text = refused(&small.path().join("data"), &[free_port()]);
    assert!(
        text.contains("too little room") && text.contains("make room"),
        "{text}"
    );

    let tmpfs = Tmpfs::mount(300);
    let data = tmpfs.path().join("data");
    // Once with nothing there, once with a log.
    tmpfs.remount("ro");
    let text = refused(&data, &[free_port()]);
    assert!(text.contains("read-only"), "{text}");
    tmpfs.remount("rw");
    let mut member = Member::start(Some(&data), 1, &[]).wait_ready();
    member.signal(nix::sys::signal::Signal::SIGTERM);
    tmpfs.remount("ro");
    let text = refused(&data, &member.peers);
    assert!(text.contains("read-only"), "{text}");
}

#[test]
fn without_a_quorum_the_member_lives_and_is_not_ready() {
    let member = Member::start(None, 3, &[]);
    member.eventually_page("/livez", 200, "ok\n");
    member.eventually_page(
        "/readyz",
        503,
        "[-]linearizable_read failed: etcdserver: no leader\n",
    );
    member.eventually_page("/health", 503, "RAFT NO LEADER");
    member.eventually_page("/health?serializable=true", 200, "true");
    member.eventually_page("/metrics", 200, "\netcd_server_has_leader 0\n");
    assert!(!member.log().contains("ready to serve client requests"));
}

#[test]
fn a_signal_stops_the_member_in_order_and_is_how_it_ends() {
    use nix::sys::signal::Signal;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut member = Member::start(None, 1, &[]).wait_ready();
        let status = member.signal(signal);
        assert_eq!(status.signal(), Some(signal as i32), "{status}");
        assert!(
            member.log().contains("received signal; shutting down"),
            "{}",
            member.log()
        );
    }
}

#[test]
fn a_metrics_url_that_is_none_is_refused_by_its_flag() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    for (urls, part) in [
        ("127.0.0.1:2381", "--listen-metrics-urls"),
        ("https://127.0.0.1:2381", "--cert-file"),
        ("http://127.0.0.1", "--listen-metrics-urls"),
    ] {
        let output = command(&data, free_port(), &[free_port()])
            .args(["--listen-metrics-urls", urls])
            .output()
            .expect("barque runs");
        let text = said(&output);
        assert!(!output.status.success() && text.contains(part), "{text}");
    }
    assert!(!data.exists(), "nothing was created");
}
