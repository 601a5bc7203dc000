//! What one Deployment needs next: replica sets in the right sizes, one per template it had.
//! Promise: during a rolling update the sets together never ask for more than replicas + maxSurge, and never so few that fewer than
//! replicas - maxUnavailable stay available; one step per look, the status after it is true for what was seen.
//! Not here: pods (the replica sets' business; only Recreate looks whether old ones are left).

mod hash;
mod history;
mod plan;
mod rollout;
mod scale;
mod status;

use std::sync::Arc;

use barque_agents_client::core::selector::{is_empty, matches};
use barque_agents_client::resources::{DEPLOYMENTS, REPLICASETS};
use barque_agents_client::{EventType, Subject};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::{json, to_value};

use super::action::{Action, Target, adopted, controlled_by, controller_of, released};
use hash::same_template;
use plan::Plan;

pub const REVISION: &str = "deployment.kubernetes.io/revision";
pub(crate) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(crate) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(crate) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
pub(crate) const HASH_LABEL: &str = "pod-template-hash";

pub struct Observed<'a> {
    pub deployment: &'a Deployment,
    /// The sets it controls, and the ones of its namespace nobody controls.
    pub sets: &'a [Arc<ReplicaSet>],
    /// For Recreate: how many pods (terminating ones too) of the set of this uid have not ended.
    pub pods_left: &'a dyn Fn(&str) -> usize,
    pub now: Timestamp,
}

/// The sets of a deployment, told apart.
pub(crate) struct Sets<'a> {
    /// The one of the current template.
    pub new: Option<&'a ReplicaSet>,
    /// All others, oldest first.
    pub old: Vec<&'a ReplicaSet>,
}

impl<'a> Sets<'a> {
    pub fn all(&self) -> impl Iterator<Item = &'a ReplicaSet> + '_ {
        self.new.into_iter().chain(self.old.iter().copied())
    }
}

pub fn reconcile(observed: &Observed<'_>) -> Vec<Action> {
    let deployment = observed.deployment;
    let Some(spec) = &deployment.spec else {
        return vec![];
    };
    if is_empty(&spec.selector) {
        let message =
            "This deployment is selecting all pods. A non-empty selector is required.".to_owned();
        let complaint = Action::Event {
            subject: Subject::of(deployment),
            event_type: EventType::Warning,
            reason: "SelectingAll",
            message,
        };
        return [complaint]
            .into_iter()
            .chain(status::observed_only(deployment))
            .collect();
    }
    let claims = claims(observed);
    if !claims.is_empty() {
        return claims;
    }
    let sets = tell_apart(observed);
    let plan = Plan::of(deployment);
    if deployment.metadata.deletion_timestamp.is_some() {
        return status::update(observed, &sets, &plan, None);
    }
    if let Some(actions) = status::pause_noted(deployment, &plan, observed.now) {
        return actions;
    }
    let paused = spec.paused.unwrap_or(false);
    if paused || scale::is_due(&plan, &sets) {
        // While paused no set is made for a new template, but an existing one is kept in order.
        let order = history::in_order(deployment, &sets);
        if !order.is_empty() {
            return order;
        }
        let mut actions = scale::scale(deployment, &plan, &sets);
        if paused && actions.is_empty() {
            actions.extend(history::clean_up(&plan, &sets));
        }
        actions.extend(status::update(observed, &sets, &plan, None));
        return actions;
    }
    if plan.recreate {
        rollout::recreate(observed, &sets, &plan)
    } else {
        rollout::roll(observed, &sets, &plan)
    }
}

/// Takes in sets nobody controls whose pods would be ours, lets go of ours that do not fit any more.
fn claims(observed: &Observed<'_>) -> Vec<Action> {
    let deployment = observed.deployment;
    let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
    if deployment.metadata.deletion_timestamp.is_some() {
        return vec![];
    }
    let Some(spec) = &deployment.spec else {
        return vec![];
    };
    let mut actions = vec![];
    for set in observed.sets {
        let labels = set.metadata.labels.clone().unwrap_or_default();
        let fits = matches(&spec.selector, &labels);
        let owners = set.metadata.owner_references.clone().unwrap_or_default();
        let owners = match controller_of(&set.metadata) {
            Some(owner) if owner.uid == uid && !fits => released(&owners, uid),
            None if fits && set.metadata.deletion_timestamp.is_none() => {
                adopted(&owners, controlled_by(deployment))
            }
            _ => continue,
        };
        actions.push(Action::Patch {
            target: Target::of(REPLICASETS, &**set),
            subresource: "",
            patch: json!({"metadata": {"ownerReferences": owners}}),
        });
    }
    actions
}

fn tell_apart<'a>(observed: &Observed<'a>) -> Sets<'a> {
    let uid = observed
        .deployment
        .metadata
        .uid
        .as_deref()
        .unwrap_or_default();
    let mut ours: Vec<&ReplicaSet> = observed
        .sets
        .iter()
        .map(|set| &**set)
        .filter(|set| controller_of(&set.metadata).is_some_and(|owner| owner.uid == uid))
        .collect();
    ours.sort_by_key(|set| {
        (
            set.metadata.creation_timestamp.clone(),
            set.metadata.name.clone(),
        )
    });
    let template = observed.deployment.spec.as_ref().map(|spec| &spec.template);
    // Of several sets of one template (made by hand, or by an older hash) the oldest is the one.
    let new = ours.iter().copied().find(|set| {
        let theirs = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        template
            .zip(theirs)
            .is_some_and(|(mine, theirs)| same_template(mine, theirs))
    });
    let is_new = |set: &ReplicaSet| new.is_some_and(|new| new.metadata.uid == set.metadata.uid);
    Sets {
        new,
        old: ours.into_iter().filter(|set| !is_new(set)).collect(),
    }
}

/// Brings a set to a size, with the sizes it belongs to noted on it; nothing when it is all so already.
pub(crate) fn resize(
    deployment: &Deployment,
    plan: &Plan,
    set: &ReplicaSet,
    replicas: i32,
) -> Vec<Action> {
    let before = plan::size_of(set);
    let notes = history::size_notes(plan);
    let noted = notes
        .iter()
        .all(|(name, value)| history::note(&set.metadata, name) == Some(value));
    if before == replicas && noted {
        return vec![];
    }
    let patch = Action::Patch {
        target: Target::of(REPLICASETS, set),
        subresource: "",
        patch: json!({"metadata": {"annotations": notes}, "spec": {"replicas": replicas}}),
    };
    if before == replicas {
        return vec![patch];
    }
    vec![
        patch,
        scaled_event(
            deployment,
            set.metadata.name.as_deref().unwrap_or_default(),
            before,
            replicas,
        ),
    ]
}

pub(crate) fn scaled_event(deployment: &Deployment, set: &str, before: i32, after: i32) -> Action {
    let direction = if after > before { "up" } else { "down" };
    Action::Event {
        subject: Subject::of(deployment),
        event_type: EventType::Normal,
        reason: "ScalingReplicaSet",
        message: format!("Scaled {direction} replica set {set} from {before} to {after}"),
    }
}

/// The same deployment with one hash collision more: the next set gets another name.
pub(crate) fn after_collision(deployment: &Deployment) -> Action {
    let mut updated = deployment.clone();
    let status = updated.status.get_or_insert_default();
    status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
    Action::Replace {
        target: Target::of(DEPLOYMENTS, deployment),
        subresource: "status",
        object: Box::new(to_value(updated).unwrap_or_default()),
    }
}

/// Whether a set that has the name of a wanted one is that set, made before by an order whose outcome was not seen.
pub fn is_same_set(found: &ReplicaSet, wanted: &ReplicaSet) -> bool {
    let owner = |set: &ReplicaSet| controller_of(&set.metadata).map(|owner| owner.uid.clone());
    let template = |set: &ReplicaSet| {
        set.spec
            .as_ref()
            .and_then(|spec| spec.template.clone())
            .unwrap_or_default()
    };
    owner(found) == owner(wanted) && same_template(&template(found), &template(wanted))
}

#[cfg(test)]
mod tests;
