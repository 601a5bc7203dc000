//! The revisions of a deployment: numbers and notes on its sets, and which old sets are dropped.

use std::collections::BTreeMap;

use barque_agents_client::resources::{DEPLOYMENTS, REPLICASETS};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde_json::{json, to_value};

use super::hash::template_hash;
use super::plan::{Plan, actual_of, size_of};
use super::{
    Action, DESIRED_REPLICAS, HASH_LABEL, MAX_REPLICAS, REVISION, REVISION_HISTORY, Sets, Target,
    after_collision, controlled_by, scaled_event,
};
use crate::limits::REVISION_HISTORY_CHARS;

/// Notes of the deployment that are about itself only, and are not copied to its sets.
const OWN_NOTES: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

pub fn note<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a String> {
    meta.annotations.as_ref()?.get(name)
}

pub fn revision_of(meta: &ObjectMeta) -> i64 {
    note(meta, REVISION)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

pub fn size_notes(plan: &Plan) -> BTreeMap<String, String> {
    BTreeMap::from([
        (DESIRED_REPLICAS.to_owned(), plan.replicas.to_string()),
        (MAX_REPLICAS.to_owned(), plan.max_total().to_string()),
    ])
}

fn copied_notes(deployment: &Deployment) -> BTreeMap<String, String> {
    let notes = deployment.metadata.annotations.iter().flatten();
    notes
        .filter(|(name, _)| !OWN_NOTES.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The number the current template's set has, or gets: one more than any other's.
fn current_revision(sets: &Sets<'_>) -> i64 {
    let after_old = sets
        .old
        .iter()
        .map(|set| revision_of(&set.metadata))
        .max()
        .unwrap_or(0)
        + 1;
    sets.new
        .map_or(after_old, |new| revision_of(&new.metadata).max(after_old))
}

/// Brings the notes on the current set, then those on the deployment, into order. Empty when they are.
pub fn in_order(deployment: &Deployment, sets: &Sets<'_>) -> Vec<Action> {
    let Some(new) = sets.new else { return vec![] };
    let revision = current_revision(sets);
    let mut notes = copied_notes(deployment);
    let before = revision_of(&new.metadata);
    if before != revision {
        notes.insert(REVISION.to_owned(), revision.to_string());
        if before > 0 {
            notes.insert(
                REVISION_HISTORY.to_owned(),
                with_history(note(&new.metadata, REVISION_HISTORY), before),
            );
        }
    }
    notes.retain(|name, value| note(&new.metadata, name) != Some(value));
    let min_ready = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.min_ready_seconds)
        .unwrap_or(0);
    let theirs = new
        .spec
        .as_ref()
        .and_then(|spec| spec.min_ready_seconds)
        .unwrap_or(0);
    if !notes.is_empty() || min_ready != theirs {
        return vec![Action::Patch {
            target: Target::of(REPLICASETS, new),
            subresource: "",
            patch: json!({"metadata": {"annotations": notes}, "spec": {"minReadySeconds": min_ready}}),
        }];
    }
    if revision_of(&deployment.metadata) != revision {
        return vec![Action::Patch {
            target: Target::of(DEPLOYMENTS, deployment),
            subresource: "",
            patch: json!({"metadata": {"annotations": {REVISION: revision.to_string()}}}),
        }];
    }
    vec![]
}

/// The revisions the set had before, the oldest dropped when the note would grow too long.
fn with_history(before: Option<&String>, revision: i64) -> String {
    let mut history: Vec<String> = before
        .iter()
        .flat_map(|text| text.split(','))
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect();
    history.push(revision.to_string());
    while history.len() > 1
        && history.iter().map(|part| part.len() + 1).sum::<usize>() > REVISION_HISTORY_CHARS
    {
        history.remove(0);
    }
    history.join(",")
}

/// A set for the current template.
pub fn create_new(deployment: &Deployment, sets: &Sets<'_>, plan: &Plan) -> Vec<Action> {
    let Some(spec) = &deployment.spec else {
        return vec![];
    };
    let collisions = deployment
        .status
        .as_ref()
        .and_then(|status| status.collision_count)
        .unwrap_or(0);
    let hash = template_hash(&spec.template, collisions);
    let name = format!(
        "{}-{hash}",
        deployment.metadata.name.as_deref().unwrap_or_default()
    );
    let total: i32 = sets.all().map(size_of).sum();
    let replicas = plan.new_size(0, total);
    let mut template = spec.template.clone();
    let labels = template
        .metadata
        .get_or_insert_default()
        .labels
        .get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector: LabelSelector = spec.selector.clone();
    selector
        .match_labels
        .get_or_insert_default()
        .insert(HASH_LABEL.to_owned(), hash);
    let mut notes = copied_notes(deployment);
    notes.extend(size_notes(plan));
    notes.insert(REVISION.to_owned(), current_revision(sets).to_string());
    let set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(notes),
            owner_references: Some(vec![controlled_by(deployment)]),
            ..Default::default()
        },
        spec: Some(k8s_openapi::api::apps::v1::ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    let create = Action::Create {
        resource: REPLICASETS,
        namespace: deployment.metadata.namespace.clone().unwrap_or_default(),
        object: Box::new(to_value(set).unwrap_or_default()),
        count: 1,
        on_collision: Some(Box::new(after_collision(deployment))),
    };
    if replicas == 0 {
        return vec![create];
    }
    vec![create, scaled_event(deployment, &name, 0, replicas)]
}

/// Drops the oldest empty sets beyond the history limit.
pub fn clean_up(plan: &Plan, sets: &Sets<'_>) -> Vec<Action> {
    let limit = usize::try_from(plan.history_limit).unwrap_or(0);
    let mut kept: Vec<&ReplicaSet> = sets
        .old
        .iter()
        .copied()
        .filter(|set| set.metadata.deletion_timestamp.is_none())
        .collect();
    if kept.len() <= limit {
        return vec![];
    }
    kept.sort_by_key(|set| revision_of(&set.metadata));
    let surplus = kept.len() - limit;
    let done = |set: &&ReplicaSet| {
        let seen = set
            .status
            .as_ref()
            .and_then(|status| status.observed_generation);
        size_of(set) == 0 && actual_of(set) == 0 && set.metadata.generation <= seen
    };
    let drop = |set: &ReplicaSet| Action::Delete {
        target: Target::of(REPLICASETS, set),
        exactly: true,
        propagation: None,
    };
    kept.into_iter()
        .take(surplus)
        .filter(done)
        .map(drop)
        .collect()
}
