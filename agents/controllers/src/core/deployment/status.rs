//! The status of a deployment: counts, and the conditions `kubectl rollout status` waits for.
//! Promise: observedGeneration is written only with counts that were made for that generation; a condition's transition time changes only
//! with its status.

use std::time::Duration;

use barque_agents_client::resources::DEPLOYMENTS;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::to_value;

use super::plan::{Plan, actual_of, available_of, size_of};
use super::{Action, Observed, Sets, Target};

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";

const REASON_CREATED: &str = "NewReplicaSetCreated";
const REASON_FOUND: &str = "FoundNewReplicaSet";
const REASON_UPDATED: &str = "ReplicaSetUpdated";
const REASON_COMPLETE: &str = "NewReplicaSetAvailable";
const REASON_TIMED_OUT: &str = "ProgressDeadlineExceeded";
const REASON_PAUSED: &str = "DeploymentPaused";
const REASON_RESUMED: &str = "DeploymentResumed";

/// What a look did that the Progressing condition must tell.
pub struct Progress {
    reason: &'static str,
    message: String,
}

/// A new set was ordered by these actions.
pub fn created(actions: &[Action]) -> Progress {
    let name = actions.iter().find_map(|action| match action {
        Action::Create { object, .. } => object["metadata"]["name"].as_str(),
        _ => None,
    });
    Progress {
        reason: REASON_CREATED,
        message: format!("Created new replica set {:?}", name.unwrap_or_default()),
    }
}

fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

fn find<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == type_)
}

/// Sets a condition; one that says the same stays as it is.
fn set(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    let conditions = status.conditions.get_or_insert_default();
    let Some(old) = conditions.iter_mut().find(|old| old.type_ == new.type_) else {
        conditions.push(new);
        return;
    };
    if old.status == new.status && old.reason == new.reason {
        return;
    }
    if old.status == new.status {
        new.last_transition_time = old.last_transition_time.clone();
    }
    *old = new;
}

fn remove(status: &mut DeploymentStatus, type_: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != type_);
    }
}

/// The counts of all sets, and whether enough is available.
fn counted(
    deployment: &Deployment,
    sets: &Sets<'_>,
    plan: &Plan,
    now: Timestamp,
) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let sum = |of: &dyn Fn(&ReplicaSet) -> i32| sets.all().map(of).sum::<i32>();
    let some = |count: i32| Some(count).filter(|count| *count != 0);
    let status_of = |set: &ReplicaSet| set.status.clone().unwrap_or_default();
    let available = sum(&|set| status_of(set).available_replicas.unwrap_or(0));
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sum(&actual_of)),
        updated_replicas: some(sets.new.map_or(0, actual_of)),
        ready_replicas: some(sum(&|set| status_of(set).ready_replicas.unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some((sum(&size_of) - available).max(0)),
        ..old
    };
    let verdict = if available >= plan.min_available() {
        let message = "Deployment has minimum availability.".to_owned();
        condition(AVAILABLE, "True", "MinimumReplicasAvailable", message, now)
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        condition(
            AVAILABLE,
            "False",
            "MinimumReplicasUnavailable",
            message,
            now,
        )
    };
    set(&mut status, verdict);
    status
}

fn is_done(deployment: &Deployment, status: &DeploymentStatus, plan: &Plan) -> bool {
    let count = |count: Option<i32>| count.unwrap_or(0);
    count(status.updated_replicas) == plan.replicas
        && count(status.replicas) == plan.replicas
        && count(status.available_replicas) == plan.replicas
        && status.observed_generation >= deployment.metadata.generation
}

/// Whether everything runs the current template.
pub fn is_complete(deployment: &Deployment, sets: &Sets<'_>, plan: &Plan) -> bool {
    let settled = sets.all().all(|set| available_of(set) == actual_of(set));
    settled
        && is_done(
            deployment,
            &counted(deployment, sets, plan, Timestamp::UNIX_EPOCH),
            plan,
        )
}

fn is_progress(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let of = |count: Option<i32>| count.unwrap_or(0);
    let outdated = |status: &DeploymentStatus| of(status.replicas) - of(status.updated_replicas);
    of(new.updated_replicas) > of(old.updated_replicas)
        || outdated(new) < outdated(old)
        || of(new.ready_replicas) > of(old.ready_replicas)
        || of(new.available_replicas) > of(old.available_replicas)
}

/// When a rollout that stands still has taken too long.
fn deadline(status: &DeploymentStatus, plan: &Plan) -> Option<Timestamp> {
    let progressing = find(status, PROGRESSING)?;
    if matches!(
        progressing.reason.as_deref(),
        Some(REASON_COMPLETE | REASON_PAUSED)
    ) {
        return None;
    }
    let since = progressing.last_update_time.as_ref()?.0;
    let seconds = SignedDuration::from_secs(i64::from(plan.progress_deadline_seconds?));
    since.checked_add(seconds).ok()
}

/// The status as it is after this look, and when to look again.
pub fn update(
    observed: &Observed<'_>,
    sets: &Sets<'_>,
    plan: &Plan,
    progress: Option<Progress>,
) -> Vec<Action> {
    let deployment = observed.deployment;
    let now = observed.now;
    let old = deployment.status.clone().unwrap_or_default();
    let mut status = counted(deployment, sets, plan, now);
    failures(&mut status, sets);
    let paused = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.paused)
        .unwrap_or(false);
    if plan.progress_deadline_seconds.is_none() {
        remove(&mut status, PROGRESSING);
    } else if !paused {
        judge_progress(deployment, &old, &mut status, sets, plan, progress, now);
    }
    let mut actions = write(deployment, &old, status.clone());
    let timed_out = find(&status, PROGRESSING)
        .is_some_and(|progress| progress.reason.as_deref() == Some(REASON_TIMED_OUT));
    if let Some(at) = deadline(&status, plan).filter(|_| !timed_out && !paused) {
        let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
        actions.push(Action::LookAgain {
            after: wait + Duration::from_secs(1),
        });
    }
    actions
}

fn judge_progress(
    deployment: &Deployment,
    old: &DeploymentStatus,
    status: &mut DeploymentStatus,
    sets: &Sets<'_>,
    plan: &Plan,
    progress: Option<Progress>,
    now: Timestamp,
) {
    let name = match sets.new.and_then(|new| new.metadata.name.as_deref()) {
        Some(name) => format!("ReplicaSet {name:?}"),
        None => format!(
            "Deployment {:?}",
            deployment.metadata.name.as_deref().unwrap_or_default()
        ),
    };
    if let Some(progress) = progress {
        set(
            status,
            condition(PROGRESSING, "True", progress.reason, progress.message, now),
        );
        return;
    }
    let Some(current) = find(status, PROGRESSING).cloned() else {
        if let Some(new) = sets.new {
            let message = format!(
                "Found new replica set {:?}",
                new.metadata.name.as_deref().unwrap_or_default()
            );
            set(
                status,
                condition(PROGRESSING, "True", REASON_FOUND, message, now),
            );
        }
        return;
    };
    let was_complete = current.reason.as_deref() == Some(REASON_COMPLETE);
    // A completed rollout that loses a pod, or is scaled, is not a rollout again.
    if was_complete && status.replicas == status.updated_replicas {
        return;
    }
    if is_done(deployment, status, plan) {
        let message = format!("{name} has successfully progressed.");
        set(
            status,
            condition(PROGRESSING, "True", REASON_COMPLETE, message, now),
        );
    } else if is_progress(old, status) {
        // The same reason again still moves the deadline: lastUpdateTime must change.
        let mut moved = condition(
            PROGRESSING,
            "True",
            REASON_UPDATED,
            format!("{name} is progressing."),
            now,
        );
        if current.status == "True" {
            moved.last_transition_time = current.last_transition_time;
        }
        remove(status, PROGRESSING);
        set(status, moved);
    } else if deadline(status, plan).is_some_and(|at| at <= now) {
        let message = format!("{name} has timed out progressing.");
        set(
            status,
            condition(PROGRESSING, "False", REASON_TIMED_OUT, message, now),
        );
    }
}

/// A set that cannot make its pods says so here, too; the current one first.
fn failures(status: &mut DeploymentStatus, sets: &Sets<'_>) {
    let failure = sets.all().find_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions
            .iter()
            .find(|condition| condition.type_ == REPLICA_FAILURE && condition.status == "True")
            .cloned()
    });
    match failure {
        None => remove(status, REPLICA_FAILURE),
        Some(failure) => set(
            status,
            DeploymentCondition {
                type_: REPLICA_FAILURE.to_owned(),
                status: "True".to_owned(),
                reason: failure.reason,
                message: failure.message,
                last_update_time: failure.last_transition_time.clone(),
                last_transition_time: failure.last_transition_time,
            },
        ),
    }
}

/// Notes that the deployment was paused or resumed, so that its deadline does not run meanwhile. None: it is noted.
pub fn pause_noted(deployment: &Deployment, plan: &Plan, now: Timestamp) -> Option<Vec<Action>> {
    plan.progress_deadline_seconds?;
    let old = deployment.status.clone().unwrap_or_default();
    let reason = find(&old, PROGRESSING).and_then(|condition| condition.reason.as_deref());
    let paused = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.paused)
        .unwrap_or(false);
    let note = match (paused, reason) {
        // A rollout that timed out stays so: kubectl must see it.
        (_, Some(REASON_TIMED_OUT)) => return None,
        (true, reason) if reason != Some(REASON_PAUSED) => (REASON_PAUSED, "Deployment is paused"),
        (false, Some(REASON_PAUSED)) => (REASON_RESUMED, "Deployment is resumed"),
        _ => return None,
    };
    let mut status = old.clone();
    set(
        &mut status,
        condition(PROGRESSING, "Unknown", note.0, note.1.to_owned(), now),
    );
    Some(write(deployment, &old, status))
}

/// Only says that this generation was seen.
pub fn observed_only(deployment: &Deployment) -> Vec<Action> {
    let old = deployment.status.clone().unwrap_or_default();
    let status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        ..old.clone()
    };
    write(deployment, &old, status)
}

fn write(deployment: &Deployment, old: &DeploymentStatus, status: DeploymentStatus) -> Vec<Action> {
    if *old == status {
        return vec![];
    }
    let updated = Deployment {
        status: Some(status),
        ..deployment.clone()
    };
    vec![Action::Replace {
        target: Target::of(DEPLOYMENTS, deployment),
        subresource: "status",
        object: Box::new(to_value(updated).unwrap_or_default()),
    }]
}
