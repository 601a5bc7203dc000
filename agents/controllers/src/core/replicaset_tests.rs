//! Tables and properties of the replica set controller, stale copies included.

use std::collections::BTreeSet;

use barque_agents_client::core::reflector::Key;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::pod::Phase;
use super::super::settled::Settled;
use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn set(replicas: i32, changes: Value) -> ReplicaSet {
    let mut set = json!({
        "metadata": {"name": "web-x", "namespace": "ns", "uid": "set", "resourceVersion": "7", "generation": 2},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}}},
    });
    for (path, value) in changes.as_object().unwrap() {
        let (parent, field) = path.rsplit_once('/').unwrap();
        set.pointer_mut(parent).unwrap()[field] = value.clone();
    }
    serde_json::from_value(set).unwrap()
}

fn pod(name: &str) -> PodView {
    PodView {
        key: Key::new("ns", name),
        uid: name.to_owned(),
        resource_version: "1".to_owned(),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        owners: vec![controlled_by(&set(1, json!({})))],
        node: "n".to_owned(),
        phase: Phase::Running,
        ready_since: Some(at(0)),
        terminating: false,
        restarts: 0,
        deletion_cost: 0,
        created: at(0),
    }
}

fn look(set: &ReplicaSet, pods: Vec<PodView>) -> Vec<Action> {
    let pods: Vec<Arc<PodView>> = pods.into_iter().map(Arc::new).collect();
    reconcile(&Observed {
        set,
        pods: &pods,
        failure: None,
        now: at(100),
    })
}

fn text(actions: &[Action]) -> Vec<String> {
    actions
        .iter()
        .map(|action| match action {
            Action::Create { count, .. } => format!("create {count}"),
            Action::Delete { target, .. } => format!("delete {}", target.key.name),
            Action::Patch { target, patch, .. } => {
                format!(
                    "owners of {}: {}",
                    target.key.name,
                    patch["metadata"]["ownerReferences"]
                        .as_array()
                        .unwrap()
                        .len()
                )
            }
            Action::Replace { object, .. } => format!("status {}", object["status"]["replicas"]),
            Action::LookAgain { after } => format!("again in {}", after.as_secs()),
            other => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn missing_pods_are_made_and_surplus_ones_go() {
    assert_eq!(
        text(&look(&set(3, json!({})), vec![])),
        ["create 3", "status 0"]
    );
    assert_eq!(
        text(&look(&set(3, json!({})), vec![pod("a")])),
        ["create 2", "status 1"]
    );
    let ended = PodView {
        phase: Phase::Finished,
        ..pod("done")
    };
    let going = PodView {
        terminating: true,
        ..pod("going")
    };
    assert_eq!(
        text(&look(&set(1, json!({})), vec![ended, going])),
        ["create 1", "status 0"]
    );
    assert_eq!(
        text(&look(&set(0, json!({})), vec![pod("a"), pod("b")])),
        ["delete a", "delete b", "status 2"]
    );
    let deleting = set(
        3,
        json!({"/metadata/deletionTimestamp": "2026-01-01T00:00:00Z"}),
    );
    assert_eq!(text(&look(&deleting, vec![])), ["status 0"]);
}

#[test]
fn created_pods_carry_template_and_owner() {
    let actions = look(&set(1, json!({})), vec![]);
    let Action::Create { object, .. } = &actions[0] else {
        panic!("{actions:?}")
    };
    assert_eq!(object["metadata"]["generateName"], "web-x-");
    assert_eq!(object["metadata"]["labels"]["app"], "web");
    let owner = &object["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["uid"], &owner["controller"]),
        (&json!("ReplicaSet"), &json!("set"), &json!(true))
    );
}

#[test]
fn the_pod_that_is_missed_least_goes_first() {
    let cases = [
        PodView {
            node: String::new(),
            ready_since: None,
            phase: Phase::Pending,
            ..pod("unassigned")
        },
        PodView {
            ready_since: None,
            phase: Phase::Pending,
            ..pod("pending")
        },
        PodView {
            ready_since: None,
            ..pod("unready")
        },
        PodView {
            deletion_cost: -5,
            ..pod("cheap")
        },
        PodView {
            ready_since: Some(at(50)),
            ..pod("late")
        },
        PodView {
            restarts: 3,
            ..pod("restarting")
        },
        PodView {
            created: at(20),
            ..pod("young")
        },
        pod("old"),
    ];
    let mut left: Vec<PodView> = cases.to_vec();
    left.reverse();
    for victim in &cases {
        let actions = look(
            &set(i32::try_from(left.len()).unwrap() - 1, json!({})),
            left.clone(),
        );
        assert_eq!(text(&actions)[0], format!("delete {}", victim.key.name));
        left.retain(|pod| pod.uid != victim.uid);
    }
    let crowded = vec![
        PodView {
            node: "m".to_owned(),
            ..pod("alone")
        },
        pod("one"),
        pod("two"),
    ];
    assert_eq!(text(&look(&set(2, json!({})), crowded))[0], "delete one");
}

#[test]
fn orphans_are_adopted_and_strangers_released_before_anybody_is_counted() {
    let orphan = PodView {
        owners: vec![],
        ..pod("orphan")
    };
    assert_eq!(
        text(&look(&set(1, json!({})), vec![orphan])),
        ["owners of orphan: 1"]
    );
    let stranger = PodView {
        labels: BTreeMap::new(),
        ..pod("stranger")
    };
    assert_eq!(
        text(&look(&set(1, json!({})), vec![stranger])),
        ["owners of stranger: 0"]
    );
    let other = OwnerReference {
        uid: "other".to_owned(),
        controller: Some(true),
        ..Default::default()
    };
    let anothers = PodView {
        owners: vec![other],
        ..pod("anothers")
    };
    assert_eq!(
        text(&look(&set(1, json!({})), vec![anothers])),
        ["create 1", "status 0"]
    );
}

#[test]
fn availability_is_awaited_and_a_true_status_is_not_written_again() {
    let mut set = set(2, json!({"/spec/minReadySeconds": 10}));
    let pods = vec![
        PodView {
            ready_since: Some(at(95)),
            ..pod("a")
        },
        pod("b"),
    ];
    let actions = look(&set, pods.clone());
    assert_eq!(text(&actions), ["status 2", "again in 5"]);
    let Action::Replace { object, .. } = &actions[0] else {
        panic!()
    };
    let status: ReplicaSetStatus = serde_json::from_value(object["status"].clone()).unwrap();
    assert_eq!(
        (
            status.ready_replicas,
            status.available_replicas,
            status.observed_generation
        ),
        (Some(2), Some(1), Some(2))
    );
    set.status = Some(status);
    assert_eq!(text(&look(&set, pods)), ["again in 5"]);
}

#[test]
fn a_failure_is_told_and_forgotten() {
    let mut set = set(1, json!({}));
    let failed = Observed {
        set: &set,
        pods: &[],
        failure: Some("quota"),
        now: at(5),
    };
    let conditions = conditions(&ReplicaSetStatus::default(), &failed).unwrap();
    assert_eq!(
        (
            conditions[0].type_.as_str(),
            conditions[0].message.as_deref()
        ),
        ("ReplicaFailure", Some("quota"))
    );
    set.status = Some(ReplicaSetStatus {
        conditions: Some(conditions),
        ..Default::default()
    });
    let well = Observed {
        set: &set,
        pods: &[],
        failure: None,
        now: at(6),
    };
    assert_eq!(super::conditions(set.status.as_ref().unwrap(), &well), None);
}

#[derive(Clone, Debug)]
enum Step {
    Look,
    /// The copy catches up by this many events.
    Deliver(usize),
    Scale(i32),
    Lose(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Look),
        3 => (1usize..4).prop_map(Step::Deliver),
        1 => (0i32..6).prop_map(Step::Scale),
        1 => (0usize..6).prop_map(Step::Lose),
    ]
}

proptest! {
    // With a copy that lags arbitrarily behind, no look ever makes more live pods than asked for at that moment,
    // and once everything is delivered there are exactly as many as asked for.
    #[test]
    fn a_stale_copy_never_creates_or_deletes_twice(steps in proptest::collection::vec(step(), 1..120)) {
        let mut wanted = 3;
        let mut revision = 0i64;
        let mut names = 0;
        // What the API holds, and the changes the copy has not seen.
        let mut live: BTreeSet<String> = BTreeSet::new();
        let mut copy: BTreeMap<String, PodView> = BTreeMap::new();
        let mut copy_revision = 0;
        let mut pending: Vec<(i64, String, bool)> = vec![];
        let mut settled: Settled<&str> = Settled::default();
        let tail = (0..20).flat_map(|_| [Step::Deliver(1_000), Step::Look]);
        for step in steps.into_iter().chain(tail) {
            match step {
                Step::Scale(replicas) => wanted = replicas,
                Step::Lose(index) => if let Some(name) = live.iter().nth(index).cloned() {
                    revision += 1;
                    live.remove(&name);
                    pending.push((revision, name, false));
                },
                Step::Deliver(count) => for (at, name, there) in pending.drain(..count.min(pending.len())) {
                    copy_revision = at;
                    if there { copy.insert(name.clone(), pod(&name)); } else { copy.remove(&name); }
                },
                Step::Look => {
                    let is_there = |uid: &str| copy.contains_key(uid);
                    if !settled.is_settled(&"set", |_| Some(copy_revision), is_there, Duration::ZERO) { continue; }
                    let before = live.len();
                    for action in look(&set(wanted, json!({})), copy.values().cloned().collect()) {
                        match action {
                            Action::Create { count, .. } => for _ in 0..count {
                                revision += 1;
                                names += 1;
                                let name = format!("p{names}");
                                live.insert(name.clone());
                                pending.push((revision, name, true));
                                settled.wrote(&"set", PODS, revision, Duration::ZERO);
                            },
                            Action::Delete { target, .. } => {
                                if live.remove(&target.key.name) {
                                    revision += 1;
                                    pending.push((revision, target.key.name.clone(), false));
                                }
                                settled.removed(&"set", &target.uid, Duration::ZERO);
                            }
                            _ => {}
                        }
                    }
                    let wanted = usize::try_from(wanted).unwrap();
                    prop_assert!(live.len() <= wanted.max(before), "{} live, {} wanted", live.len(), wanted);
                }
            }
        }
        prop_assert_eq!(live.len(), usize::try_from(wanted).unwrap());
    }
}
