//! Members come and go, with the distribution's etcdctl: one member grows to five and shrinks to one again while somebody
//! writes; a removed member ends; what etcd refuses is refused in etcd's words.

#[path = "etcdctl/cluster.rs"]
mod cluster;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use barque_tests_api::eventually;
use cluster::{Member, Program, StoreCluster, etcdctl};

const PATIENCE: Duration = Duration::from_secs(30);

/// What it prints, if it succeeds.
fn try_ctl(endpoint: &str, args: &[&str]) -> Result<String, String> {
    let output = etcdctl(endpoint).args(args).output();
    let output = output.expect("etcdctl runs (package etcd-client)");
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn ctl(endpoint: &str, args: &[&str]) -> String {
    try_ctl(endpoint, args).unwrap_or_else(|error| panic!("etcdctl {args:?}: {error}"))
}

/// The whole answer to `GET path`, head included; empty while nobody listens.
fn page(endpoint: &str, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let ask = || {
        let mut socket = std::net::TcpStream::connect(endpoint)?;
        write!(
            socket,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer)
    };
    ask().unwrap_or_default()
}

/// Name -> (id, started, learner).
fn listed(endpoint: &str) -> BTreeMap<String, (String, bool, bool)> {
    let list = ctl(endpoint, &["member", "list"]);
    let member = |line: &str| {
        let fields: Vec<&str> = line.split(", ").collect();
        let [id, status, name, .., learner] = fields[..] else {
            panic!("{line:?} is no member");
        };
        let told = (id.to_owned(), status == "started", learner == "true");
        (name.to_owned(), told)
    };
    list.lines().map(member).collect()
}

/// Puts one key after another at whichever member answers, and counts what was acknowledged.
struct Writer {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    fn start(endpoints: String) -> Writer {
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (over, count) = (stop.clone(), acknowledged.clone());
        let thread = std::thread::spawn(move || {
            let mut next = 1;
            while !over.load(Ordering::Relaxed) {
                let key = format!("w/{next:06}");
                if try_ctl(&endpoints, &["put", &key, &next.to_string()]).is_ok() {
                    count.store(next, Ordering::Relaxed);
                    next += 1;
                }
            }
        });
        Writer {
            stop,
            acknowledged,
            thread: Some(thread),
        }
    }
    fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("stopped once");
        thread.join().expect("the writer does not panic");
        self.acknowledged.load(Ordering::Relaxed)
    }
}

#[test]
fn a_cluster_grows_to_five_and_shrinks_to_one_while_somebody_writes() {
    let all = Member::on_free_ports(5);
    let program = Program::barque();
    let mut cluster = StoreCluster::start(&program, &all[..1]);
    let endpoints: Vec<String> = all.iter().map(Member::endpoint).collect();
    let writer = Writer::start(endpoints.join(","));
    for n in 1..5 {
        let (member, first) = (&all[n], &endpoints[0]);
        let peer_urls = format!("--peer-urls={}", member.peer_url());
        // Every second one by way of a learner that is promoted when it has caught up.
        let learner = n % 2 == 0;
        let mut add = vec!["member", "add", &member.name, &peer_urls];
        if learner {
            add.push("--learner");
        }
        let told = ctl(first, &add);
        assert!(
            told.contains("ETCD_INITIAL_CLUSTER_STATE=\"existing\""),
            "{told}"
        );
        assert!(!listed(first)[""].1, "not started yet");
        cluster.start_member(&program, member, &all[..=n], "existing");
        eventually(PATIENCE, "the new member has published itself", || {
            listed(first).get(&member.name).is_some_and(|m| m.1)
        });
        if learner {
            let id = listed(first)[&member.name].0.clone();
            assert!(listed(first)[&member.name].2);
            let refused = try_ctl(&member.endpoint(), &["put", "k", "v"]);
            let refused = refused.expect_err("a learner takes no writes");
            assert!(
                refused.contains("rpc not supported for learner"),
                "{refused}"
            );
            let ready = page(&member.endpoint(), "/readyz");
            assert!(
                ready.starts_with("HTTP/1.1 503")
                    && ready.contains("[-]non_learner failed: not supported for learner\n"),
                "{ready}"
            );
            let metrics = page(&member.endpoint(), "/metrics");
            assert!(
                metrics.contains("\netcd_server_is_learner 1\n"),
                "{metrics}"
            );
            eventually(PATIENCE, "the learner is promoted", || {
                try_ctl(first, &["member", "promote", &id]).is_ok()
            });
        }
        eventually(PATIENCE, "the new member serves", || {
            try_ctl(&member.endpoint(), &["put", "hello", &member.name]).is_ok()
        });
        let ready = page(&member.endpoint(), "/readyz");
        assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    }
    let metrics = page(&endpoints[0], "/metrics");
    let adds = "grpc_server_started_total{grpc_method=\"MemberAdd\",grpc_service=\"etcdserverpb.Cluster\",grpc_type=\"unary\"} 4\n";
    assert!(metrics.contains(adds), "{metrics}");
    // The oldest go first, the leader among them.
    for (n, member) in all[..4].iter().enumerate() {
        let last = &endpoints[4];
        let id = listed(last)[&member.name].0.clone();
        eventually(PATIENCE, "the removal is safe", || {
            try_ctl(last, &["member", "remove", &id]).is_ok()
        });
        eventually(PATIENCE, "the removed member ends", || {
            cluster.ended(n).is_some()
        });
        let end = cluster.ended(n).expect("it has ended");
        assert_eq!(
            end.code(),
            Some(0),
            "as etcd's: starting it again is of no use"
        );
        eventually(PATIENCE, "the others serve", || {
            try_ctl(last, &["put", "bye", &member.name]).is_ok()
        });
    }
    let acknowledged = writer.stop();
    assert!(acknowledged > 20, "only {acknowledged} puts went through");
    let last = &endpoints[4];
    assert_eq!(listed(last).len(), 1);
    let keys = ctl(last, &["get", "w/", "--prefix", "--keys-only"]);
    let keys = keys.lines().filter(|l| !l.is_empty()).count() as u64;
    assert!(
        keys >= acknowledged,
        "{keys} of {acknowledged} acknowledged puts are there"
    );
    // A removed member finds out at its restart too.
    cluster.start_member(&program, &all[3], &all, "existing");
    let again = 5;
    eventually(PATIENCE, "the removed member ends again", || {
        cluster.ended(again).is_some()
    });
    let end = cluster.ended(again).expect("it has ended");
    assert_eq!(end.code(), Some(0));
}

/// As in etcd: whoever moved a member changes its own URL, and need not touch the list it was founded with.
#[test]
fn a_moved_member_starts_with_the_list_of_its_first_start_and_a_new_one_does_not() {
    let all = Member::on_free_ports(4);
    let founders = &all[..3];
    let program = Program::barque();
    let mut cluster = StoreCluster::start(&program, founders);
    let first = founders[0].endpoint();
    let id = listed(&first)["m3"].0.clone();
    let moved = Member {
        peer_port: all[3].peer_port,
        ..founders[2].clone()
    };
    let peer_urls = format!("--peer-urls={}", moved.peer_url());
    eventually(PATIENCE, "the update is safe", || {
        try_ctl(&first, &["member", "update", &id, &peer_urls]).is_ok()
    });
    cluster.kill(2);
    cluster.start_member(&program, &moved, founders, "new");
    eventually(PATIENCE, "the moved member is back", || {
        try_ctl(&moved.endpoint(), &["put", "k", "v"]).is_ok()
    });
    cluster.kill(3);
    std::fs::remove_dir_all(cluster.dir().join("m3")).expect("its directory");
    cluster.start_member(&program, &moved, founders, "new");
    eventually(PATIENCE, "an empty directory is refused", || {
        cluster.ended(4).is_some()
    });
    let end = cluster.ended(4).expect("it has ended");
    assert_eq!(end.code(), Some(1));
}

/// Nobody needs a manual for it: it says what is to be done, and that works as it stands there.
#[test]
fn a_member_whose_disk_was_wiped_is_back_after_the_two_commands_that_it_names() {
    let members = Member::on_free_ports(3);
    let program = Program::barque();
    let mut cluster = StoreCluster::start(&program, &members);
    let (first, wiped) = (members[0].endpoint(), &members[2]);
    ctl(&first, &["put", "k", "v"]);
    cluster.kill(2);
    let dir = cluster.dir().join("m3");
    std::fs::remove_dir_all(&dir).expect("its directory");
    cluster.start_member(&program, wiped, &members, "new");
    eventually(PATIENCE, "it is refused", || cluster.ended(3).is_some());
    assert_eq!(cluster.ended(3).and_then(|end| end.code()), Some(1));
    let log = std::fs::read_to_string(cluster.dir().join("m3.log")).expect("its log");
    let told = log.lines().rfind(|line| line.starts_with("barque: "));
    let told = told.expect("it says why it ends");
    let commands: Vec<&str> = told
        .split('`')
        .filter_map(|part| part.strip_prefix("etcdctl "))
        .collect();
    assert_eq!(commands.len(), 2, "{told}");
    for command in commands {
        let args: Vec<&str> = command.split(' ').collect();
        eventually(PATIENCE, command, || try_ctl(&first, &args).is_ok());
    }
    std::fs::remove_dir_all(&dir).expect("its directory");
    cluster.start_member(&program, wiped, &members, "existing");
    eventually(PATIENCE, "it is back", || {
        try_ctl(&wiped.endpoint(), &["get", "k"]).is_ok_and(|told| told == "k\nv\n")
    });
    assert_eq!(listed(&first).len(), 3);
}

/// Every line that must not depend on who answers: without ids, times and clients' own words.
fn refusals(program: &Program) -> Vec<String> {
    let members = Member::on_free_ports(1);
    let cluster = StoreCluster::start(program, &members);
    let endpoint = members[0].endpoint();
    let own = listed(&endpoint)["m1"].0.clone();
    let mine = format!("--peer-urls={}", members[0].peer_url());
    let commands: &[&[&str]] = &[
        &["member", "remove", &own],
        &["member", "remove", "abcdef"],
        &["member", "promote", &own],
        &["member", "promote", "abcdef"],
        &[
            "member",
            "update",
            "abcdef",
            "--peer-urls=http://127.0.0.1:9",
        ],
        &["member", "add", "x", &mine],
        &["member", "add", "x", "--peer-urls=http://127.0.0.1"],
        &[
            "member",
            "add",
            "x",
            "--learner",
            "--peer-urls=http://127.0.0.1:9",
        ],
        &[
            "member",
            "add",
            "y",
            "--learner",
            "--peer-urls=http://127.0.0.1:10",
        ],
        &["move-leader", "abcdef"],
        &["move-leader", &own],
    ];
    let mut told = Vec::new();
    for command in commands {
        let answer = match try_ctl(&endpoint, command) {
            Ok(_) => "done".to_owned(),
            Err(error) => {
                let last = error.lines().last().unwrap_or_default();
                last.rsplit("desc = ")
                    .next()
                    .unwrap_or(last)
                    .trim_end_matches('"')
                    .to_owned()
            }
        };
        told.push(format!(
            "{}: {answer}",
            command
                .join(" ")
                .replace(&own, "OWN")
                .replace(&mine, "MINE")
        ));
    }
    drop(cluster);
    told
}

#[test]
fn changes_of_members_are_refused_in_etcds_words() {
    let (etcd, barque) = (refusals(&Program::etcd()), refusals(&Program::barque()));
    assert_eq!(barque, etcd);
}
