//! Tables of the node lifecycle.

use serde_json::{Value, json};

use super::*;
use crate::core::pod::Phase;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn node(ready: &str, spec: Value) -> NodeView {
    let conditions = match ready {
        "" => json!([]),
        ready => json!([
            {"type": "Ready", "status": ready, "lastHeartbeatTime": at(0).to_string(), "lastTransitionTime": at(0).to_string()},
            {"type": "Custom", "status": "True"},
        ]),
    };
    let node = json!({"metadata": {"name": "n", "uid": "u", "resourceVersion": "3"}, "spec": spec, "status": {"conditions": conditions}});
    NodeView::of(serde_json::from_value(node).unwrap())
}

fn look(node: &NodeView, silent_seconds: u64, pods: &[Arc<PodView>]) -> Vec<Action> {
    let health = Health::seen(None, node, None, Duration::ZERO);
    let (grace, uptime) = (Duration::from_secs(40), Duration::from_secs(silent_seconds));
    reconcile(&Observed {
        node,
        health: &health,
        pods,
        grace,
        uptime,
        now: at(100),
    })
}

fn taint_keys(actions: &[Action]) -> Vec<String> {
    let Some(Action::Patch {
        subresource: "",
        patch,
        ..
    }) = actions.first()
    else {
        return vec![];
    };
    let taints = patch["spec"]["taints"].as_array().unwrap();
    taints
        .iter()
        .map(|taint| {
            format!(
                "{}:{}",
                taint["key"].as_str().unwrap(),
                taint["effect"].as_str().unwrap()
            )
        })
        .collect()
}

#[test]
fn silence_makes_the_conditions_unknown() {
    assert!(look(&node("True", json!({})), 39, &[]).is_empty());
    let actions = look(&node("True", json!({})), 40, &[]);
    let [
        Action::Patch {
            subresource: "status",
            patch,
            target,
        },
        Action::Event {
            reason: "NodeNotReady",
            ..
        },
    ] = actions.as_slice()
    else {
        panic!("{actions:?}");
    };
    assert_eq!(target.resource_version, "3");
    let conditions = patch["status"]["conditions"].as_array().unwrap();
    let of = |type_: &str| {
        conditions
            .iter()
            .find(|condition| condition["type"] == type_)
            .unwrap()
    };
    assert_eq!(
        (&of("Ready")["status"], &of("Ready")["reason"]),
        (&json!("Unknown"), &json!("NodeStatusUnknown"))
    );
    assert_eq!(of("MemoryPressure")["reason"], "NodeStatusNeverUpdated");
    assert_eq!(of("Custom")["status"], "True", "what others said stays");
    let never = look(&node("", json!({})), 40, &[]);
    assert!(matches!(
        never.first(),
        Some(Action::Patch {
            subresource: "status",
            ..
        })
    ));
}

#[test]
fn any_sign_of_life_starts_the_grace_period_anew() {
    let view = node("True", json!({}));
    let first = Health::seen(None, &view, Some(at(1)), Duration::from_secs(1));
    let same = Health::seen(Some(&first), &view, Some(at(1)), Duration::from_secs(30));
    assert_eq!(same, first);
    let renewed = Health::seen(Some(&first), &view, Some(at(11)), Duration::from_secs(30));
    assert_ne!(renewed, first);
}

#[test]
fn taints_follow_the_conditions_and_leave_others_alone() {
    let mine = json!({"taints": [{"key": "mine", "effect": "NoSchedule"}]});
    assert_eq!(
        taint_keys(&look(&node("Unknown", mine.clone()), 0, &[])),
        [
            "mine:NoSchedule",
            "node.kubernetes.io/unreachable:NoSchedule"
        ]
    );
    assert_eq!(
        taint_keys(&look(&node("False", mine), 0, &[])),
        ["mine:NoSchedule", "node.kubernetes.io/not-ready:NoSchedule"]
    );
    let back = json!({"taints": [
        {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}, {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]});
    assert_eq!(
        taint_keys(&look(&node("True", back), 0, &[])),
        ["node.kubernetes.io/unreachable:NoExecute"]
    );
    assert_eq!(
        taint_keys(&look(&node("True", json!({"unschedulable": true})), 0, &[])),
        ["node.kubernetes.io/unschedulable:NoSchedule"]
    );
}

#[test]
fn pods_of_a_lost_node_are_not_ready_but_not_evicted() {
    let pod = |ready: bool| {
        Arc::new(PodView {
            key: barque_agents_client::core::reflector::Key::new("ns", "p"),
            uid: "p".to_owned(),
            resource_version: "9".to_owned(),
            labels: Default::default(),
            owners: vec![],
            node: "n".to_owned(),
            phase: Phase::Running,
            ready_since: ready.then(|| at(0)),
            terminating: false,
            restarts: 0,
            deletion_cost: 0,
            created: at(0),
        })
    };
    let tainted =
        json!({"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}]});
    let actions = look(&node("Unknown", tainted), 100, &[pod(true), pod(false)]);
    assert!(
        matches!(actions.as_slice(), [Action::PodNotReady { .. }]),
        "{actions:?}"
    );
}
