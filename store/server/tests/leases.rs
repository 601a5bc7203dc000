//! Leases as etcd's clients see them: many renewals on one stream.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a client of the edge"
)]

mod common;

use std::time::{Duration, Instant};

use barque_proto::etcdserverpb as pb;
use common::{Server, put, start_all};
use pb::lease_client::LeaseClient;

const LEASES: i64 = 2_000;
/// Is not there.
const MISSING: i64 = 1_234;

/// One stream, as clientv3 keeps one for all leases of a client. One renewal after the other would take some 7 ms each.
async fn renews_all_in_order(servers: Vec<Server>) {
    for server in &servers {
        // Waits for the first leader.
        server.kv().await.put(put("a", "1")).await.unwrap();
    }
    let mut lease = LeaseClient::new(servers[0].channel().await);
    let mut grants = tokio::task::JoinSet::new();
    for id in (1..=LEASES).filter(|id| *id != MISSING) {
        let mut lease = lease.clone();
        grants.spawn(async move {
            lease
                .lease_grant(pb::LeaseGrantRequest { ttl: 600, id })
                .await
        });
    }
    for granted in grants.join_all().await {
        granted.unwrap();
    }
    let begun = Instant::now();
    let asks = (1..=LEASES).map(|id| pb::LeaseKeepAliveRequest { id });
    let answers = lease.lease_keep_alive(tokio_stream::iter(asks)).await;
    let mut answers = answers.unwrap().into_inner();
    for id in 1..=LEASES {
        let answer = answers.message().await.unwrap().expect("one answer each");
        let ttl = if id == MISSING { 0 } else { 600 };
        assert_eq!((answer.id, answer.ttl), (id, ttl));
    }
    assert_eq!(answers.message().await.unwrap(), None);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "took {took:?}");
    for server in servers {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_renews_thousands_of_leases_a_second() {
    renews_all_in_order(start_all(1).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_does_at_a_member_of_three() {
    renews_all_in_order(start_all(3).await).await;
}
