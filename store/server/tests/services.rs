//! What is served beside KV, as etcd's own answers would be: leases, cluster, maintenance, health, and HTTP.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a client of the edge"
)]

mod common;

use barque_proto::{etcdserverpb as pb, health};
use common::{get, put, refusal, start};
use pb::cluster_client::ClusterClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_of_a_negative_revision_is_the_hash_of_no_rows() {
    let server = start(1).await;
    server.kv().await.put(put("a", "1")).await.unwrap();
    let mut maintenance = MaintenanceClient::new(server.channel().await);
    let request = pb::HashKvRequest { revision: -2 };
    let got = maintenance.hash_kv(request).await.unwrap().into_inner();
    assert_eq!((got.hash, got.compact_revision), (1_084_519_789, -1));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_granted_renewed_listed_and_revoked_with_their_keys() {
    let server = start(1).await;
    let mut kv = server.kv().await;
    let mut lease = LeaseClient::new(server.channel().await);
    let grant = |ttl, id| pb::LeaseGrantRequest { ttl, id };
    let chosen = lease.lease_grant(grant(0, 0)).await.unwrap().into_inner();
    assert!(chosen.id > 0, "the server chooses a positive id");
    assert_eq!(
        chosen.ttl, 1,
        "raised to one and a half elections of 500 ms"
    );
    let own = lease
        .lease_grant(grant(100, -5))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((own.id, own.ttl), (-5, 100));
    assert_eq!(
        refusal(lease.lease_grant(grant(1, -5)).await),
        (9, "etcdserver: lease already exists".to_owned())
    );
    assert_eq!(
        refusal(lease.lease_grant(grant(9_000_000_001, 0)).await),
        (11, "etcdserver: too large lease TTL".to_owned())
    );
    for key in ["y", "x"] {
        let attached = pb::PutRequest {
            lease: -5,
            ..put(key, "")
        };
        kv.put(attached).await.unwrap();
    }
    let asked = pb::LeaseTimeToLiveRequest { id: -5, keys: true };
    let told = lease.lease_time_to_live(asked).await.unwrap().into_inner();
    assert_eq!((told.granted_ttl, told.keys.len()), (100, 2));
    assert!((98..=100).contains(&told.ttl), "{told:?}");
    let missing = pb::LeaseTimeToLiveRequest { id: 1, keys: false };
    let told = lease
        .lease_time_to_live(missing)
        .await
        .unwrap()
        .into_inner();
    assert_eq!((told.ttl, told.granted_ttl), (-1, 0));
    let listed = lease
        .lease_leases(pb::LeaseLeasesRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(listed.leases.iter().any(|l| l.id == -5));

    let asks = [-5, 1].map(|id| pb::LeaseKeepAliveRequest { id });
    let mut answers = lease
        .lease_keep_alive(tokio_stream::iter(asks))
        .await
        .unwrap()
        .into_inner();
    let renewed = answers.message().await.unwrap().unwrap();
    assert_eq!((renewed.id, renewed.ttl), (-5, 100));
    let unknown = answers.message().await.unwrap().unwrap();
    assert_eq!(
        (unknown.id, unknown.ttl),
        (1, 0),
        "missing is no error here"
    );
    assert!(answers.message().await.unwrap().is_none());

    let before = kv.range(get("x")).await.unwrap().into_inner();
    assert_eq!(before.count, 1);
    let revoke = pb::LeaseRevokeRequest { id: -5 };
    let revoked = lease.lease_revoke(revoke).await.unwrap().into_inner();
    assert_eq!(
        revoked.header.unwrap().revision,
        before.header.unwrap().revision + 1,
        "both keys go in one revision"
    );
    let after = kv
        .range(pb::RangeRequest {
            range_end: "z".into(),
            ..get("x")
        })
        .await;
    assert_eq!(after.unwrap().into_inner().count, 0);
    assert_eq!(
        refusal(lease.lease_revoke(revoke).await),
        (5, "etcdserver: requested lease not found".to_owned())
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_status_hashes_and_health_are_told() {
    let server = start(1).await;
    let mut kv = server.kv().await;
    kv.put(put("a", "1")).await.unwrap();
    let channel = server.channel().await;
    let members = ClusterClient::new(channel.clone())
        .member_list(pb::MemberListRequest { linearizable: true })
        .await
        .unwrap()
        .into_inner();
    let header = members.header.unwrap();
    assert_eq!(header.revision, 0, "answers about the cluster carry none");
    assert_eq!(members.members.len(), 1);
    assert_eq!(members.members[0].name, "m0");
    assert_eq!(members.members[0].id, header.member_id);

    let mut maintenance = MaintenanceClient::new(channel.clone());
    let status = maintenance
        .status(pb::StatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.leader, header.member_id);
    assert_eq!(status.header.unwrap().revision, 2);
    assert!(status.errors.is_empty() && status.raft_applied_index > 0 && status.db_size > 0);
    let version: Vec<u32> = status
        .version
        .split('.')
        .map(|n| n.parse().unwrap())
        .collect();
    assert!(
        version >= vec![3, 5, 13],
        "kube-apiserver asks for progress only from 3.5.13 on"
    );

    let hash = |revision| pb::HashKvRequest { revision };
    let at_two = maintenance.hash_kv(hash(0)).await.unwrap().into_inner();
    assert_eq!((at_two.hash_revision, at_two.compact_revision), (2, -1));
    kv.put(put("b", "2")).await.unwrap();
    let again = maintenance.hash_kv(hash(2)).await.unwrap().into_inner();
    assert_eq!(again.hash, at_two.hash);
    assert_ne!(
        maintenance
            .hash_kv(hash(0))
            .await
            .unwrap()
            .into_inner()
            .hash,
        at_two.hash
    );
    let (code, _) = refusal(maintenance.hash_kv(hash(50)).await);
    assert_eq!(code, 11);
    let alarms = maintenance
        .alarm(pb::AlarmRequest::default())
        .await
        .unwrap();
    assert!(alarms.into_inner().alarms.is_empty());
    let defragmented = maintenance
        .defragment(pb::DefragmentRequest {})
        .await
        .unwrap();
    assert_eq!(defragmented.into_inner().header, None);

    let mut health = health::health_client::HealthClient::new(channel);
    let serving = health
        .check(health::HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(serving.status, 1);
    let other = health::HealthCheckRequest {
        service: "other".to_owned(),
    };
    assert_eq!(
        refusal(health.check(other).await),
        (5, "unknown service".to_owned())
    );
    server.stop().await;
}

async fn http(url: &str, request_line: &str) -> String {
    let address = url.strip_prefix("http://").unwrap();
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("{request_line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn http_answers_beside_grpc() {
    let server = start(1).await;
    // The first linearizable read waits for the first leader.
    server.kv().await.range(get("a")).await.unwrap();
    let cases = [
        (
            "GET /health",
            "200",
            "{\"health\":\"true\",\"reason\":\"\"}",
        ),
        ("POST /health", "405", "Method Not Allowed\n"),
        ("GET /version", "200", "\"etcdserver\":\"3."),
        ("GET /livez", "200", "ok\n"),
        (
            "GET /readyz?verbose",
            "200",
            "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n",
        ),
        (
            "GET /readyz/linearizable_read?verbose",
            "200",
            "[+]linearizable_read ok\nok\n",
        ),
        ("GET /metrics", "200", "etcd_server_has_leader 1\n"),
        ("GET /nothing", "404", "404 page not found\n"),
    ];
    for (request, status, body) in cases {
        let answer = http(&server.url, request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{request}: {answer}"
        );
        assert!(answer.contains(body), "{request}: {answer}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_leader_only_local_answers_are_given() {
    let server = start(3).await;
    let mut kv = server.kv().await;
    let local = pb::RangeRequest {
        serializable: true,
        ..get("a")
    };
    assert_eq!(kv.range(local).await.unwrap().into_inner().count, 0);
    let mut demanding = tonic::Request::new(put("a", "1"));
    demanding
        .metadata_mut()
        .insert("hasleader", "true".parse().unwrap());
    assert_eq!(
        refusal(kv.put(demanding).await),
        (14, "etcdserver: no leader".to_owned())
    );
    let status = MaintenanceClient::new(server.channel().await)
        .status(pb::StatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (status.leader, status.errors),
        (0, vec!["etcdserver: no leader".to_owned()])
    );
    let answer = http(&server.url, "GET /health").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.contains("{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}"),
        "{answer}"
    );
    let answer = http(&server.url, "GET /health?serializable=true").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_names_the_flag_and_the_address() {
    let server = start(1).await;
    let config = barque_store_server::Config {
        listen: vec![server.url.clone()],
        ..Default::default()
    };
    let error = barque_store_server::EtcdFront::start(config, server.store.clone()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("--listen-client-urls") && text.contains(&server.url),
        "{text}"
    );
    server.stop().await;
}
