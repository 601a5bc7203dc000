//! The life of nodes: a node that is not heard of for the grace period is said to be in an unknown state and keeps new pods away.
//! Promise: only what this process itself saw unchanged for the whole grace period counts (other clocks are not believed); pods are not
//! evicted, but no longer counted as ready. Not here: renewing, which the node does.

use std::sync::Arc;
use std::time::Duration;

use barque_agents_client::resources::NODES;
use barque_agents_client::{EventType, Subject};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::action::{Action, Target};
use super::pod::PodView;

#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    pub target: Target,
    pub subject: Subject,
    pub unschedulable: bool,
    pub taints: Vec<Taint>,
    pub conditions: Vec<NodeCondition>,
}

impl NodeView {
    pub fn of(node: Node) -> NodeView {
        let mut subject = Subject::of(&node);
        // kubectl looks for events of nodes by the node's name as uid.
        subject.uid = subject.name.clone();
        let target = Target::of(NODES, &node);
        let spec = node.spec.unwrap_or_default();
        NodeView {
            target,
            subject,
            unschedulable: spec.unschedulable.unwrap_or(false),
            taints: spec.taints.unwrap_or_default(),
            conditions: node
                .status
                .and_then(|status| status.conditions)
                .unwrap_or_default(),
        }
    }

    fn condition(&self, type_: &str) -> Option<&NodeCondition> {
        self.conditions
            .iter()
            .find(|condition| condition.type_ == type_)
    }

    pub fn is_ready(&self) -> bool {
        self.condition("Ready")
            .is_some_and(|ready| ready.status == "True")
    }

    fn heartbeat(&self) -> Option<Timestamp> {
        self.condition("Ready")?
            .last_heartbeat_time
            .as_ref()
            .map(|time| time.0)
    }
}

/// When a node last gave a sign of life, by this process' own clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    lease: Option<Timestamp>,
    heartbeat: Option<Timestamp>,
    alive_at: Duration,
}

impl Health {
    /// What is seen now, after what was seen before.
    pub fn seen(
        before: Option<&Health>,
        node: &NodeView,
        lease: Option<Timestamp>,
        now: Duration,
    ) -> Health {
        let heartbeat = node.heartbeat();
        match before {
            Some(before) if before.lease == lease && before.heartbeat == heartbeat => {
                before.clone()
            }
            _ => Health {
                lease,
                heartbeat,
                alive_at: now,
            },
        }
    }
}

pub struct Observed<'a> {
    pub node: &'a NodeView,
    pub health: &'a Health,
    pub pods: &'a [Arc<PodView>],
    pub grace: Duration,
    /// By the same clock as `health`.
    pub uptime: Duration,
    pub now: Timestamp,
}

/// The conditions a node that went silent cannot vouch for any more.
const VOUCHED: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

pub fn reconcile(observed: &Observed<'_>) -> Vec<Action> {
    let node = observed.node;
    let silent = observed.uptime.saturating_sub(observed.health.alive_at) >= observed.grace;
    let vouched = |condition: &NodeCondition| {
        VOUCHED.contains(&condition.type_.as_str()) && condition.status != "Unknown"
    };
    let known = node.conditions.iter().any(vouched) || node.condition("Ready").is_none();
    if silent && known {
        return vec![fall_silent(observed), say_not_ready(node)];
    }
    let mut actions = vec![];
    let taints = taints(node);
    if taints != node.taints {
        actions.push(Action::Patch {
            target: node.target.clone(),
            subresource: "",
            patch: json!({"spec": {"taints": taints}}),
        });
    }
    if node
        .condition("Ready")
        .is_some_and(|ready| ready.status != "True")
    {
        // Nobody speaks for these pods now.
        let ready = observed
            .pods
            .iter()
            .filter(|pod| pod.ready_since.is_some() && pod.is_active());
        actions.extend(ready.map(|pod| Action::PodNotReady {
            target: pod.target(),
        }));
    }
    actions
}

fn fall_silent(observed: &Observed<'_>) -> Action {
    let node = observed.node;
    let unknown = |type_: &str| {
        let old = node.condition(type_);
        let never = old.is_none();
        NodeCondition {
            type_: type_.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(
                if never {
                    "NodeStatusNeverUpdated"
                } else {
                    "NodeStatusUnknown"
                }
                .to_owned(),
            ),
            message: Some(
                if never {
                    "Kubelet never posted node status."
                } else {
                    "Kubelet stopped posting node status."
                }
                .to_owned(),
            ),
            last_heartbeat_time: old.and_then(|old| old.last_heartbeat_time.clone()),
            last_transition_time: old
                .filter(|old| old.status == "Unknown")
                .and_then(|old| old.last_transition_time.clone())
                .or(Some(Time(observed.now))),
        }
    };
    let others = node
        .conditions
        .iter()
        .filter(|condition| !VOUCHED.contains(&condition.type_.as_str()));
    let conditions: Vec<NodeCondition> = others
        .cloned()
        .chain(VOUCHED.iter().map(|type_| unknown(type_)))
        .collect();
    Action::Patch {
        target: node.target.clone(),
        subresource: "status",
        patch: json!({"status": {"conditions": conditions}}),
    }
}

fn say_not_ready(node: &NodeView) -> Action {
    Action::Event {
        subject: node.subject.clone(),
        event_type: EventType::Normal,
        reason: "NodeNotReady",
        message: format!("Node {} status is now: NodeNotReady", node.target.key.name),
    }
}

/// The taints that follow from the conditions, among those others put there.
fn taints(node: &NodeView) -> Vec<Taint> {
    let is = |type_: &str, status: &str| {
        node.condition(type_)
            .is_some_and(|condition| condition.status == status)
    };
    let wanted = [
        ("node.kubernetes.io/not-ready", is("Ready", "False")),
        ("node.kubernetes.io/unreachable", is("Ready", "Unknown")),
        (
            "node.kubernetes.io/memory-pressure",
            is("MemoryPressure", "True"),
        ),
        (
            "node.kubernetes.io/disk-pressure",
            is("DiskPressure", "True"),
        ),
        ("node.kubernetes.io/pid-pressure", is("PIDPressure", "True")),
        (
            "node.kubernetes.io/network-unavailable",
            is("NetworkUnavailable", "True"),
        ),
        ("node.kubernetes.io/unschedulable", node.unschedulable),
    ];
    let unwanted = |taint: &&Taint| {
        taint.effect == "NoSchedule"
            && wanted
                .iter()
                .any(|(key, wanted)| taint.key == *key && !wanted)
    };
    let mut taints: Vec<Taint> = node
        .taints
        .iter()
        .filter(|taint| !unwanted(taint))
        .cloned()
        .collect();
    for (key, _) in wanted.iter().filter(|(_, wanted)| *wanted) {
        if !taints
            .iter()
            .any(|taint| taint.key == *key && taint.effect == "NoSchedule")
        {
            taints.push(Taint {
                key: (*key).to_owned(),
                effect: "NoSchedule".to_owned(),
                ..Default::default()
            });
        }
    }
    taints
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
