//! Another number of replicas in the middle of things: all active sets share it in proportion, so that a rollout under way keeps its
//! balance.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::history::{note, size_notes};
use super::plan::{Plan, available_of, size_of};
use super::{Action, DESIRED_REPLICAS, MAX_REPLICAS, Sets, resize};

fn active<'a>(sets: &Sets<'a>) -> Vec<&'a ReplicaSet> {
    sets.all().filter(|set| size_of(set) > 0).collect()
}

/// Whether the number asked for has changed since the active sets were sized.
pub fn is_due(plan: &Plan, sets: &Sets<'_>) -> bool {
    let sized_for = |set: &&ReplicaSet| {
        note(&set.metadata, DESIRED_REPLICAS).and_then(|text| text.parse::<i32>().ok())
    };
    active(sets)
        .iter()
        .filter_map(sized_for)
        .any(|desired| desired != plan.replicas)
}

pub fn scale(deployment: &Deployment, plan: &Plan, sets: &Sets<'_>) -> Vec<Action> {
    let active = active(sets);
    match active.as_slice() {
        // One set (or none: then the current, or the latest) takes it all.
        [] => {
            let only = sets.new.or(sets.old.last().copied());
            only.map(|set| resize(deployment, plan, set, plan.replicas))
                .unwrap_or_default()
        }
        [only] => resize(deployment, plan, only, plan.replicas),
        _ if sets.new.is_some_and(|new| is_saturated(plan, new)) => {
            let old = sets.old.iter().filter(|set| size_of(set) > 0);
            old.flat_map(|set| resize(deployment, plan, set, 0))
                .collect()
        }
        // The old ones are on their way to nothing anyway: only what they were sized for is noted.
        sets if plan.recreate => sets
            .iter()
            .flat_map(|set| resize(deployment, plan, set, size_of(set)))
            .collect(),
        _ => in_proportion(deployment, plan, active),
    }
}

fn is_saturated(plan: &Plan, new: &ReplicaSet) -> bool {
    let noted = note(&new.metadata, DESIRED_REPLICAS) == size_notes(plan).get(DESIRED_REPLICAS);
    noted && size_of(new) == plan.replicas && available_of(new) == plan.replicas
}

fn in_proportion(
    deployment: &Deployment,
    plan: &Plan,
    mut active: Vec<&ReplicaSet>,
) -> Vec<Action> {
    let total: i32 = active.iter().map(|set| size_of(set)).sum();
    let allowed = if plan.replicas > 0 {
        plan.max_total()
    } else {
        0
    };
    let to_add = allowed - total;
    // The largest first, it takes what rounding leaves; of equals the newer when growing, the older when shrinking.
    active.sort_by_key(|set| set.metadata.creation_timestamp.clone());
    if to_add >= 0 {
        active.reverse();
    }
    active.sort_by_key(|set| std::cmp::Reverse(size_of(set)));
    let mut added = 0;
    let mut sizes: Vec<i32> = active
        .iter()
        .map(|set| {
            let share = if to_add == 0 {
                0
            } else {
                fraction(plan, set, deployment)
            };
            let left = to_add - added;
            let share = if to_add > 0 {
                share.clamp(0, left.max(0))
            } else {
                share.clamp(left.min(0), 0)
            };
            added += share;
            size_of(set) + share
        })
        .collect();
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    active
        .iter()
        .zip(sizes)
        .flat_map(|(set, size)| resize(deployment, plan, set, size.max(0)))
        .collect()
}

/// How much a set grows (or shrinks) when its share stays what it was.
fn fraction(plan: &Plan, set: &ReplicaSet, deployment: &Deployment) -> i32 {
    let size = size_of(set);
    if plan.replicas == 0 {
        return -size;
    }
    let noted = note(&set.metadata, MAX_REPLICAS).and_then(|text| text.parse::<i32>().ok());
    let status = deployment
        .status
        .as_ref()
        .and_then(|status| status.replicas);
    let before = noted
        .filter(|max| *max > 0)
        .or(status.filter(|max| *max > 0))
        .unwrap_or(plan.max_total());
    // Rounded to the nearest: (2a + b) / 2b.
    let product = i64::from(size) * i64::from(plan.max_total());
    let before = i64::from(before);
    let wanted = (2 * product + before) / (2 * before);
    i32::try_from(wanted).unwrap_or(i32::MAX) - size
}
