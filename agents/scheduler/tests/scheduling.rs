//! The whole scheduler against a server in this process, healthy and not.

use std::time::Duration;

use barque_agents_client::core::election::Settings;
use barque_agents_client::testing::{Cluster, Faults, Master, eventually};
use barque_agents_client::{ClientConfig, Timeouts};
use barque_agents_scheduler::{Config, run};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

fn config(masters: &[&Master], identity: &str) -> Config {
    let client = ClientConfig {
        endpoints: masters.iter().map(|master| master.url()).collect(),
        tls: None,
        user_agent: "scheduler".to_owned(),
        timeouts: Timeouts {
            call: Duration::from_secs(2),
            attempt: Duration::from_millis(500),
            ..Timeouts::default()
        },
    };
    Config {
        election: Settings {
            lease_duration: Duration::from_millis(1_500),
            renew_deadline: Duration::from_millis(1_000),
            retry_period: Duration::from_millis(200),
        },
        ..Config::new(client, identity)
    }
}

struct Running {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(config: Config) -> Running {
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            run(config, async { drop(stopped.await) }).await.unwrap();
        });
        Running {
            stop: Some(stop),
            task,
        }
    }
    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap();
    }
}

fn add_node(cluster: &Cluster, name: &str, pods: u32) {
    let node = json!({"metadata": {"name": name}, "spec": {}, "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": pods.to_string()}}});
    cluster.create("nodes", "", node);
}

fn add_pod(cluster: &Cluster, name: &str) {
    let pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}});
    cluster.create("pods", "ns", pod);
}

fn bound(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.objects("pods");
    pods.iter()
        .filter_map(|pod| pod["spec"]["nodeName"].as_str())
        .map(str::to_owned)
        .collect()
}

fn condition(pod: &Value) -> Value {
    pod["status"]["conditions"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_find_nodes_and_those_that_do_not_fit_wait_for_room() {
    let cluster = Cluster::default();
    let master = Master::start(&cluster).await;
    add_node(&cluster, "a", 110);
    let running = Running::start(config(&[&master], "one"));
    for name in 0..5 {
        add_pod(&cluster, &name.to_string());
    }
    eventually("four of one CPU each on four CPUs", || async {
        bound(&cluster).len() == 4
    })
    .await;
    let waiting = || {
        cluster
            .objects("pods")
            .into_iter()
            .find(|pod| pod["spec"]["nodeName"].is_null())
    };
    eventually("the fifth is told why", || async {
        waiting().is_some_and(|pod| {
            condition(&pod)["message"] == "0/1 nodes are available: 1 Insufficient cpu."
        })
    })
    .await;
    let told = condition(&waiting().unwrap());
    assert_eq!(
        (&told["type"], &told["status"], &told["reason"]),
        (
            &json!("PodScheduled"),
            &json!("False"),
            &json!("Unschedulable")
        )
    );
    add_node(&cluster, "b", 110);
    eventually("room on the new node", || async {
        bound(&cluster).len() == 5
    })
    .await;
    // Deletion makes room, too.
    for name in 5..9 {
        add_pod(&cluster, &name.to_string());
    }
    eventually("eight fit", || async { bound(&cluster).len() == 8 }).await;
    let victim = cluster
        .objects("pods")
        .into_iter()
        .find(|pod| pod["spec"]["nodeName"] == "a")
        .unwrap();
    cluster.delete(
        "pods",
        "ns",
        victim["metadata"]["name"].as_str().unwrap(),
        json!({"gracePeriodSeconds": 0}),
    );
    eventually("the ninth takes its place", || async {
        bound(&cluster).len() == 8
    })
    .await;
    eventually("events", || async {
        let events = cluster.objects("events");
        let of = |reason: &str| {
            events
                .iter()
                .filter(|event| event["reason"] == reason)
                .count()
        };
        of("Scheduled") == 9 && of("FailedScheduling") >= 1
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_and_broken_streams_never_overfill_a_node() {
    let cluster = Cluster::default();
    let masters = [Master::start(&cluster).await, Master::start(&cluster).await];
    for node in ["a", "b", "c"] {
        add_node(&cluster, node, 10);
    }
    let running = Running::start(config(&[&masters[0], &masters[1]], "one"));
    for round in 0..3 {
        cluster.set_faults(Faults {
            lose_answers: 3,
            ..Default::default()
        });
        for name in 0..3 {
            add_pod(&cluster, &format!("{round}-{name}"));
        }
        masters.iter().for_each(Master::break_streams);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    masters[0].kill();
    add_pod(&cluster, "last");
    eventually("all bound", || async { bound(&cluster).len() == 10 }).await;
    for node in ["a", "b", "c"] {
        let count = bound(&cluster).iter().filter(|name| *name == node).count();
        assert!(count <= 4, "{count} pods of one CPU on 4 CPUs of {node}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_scheduler_takes_over() {
    let cluster = Cluster::default();
    let master = Master::start(&cluster).await;
    add_node(&cluster, "a", 110);
    let first = Running::start(config(&[&master], "first"));
    add_pod(&cluster, "1");
    eventually("the first schedules", || async {
        bound(&cluster).len() == 1
    })
    .await;
    let second = Running::start(config(&[&master], "second"));
    first.task.abort();
    add_pod(&cluster, "2");
    eventually("the second schedules", || async {
        bound(&cluster).len() == 2
    })
    .await;
    let lease = cluster
        .object(
            "coordination.k8s.io/leases",
            "kube-system",
            "barque-scheduler",
        )
        .unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "second");
    second.stop().await;
    let lease = cluster
        .object(
            "coordination.k8s.io/leases",
            "kube-system",
            "barque-scheduler",
        )
        .unwrap();
    assert_eq!(
        lease["spec"]["holderIdentity"], "",
        "released on the way out"
    );
}
