//! Alarms, quota, health pages, maintenance: as etcd's clients see them.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a client of the edge"
)]

mod common;

use std::time::{Duration, Instant};

use barque_proto::etcdserverpb as pb;
use barque_store_env::real::RealEnv;
use barque_store_node::SpaceRules;
use barque_store_server::{EtcdFront, Pages};
use common::{delete, get, grant, http, maintenance, put, refusal, start, start_with};
use pb::alarm_request::AlarmAction;
use pb::downgrade_request::DowngradeAction;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use tonic::transport::Channel;

const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

fn alarm(action: AlarmAction, member_id: u64, alarm: pb::AlarmType) -> pb::AlarmRequest {
    pb::AlarmRequest {
        action: action.into(),
        member_id,
        alarm: alarm.into(),
    }
}

async fn touched(
    client: &mut MaintenanceClient<Channel>,
    request: pb::AlarmRequest,
) -> Vec<(u64, i32)> {
    let answer = client.alarm(request).await.unwrap().into_inner();
    assert!(answer.header.unwrap().member_id != 0);
    let alarms = answer.alarms.into_iter();
    alarms.map(|a| (a.member_id, a.alarm)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_alarm_is_listed_refuses_growth_and_goes_when_disarmed() {
    let server = start(1).await;
    let mut kv = server.kv().await;
    kv.put(put("a", "1")).await.unwrap();
    let mut client = maintenance(&server).await;
    let (get_all, none) = (
        alarm(AlarmAction::Get, 0, pb::AlarmType::None),
        Vec::<(u64, i32)>::new(),
    );
    assert_eq!(touched(&mut client, get_all).await, none);

    let raise = alarm(AlarmAction::Activate, 7, pb::AlarmType::Nospace);
    assert_eq!(touched(&mut client, raise).await, [(7, 1)]);
    assert_eq!(
        touched(&mut client, raise).await,
        [(7, 1)],
        "raised again, it is answered as it stands"
    );
    let raise_nothing = alarm(AlarmAction::Activate, 7, pb::AlarmType::None);
    assert_eq!(touched(&mut client, raise_nothing).await, none);
    assert_eq!(touched(&mut client, get_all).await, [(7, 1)]);
    let get_corrupt = alarm(AlarmAction::Get, 0, pb::AlarmType::Corrupt);
    assert_eq!(touched(&mut client, get_corrupt).await, none);

    let refused = (8, NO_SPACE.to_owned());
    assert_eq!(refusal(kv.put(put("b", "1")).await), refused);
    let mut lease = LeaseClient::new(server.channel().await);
    assert_eq!(refusal(lease.lease_grant(grant()).await), refused);
    assert_eq!(kv.range(get("a")).await.unwrap().into_inner().count, 1);
    kv.delete_range(delete("a")).await.unwrap();
    let status = client.status(pb::StatusRequest {}).await.unwrap();
    assert_eq!(status.into_inner().errors, ["memberID:7 alarm:NOSPACE"]);
    let health = http(&server.url, "GET /health").await;
    assert!(
        health.starts_with("HTTP/1.1 503") && health.contains("\"reason\":\"ALARM NOSPACE\""),
        "{health}"
    );
    let excluded = http(&server.url, "GET /health?exclude=NOSPACE").await;
    assert!(excluded.starts_with("HTTP/1.1 200"), "{excluded}");
    let ready = http(&server.url, "GET /readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");

    // Member 0 is no wildcard (etcdctl asks for the list first).
    let disarm_zero = alarm(AlarmAction::Deactivate, 0, pb::AlarmType::Nospace);
    assert_eq!(touched(&mut client, disarm_zero).await, none);
    let disarm = alarm(AlarmAction::Deactivate, 7, pb::AlarmType::Nospace);
    assert_eq!(touched(&mut client, disarm).await, [(7, 1)]);
    assert_eq!(touched(&mut client, disarm).await, none);
    kv.put(put("b", "1")).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_cluster_answers_reads_only_and_is_not_ready() {
    let server = start(1).await;
    let mut kv = server.kv().await;
    kv.put(put("a", "1")).await.unwrap();
    let mut client = maintenance(&server).await;
    let raise = alarm(AlarmAction::Activate, 7, pb::AlarmType::Corrupt);
    assert_eq!(touched(&mut client, raise).await, [(7, 2)]);
    let refused = (15, "etcdserver: corrupt cluster".to_owned());
    assert_eq!(refusal(kv.put(put("b", "1")).await), refused);
    assert_eq!(refusal(kv.delete_range(delete("a")).await), refused);
    assert_eq!(kv.range(get("a")).await.unwrap().into_inner().count, 1);
    let ready = http(&server.url, "GET /readyz").await;
    assert!(
        ready.starts_with("HTTP/1.1 503")
            && ready.contains("[-]data_corruption failed: alarm activated: CORRUPT\n"),
        "{ready}"
    );
    let live = http(&server.url, "GET /livez").await;
    assert!(live.starts_with("HTTP/1.1 200"), "{live}");
    let excluded = http(&server.url, "GET /readyz?verbose&exclude=data_corruption").await;
    assert!(
        excluded.starts_with("HTTP/1.1 200")
            && excluded.contains("[+]data_corruption excluded: ok\n"),
        "{excluded}"
    );
    let disarm = alarm(AlarmAction::Deactivate, 7, pb::AlarmType::Corrupt);
    touched(&mut client, disarm).await;
    kv.put(put("b", "1")).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quota_refuses_growth_raises_its_alarm_and_clears_it_by_itself() {
    const QUOTA: u64 = 400_000;
    let rules = SpaceRules {
        quota_bytes: Some(QUOTA),
        ..SpaceRules::default()
    };
    let server = start_with(1, rules).await;
    let mut kv = server.kv().await;
    let mut client = maintenance(&server).await;
    let value = "v".repeat(8_000);
    // A write that does not fit is refused alone while there is room for smaller ones.
    let mut last = 0;
    let refused = loop {
        match kv.put(put("big", &value)).await {
            Ok(answer) => last = answer.into_inner().header.unwrap().revision,
            Err(status) => break (status.code() as i32, status.message().to_owned()),
        }
    };
    assert_eq!(refused, (8, NO_SPACE.to_owned()));
    let status = client
        .status(pb::StatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.db_size_quota, QUOTA.cast_signed());
    let in_use = u64::try_from(status.db_size_in_use).unwrap();
    assert!(in_use < QUOTA && in_use > QUOTA * 9 / 10, "{in_use} bytes");

    let all = || alarm(AlarmAction::Get, 0, pb::AlarmType::None);
    let deadline = Instant::now() + Duration::from_secs(20);
    while touched(&mut client, all()).await.is_empty() {
        assert!(Instant::now() < deadline, "the alarm goes up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let member = status.header.unwrap().member_id;
    assert_eq!(touched(&mut client, all()).await, [(member, 1)]);
    assert_eq!(refusal(kv.put(put("a", "1")).await), refused);

    let compaction = pb::CompactionRequest {
        revision: last,
        ..Default::default()
    };
    kv.compact(compaction).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !touched(&mut client, all()).await.is_empty() {
        assert!(Instant::now() < deadline, "the alarm ends by itself");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    kv.put(put("a", "1")).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_below_its_reserve_refuses_growth() {
    let rules = SpaceRules {
        disk_reserve_bytes: Some(u64::MAX),
        ..SpaceRules::default()
    };
    let server = start_with(1, rules).await;
    let mut kv = server.kv().await;
    let mut client = maintenance(&server).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    let all = || alarm(AlarmAction::Get, 0, pb::AlarmType::None);
    while touched(&mut client, all()).await.is_empty() {
        assert!(Instant::now() < deadline, "the others are told by an alarm");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        refusal(kv.put(put("a", "1")).await),
        (8, NO_SPACE.to_owned())
    );
    kv.delete_range(delete("a")).await.unwrap();
    kv.range(get("a")).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_urls_answer_before_there_is_a_store_and_tell_why_it_is_not_ready() {
    let urls = ["http://127.0.0.1:0".to_owned()];
    let pages = Pages::<RealEnv>::default();
    let handle = EtcdFront::start_metrics(&urls, None, pages.clone()).unwrap();
    let url = handle.addresses()[0].clone();
    for (request, status, body) in [
        ("GET /livez?verbose", "200", "[+]serializable_read ok\nok\n"),
        (
            "GET /readyz",
            "503",
            "[-]serializable_read failed: etcdserver: the member is recovering its log\n",
        ),
        ("GET /health", "503", "\"health\":\"false\""),
        ("GET /metrics", "200", "etcd_server_has_leader 0\n"),
        ("GET /version", "404", "404 page not found\n"),
    ] {
        let answer = http(&url, request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(body),
            "{request}: {answer}"
        );
    }
    // One of three members, alone.
    let server = start(3).await;
    pages.ready(server.store.clone());
    for (request, status, body) in [
        ("GET /livez", "200", "ok\n"),
        (
            "GET /readyz",
            "503",
            "[-]linearizable_read failed: etcdserver: no leader\n",
        ),
        ("GET /health", "503", "RAFT NO LEADER"),
        ("GET /health?serializable=true", "200", "true"),
    ] {
        let answer = http(&url, request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(body),
            "{request}: {answer}"
        );
    }
    handle.shutdown().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_to_members_only_and_nothing_is_downgraded() {
    let server = start(1).await;
    server.kv().await.put(put("a", "1")).await.unwrap();
    let mut client = maintenance(&server).await;
    let me = client.status(pb::StatusRequest {}).await.unwrap();
    let me = me.into_inner().header.unwrap().member_id;
    let to = |target_id| pb::MoveLeaderRequest { target_id };
    assert_eq!(
        refusal(client.move_leader(to(me ^ 1)).await),
        (9, "etcdserver: bad leader transferee".to_owned())
    );
    client.move_leader(to(me)).await.unwrap();
    let downgrade = |action: DowngradeAction, version: &str| pb::DowngradeRequest {
        action: action.into(),
        version: version.to_owned(),
    };
    for (request, refused) in [
        (
            downgrade(DowngradeAction::Validate, "three"),
            (3, "etcdserver: wrong downgrade target version format"),
        ),
        (
            downgrade(DowngradeAction::Validate, "3.6.0"),
            (3, "etcdserver: invalid downgrade target version"),
        ),
        (
            downgrade(DowngradeAction::Enable, "3.6.0"),
            (3, "etcdserver: invalid downgrade target version"),
        ),
        (
            downgrade(DowngradeAction::Cancel, ""),
            (9, "etcdserver: no inflight downgrade job"),
        ),
    ] {
        let (code, text) = refusal(client.downgrade(request).await);
        assert_eq!((code, text.as_str()), refused);
    }
    let alone = start(3).await;
    assert_eq!(
        refusal(maintenance(&alone).await.move_leader(to(me)).await),
        (9, "etcdserver: not leader".to_owned())
    );
    alone.stop().await;
    server.stop().await;
}
