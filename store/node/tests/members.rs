//! One and three real members on this machine's disk and loopback: what every front relies on.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test may use real time and sockets"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use barque_store_env::real::{RealDisk, RealEnv, RealNet};
use barque_store_env::{Env, Instant};
use barque_store_node::{Config, Store};
use barque_store_state::*;
use barque_store_watch::{Delivery, WatchSpec};

fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<_> = (0..count)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"))
        .collect();
    held.iter()
        .map(|l| l.local_addr().expect("bound").port())
        .collect()
}

fn config(name: &str, dir: &Path, ports: &BTreeMap<String, u16>) -> Config {
    let url = |port: &u16| vec![format!("http://127.0.0.1:{port}")];
    Config {
        name: name.into(),
        data_dir: dir.join(name),
        cluster_token: "test".into(),
        listen_peer: format!("127.0.0.1:{}", ports[name]),
        advertise_client_urls: vec![format!("http://{name}:2379")],
        initial_cluster: ports.iter().map(|(n, p)| (n.clone(), url(p))).collect(),
        value_cache_bytes: 1 << 20,
        ..Default::default()
    }
}

async fn start(config: Config) -> Store<RealEnv> {
    Store::start(config, RealDisk, RealNet::plain())
        .await
        .expect("the member starts")
}

fn soon() -> Instant {
    RealEnv::now() + Duration::from_secs(10)
}

fn put(key: &str, value: &str, lease: LeaseId) -> Command {
    Command::Put(Put {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        lease,
        ..Default::default()
    })
}

fn get(store: &Store<RealEnv>, key: &str) -> Option<String> {
    let range = Range {
        range: KeyRange::point(key.to_owned().into()),
        ..Default::default()
    };
    let (_, result) = store.range(&range);
    result
        .expect("a plain read")
        .kvs
        .first()
        .map(|kv| String::from_utf8(kv.value.to_vec()).expect("text"))
}

/// Its hash once it has told the state everything that a new member does by itself: who founds the cluster, where it is, which
/// version it works in. Those entries come within the first moments, some of them after the first writes.
async fn settled(store: &Store<RealEnv>) -> (LogIndex, u64) {
    let quiet = Duration::from_millis(500);
    for _ in 0..20 {
        let before = store.whole_hash();
        RealEnv::sleep(quiet).await;
        if store.whole_hash() == before {
            return before;
        }
    }
    panic!("entries come and come, and nobody writes");
}

#[tokio::test]
async fn one_member_writes_reads_watches_and_recovers() {
    let dir = tempfile::tempdir().expect("a directory");
    let ports = BTreeMap::from([("one".to_owned(), free_ports(1)[0])]);
    let store = start(config("one", dir.path(), &ports)).await;
    let mut watch = store.watch_stream();
    watch
        .create(
            None,
            WatchSpec {
                range: KeyRange::prefix(b"k"),
                start: Some(Revision(2)),
                ..Default::default()
            },
        )
        .expect("a watch");
    for n in 0..10 {
        let outcome = store
            .propose(put(&format!("k{n}"), "v", LeaseId::NONE), soon())
            .await
            .expect("a leader");
        assert_eq!(outcome.revision, Revision(2 + n));
    }
    let mut seen = Vec::new();
    while seen.len() < 10 {
        for delivery in watch.next().await {
            if let Delivery::Events { events, .. } = delivery {
                seen.extend(events.into_iter().map(|e| e.kv.mod_revision.0));
            }
        }
    }
    assert_eq!(seen, (2..12).collect::<Vec<u64>>());
    store.read_index(soon()).await.expect("a read index");
    let hash = settled(&store).await;
    store.shutdown().await;
    drop(watch);
    drop(store);

    let store = start(config("one", dir.path(), &ports)).await;
    store.read_index(soon()).await.expect("a read index");
    assert_eq!(get(&store, "k9").as_deref(), Some("v"));
    assert_eq!(store.revision(), Revision(11));
    assert_eq!(store.whole_hash().1, hash.1);
    assert_eq!(
        store.members()[0].client_urls,
        vec!["http://one:2379".to_owned()]
    );
    store.shutdown().await;
}

#[tokio::test]
async fn a_lease_expires_after_its_ttl_and_takes_its_keys() {
    let dir = tempfile::tempdir().expect("a directory");
    let ports = BTreeMap::from([("one".to_owned(), free_ports(1)[0])]);
    let store = start(config("one", dir.path(), &ports)).await;
    let id = LeaseId(77);
    let granted = store
        .propose(Command::LeaseGrant { id, ttl_s: 2 }, soon())
        .await
        .expect("a leader");
    assert_eq!(granted.result, Ok(Answer::LeaseGranted { id, ttl_s: 2 }));
    store
        .propose(put("leased", "v", id), soon())
        .await
        .expect("a leader")
        .result
        .expect("the lease is there");
    let (_, renewed) = store.lease_keep_alive(id, soon()).await.expect("a leader");
    let renewed_at = RealEnv::now();
    assert_eq!(renewed, Some(2));
    while get(&store, "leased").is_some() {
        assert!(
            RealEnv::now().saturating_since(renewed_at) < Duration::from_secs(6),
            "the lease expires"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        RealEnv::now().saturating_since(renewed_at) >= Duration::from_millis(1950),
        "not before its TTL"
    );
    assert_eq!(store.lease_ttl(id, true), None);
    assert_eq!(
        store
            .lease_keep_alive(id, soon())
            .await
            .expect("a leader")
            .1,
        None
    );
    store.shutdown().await;
}

#[tokio::test]
async fn three_members_forward_agree_and_outlive_the_leader() {
    let dir = tempfile::tempdir().expect("a directory");
    let names = ["a", "b", "c"];
    let ports: BTreeMap<String, u16> = names
        .iter()
        .map(|n| (*n).to_owned())
        .zip(free_ports(3))
        .collect();
    let mut stores = Vec::new();
    for name in names {
        stores.push(start(config(name, dir.path(), &ports)).await);
    }
    for (n, store) in stores.iter().enumerate() {
        let outcome = store
            .propose(put(&format!("from-{n}"), "v", LeaseId::NONE), soon())
            .await
            .expect("forwarded to the leader");
        outcome.result.expect("a plain put");
    }
    for store in &stores {
        store
            .read_index(soon())
            .await
            .expect("a read index on every member");
        for n in 0..3 {
            assert_eq!(get(store, &format!("from-{n}")).as_deref(), Some("v"));
        }
    }
    let leader = stores[0].status().leader.expect("a leader");
    let at = stores
        .iter()
        .position(|s| s.status().member == leader)
        .expect("one of them");
    let old = stores.remove(at);
    old.shutdown().await;
    drop(old);
    let outcome = stores[0]
        .propose(put("after", "v", LeaseId::NONE), soon())
        .await
        .expect("another leader");
    outcome.result.expect("a plain put");
    stores[1].read_index(soon()).await.expect("a read index");
    assert_eq!(get(&stores[1], "after").as_deref(), Some("v"));
    assert_ne!(stores[1].status().leader, Some(leader));
    for store in stores {
        store.shutdown().await;
    }
}

#[tokio::test]
async fn a_directory_of_another_member_is_refused_with_the_flags_to_check() {
    let dir = tempfile::tempdir().expect("a directory");
    let ports = BTreeMap::from([("one".to_owned(), free_ports(1)[0])]);
    let store = start(config("one", dir.path(), &ports)).await;
    store.shutdown().await;
    drop(store);
    let other = Config {
        cluster_token: "other".into(),
        ..config("one", dir.path(), &ports)
    };
    let Err(error) = Store::<RealEnv>::start(other, RealDisk, RealNet::plain()).await else {
        panic!("it must be refused")
    };
    assert!(
        error.to_string().contains("--initial-cluster-token"),
        "{error}"
    );
}

/// Reads and renewals of a member that has stopped used to wait for their deadlines.
#[tokio::test]
async fn a_stopped_member_refuses_reads_and_renewals_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let ports = BTreeMap::from([("one".to_owned(), free_ports(1)[0])]);
    let store = start(config("one", dir.path(), &ports)).await;
    store.read_index(soon()).await.expect("it leads");
    store.shutdown().await;
    let refused = async {
        let read = store.read_index(Instant(u64::MAX)).await;
        let renewed = store.lease_keep_alive(LeaseId(1), Instant(u64::MAX)).await;
        let written = store.propose(put("k", "v", LeaseId::NONE), Instant(u64::MAX));
        (read, renewed.map(|_| ()), written.await.map(|_| ()))
    };
    let told = RealEnv::timeout(Duration::from_secs(20), refused).await;
    let told = told.expect("nobody waits for a member that stopped");
    let stopped = "Err(Stopped)";
    assert_eq!(
        format!("{told:?}"),
        format!("({stopped}, {stopped}, {stopped})")
    );
}
