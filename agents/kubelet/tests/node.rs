//! A whole hollow node against a server in this process.

use std::time::Duration;

use barque_agents_client::testing::{Cluster, Faults, Master, eventually};
use barque_agents_client::{ClientConfig, Timeouts};
use barque_agents_kubelet::{Config, run};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

fn start(master: &Master) -> JoinHandle<()> {
    let client = ClientConfig {
        endpoints: vec![master.url()],
        tls: None,
        user_agent: "kubelet".to_owned(),
        timeouts: Timeouts {
            call: Duration::from_secs(2),
            attempt: Duration::from_millis(500),
            ..Timeouts::default()
        },
    };
    let config = Config {
        lease_interval: Duration::from_millis(200),
        ..Config::new(client, "w1", "10.244.1.0/24")
    };
    tokio::spawn(async move { run(config, std::future::pending()).await.unwrap() })
}

fn add_pod(cluster: &Cluster, name: &str, annotations: Value) -> Value {
    let policy = if annotations.as_object().unwrap().is_empty() {
        "Always"
    } else {
        "Never"
    };
    let pod = json!({
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"nodeName": "w1", "restartPolicy": policy, "containers": [{"name": "c", "image": "nginx"}]},
    });
    cluster.create("pods", "ns", pod)
}

fn phase(cluster: &Cluster, name: &str) -> String {
    let pod = cluster.object("pods", "ns", name).unwrap_or_default();
    pod["status"]["phase"].as_str().unwrap_or("gone").to_owned()
}

fn ready(object: &Value) -> Value {
    let conditions = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    conditions
        .into_iter()
        .find(|condition| condition["type"] == "Ready")
        .unwrap_or_default()["status"]
        .clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_registers_runs_pods_and_lets_them_go() {
    let cluster = Cluster::default();
    let master = Master::start(&cluster).await;
    let kubelet = start(&master);
    eventually("the node is ready", || async {
        cluster
            .object("nodes", "", "w1")
            .is_some_and(|node| ready(&node) == "True")
    })
    .await;
    let node = cluster.object("nodes", "", "w1").unwrap();
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "w1");
    assert_eq!(node["status"]["allocatable"]["pods"], "110");
    assert!(
        node["status"]["nodeInfo"]["kubeletVersion"]
            .as_str()
            .unwrap()
            .starts_with("v1.33.")
    );

    for name in ["a", "b"] {
        add_pod(&cluster, name, json!({}));
    }
    add_pod(
        &cluster,
        "job",
        json!({"barque.io/hollow-exit-after": "1s"}),
    );
    add_pod(
        &cluster,
        "bad",
        json!({"barque.io/hollow-exit-after": "100ms", "barque.io/hollow-exit-code": "2"}),
    );
    eventually("both run", || async {
        ["a", "b"]
            .iter()
            .all(|name| phase(&cluster, name) == "Running")
    })
    .await;
    let [a, b] = ["a", "b"].map(|name| cluster.object("pods", "ns", name).unwrap());
    assert_eq!(
        (ready(&a), &a["status"]["hostIP"]),
        (json!("True"), &json!("127.0.0.1"))
    );
    assert_ne!(a["status"]["podIP"], b["status"]["podIP"]);
    eventually("the job ends", || async {
        phase(&cluster, "job") == "Succeeded"
    })
    .await;
    eventually("the bad one fails", || async {
        phase(&cluster, "bad") == "Failed"
    })
    .await;

    cluster.delete("pods", "ns", "a", json!({}));
    assert_ne!(phase(&cluster, "a"), "gone", "gracefully");
    eventually("a has stopped", || async { phase(&cluster, "a") == "gone" }).await;
    cluster.delete("pods", "ns", "b", json!({"gracePeriodSeconds": 0}));
    assert_eq!(phase(&cluster, "b"), "gone");
    let again = add_pod(&cluster, "b", json!({}));
    eventually("its successor runs", || async {
        phase(&cluster, "b") == "Running"
    })
    .await;
    let now = cluster.object("pods", "ns", "b").unwrap();
    assert_eq!(now["metadata"]["uid"], again["metadata"]["uid"]);
    assert!(
        now["status"]["containerStatuses"][0]["containerID"]
            .as_str()
            .unwrap()
            .contains(again["metadata"]["uid"].as_str().unwrap())
    );
    kubelet.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_disturbs_no_pod_and_nothing_is_written_when_nothing_happens() {
    let cluster = Cluster::default();
    let master = Master::start(&cluster).await;
    let kubelet = start(&master);
    for number in 0..5 {
        add_pod(&cluster, &number.to_string(), json!({}));
    }
    let all_run = || (0..5).all(|number| phase(&cluster, &number.to_string()) == "Running");
    eventually("all run", || async { all_run() }).await;
    kubelet.abort();
    let before = cluster.objects("pods");
    let kubelet = start(&master);
    add_pod(&cluster, "late", json!({}));
    eventually("the new one takes pods on", || async {
        phase(&cluster, "late") == "Running"
    })
    .await;
    master.break_streams();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after: Vec<Value> = cluster
        .objects("pods")
        .into_iter()
        .filter(|pod| pod["metadata"]["name"] != "late")
        .collect();
    assert_eq!(before, after, "not one write to pods that only ran on");
    let late = cluster.object("pods", "ns", "late").unwrap();
    assert!(
        before
            .iter()
            .all(|pod| pod["status"]["podIP"] != late["status"]["podIP"]),
        "an address given twice"
    );
    kubelet.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lease_is_renewed_and_a_wrong_verdict_corrected() {
    let cluster = Cluster::default();
    let master = Master::start(&cluster).await;
    let kubelet = start(&master);
    let renewed = || {
        let lease = cluster
            .object("coordination.k8s.io/leases", "kube-node-lease", "w1")
            .unwrap_or_default();
        lease["spec"]["renewTime"].clone()
    };
    eventually("a lease", || async { renewed().is_string() }).await;
    let first = renewed();
    eventually("renewed", || async { renewed() != first }).await;
    cluster.modify("nodes", "", "w1", |node| {
        for condition in node["status"]["conditions"].as_array_mut().unwrap() {
            condition["status"] = "Unknown".into();
        }
    });
    eventually("corrected", || async {
        ready(&cluster.object("nodes", "", "w1").unwrap()) == "True"
    })
    .await;
    cluster.delete("nodes", "", "w1", json!({}));
    eventually("registered again", || async {
        cluster.object("nodes", "", "w1").is_some()
    })
    .await;
    kubelet.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicts_and_lost_answers_only_cost_time() {
    let cluster = Cluster::default();
    let master = Master::start(&cluster).await;
    cluster.set_faults(Faults {
        conflict_every: 3,
        lose_answers: 5,
    });
    let kubelet = start(&master);
    for number in 0..10 {
        add_pod(&cluster, &number.to_string(), json!({}));
    }
    let all = |wanted: &str| (0..10).all(|number| phase(&cluster, &number.to_string()) == wanted);
    eventually("all run", || async { all("Running") }).await;
    for number in 0..10 {
        cluster.delete("pods", "ns", &number.to_string(), json!({}));
    }
    eventually("all gone", || async { all("gone") }).await;
    kubelet.abort();
}
