//! A stopped member whose rows are damaged on disk is started again, and comes back by itself: real processes, seen with etcdctl.

#[path = "etcdctl/cluster.rs"]
mod cluster;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use barque_tests_api::{eventually, said};
use cluster::{Member, Program, StoreCluster, etcdctl};

const PATIENCE: Duration = Duration::from_secs(30);

fn ctl(endpoints: &str, args: &[&str]) -> Result<String, String> {
    let output = etcdctl(endpoints).args(args).output();
    let output = output.expect("etcdctl runs (package etcd-client)");
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(said(&output)),
    }
}

/// Changes one bit in the header of the oldest file with rows.
fn flip(rows: &Path) {
    let entries = std::fs::read_dir(rows).expect("it has rows");
    let files = entries.map(|entry| entry.expect("readable").path());
    let segments = files.filter(|path| path.extension().is_some_and(|e| e == "seg"));
    let first = segments.min().expect("it has rows");
    let file = File::options().read(true).write(true).open(first);
    let file = file.expect("opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 20).expect("read");
    file.write_all_at(&[byte[0] ^ 4], 20).expect("written");
}

#[test]
fn a_member_with_a_flipped_bit_in_its_rows_comes_back_by_itself() {
    let members = Member::on_free_ports(3);
    let program = Program::barque();
    let mut cluster = StoreCluster::start(&program, &members);
    let endpoint = members[0].endpoint();
    for n in 0..40 {
        let put = ["put", &format!("k/{n}"), "a value"];
        ctl(&endpoint, &put).expect("written");
    }
    cluster.kill(2);
    let data = cluster.dir().join(&members[2].name).join("member");
    flip(&data.join("rows"));
    ctl(&endpoint, &["put", "k/meanwhile", "a value"]).expect("two of three write");
    cluster.start_member(&program, &members[2], &members, "new");
    let back = members[2].endpoint();
    eventually(PATIENCE, "the damaged member serves", || {
        ctl(&back, &["put", "k/back", "a value"]).is_ok()
    });
    let keys = ctl(&back, &["get", "k/", "--prefix", "--keys-only"]).expect("read");
    assert_eq!(keys.lines().filter(|l| !l.is_empty()).count(), 42);
    eventually(PATIENCE, "all members have the same", || {
        let told = ctl(&back, &["endpoint", "hashkv", "--cluster"]).unwrap_or_default();
        let hashes: Vec<&str> = told.lines().filter_map(|l| l.split(", ").nth(1)).collect();
        hashes.len() == 3 && BTreeSet::from_iter(&hashes).len() == 1
    });
    assert_eq!(ctl(&back, &["alarm", "list"]), Ok(String::new()));
    assert!(!data.join("refetch").exists(), "it is still marked");
    let log = cluster.dir().join(format!("{}.log", members[2].name));
    let log = std::fs::read_to_string(log).expect("its log");
    for part in ["offset", "was taken anew"] {
        assert!(log.contains(part), "{log}");
    }
}
