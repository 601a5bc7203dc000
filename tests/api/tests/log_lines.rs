//! What an operator reads in a member's log: who it is, and who leads, in the ids that etcdctl prints.

#[path = "etcdctl/cluster.rs"]
mod cluster;

use std::time::Duration;

use barque_tests_api::eventually;
use cluster::{Member, Program, StoreCluster, etcdctl};

const PATIENCE: Duration = Duration::from_secs(30);

/// The member's id, and whether it leads, if it answers.
fn status(member: &Member) -> Option<(String, bool)> {
    let output = etcdctl(&member.endpoint())
        .args(["endpoint", "status"])
        .output()
        .expect("etcdctl runs (package etcd-client)");
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    let fields: Vec<&str> = line.trim().split(", ").collect();
    // endpoint, id, version, size, leader?, ...
    Some((fields.get(1)?.to_string(), *fields.get(4)? == "true"))
}

fn log_of(cluster: &StoreCluster, member: &Member) -> String {
    let path = cluster.dir().join(format!("{}.log", member.name));
    std::fs::read_to_string(path).expect("the member's log")
}

/// Lines that tell that this one leads.
fn found(log: &str, leader: &str) -> usize {
    let told = format!("leader found leader={leader} ");
    log.lines().filter(|line| line.contains(&told)).count()
}

#[test]
fn a_log_says_who_the_member_is_and_who_leads() {
    let members = Member::on_free_ports(3);
    let mut cluster = StoreCluster::start(&Program::barque(), &members);
    let told: Vec<(String, bool)> = members
        .iter()
        .map(|member| status(member).expect("it is healthy"))
        .collect();
    for (member, (id, _)) in members.iter().zip(&told) {
        let log = log_of(&cluster, member);
        let first = log.lines().find(|line| line.contains("this member starts"));
        let first = first.expect("it says so");
        let data_dir = cluster.dir().join(&member.name);
        assert!(
            first.contains(&format!("member={id} "))
                && first.contains(&format!("data_dir={} ", data_dir.display())),
            "{first}"
        );
    }
    let old = told.iter().position(|(_, leads)| *leads);
    let old = old.expect("one of them leads");
    cluster.kill(old);
    let others: Vec<usize> = (0..members.len()).filter(|n| *n != old).collect();
    let mut new = None;
    eventually(PATIENCE, "another one leads", || {
        new = others
            .iter()
            .copied()
            .find(|n| status(&members[*n]).is_some_and(|told| told.1));
        new.is_some()
    });
    let new = &told[new.expect("one of them leads")].0;
    for other in others {
        let other = &members[other];
        eventually(PATIENCE, "each survivor names it", || {
            found(&log_of(&cluster, other), new) > 0
        });
        let log = log_of(&cluster, other);
        assert_eq!(found(&log, new), 1, "{log}");
        assert!(found(&log, &told[old].0) >= 1, "{log}");
    }
}
