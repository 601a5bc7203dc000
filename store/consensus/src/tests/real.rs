//! Real files and sockets.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use barque_store_env::Env;
use barque_store_env::real::{RealDisk, RealEnv, RealNet};
use barque_store_state::MemberId;
use tempfile::TempDir;

use super::*;

fn in_s(s: u64) -> Instant {
    RealEnv::now() + Duration::from_secs(s)
}

async fn start_real(config: Config) -> Member<RealEnv> {
    start(config, RealDisk, RealNet::plain()).await
}

/// Addresses nobody listens on. All are held until all are known, so that they differ.
fn free_addrs(n: u64) -> Vec<(u64, String)> {
    let held: Vec<TcpListener> = (0..n)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"))
        .collect();
    held.iter()
        .zip(1..)
        .map(|(l, id)| (id, l.local_addr().expect("bound").to_string()))
        .collect()
}

fn alone(dir: &Path) -> Config {
    config(1, &[(1, "127.0.0.1:0".into())], dir.join("log"))
}

async fn leader(members: &[Member<RealEnv>]) -> Member<RealEnv> {
    eventually::<RealEnv, _>("a leader", || {
        members
            .iter()
            .find(|m| m.consensus.view().leads_until.is_some())
            .cloned()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_member_leads_at_once_and_finds_its_log_again() {
    let dir = TempDir::new().expect("a directory");
    let begun = RealEnv::now();
    let member = start_real(alone(dir.path())).await;
    let term = leader(std::slice::from_ref(&member))
        .await
        .consensus
        .view()
        .term;
    let took = RealEnv::now().saturating_since(begun);
    assert!(took < Duration::from_secs(1), "it took {took:?}");
    // Many in flight commit in the order in which they were first polled.
    let proposals = (0..100).map(|i| {
        let consensus = member.consensus.clone();
        async move { consensus.propose(entry(&[&format!("k{i:03}"), "x"])).await }
    });
    for outcomes in futures::future::join_all(proposals).await {
        assert_eq!(outcomes.expect("committed").len(), 2);
    }
    let keys = member.book.keys();
    let order: Vec<_> = keys.iter().step_by(2).collect();
    assert!(order.is_sorted() && order.len() == 100);
    let read = member.consensus.read_index(in_s(5)).await.expect("leads");
    let view = member.consensus.view();
    assert!(view.applied >= read.0 && view.committed >= read.0 && view.last_log >= read.0);
    assert!(member.consensus.log_bytes() > 0);
    let history = member.book.applied.lock().clone();
    member.consensus.shutdown().await;
    assert_eq!(
        member.consensus.propose(entry(&["late"])).await,
        Err(ProposeError::Stopped)
    );

    let again = start_real(alone(dir.path())).await;
    leader(std::slice::from_ref(&again)).await;
    again
        .consensus
        .read_index(in_s(5))
        .await
        .expect("leads again");
    let found = again.book.applied.lock().clone();
    assert_eq!(found[..history.len()], history[..]);
    assert!(
        again.consensus.view().term > term,
        "a term is never resumed"
    );
    again.consensus.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_survive_their_leader_and_take_it_back() {
    let dir = TempDir::new().expect("a directory");
    let addrs = free_addrs(3);
    let config_of = |id: u64| config(id, &addrs, dir.path().join(id.to_string()));
    let mut members = Vec::new();
    for (id, _) in &addrs {
        members.push(start_real(config_of(*id)).await);
    }
    let first = leader(&members).await;
    first
        .consensus
        .propose(entry(&["one"]))
        .await
        .expect("committed");
    let follower = members
        .iter()
        .find(|m| m.id != first.id)
        .expect("two of them")
        .clone();

    // A follower neither proposes nor guesses: it asks, and forwards.
    eventually::<RealEnv, _>("the follower knows its leader", || {
        (follower.consensus.view().leader == Some(first.id)).then_some(())
    })
    .await;
    assert_eq!(
        follower.consensus.propose(entry(&["no"])).await,
        Err(ProposeError::NotLeader {
            leader: Some(first.id)
        })
    );
    follower
        .consensus
        .read_index(in_s(5))
        .await
        .expect("a read index");
    assert!(
        follower.book.has("one"),
        "applied before the read is answered"
    );
    let forwarded = follower
        .consensus
        .forward(first.id, vec![put("two"), put("three")], None, in_s(5))
        .await;
    assert!(forwarded.len() == 2 && forwarded.iter().all(Result::is_ok));
    let nobody = follower
        .consensus
        .forward(MemberId(99), vec![put("lost")], None, in_s(5))
        .await;
    assert_eq!(nobody, vec![Err(ProposeError::NotLeader { leader: None })]);

    // Handed over before it stops: the gap is far below an election.
    let begun = RealEnv::now();
    first.consensus.transfer_away(in_s(5)).await;
    assert_eq!(first.consensus.view().leads_until, None);
    let rest: Vec<_> = members
        .iter()
        .filter(|m| m.id != first.id)
        .cloned()
        .collect();
    let second = leader(&rest).await;
    let gap = RealEnv::now().saturating_since(begun);
    assert!(gap < Duration::from_millis(400), "no hand-over: {gap:?}");
    first.consensus.shutdown().await;
    second
        .consensus
        .propose(entry(&["four"]))
        .await
        .expect("two of three are a majority");

    // The old leader comes back and catches up; it is not ready before its guard is over.
    let back = start_real(config_of(first.id.0)).await;
    assert!(back.consensus.guarded());
    back.consensus
        .read_index(in_s(10))
        .await
        .expect("caught up");
    assert!(
        ["one", "two", "three", "four"]
            .iter()
            .all(|k| back.book.has(k))
    );
    assert!(!back.book.has("lost") && !back.book.has("no"));

    // Stopped without a word, the leader is replaced after its lease.
    let second_term = second.consensus.view().term;
    second.consensus.shutdown().await;
    let rest: Vec<_> = rest
        .into_iter()
        .filter(|m| m.id != second.id)
        .chain([back])
        .collect();
    let third = leader(&rest).await;
    assert!(third.consensus.view().term > second_term);
    third
        .consensus
        .propose(entry(&["five"]))
        .await
        .expect("committed");
    for member in &rest {
        member.consensus.read_index(in_s(5)).await.expect("reads");
        assert!(member.book.has("five"));
    }
    assert_eq!(rest[0].book.keys(), rest[1].book.keys());
    for member in &rest {
        member.consensus.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_and_a_taken_port_is_told() {
    let dir = TempDir::new().expect("a directory");
    let addrs = free_addrs(3);
    let ours = start_real(config(1, &addrs, dir.path().join("1"))).await;
    let mut stranger = config(2, &addrs, dir.path().join("2"));
    stranger.cluster_id = 0xbad;
    let stranger = start_real(stranger).await;
    let refused = stranger
        .consensus
        .forward(MemberId(1), vec![put("k")], None, in_s(5))
        .await;
    assert_eq!(refused, vec![Err(ProposeError::NotLeader { leader: None })]);
    // Two of three could elect a leader if the refusal were not one.
    RealEnv::sleep(Duration::from_millis(1500)).await;
    assert_eq!(ours.consensus.view().leader, None);
    assert_eq!(stranger.consensus.view().leader, None);

    let mut taken = config(3, &addrs, dir.path().join("3"));
    taken.listen = addrs[0].1.clone();
    let second = Consensus::<RealEnv>::start(
        taken,
        RealDisk,
        RealNet::plain(),
        std::sync::Arc::new(Book::default()),
        std::sync::Arc::new(Forward::<RealEnv>(Mutex::new(None))),
    )
    .await;
    assert!(matches!(
        second.err(),
        Some(crate::StartError::Listen { .. })
    ));
    ours.consensus.shutdown().await;
    stranger.consensus.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_member_on_one_directory_is_refused() {
    let dir = TempDir::new().expect("a directory");
    let member = start_real(alone(dir.path())).await;
    let second = Consensus::<RealEnv>::start(
        alone(dir.path()),
        RealDisk,
        RealNet::plain(),
        std::sync::Arc::new(Book::default()),
        std::sync::Arc::new(Forward::<RealEnv>(Mutex::new(None))),
    )
    .await;
    match second.err() {
        Some(crate::StartError::Log(text)) => assert!(text.contains("in use"), "{text}"),
        other => panic!("started, or failed otherwise: {other:?}"),
    }
    member.consensus.shutdown().await;
}
