//! The client against masters that die, hang, lose quorum, break streams and lose answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

use crate::core::election::Settings;
use crate::core::reflector::{Change, Key};
use crate::resources::{CONFIGMAPS, EVENTS, LEASES, PODS};
use crate::testing::{Cluster, Faults, Master, connect, connect_with, eventually};
use crate::*;

fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value}})
}

fn value_of(map: ConfigMap) -> Option<String> {
    map.data.and_then(|data| data.get("value").cloned())
}

async fn one() -> (Cluster, Master, Client) {
    let cluster = Cluster::default();
    let master = Master::start(&cluster).await;
    let client = connect(&[&master]);
    (cluster, master, client)
}

#[tokio::test]
async fn calls_and_refusals() {
    let (_cluster, _master, client) = one().await;
    let key = Key::new("ns", "a");
    let made: ConfigMap = client
        .create(CONFIGMAPS, "ns", &config_map("a", "1"))
        .await
        .unwrap();
    let again = client
        .create::<Value>(CONFIGMAPS, "ns", &config_map("a", "1"))
        .await;
    assert!(again.unwrap_err().is_already_exists());
    let patch = merge_patch_of(
        made.metadata.uid.as_deref().unwrap(),
        made.metadata.resource_version.as_deref().unwrap(),
        json!({"data": {"value": "2"}}),
    );
    let patched: ConfigMap = client.patch(CONFIGMAPS, &key, "", &patch).await.unwrap();
    assert_eq!(value_of(patched.clone()).as_deref(), Some("2"));
    assert!(
        client
            .patch::<Value>(CONFIGMAPS, &key, "", &patch)
            .await
            .unwrap_err()
            .is_conflict()
    );
    assert!(
        client
            .update::<Value>(CONFIGMAPS, &key, "", &made)
            .await
            .unwrap_err()
            .is_conflict()
    );
    let list = client
        .list::<ConfigMap>(CONFIGMAPS, "", &Selectors::fields("metadata.name=a"))
        .await
        .unwrap();
    assert_eq!((list.items.len(), list.items[0] == patched), (1, true));
    let wrong = DeleteOptions {
        uid: Some("other".to_owned()),
        ..Default::default()
    };
    assert!(
        client
            .delete(CONFIGMAPS, &key, &wrong)
            .await
            .unwrap_err()
            .is_conflict()
    );
    client
        .delete(CONFIGMAPS, &key, &DeleteOptions::default())
        .await
        .unwrap();
    let gone = client
        .get::<Value>(CONFIGMAPS, "ns", "a")
        .await
        .unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
}

#[tokio::test]
async fn reads_move_to_another_master_and_writes_fail_once() {
    let cluster = Cluster::default();
    cluster.create("configmaps", "ns", config_map("a", "1"));
    let masters = [
        Master::start(&cluster).await,
        Master::start(&cluster).await,
        Master::start(&cluster).await,
    ];
    for disaster in [Master::kill, Master::lose_quorum, Master::hang] {
        let client = connect(&[&masters[0], &masters[1], &masters[2]]);
        let get = || client.get::<ConfigMap>(CONFIGMAPS, "ns", "a");
        get().await.unwrap();
        // Whichever master it uses, it is among the two.
        disaster(&masters[0]);
        disaster(&masters[1]);
        get().await.unwrap();
        let made: Value = client
            .create(
                CONFIGMAPS,
                "ns",
                &json!({"metadata": {"generateName": "x"}}),
            )
            .await
            .unwrap();
        assert!(made["metadata"]["uid"].is_string());
        masters[0].recover();
        masters[1].recover();
    }
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_not_repeated() {
    let (cluster, _master, client) = one().await;
    cluster.set_faults(Faults {
        lose_answers: 1,
        ..Default::default()
    });
    let body = json!({"metadata": {"generateName": "x"}});
    let error = client
        .create::<Value>(CONFIGMAPS, "ns", &body)
        .await
        .unwrap_err();
    assert!(error.is_ambiguous(), "{error}");
    assert_eq!(cluster.objects("configmaps").len(), 1);
}

#[tokio::test]
async fn a_socket_that_never_answers_is_not_waited_for() {
    let cluster = Cluster::default();
    cluster.create("configmaps", "ns", config_map("a", "1"));
    let master = Master::start(&cluster).await;
    // Accepts and says nothing: connecting "succeeds".
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoints = vec![
        format!("http://{}", mute.local_addr().unwrap()),
        master.url(),
    ];
    let timeouts = Timeouts {
        connect: Duration::from_millis(300),
        attempt: Duration::from_millis(300),
        ..Timeouts::default()
    };
    for _ in 0..4 {
        // The starting point is random: some of these begin at the mute one.
        let client = connect_with(endpoints.clone(), timeouts.clone());
        let begun = Instant::now();
        client
            .get::<ConfigMap>(CONFIGMAPS, "ns", "a")
            .await
            .unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}

#[tokio::test]
async fn nobody_there_is_said_with_every_address() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let client = connect_with(vec![format!("http://{closed}")], Timeouts::default());
    let error = client
        .get::<Value>(CONFIGMAPS, "ns", "a")
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Unreachable { detail } if detail.contains(&closed.to_string())),
        "{error}"
    );
}

#[tokio::test]
async fn configuration_errors_are_told_before_anything_is_tried() {
    let config = |endpoint: &str| ClientConfig {
        endpoints: vec![endpoint.to_owned()],
        tls: None,
        user_agent: "test".to_owned(),
        timeouts: Timeouts::default(),
    };
    let told = |endpoint: &str| match Client::new(&config(endpoint)) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{endpoint} accepted"),
    };
    assert!(told("https://localhost:1").contains("needs a client certificate"));
    assert!(told("https://localhost").contains("no port"));
    assert!(told("not a url").contains("not a URL"));
    let none = ClientConfig {
        endpoints: vec![],
        ..config("")
    };
    assert!(matches!(
        Client::new(&none),
        Err(Error::Config(ConfigError::NoEndpoints))
    ));
}

#[tokio::test]
async fn certificates_both_ways() {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(vec![]).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let signed = |names: Vec<String>| {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(names).unwrap();
        (
            params.signed_by(&key, &issuer).unwrap().pem(),
            key.serialize_pem(),
        )
    };
    let (server, server_key) = signed(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]);
    let (certificate, key) = signed(vec!["agent".to_owned()]);
    let cluster = Cluster::default();
    cluster.create("configmaps", "ns", config_map("a", "1"));
    let identity = tonic::transport::Identity::from_pem(server, server_key);
    let authority = tonic::transport::Certificate::from_pem(&ca_pem);
    let master = Master::start_with(&cluster, Some((identity, authority))).await;
    let tls = Tls {
        certificate,
        key,
        authority: ca_pem,
    };
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("https://{host}:{}", master.port());
        let client = Client::new(&ClientConfig::new(vec![url], tls.clone(), "test")).unwrap();
        client
            .get::<ConfigMap>(CONFIGMAPS, "ns", "a")
            .await
            .unwrap();
    }
}

type Seen = Arc<Mutex<Vec<String>>>;

fn follow(client: &Client) -> (Informer<String>, Seen) {
    let seen: Seen = Arc::default();
    let notes = seen.clone();
    let informer = Informer::start(
        client,
        InformerConfig::all(CONFIGMAPS),
        Some(|value: &String| Some(value.clone())),
        value_of,
        move |change: &Change<String>| {
            let note = match change {
                Change::Added { key, new } => format!("+{}={new}", key.name),
                Change::Updated { key, old, new } => format!("{}={old}>{new}", key.name),
                Change::Deleted { key, old } => format!("-{}={old}", key.name),
            };
            notes.lock().unwrap().push(note);
        },
    );
    (informer, seen)
}

#[tokio::test]
async fn an_informer_survives_breaks_expiry_and_the_loss_of_its_master() {
    let cluster = Cluster::default();
    cluster.create("configmaps", "ns", config_map("a", "1"));
    cluster.create("configmaps", "ns", config_map("b", "1"));
    let masters = [Master::start(&cluster).await, Master::start(&cluster).await];
    let client = connect(&[&masters[0], &masters[1]]);
    let (informer, seen) = follow(&client);
    timeout(Duration::from_secs(10), informer.synced())
        .await
        .unwrap();
    let store = informer.store();
    assert_eq!((store.len(), store.in_group("1").len()), (2, 2));

    masters.iter().for_each(Master::break_streams);
    cluster.modify("configmaps", "ns", "a", |map| {
        map["data"]["value"] = "2".into()
    });
    eventually("the change after the break", || async {
        store.in_group("2").len() == 1
    })
    .await;

    // Both gone: nothing can be followed. Meanwhile the history is forgotten and an object vanishes.
    masters.iter().for_each(Master::lose_quorum);
    masters.iter().for_each(Master::break_streams);
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.delete("configmaps", "ns", "b", json!({}));
    cluster.create("configmaps", "ns", config_map("c", "3"));
    cluster.compact();
    masters[1].recover();
    eventually("the new state", || async {
        store.get(&Key::new("ns", "c")).is_some()
    })
    .await;
    assert_eq!(
        *seen.lock().unwrap(),
        ["+a=1", "+b=1", "a=1>2", "-b=1", "+c=3"]
    );
    assert!(store.in_group("1").is_empty());

    // Its master hangs; another call finds out, and the informer follows to the other master.
    masters[0].recover();
    masters[1].hang();
    client
        .get::<ConfigMap>(CONFIGMAPS, "ns", "a")
        .await
        .unwrap();
    cluster.modify("configmaps", "ns", "a", |map| {
        map["data"]["value"] = "4".into()
    });
    eventually("the change after the hang", || async {
        store.in_group("4").len() == 1
    })
    .await;
}

#[tokio::test]
async fn a_resource_nobody_serves_counts_as_empty() {
    let (cluster, _master, client) = one().await;
    cluster.stop_serving("configmaps");
    let (informer, _) = follow(&client);
    timeout(Duration::from_secs(10), informer.synced())
        .await
        .unwrap();
    assert!(informer.store().is_empty());
}

fn fast_election(identity: &str) -> ElectionConfig {
    ElectionConfig {
        settings: Settings {
            lease_duration: Duration::from_millis(1_000),
            renew_deadline: Duration::from_millis(700),
            retry_period: Duration::from_millis(100),
        },
        ..ElectionConfig::new("test", identity)
    }
}

#[tokio::test]
async fn one_leads_and_another_takes_over() {
    let (cluster, _master, client) = one().await;
    let first = Election::start(&client, fast_election("first"));
    timeout(Duration::from_secs(5), first.elected())
        .await
        .unwrap();
    let second = Election::start(&client, fast_election("second"));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(
        (first.leadership(), second.leadership()),
        (Leadership::Leader, Leadership::Follower)
    );
    drop(first); // killed: the lease runs out
    let begun = Instant::now();
    timeout(Duration::from_secs(5), second.elected())
        .await
        .unwrap();
    assert!(
        begun.elapsed() > Duration::from_millis(500),
        "took over before the lease ran out"
    );
    let third = Election::start(&client, fast_election("third"));
    second.resign().await; // frees it: no waiting
    timeout(Duration::from_secs(1), third.elected())
        .await
        .unwrap();
    let lease: Lease = client.get(LEASES, "kube-system", "test").await.unwrap();
    let spec = lease.spec.unwrap();
    assert_eq!(
        (spec.holder_identity.as_deref(), spec.lease_transitions),
        (Some("third"), Some(2))
    );
    assert!(cluster.revision() > 3);
}

#[tokio::test]
async fn a_leader_cut_off_from_all_masters_stops_in_time() {
    let (_cluster, master, client) = one().await;
    let running = Arc::new(AtomicUsize::new(0));
    struct Guard(Arc<AtomicUsize>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let count = running.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let leading = tokio::spawn(async move {
        let work = || {
            count.fetch_add(1, Ordering::SeqCst);
            let guard = Guard(count.clone());
            async move {
                let _guard = guard;
                std::future::pending::<()>().await
            }
        };
        lead(
            &client,
            fast_election("me"),
            async { drop(stopped.await) },
            work,
        )
        .await
    });
    eventually("work begins", || async {
        running.load(Ordering::SeqCst) == 1
    })
    .await;
    master.hang();
    eventually("work stops", || async {
        running.load(Ordering::SeqCst) == 0
    })
    .await;
    master.recover();
    eventually("work begins again", || async {
        running.load(Ordering::SeqCst) == 1
    })
    .await;
    stop.send(()).unwrap();
    assert_eq!(leading.await.unwrap(), None);
    assert_eq!(running.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn events_are_written_and_repeats_counted() {
    let (cluster, _master, client) = one().await;
    let pod: Pod =
        serde_json::from_value(cluster.create("pods", "ns", json!({"metadata": {"name": "p"}})))
            .unwrap();
    let recorder = Recorder::start(&client, "scheduler", "host");
    let subject = Subject::of(&pod);
    for _ in 0..3 {
        recorder.event(
            &subject,
            EventType::Warning,
            "FailedScheduling",
            "0/0 nodes are available",
        );
    }
    recorder.event(&subject, EventType::Normal, "Scheduled", "assigned");
    eventually("both events", || async {
        cluster.objects("events").len() == 2
    })
    .await;
    let events: Vec<Value> = cluster.objects("events");
    let failed = events
        .iter()
        .find(|event| event["reason"] == "FailedScheduling")
        .unwrap();
    assert_eq!(
        (&failed["count"], &failed["type"]),
        (&json!(3), &json!("Warning"))
    );
    assert_eq!(failed["involvedObject"]["uid"], json!(pod.metadata.uid));
    let listed = client
        .list::<Value>(EVENTS, "ns", &Selectors::all())
        .await
        .unwrap();
    assert_eq!(listed.items.len(), 2);
    let _: Vec<Pod> = client
        .list(PODS, "ns", &Selectors::all())
        .await
        .unwrap()
        .items;
    assert_eq!(recorder.dropped(), 0);
}
