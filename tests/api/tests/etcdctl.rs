//! The distribution's etcdctl against `barque etcd`: a scripted session (`etcdctl/session.txt`), line by line the same as with
//! a real etcd. Both clusters run one after the other on the same ports, so member and cluster ids must be equal too.

#[path = "etcdctl/cluster.rs"]
mod cluster;
#[path = "etcdctl/normal.rs"]
mod normal;
#[path = "etcdctl/session.rs"]
mod session;

use cluster::{Member, Program, StoreCluster};
use session::{Entry, Session};

const SCRIPT: &str = include_str!("etcdctl/session.txt");

/// Differences that are meant, each with its reason. `normal.rs` masks exactly these.
const ACCEPTED: &[(&str, &str)] = &[(
    "version in `endpoint status`",
    "Barque claims the etcd API it speaks, not the version of the etcd at hand",
)];

fn transcript(program: &Program, members: &[Member]) -> Vec<Entry> {
    let cluster = StoreCluster::start(program, members);
    Session::new(members, &cluster).run(SCRIPT)
}

fn compare(members: usize) {
    let members = Member::on_free_ports(members);
    let etcd = transcript(&Program::etcd(), &members);
    let barque = transcript(&Program::barque(), &members);
    assert_eq!(
        etcd.len(),
        barque.len(),
        "both went through the same script"
    );
    // Two clusters that answer nothing are equal too.
    let succeeded = |entries: &[Entry]| {
        entries
            .iter()
            .filter(|e| e.lines.last().is_some_and(|l| l == "exit status Some(0)"))
            .count()
    };
    assert!(
        succeeded(&etcd) > 70,
        "only {} commands succeeded against etcd",
        succeeded(&etcd)
    );
    let mut differences = String::new();
    for (etcd, barque) in etcd.iter().zip(&barque) {
        if etcd.lines != barque.lines {
            differences += &format!(
                "\netcdctl {}   (session.txt:{})\n  etcd:\n    {}\n  barque:\n    {}\n",
                etcd.command,
                etcd.line,
                etcd.lines.join("\n    "),
                barque.lines.join("\n    "),
            );
        }
    }
    let accepted: Vec<String> = ACCEPTED
        .iter()
        .map(|(what, why)| format!("{what}: {why}"))
        .collect();
    assert!(
        differences.is_empty(),
        "differences beyond those accepted ({}):\n{differences}",
        accepted.join("; ")
    );
    println!(
        "{} commands, {} members: no difference beyond: {}",
        etcd.len(),
        members.len(),
        accepted.join("; ")
    );
}

#[test]
fn one_member_answers_etcdctl_as_etcd_does() {
    compare(1);
}

#[test]
fn three_members_answer_etcdctl_as_etcd_does() {
    compare(3);
}
