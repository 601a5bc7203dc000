//! All agents together against a server in this process: controllers, scheduler, hollow kubelets; healthy and not.

use std::collections::BTreeSet;
use std::time::Duration;

use barque_agents_client::core::election::Settings;
use barque_agents_client::testing::{Cluster, Faults, Master, eventually};
use barque_agents_client::{ClientConfig, Timeouts};
use barque_agents_controllers::{Config, run};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const ELECTION: Settings = Settings {
    lease_duration: Duration::from_millis(2_000),
    renew_deadline: Duration::from_millis(1_500),
    retry_period: Duration::from_millis(300),
};

fn client(masters: &[&Master]) -> ClientConfig {
    ClientConfig {
        endpoints: masters.iter().map(|master| master.url()).collect(),
        tls: None,
        user_agent: "test".to_owned(),
        timeouts: Timeouts {
            call: Duration::from_secs(2),
            attempt: Duration::from_millis(500),
            ..Timeouts::default()
        },
    }
}

fn controllers(masters: &[&Master], identity: &str) -> JoinHandle<()> {
    let config = Config {
        election: ELECTION,
        node_grace: Duration::from_secs(2),
        node_period: Duration::from_millis(100),
        ..Config::new(client(masters), identity)
    };
    tokio::spawn(async move { run(config, std::future::pending()).await.unwrap() })
}

fn scheduler(masters: &[&Master]) -> JoinHandle<()> {
    let mut config = barque_agents_scheduler::Config::new(client(masters), "scheduler");
    config.election = ELECTION;
    tokio::spawn(async move {
        barque_agents_scheduler::run(config, std::future::pending())
            .await
            .unwrap()
    })
}

fn kubelet(masters: &[&Master], name: &str, range: &str) -> JoinHandle<()> {
    let mut config = barque_agents_kubelet::Config::new(client(masters), name, range);
    config.lease_interval = Duration::from_millis(300);
    tokio::spawn(async move {
        barque_agents_kubelet::run(config, std::future::pending())
            .await
            .unwrap()
    })
}

fn deploy(cluster: &Cluster, name: &str, replicas: u32) -> Value {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}},
        },
    });
    cluster.create("apps/deployments", "default", deployment)
}

fn change(cluster: &Cluster, name: &str, change: impl FnOnce(&mut Value)) {
    cluster.modify("apps/deployments", "default", name, change);
}

fn image(cluster: &Cluster, name: &str, image: &str) {
    change(cluster, name, |object| {
        object["spec"]["template"]["spec"]["containers"][0]["image"] = image.into()
    });
}

/// What `kubectl rollout status` waits for.
fn rolled_out(cluster: &Cluster, name: &str) -> bool {
    let deployment = cluster.object("apps/deployments", "default", name).unwrap();
    let status = &deployment["status"];
    let replicas = deployment["spec"]["replicas"].as_i64();
    let count = |field: &str| Some(status[field].as_i64().unwrap_or(0));
    status["observedGeneration"] == deployment["metadata"]["generation"]
        && count("updatedReplicas") == replicas
        && count("replicas") == replicas
        && count("availableReplicas") == replicas
}

fn running(cluster: &Cluster, name: &str) -> Vec<Value> {
    let pods = cluster.objects("pods").into_iter();
    pods.filter(|pod| {
        pod["metadata"]["labels"]["app"] == name
            && pod["status"]["phase"] == "Running"
            && pod["metadata"]["deletionTimestamp"].is_null()
    })
    .collect()
}

/// The most pods of one replica set that were alive at any revision, by its uid, and what it asked for at most.
fn check_never_exceeded(cluster: &Cluster) {
    let mut alive: std::collections::BTreeMap<String, BTreeSet<String>> = Default::default();
    let mut asked: std::collections::BTreeMap<String, usize> = Default::default();
    let mut owner_of: std::collections::BTreeMap<String, String> = Default::default();
    for (revision, resource, name, new) in cluster.history() {
        match (resource.as_str(), new) {
            ("apps/replicasets", Some(set)) => {
                let uid = set["metadata"]["uid"].as_str().unwrap().to_owned();
                let size = usize::try_from(set["spec"]["replicas"].as_u64().unwrap()).unwrap();
                let most = asked.entry(uid).or_default();
                *most = size.max(*most);
            }
            ("/pods", Some(pod)) => {
                let Some(owner) = pod["metadata"]["ownerReferences"][0]["uid"].as_str() else {
                    continue;
                };
                owner_of.insert(name.clone(), owner.to_owned());
                let set = alive.entry(owner.to_owned()).or_default();
                if pod["metadata"]["deletionTimestamp"].is_null() {
                    set.insert(name);
                } else {
                    set.remove(&name);
                }
                assert!(
                    set.len() <= asked[owner],
                    "{} pods of a set that asked for {} at {revision}",
                    set.len(),
                    asked[owner]
                );
            }
            ("/pods", None) => {
                if let Some(set) = owner_of.get(&name).and_then(|owner| alive.get_mut(owner)) {
                    set.remove(&name);
                }
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_runs_rolls_scales_and_goes() {
    let cluster = Cluster::default();
    let master = Master::start(&cluster).await;
    let agents = [
        controllers(&[&master], "one"),
        scheduler(&[&master]),
        kubelet(&[&master], "w1", "10.1.1.0/24"),
        kubelet(&[&master], "w2", "10.1.2.0/24"),
    ];
    deploy(&cluster, "web", 3);
    eventually("three run", || async {
        rolled_out(&cluster, "web") && running(&cluster, "web").len() == 3
    })
    .await;
    let nodes: BTreeSet<String> = running(&cluster, "web")
        .iter()
        .map(|pod| pod["spec"]["nodeName"].to_string())
        .collect();
    assert_eq!(nodes.len(), 2, "spread over both nodes");
    image(&cluster, "web", "v2");
    eventually("rolled out", || async { rolled_out(&cluster, "web") }).await;
    assert!(
        running(&cluster, "web")
            .iter()
            .all(|pod| pod["spec"]["containers"][0]["image"] == "v2")
    );
    change(&cluster, "web", |object| {
        object["spec"]["replicas"] = 5.into()
    });
    eventually("five run", || async {
        rolled_out(&cluster, "web") && running(&cluster, "web").len() == 5
    })
    .await;
    assert_eq!(cluster.objects("apps/replicasets").len(), 2);
    check_never_exceeded(&cluster);

    // At rest nothing is written but leases.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let from = cluster.revision();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let writes: Vec<String> = cluster
        .history()
        .into_iter()
        .filter(|(revision, resource, ..)| {
            *revision > from && resource != "coordination.k8s.io/leases" && resource != "/nodes"
        })
        .map(|(_, resource, name, new)| format!("{resource} {name} {new:?}"))
        .collect();
    assert!(writes.is_empty(), "{writes:#?}");

    // In the background: the owner goes first.
    cluster.delete("apps/deployments", "default", "web", json!({}));
    eventually("sets and pods follow", || async {
        cluster.objects("apps/replicasets").is_empty() && cluster.objects("pods").is_empty()
    })
    .await;
    // In the foreground: last. Orphaned: the set stays.
    deploy(&cluster, "fore", 2);
    deploy(&cluster, "orphan", 1);
    eventually("both run", || async {
        rolled_out(&cluster, "fore") && rolled_out(&cluster, "orphan")
    })
    .await;
    cluster.delete(
        "apps/deployments",
        "default",
        "fore",
        json!({"propagationPolicy": "Foreground"}),
    );
    cluster.delete(
        "apps/deployments",
        "default",
        "orphan",
        json!({"propagationPolicy": "Orphan"}),
    );
    eventually("gone", || async {
        cluster.objects("apps/deployments").is_empty() && running(&cluster, "fore").is_empty()
    })
    .await;
    let sets = cluster.objects("apps/replicasets");
    assert_eq!(
        (sets.len(), running(&cluster, "orphan").len()),
        (1, 1),
        "{sets:#?}"
    );
    assert!(
        sets[0]["metadata"]["ownerReferences"]
            .as_array()
            .is_none_or(Vec::is_empty)
    );
    deploy(&cluster, "orphan", 1);
    eventually("adopted by its successor", || async {
        rolled_out(&cluster, "orphan")
    })
    .await;
    assert_eq!(cluster.objects("apps/replicasets").len(), 1);
    agents.iter().for_each(JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_conflicts_lost_answers_and_broken_streams_only_costs_time() {
    let cluster = Cluster::default();
    let masters = [Master::start(&cluster).await, Master::start(&cluster).await];
    let both: Vec<&Master> = masters.iter().collect();
    cluster.set_faults(Faults {
        conflict_every: 4,
        lose_answers: 0,
    });
    let agents = [
        controllers(&both, "one"),
        scheduler(&both),
        kubelet(&both, "w1", "10.1.1.0/24"),
    ];
    for name in ["a", "b"] {
        deploy(&cluster, name, 4);
    }
    for round in 0..4 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.set_faults(Faults {
            conflict_every: 4,
            lose_answers: 4,
        });
        masters.iter().for_each(Master::break_streams);
        image(&cluster, "a", &format!("v{round}"));
    }
    cluster.set_faults(Faults {
        conflict_every: 5,
        lose_answers: 0,
    });
    masters[0].kill();
    eventually("both are there", || async {
        ["a", "b"]
            .iter()
            .all(|name| rolled_out(&cluster, name) && running(&cluster, name).len() == 4)
    })
    .await;
    check_never_exceeded(&cluster);
    agents.iter().for_each(JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_finishes_what_a_killed_one_began() {
    let cluster = Cluster::default();
    let master = Master::start(&cluster).await;
    let agents = [
        scheduler(&[&master]),
        kubelet(&[&master], "w1", "10.1.1.0/24"),
    ];
    let first = controllers(&[&master], "first");
    deploy(&cluster, "web", 6);
    eventually("the first has begun", || async {
        !cluster.objects("pods").is_empty()
    })
    .await;
    first.abort();
    let second = controllers(&[&master], "second");
    image(&cluster, "web", "v2");
    eventually("the second finishes", || async {
        rolled_out(&cluster, "web") && running(&cluster, "web").len() == 6
    })
    .await;
    check_never_exceeded(&cluster);
    second.abort();
    agents.iter().for_each(JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_unreachable_and_welcome_back() {
    let cluster = Cluster::default();
    let master = Master::start(&cluster).await;
    let agents = [controllers(&[&master], "one"), scheduler(&[&master])];
    let node = kubelet(&[&master], "w1", "10.1.1.0/24");
    deploy(&cluster, "web", 1);
    eventually("it runs", || async { rolled_out(&cluster, "web") }).await;
    node.abort();
    let taints = || cluster.object("nodes", "", "w1").unwrap()["spec"]["taints"].clone();
    let unreachable = json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}]);
    eventually("tainted", || async {
        let found = taints();
        found[0]["key"] == unreachable[0]["key"] && found[0]["effect"] == unreachable[0]["effect"]
    })
    .await;
    eventually("its pod does not count as ready", || async {
        let deployment = cluster
            .object("apps/deployments", "default", "web")
            .unwrap();
        deployment["status"]["availableReplicas"]
            .as_i64()
            .unwrap_or(0)
            == 0
    })
    .await;
    assert_eq!(cluster.objects("pods").len(), 1, "not evicted");
    let node = kubelet(&[&master], "w1", "10.1.1.0/24");
    eventually("welcome back", || async {
        taints().as_array().is_none_or(Vec::is_empty) && rolled_out(&cluster, "web")
    })
    .await;
    node.abort();
    agents.iter().for_each(JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_goes_with_all_it_holds() {
    let cluster = Cluster::default();
    let master = Master::start(&cluster).await;
    cluster.stop_serving("secrets");
    cluster.create("namespaces", "", json!({"metadata": {"name": "default"}}));
    let agents = [
        controllers(&[&master], "one"),
        scheduler(&[&master]),
        kubelet(&[&master], "w1", "10.1.1.0/24"),
    ];
    deploy(&cluster, "web", 2);
    cluster.create("configmaps", "default", json!({"metadata": {"name": "c"}}));
    eventually("it runs", || async { rolled_out(&cluster, "web") }).await;
    cluster.delete("namespaces", "", "default", json!({}));
    eventually("gone", || async {
        cluster.objects("namespaces").is_empty()
    })
    .await;
    for resource in [
        "pods",
        "configmaps",
        "apps/deployments",
        "apps/replicasets",
        "events",
    ] {
        let left = cluster
            .objects(resource)
            .into_iter()
            .filter(|object| object["metadata"]["namespace"] == "default")
            .count();
        assert_eq!(left, 0, "{resource} left behind");
    }
    agents.iter().for_each(JoinHandle::abort);
}
