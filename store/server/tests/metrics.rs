//! The page `/metrics`, as Prometheus and etcd's alerts read it.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a client of the edge"
)]

mod common;

use std::time::{Duration, Instant};

use barque_proto::etcdserverpb as pb;
use common::{Server, delete, get, grant, http, maintenance, put, refusal, start, start_all};
use pb::lease_client::LeaseClient;

/// Name and labels → value, of a page that must be well formed.
fn samples(page: &str) -> std::collections::BTreeMap<String, f64> {
    let (_, body) = page.split_once("\r\n\r\n").unwrap();
    let mut typed = std::collections::BTreeSet::new();
    let mut samples = std::collections::BTreeMap::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.split(' ');
            let (what, name) = (words.next().unwrap(), words.next().unwrap());
            assert!(what == "HELP" || what == "TYPE", "{line}");
            if what == "TYPE" {
                assert!(typed.insert(name.to_owned()), "{name} is described twice");
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let family = name.split('{').next().unwrap();
        let of_histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| family.strip_suffix(suffix))
            .any(|histogram| typed.contains(histogram));
        assert!(
            typed.contains(family) || of_histogram,
            "{family} has no type"
        );
        assert!(
            family
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_'),
            "{line}"
        );
        assert!(
            samples
                .insert(name.to_owned(), value.parse().unwrap())
                .is_none(),
            "{name} stands there twice"
        );
    }
    samples
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_etcds_names_and_true_values() {
    let server = start(1).await;
    let mut kv = server.kv().await;
    for key in ["a", "b", "c"] {
        kv.put(put(key, "1")).await.unwrap();
    }
    kv.put(put("a", "2")).await.unwrap();
    kv.delete_range(delete("b")).await.unwrap();
    kv.range(get("a")).await.unwrap();
    refusal(kv.put(put("", "1")).await);
    let mut lease = LeaseClient::new(server.channel().await);
    let id = lease.lease_grant(grant()).await.unwrap().into_inner().id;
    let revoke = pb::LeaseRevokeRequest { id };
    lease.lease_revoke(revoke).await.unwrap();
    http(&server.url, "GET /health").await;
    // The first leader decides the cluster's version beside all this.
    while !http(&server.url, "GET /version")
        .await
        .contains(r#""etcdcluster":"3.7.0""#)
    {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }

    let page = http(&server.url, "GET /metrics").await;
    assert!(page.contains("text/plain; version=0.0.4"), "{page}");
    let samples = samples(&page);
    let of = |name: &str| {
        *samples
            .get(name)
            .unwrap_or_else(|| panic!("{name} is missing:\n{page}"))
    };
    for (name, value) in [
        ("etcd_server_has_leader", 1.0),
        ("etcd_server_is_leader", 1.0),
        ("etcd_server_is_learner", 0.0),
        ("etcd_server_leader_changes_seen_total", 1.0),
        ("etcd_server_proposals_pending", 0.0),
        ("etcd_server_proposals_failed_total", 0.0),
        ("etcd_server_quota_backend_bytes", 2_147_483_648.0),
        ("etcd_server_health_success", 1.0),
        ("etcd_server_health_failures", 0.0),
        ("etcd_mvcc_put_total", 4.0),
        ("etcd_mvcc_delete_total", 1.0),
        ("etcd_debugging_mvcc_keys_total", 2.0),
        ("etcd_debugging_mvcc_current_revision", 6.0),
        ("etcd_debugging_mvcc_watcher_total", 0.0),
        ("etcd_debugging_lease_granted_total", 1.0),
        ("etcd_debugging_lease_revoked_total", 1.0),
        ("etcd_server_version{server_version=\"3.7.1\"}", 1.0),
        ("etcd_cluster_version{cluster_version=\"3.7\"}", 1.0),
    ] {
        assert_eq!(of(name), value, "{name}");
    }
    let put_labels = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
    assert_eq!(
        of(&format!("grpc_server_started_total{{{put_labels}}}")),
        5.0
    );
    for (code, count) in [("OK", 4.0), ("InvalidArgument", 1.0), ("Unavailable", 0.0)] {
        let name = format!("grpc_server_handled_total{{grpc_code=\"{code}\",{put_labels}}}");
        assert_eq!(of(&name), count, "{name}");
    }
    assert!(of("etcd_mvcc_range_total") >= 1.0);
    assert!(
        of("etcd_server_proposals_applied_total") <= of("etcd_server_proposals_committed_total")
    );
    assert!(of("etcd_mvcc_db_total_size_in_bytes") > 0.0);
    assert!(of("etcd_mvcc_db_total_size_in_use_in_bytes") > 4.0 * 256.0);
    assert!(of("process_resident_memory_bytes") > 1_048_576.0);
    assert!(of("process_open_fds") > 3.0);
    assert!(of("process_start_time_seconds") > 1.6e9);
    assert!(!page.contains("go_"), "nothing of Go's runtime");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_counted_while_it_lasts_and_when_it_ends() {
    let server = start(1).await;
    let mut kv = server.kv().await;
    kv.put(put("a", "1")).await.unwrap();
    let mut client = pb::watch_client::WatchClient::new(server.channel().await);
    let create = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(
            pb::WatchCreateRequest {
                key: "a".into(),
                start_revision: 1,
                ..Default::default()
            },
        )),
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(create).await.unwrap();
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = client.watch(requests).await.unwrap().into_inner();
    let mut events = 0;
    while events == 0 {
        events = answers.message().await.unwrap().unwrap().events.len();
    }
    let page = samples(&http(&server.url, "GET /metrics").await);
    assert_eq!(page["etcd_debugging_mvcc_watcher_total"], 1.0);
    assert_eq!(page["etcd_debugging_mvcc_watch_stream_total"], 1.0);
    assert_eq!(page["etcd_debugging_mvcc_events_total"], 1.0);
    drop((answers, sender));
    let canceled = "grpc_server_handled_total{grpc_code=\"Canceled\",grpc_method=\"Watch\",\
                    grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"}";
    let ok = canceled.replace("Canceled", "OK");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let page = samples(&http(&server.url, "GET /metrics").await);
        if page[canceled] + page[&ok] == 1.0 && page["etcd_debugging_mvcc_watcher_total"] == 0.0 {
            break;
        }
        assert!(Instant::now() < deadline, "the end of the watch is counted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.stop().await;
}

/// What etcd's alerts and the usual dashboards read.
const ALERTED: &[&str] = &[
    "etcd_cluster_version{",
    "etcd_disk_backend_commit_duration_seconds_bucket{",
    "etcd_disk_wal_fsync_duration_seconds_bucket{",
    "etcd_mvcc_db_total_size_in_bytes ",
    "etcd_mvcc_db_total_size_in_use_in_bytes ",
    "etcd_network_active_peers{",
    "etcd_network_client_grpc_received_bytes_total ",
    "etcd_network_client_grpc_sent_bytes_total ",
    "etcd_network_peer_received_bytes_total{From=",
    "etcd_network_peer_round_trip_time_seconds_bucket{To=",
    "etcd_network_peer_sent_bytes_total{To=",
    "etcd_network_peer_sent_failures_total{To=",
    "etcd_server_has_leader ",
    "etcd_server_heartbeat_send_failures_total ",
    "etcd_server_is_leader ",
    "etcd_server_is_learner ",
    "etcd_server_leader_changes_seen_total ",
    "etcd_server_proposals_applied_total ",
    "etcd_server_proposals_committed_total ",
    "etcd_server_proposals_failed_total ",
    "etcd_server_proposals_pending ",
    "etcd_server_quota_backend_bytes ",
    "etcd_server_slow_apply_total ",
    "etcd_server_slow_read_indexes_total ",
    "grpc_server_handled_total{",
    "grpc_server_started_total{grpc_method=\"MemberAdd\"",
    "process_resident_memory_bytes ",
    "process_start_time_seconds ",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_three_members_has_what_alerts_read_and_a_write_without_a_majority_has_failed() {
    let mut servers = start_all(3).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    for server in &servers {
        server.kv().await.put(put("a", "1")).await.unwrap();
        let members = || server.store.members();
        while members().iter().any(|m| m.client_urls.is_empty())
            || server.store.status().cluster_version.is_none()
        {
            assert!(Instant::now() < deadline, "all have told their URLs");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let leads = |server: &Server| server.store.status().leader == Some(server.store.ids().0);
    let leader = servers.iter().position(leads).expect("one of them leads");
    let url = servers[leader].url.clone();
    let id = |n: usize| servers[n].store.ids().0;
    let follower = id((leader + 1) % 3);
    // Rows are persisted, and heartbeats answered, in a moment.
    let page = loop {
        let page = http(&url, "GET /metrics").await;
        let samples = samples(&page);
        let round_trips =
            format!("etcd_network_peer_round_trip_time_seconds_count{{To=\"{follower}\"}}");
        if samples["etcd_disk_backend_commit_duration_seconds_count"] > 0.0
            && samples[&round_trips] > 0.0
        {
            break page;
        }
        assert!(Instant::now() < deadline, "{page}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    for name in ALERTED {
        assert!(
            page.lines().any(|line| line.starts_with(name)),
            "{name} is missing:\n{page}"
        );
    }
    let of_leader = samples(&page);
    let connected = format!(
        "etcd_network_active_peers{{Local=\"{}\",Remote=\"{follower}\"}}",
        id(leader)
    );
    let sent = format!("etcd_network_peer_sent_bytes_total{{To=\"{follower}\"}}");
    let received = format!("etcd_network_peer_received_bytes_total{{From=\"{follower}\"}}");
    assert_eq!(of_leader[&connected], 1.0);
    assert!(of_leader[&sent] > 1_000.0 && of_leader[&received] > 100.0);
    assert!(of_leader["etcd_disk_wal_fsync_duration_seconds_count"] > 0.0);
    assert!(of_leader["etcd_network_client_grpc_received_bytes_total"] >= 11.0);
    assert!(of_leader["etcd_network_client_grpc_sent_bytes_total"] >= 11.0);

    let last = servers.remove((leader + 1) % 3);
    for server in servers {
        server.stop().await;
    }
    let failed = "etcd_server_proposals_failed_total";
    let before = samples(&http(&last.url, "GET /metrics").await)[failed];
    assert_eq!(
        refusal(last.kv().await.put(put("b", "1")).await),
        (14, "etcdserver: request timed out".to_owned())
    );
    let after = samples(&http(&last.url, "GET /metrics").await)[failed];
    assert_eq!(after - before, 1.0);
    last.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_size_is_that_of_the_rows_and_most_of_it_is_in_use() {
    const PUTS: usize = 400;
    let server = start(1).await;
    let mut puts = tokio::task::JoinSet::new();
    let kv = server.kv().await;
    for n in 0..PUTS {
        let mut kv = kv.clone();
        let value = "v".repeat(64 << 10);
        puts.spawn(async move { kv.put(put(&format!("{n:03}"), &value)).await });
    }
    for done in puts.join_all().await {
        done.unwrap();
    }
    let live = (PUTS * (64 << 10)) as f64;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let page = samples(&http(&server.url, "GET /metrics").await);
        let total = page["etcd_mvcc_db_total_size_in_bytes"];
        // Rows get to their files in a moment.
        if total >= live {
            let in_use = page["etcd_mvcc_db_total_size_in_use_in_bytes"];
            assert!(in_use >= live && in_use / total > 0.5, "{in_use} {total}");
            // It alone would make the data look fragmented.
            assert!(page["barque_log_bytes"] > live);
            break;
        }
        assert!(Instant::now() < deadline, "{total}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let status = maintenance(&server)
        .await
        .status(pb::StatusRequest {})
        .await;
    let status = status.unwrap().into_inner();
    assert!(status.db_size < 2 * status.db_size_in_use, "{status:?}");
    server.stop().await;
}
