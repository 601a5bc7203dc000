//! A Deployment runs on three replicated masters and survives what kills them, seen through the real kubectl.
//! One cluster per kubectl version; each step builds on the one before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use barque_proto::etcdserverpb::watch_request::RequestUnion;
use barque_proto::etcdserverpb::{HashKvRequest, StatusRequest, WatchCreateRequest, WatchRequest};
use barque_proto::objects::{
    CreateRequest, ListRequest, WatchRequest as ObjectWatchRequest, watch_event,
};
use barque_tests_api::clients::resource;
use barque_tests_api::kubectl::{Kubectl, oldest_and_newest};
use barque_tests_api::{Cluster, eventually, text};
use serde_json::{Value, json};

const ROLLOUT: Duration = Duration::from_secs(90);

#[test]
fn a_deployment_survives_on_the_oldest_and_the_newest_kubectl() {
    let versions = oldest_and_newest();
    for (index, program) in versions.iter().enumerate() {
        println!("with {}", program.display());
        let begun = Instant::now();
        let cluster = Cluster::up(3, 2);
        println!("  up in {:.1} s", begun.elapsed().as_secs_f64());
        let kubectl = Kubectl::new(program, &cluster.kubeconfig());
        a_deployment_runs(&kubectl);
        the_leader_dies(&cluster, &kubectl);
        if index + 1 == versions.len() {
            scheduler_and_controller_die(&cluster, &kubectl);
            all_masters_die(&cluster, &kubectl);
        }
        println!("  done after {:.1} s", begun.elapsed().as_secs_f64());
    }
}

fn pods(kubectl: &Kubectl, selector: &str) -> Vec<Value> {
    kubectl.json(&["get", "pods", "-l", selector])["items"]
        .as_array()
        .expect("a list")
        .clone()
}

fn running(kubectl: &Kubectl, selector: &str) -> Vec<Value> {
    let live = |p: &Value| {
        p["status"]["phase"] == "Running" && p["metadata"]["deletionTimestamp"].is_null()
    };
    pods(kubectl, selector).into_iter().filter(live).collect()
}

fn a_deployment_runs(kubectl: &Kubectl) {
    assert_eq!(
        kubectl.ok(&[
            "create",
            "deployment",
            "web",
            "--image=nginx:1.27",
            "--replicas=3"
        ]),
        "deployment.apps/web created\n"
    );
    kubectl.ok(&["rollout", "status", "deployment/web", "--timeout=90s"]);
    let pods_now = running(kubectl, "app=web");
    assert_eq!(pods_now.len(), 3, "three pods run: {pods_now:#?}");
    let nodes: BTreeSet<String> = pods_now
        .iter()
        .map(|p| text(&p["spec"]["nodeName"]))
        .collect();
    assert_eq!(nodes.len(), 2, "they are spread over both nodes: {nodes:?}");
    let table = kubectl.ok(&["get", "deployments,pods,nodes", "-o", "wide"]);
    assert!(
        table.contains("3/3") && table.contains("Running") && table.contains("Ready"),
        "{table}"
    );

    let before: BTreeSet<String> = pods_now
        .iter()
        .map(|p| text(&p["metadata"]["uid"]))
        .collect();
    kubectl.ok(&["rollout", "restart", "deployment/web"]);
    kubectl.ok(&["rollout", "status", "deployment/web", "--timeout=90s"]);
    eventually(ROLLOUT, "three new pods run after the restart", || {
        let now = running(kubectl, "app=web");
        now.len() == 3
            && now
                .iter()
                .all(|p| !before.contains(&text(&p["metadata"]["uid"])))
    });
}

/// What one writer was told.
#[derive(Default)]
struct Written {
    acknowledged: BTreeSet<String>,
    unknown: BTreeSet<String>,
}

/// Puts numbered ConfigMaps through one master until told to stop.
async fn write(
    cluster_client: barque_proto::objects::objects_client::ObjectsClient<tonic::transport::Channel>,
    prefix: String,
    stop: Arc<AtomicBool>,
) -> Written {
    let mut client = cluster_client;
    let mut written = Written::default();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let name = format!("{prefix}-{number:05}");
        number += 1;
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"number": number.to_string()}});
        let request = CreateRequest {
            resource: Some(resource("", "v1", "configmaps")),
            namespace: "default".into(),
            json: object.to_string().into_bytes().into(),
            ..Default::default()
        };
        match tokio::time::timeout(Duration::from_secs(10), client.create(request)).await {
            Ok(Ok(_)) => drop(written.acknowledged.insert(name)),
            _ => drop(written.unknown.insert(name)),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    written
}

/// Follows ConfigMaps through a gateway, resuming by revision, until `until` was seen. Returns (revision, name) of each ADDED, in order.
async fn watch_gateway(
    client: barque_proto::objects::objects_client::ObjectsClient<tonic::transport::Channel>,
    from: i64,
    until: String,
) -> Vec<(i64, String)> {
    let mut client = client;
    let mut seen = Vec::new();
    let mut revision = from;
    loop {
        let request = ObjectWatchRequest {
            resource: Some(resource("", "v1", "configmaps")),
            namespace: "default".into(),
            resource_version: revision,
            ..Default::default()
        };
        let Ok(stream) = client.watch(request).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let mut stream = stream.into_inner();
        while let Ok(Some(message)) = stream.message().await {
            for event in message.events {
                revision = revision.max(event.resource_version);
                if event.r#type() == watch_event::Type::Added {
                    let object: Value =
                        serde_json::from_slice(&event.json).expect("objects are JSON");
                    let name = text(&object["metadata"]["name"]);
                    seen.push((event.resource_version, name.clone()));
                    if name == until {
                        return seen;
                    }
                }
            }
        }
    }
}

/// The same through etcd's API of a member.
async fn watch_etcd(
    client: barque_proto::etcdserverpb::watch_client::WatchClient<tonic::transport::Channel>,
    from: i64,
    until: String,
) -> Vec<(i64, String)> {
    const PREFIX: &str = "/registry/configmaps/default/";
    let mut client = client;
    let mut seen = Vec::new();
    let mut next = from + 1;
    loop {
        let create = WatchCreateRequest {
            key: PREFIX.into(),
            range_end: "/registry/configmaps/default0".into(),
            start_revision: next,
            ..Default::default()
        };
        let request = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        // The stream stays open after the one request.
        let requests =
            futures::StreamExt::chain(futures::stream::iter([request]), futures::stream::pending());
        let Ok(stream) = client.watch(requests).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let mut stream = stream.into_inner();
        while let Ok(Some(message)) = stream.message().await {
            for event in message.events {
                let kv = event.kv.expect("an event has a row");
                next = next.max(kv.mod_revision + 1);
                if event.r#type == 0 && kv.version == 1 {
                    let name = String::from_utf8(kv.key[PREFIX.len()..].to_vec())
                        .expect("names are ASCII");
                    seen.push((kv.mod_revision, name.clone()));
                    if name == until {
                        return seen;
                    }
                }
            }
        }
    }
}

fn the_leader_dies(cluster: &Cluster, kubectl: &Kubectl) {
    let leader = cluster.leader();
    let others: Vec<String> = cluster
        .masters()
        .into_iter()
        .filter(|m| *m != leader)
        .collect();
    let survivor = kubectl.through(&others[0]);
    println!("  leader {leader} is killed");
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let stop = Arc::new(AtomicBool::new(false));
    let (from, writers, gateway_watch, etcd_watch) = runtime.block_on(async {
        let list = ListRequest {
            resource: Some(resource("", "v1", "configmaps")),
            namespace: "default".into(),
            ..Default::default()
        };
        let from = cluster
            .objects(&others[0])
            .list(list)
            .await
            .expect("a list before the kill")
            .into_inner()
            .resource_version;
        let writers: Vec<_> = others
            .iter()
            .map(|m| {
                tokio::spawn(write(
                    cluster.objects(m),
                    format!("numbered-{m}"),
                    stop.clone(),
                ))
            })
            .collect();
        // The last ConfigMap of all is what ends the watches.
        let gateway_watch = tokio::spawn(watch_gateway(
            cluster.objects(&others[1]),
            from,
            "the-last".into(),
        ));
        let etcd_watch = tokio::spawn(watch_etcd(
            cluster.etcd_watch(&others[0]),
            from,
            "the-last".into(),
        ));
        tokio::time::sleep(Duration::from_secs(1)).await;
        (from, writers, gateway_watch, etcd_watch)
    });
    cluster.kill(&leader);
    let killed = Instant::now();
    eventually(
        Duration::from_secs(30),
        "scale works without the killed leader",
        || {
            survivor
                .run(&["scale", "deployment/web", "--replicas=5"])
                .status
                .success()
        },
    );
    println!(
        "  scaled {:.1} s after the kill",
        killed.elapsed().as_secs_f64()
    );
    eventually(ROLLOUT, "five pods run", || {
        running(&survivor, "app=web").len() == 5
    });
    stop.store(true, Ordering::Relaxed);
    let written: Vec<Written> = runtime.block_on(async {
        let mut all = Vec::new();
        for writer in writers {
            all.push(writer.await.expect("the writer does not panic"));
        }
        all
    });
    let acknowledged: BTreeSet<String> = written
        .iter()
        .flat_map(|w| w.acknowledged.clone())
        .collect();
    let unknown: BTreeSet<String> = written.iter().flat_map(|w| w.unknown.clone()).collect();
    println!(
        "  {} ConfigMaps acknowledged, {} unknown",
        acknowledged.len(),
        unknown.len()
    );
    assert!(
        acknowledged.len() > 100,
        "the writers got something written"
    );
    assert!(
        unknown.len() < acknowledged.len() / 2,
        "most writes have an answer: {} unknown",
        unknown.len()
    );
    survivor.ok(&["create", "configmap", "the-last"]);
    let rows = all_configmaps(cluster, &runtime, &others[0]);
    let missing: Vec<&String> = acknowledged
        .iter()
        .filter(|n| !rows.contains_key(*n))
        .collect();
    assert!(missing.is_empty(), "acknowledged but gone: {missing:?}");
    let expected: Vec<(i64, String)> = {
        let mut by_revision: Vec<(i64, String)> = rows
            .iter()
            .filter(|(_, revision)| **revision > from)
            .map(|(n, r)| (*r, n.clone()))
            .collect();
        by_revision.sort();
        by_revision
    };
    let within = Duration::from_secs(30);
    for (which, watch) in [("gateway", gateway_watch), ("etcd", etcd_watch)] {
        let seen = runtime.block_on(async { tokio::time::timeout(within, watch).await });
        let seen = seen
            .unwrap_or_else(|_| panic!("the {which} watch saw the last ConfigMap in time"))
            .expect("the watch does not panic");
        let gaps: Vec<_> = expected.iter().filter(|row| !seen.contains(row)).collect();
        assert!(gaps.is_empty(), "the {which} watch missed {gaps:?}");
        assert_eq!(
            seen, expected,
            "the {which} watch saw each ConfigMap once, in order"
        );
    }
    cluster.start_missing();
    hashes_agree(cluster, &runtime);
    kubectl
        .through(&leader)
        .ok(&["delete", "configmap", "the-last"]);
}

fn all_configmaps(
    cluster: &Cluster,
    runtime: &tokio::runtime::Runtime,
    master: &str,
) -> BTreeMap<String, i64> {
    let list = ListRequest {
        resource: Some(resource("", "v1", "configmaps")),
        namespace: "default".into(),
        ..Default::default()
    };
    let items = runtime.block_on(async {
        cluster
            .objects(master)
            .list(list)
            .await
            .expect("a list")
            .into_inner()
            .items
    });
    items
        .iter()
        .map(|json| {
            let object: Value = serde_json::from_slice(json).expect("objects are JSON");
            (
                text(&object["metadata"]["name"]),
                text(&object["metadata"]["resourceVersion"])
                    .parse()
                    .expect("a number"),
            )
        })
        .collect()
}

/// All members are at one applied index sooner or later, and then have one hash.
fn hashes_agree(cluster: &Cluster, runtime: &tokio::runtime::Runtime) {
    let masters = cluster.masters();
    eventually(
        Duration::from_secs(30),
        "all members have one hash at one revision",
        || {
            runtime.block_on(async {
                let mut revisions = Vec::new();
                for master in &masters {
                    let Ok(status) = cluster
                        .etcd_maintenance(master)
                        .status(StatusRequest {})
                        .await
                    else {
                        return false;
                    };
                    revisions.push(status.into_inner().header.expect("a header").revision);
                }
                let revision = *revisions.iter().min().expect("masters");
                let mut hashes = BTreeSet::new();
                for master in &masters {
                    let Ok(hash) = cluster
                        .etcd_maintenance(master)
                        .hash_kv(HashKvRequest { revision })
                        .await
                    else {
                        return false;
                    };
                    let hash = hash.into_inner();
                    hashes.insert((hash.hash, hash.compact_revision));
                }
                assert_eq!(
                    hashes.len(),
                    1,
                    "members differ at revision {revision}: {hashes:?}"
                );
                true
            })
        },
    );
}

fn scheduler_and_controller_die(cluster: &Cluster, kubectl: &Kubectl) {
    kubectl.ok(&["rollout", "restart", "deployment/web"]);
    let holder = |lease: &str| {
        text(&kubectl.json(&["get", "lease", lease, "-n", "kube-system"])["spec"]["holderIdentity"])
    };
    for (kind, lease) in [
        ("scheduler", "barque-scheduler"),
        ("controller", "barque-controllers"),
    ] {
        let number = holder(lease).trim_start_matches("master-").to_owned();
        cluster.kill(&format!("{kind}-{number}"));
    }
    kubectl.ok(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    let generation = |o: &Value| o["metadata"]["generation"].as_i64();
    let deployment = kubectl.json(&["get", "deployment", "web"]);
    assert_eq!(
        deployment["status"]["observedGeneration"].as_i64(),
        generation(&deployment)
    );
    eventually(ROLLOUT, "exactly five pods run after the rollout", || {
        running(kubectl, "app=web").len() == 5 && pods(kubectl, "app=web").len() == 5
    });
    cluster.start_missing();
}

fn all_masters_die(cluster: &Cluster, kubectl: &Kubectl) {
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let masters = cluster.masters();
    let before = all_configmaps(cluster, &runtime, &masters[0]);
    let pods_before: BTreeSet<String> = running(kubectl, "app=web")
        .iter()
        .map(|p| text(&p["metadata"]["uid"]))
        .collect();
    for master in &masters {
        cluster.kill(master);
    }
    cluster.start_missing();
    hashes_agree(cluster, &runtime);
    for master in &masters {
        assert_eq!(
            all_configmaps(cluster, &runtime, master),
            before,
            "{master} has every ConfigMap at its revision"
        );
    }
    let pods_after: BTreeSet<String> = running(kubectl, "app=web")
        .iter()
        .map(|p| text(&p["metadata"]["uid"]))
        .collect();
    assert_eq!(pods_after, pods_before, "the same pods run");
    kubectl.ok(&["scale", "deployment/web", "--replicas=3"]);
    eventually(ROLLOUT, "three pods are left", || {
        pods(kubectl, "app=web").len() == 3
    });
    kubectl.ok(&["delete", "deployment", "web"]);
    eventually(ROLLOUT, "deleting the Deployment deletes its pods", || {
        pods(kubectl, "app=web").is_empty()
    });
}
