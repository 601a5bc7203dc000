//! `--force-new-cluster` on one member of a cluster whose others are lost: the same as with a real etcd, seen with etcdctl.

#[path = "etcdctl/cluster.rs"]
mod cluster;

use std::time::Duration;

use barque_tests_api::{eventually, said};
use cluster::{Member, Program, StoreCluster, etcdctl};

const PATIENCE: Duration = Duration::from_secs(30);
const FORCE: &str = "--force-new-cluster";

fn ctl(endpoint: &str, args: &[&str]) -> Result<String, String> {
    let output = etcdctl(endpoint).args(args).output();
    let output = output.expect("etcdctl runs (package etcd-client)");
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(said(&output)),
    }
}

/// What clients see of it, without ids and ports.
fn seen(member: &Member) -> Vec<String> {
    let endpoint = member.endpoint();
    eventually(PATIENCE, "it serves", || {
        ctl(&endpoint, &["endpoint", "health"]).is_ok()
    });
    let list = ctl(&endpoint, &["member", "list"]).expect("listed");
    let of = |line: &str| {
        let fields: Vec<&str> = line.split(", ").collect();
        let [_, status, name, .., learner] = fields[..] else {
            panic!("{line:?} is no member");
        };
        format!("{name} {status} {learner}")
    };
    let mut seen: Vec<String> = list.lines().map(of).collect();
    let keys = ctl(&endpoint, &["get", "k/", "--prefix"]).expect("read");
    seen.extend(keys.lines().map(str::to_owned));
    seen
}

/// Three members and a learner that was never started; all are killed, and the second goes on.
fn forced(program: &Program) -> (StoreCluster, Vec<Member>, Vec<Vec<String>>) {
    let all = Member::on_free_ports(4);
    let members = &all[..3];
    let mut cluster = StoreCluster::start(program, members);
    let first = members[0].endpoint();
    for n in 0..5 {
        let put = ["put", &format!("k/{n}"), "a value"];
        ctl(&first, &put).expect("written");
    }
    let learner = format!("--peer-urls={}", all[3].peer_url());
    eventually(PATIENCE, "a learner may be added", || {
        ctl(&first, &["member", "add", "m4", "--learner", &learner]).is_ok()
    });
    let left = &members[1];
    eventually(PATIENCE, "the second has it all", || {
        let list = ctl(&left.endpoint(), &["member", "list"]);
        list.is_ok_and(|list| list.lines().count() == 4)
    });
    for n in 0..3 {
        cluster.kill(n);
    }
    let mut told = Vec::new();
    for (nth, flags) in [&[FORCE][..], &[], &["--force-new-cluster=true"]]
        .into_iter()
        .enumerate()
    {
        cluster.start_member_with(program, left, members, "new", flags);
        told.push(seen(left));
        let put = ["put", &format!("k/again/{nth}"), "a value"];
        ctl(&left.endpoint(), &put).expect("written");
        if nth < 2 {
            cluster.kill(3 + nth);
        }
    }
    (cluster, all, told)
}

#[test]
fn one_member_of_a_dead_cluster_goes_on_alone_as_with_etcd() {
    let (_etcd, _, expected) = forced(&Program::etcd());
    let program = Program::barque();
    let (mut cluster, members, told) = forced(&program);
    assert_eq!(told, expected);
    assert_eq!(told[2].len(), 1 + 2 * 7, "{told:?}");

    // One of the lost is found again, and started as ever.
    let left = members[1].endpoint();
    cluster.start_member(&program, &members[0], &members[..3], "new");
    eventually(PATIENCE, "it is told that it was removed", || {
        cluster.ended(6).is_some()
    });
    assert_eq!(cluster.ended(6).and_then(|end| end.code()), Some(0));
    ctl(&left, &["put", "k/last", "a value"]).expect("written");

    // The flag of a dead cluster, and a directory that has none of its data.
    let empty = Member {
        name: "m5".to_owned(),
        ..members[3].clone()
    };
    cluster.start_member_with(
        &program,
        &empty,
        std::slice::from_ref(&empty),
        "new",
        &[FORCE],
    );
    eventually(PATIENCE, "it is refused", || cluster.ended(7).is_some());
    assert_eq!(cluster.ended(7).and_then(|end| end.code()), Some(1));
    let log = std::fs::read_to_string(cluster.dir().join("m5.log")).expect("its log");
    assert!(
        log.contains("--force-new-cluster: there is no member's data in"),
        "{log}"
    );
    assert!(!cluster.dir().join("m5").exists(), "nothing was made");
}
