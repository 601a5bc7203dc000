//! What one ReplicaSet needs next: as many live pods as it asks for, a true status.
//! Promise: never orders more pods than are missing in the view it was given (that the view is not older than its own writes is `settled`'s
//! business); deletes those first that are missed least.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use barque_agents_client::core::selector::{is_empty, matches};
use barque_agents_client::resources::{PODS, REPLICASETS};
use barque_agents_client::{EventType, Subject};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{json, to_value};

use super::action::{Action, Target, adopted, controlled_by, released};
use super::pod::PodView;
use crate::limits::BURST_MAX;

pub struct Observed<'a> {
    pub set: &'a ReplicaSet,
    /// The pods it controls, and the ones of its namespace nobody controls.
    pub pods: &'a [Arc<PodView>],
    /// Why its last creation or deletion failed, if it did.
    pub failure: Option<&'a str>,
    pub now: Timestamp,
}

pub fn reconcile(observed: &Observed<'_>) -> Vec<Action> {
    let set = observed.set;
    let Some(spec) = &set.spec else { return vec![] };
    if is_empty(&spec.selector) {
        return vec![]; // would select every pod there is
    }
    let terminating = set.metadata.deletion_timestamp.is_some();
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let mut actions = vec![];
    let mut live: Vec<&PodView> = vec![];
    for pod in observed.pods {
        let fits = matches(&spec.selector, &pod.labels);
        match pod.controller() {
            Some(owner) if owner.uid == uid && fits => live.push(pod),
            Some(owner) if owner.uid == uid && !terminating => {
                let owners = released(&pod.owners, uid);
                actions.push(owners_patch(pod, &owners));
            }
            None if fits && !terminating && pod.is_active() => {
                let owners = adopted(&pod.owners, controlled_by(set));
                actions.push(owners_patch(pod, &owners));
            }
            _ => {}
        }
    }
    if !actions.is_empty() {
        return actions; // who belongs to whom must be settled before anybody is counted
    }
    live.retain(|pod| pod.is_active());
    if !terminating {
        actions.extend(correct(set, &live));
    }
    let status = status(observed, &live);
    if set.status.as_ref() != Some(&status) {
        let updated = ReplicaSet {
            status: Some(status),
            ..set.clone()
        };
        actions.push(Action::Replace {
            target: Target::of(REPLICASETS, set),
            subresource: "status",
            object: Box::new(to_value(updated).unwrap_or_default()),
        });
    }
    actions.extend(next_availability(observed, &live));
    actions
}

fn owners_patch(
    pod: &PodView,
    owners: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference],
) -> Action {
    Action::Patch {
        target: pod.target(),
        subresource: "",
        patch: json!({"metadata": {"ownerReferences": owners}}),
    }
}

/// Creates what is missing, deletes what is too much.
fn correct(set: &ReplicaSet, live: &[&PodView]) -> Vec<Action> {
    let desired = set
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let desired = usize::try_from(desired).unwrap_or(0);
    if live.len() < desired {
        let Some(pod) = new_pod(set) else {
            return vec![];
        };
        return vec![Action::Create {
            resource: PODS,
            namespace: set.metadata.namespace.clone().unwrap_or_default(),
            object: Box::new(to_value(pod).unwrap_or_default()),
            count: (desired - live.len()).min(BURST_MAX),
            on_collision: None,
        }];
    }
    let surplus = (live.len() - desired).min(BURST_MAX);
    let mut ranked = live.to_vec();
    let mut per_node: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in live {
        *per_node.entry(&pod.node).or_default() += 1;
    }
    ranked.sort_by_cached_key(|pod| {
        victim_rank(pod, per_node.get(pod.node.as_str()).copied().unwrap_or(0))
    });
    let victims = ranked.into_iter().take(surplus);
    let delete = |pod: &PodView| Action::Delete {
        target: pod.target(),
        exactly: false,
        propagation: None,
    };
    victims.map(delete).collect()
}

/// Sorts the pod first that is missed least: without a node, not running, not ready, cheap by annotation, on a node with more of its
/// kind, ready for a shorter time, restarted more often, younger.
fn victim_rank(pod: &PodView, on_its_node: usize) -> impl Ord + use<> {
    let recent = |time: Timestamp| std::cmp::Reverse(time);
    (
        (
            !pod.node.is_empty(),
            pod.phase,
            pod.ready_since.is_some(),
            pod.deletion_cost,
        ),
        std::cmp::Reverse(on_its_node),
        pod.ready_since.map(recent),
        std::cmp::Reverse(pod.restarts),
        recent(pod.created),
        pod.key.clone(),
    )
}

fn new_pod(set: &ReplicaSet) -> Option<Pod> {
    let template = set.spec.as_ref()?.template.clone()?;
    let meta = template.metadata.unwrap_or_default();
    Some(Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!(
                "{}-",
                set.metadata.name.as_deref().unwrap_or_default()
            )),
            namespace: set.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controlled_by(set)]),
            ..Default::default()
        },
        spec: template.spec,
        status: None,
    })
}

fn status(observed: &Observed<'_>, live: &[&PodView]) -> ReplicaSetStatus {
    let set = observed.set;
    let spec = set.spec.clone().unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let labels = spec
        .template
        .and_then(|template| template.metadata)
        .and_then(|meta| meta.labels)
        .unwrap_or_default();
    let count =
        |wanted: &dyn Fn(&PodView) -> bool| clamp(live.iter().filter(|pod| wanted(pod)).count());
    let old = set.status.clone().unwrap_or_default();
    ReplicaSetStatus {
        replicas: clamp(live.len()),
        fully_labeled_replicas: some(count(&|pod| {
            labels
                .iter()
                .all(|(key, value)| pod.labels.get(key) == Some(value))
        })),
        ready_replicas: some(count(&|pod| pod.ready_since.is_some())),
        available_replicas: some(count(&|pod| {
            pod.available_at(min_ready)
                .is_some_and(|at| at <= observed.now)
        })),
        observed_generation: set.metadata.generation,
        conditions: conditions(&old, observed),
        ..old
    }
}

fn conditions(old: &ReplicaSetStatus, observed: &Observed<'_>) -> Option<Vec<ReplicaSetCondition>> {
    let known = old.conditions.iter().flatten();
    let mut conditions: Vec<ReplicaSetCondition> = known
        .clone()
        .filter(|condition| condition.type_ != "ReplicaFailure")
        .cloned()
        .collect();
    if let Some(failure) = observed.failure {
        let before = known
            .clone()
            .find(|condition| condition.type_ == "ReplicaFailure");
        conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some("FailedCreate".to_owned()),
            message: Some(failure.to_owned()),
            last_transition_time: before
                .and_then(|before| before.last_transition_time.clone())
                .or(Some(Time(observed.now))),
        });
    }
    Some(conditions).filter(|conditions| !conditions.is_empty())
}

/// A pod that is ready becomes available without any event: its time must be awaited.
fn next_availability(observed: &Observed<'_>, live: &[&PodView]) -> Option<Action> {
    let min_ready = observed
        .set
        .spec
        .as_ref()
        .and_then(|spec| spec.min_ready_seconds)
        .unwrap_or(0);
    let times = live.iter().filter_map(|pod| pod.available_at(min_ready));
    let at = times.filter(|at| *at > observed.now).min()?;
    let wait = Duration::try_from(at.duration_since(observed.now)).unwrap_or_default();
    Some(Action::LookAgain { after: wait })
}

/// What is said when pods cannot be created.
pub fn failed_create(set: &ReplicaSet, error: &str) -> Action {
    Action::Event {
        subject: Subject::of(set),
        event_type: EventType::Warning,
        reason: "FailedCreate",
        message: format!("Error creating: {error}"),
    }
}

fn clamp(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Zero counts are left out, as Kubernetes does.
fn some(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count != 0)
}

#[cfg(test)]
#[path = "replicaset_tests.rs"]
mod tests;
