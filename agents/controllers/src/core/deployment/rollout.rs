//! From the old template to the new one: step by step, or all at once.

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::plan::{Plan, available_of, is_counted, size_of};
use super::{Action, Observed, Sets, history, resize, status};

/// Rolling update: the new set grows as far as the surge allows, then the old ones shrink as far as availability allows.
pub fn roll(observed: &Observed<'_>, sets: &Sets<'_>, plan: &Plan) -> Vec<Action> {
    let deployment = observed.deployment;
    let Some(new) = sets.new else {
        let mut actions = history::create_new(deployment, sets, plan);
        actions.extend(status::update(
            observed,
            sets,
            plan,
            Some(status::created(&actions)),
        ));
        return actions;
    };
    let order = history::in_order(deployment, sets);
    if !order.is_empty() {
        return order;
    }
    let total: i32 = sets.all().map(size_of).sum();
    let size = size_of(new);
    let wanted = if size > plan.replicas {
        plan.replicas
    } else {
        plan.new_size(size, total)
    };
    let mut actions = vec![];
    if wanted != size {
        actions.extend(resize(deployment, plan, new, wanted));
    } else if sets.all().all(is_counted) {
        for (set, size) in shrink(plan, new, &sets.old) {
            actions.extend(resize(deployment, plan, set, size));
        }
        if actions.is_empty() && status::is_complete(deployment, sets, plan) {
            actions.extend(history::clean_up(plan, sets));
        }
    }
    actions.extend(status::update(observed, sets, plan, None));
    actions
}

/// New sizes for the old sets. First go pods that are not available anyway, then available ones as far as enough remain.
fn shrink<'a>(plan: &Plan, new: &ReplicaSet, old: &[&'a ReplicaSet]) -> Vec<(&'a ReplicaSet, i32)> {
    let total: i32 = old.iter().map(|set| size_of(set)).sum::<i32>() + size_of(new);
    let new_unavailable = size_of(new) - available_of(new);
    // Whatever is not available of the new set may still fail: only what lies beyond it is spare.
    let spare = total - plan.min_available() - new_unavailable;
    if spare <= 0 {
        return vec![];
    }
    let mut sizes: Vec<(&ReplicaSet, i32)> = old.iter().map(|set| (*set, size_of(set))).collect();
    let mut left = spare;
    for (set, size) in &mut sizes {
        let lost = (*size - available_of(set)).clamp(0, left);
        *size -= lost;
        left -= lost;
    }
    let available: i32 = old.iter().map(|set| available_of(set)).sum::<i32>() + available_of(new);
    let mut beyond = (available - plan.min_available()).clamp(0, left);
    for (_, size) in &mut sizes {
        let lost = (*size).min(beyond).max(0);
        *size -= lost;
        beyond -= lost;
    }
    sizes
        .into_iter()
        .filter(|(set, size)| *size != size_of(set))
        .collect()
}

/// Recreate: the new set grows when nothing of the old ones is left.
pub fn recreate(observed: &Observed<'_>, sets: &Sets<'_>, plan: &Plan) -> Vec<Action> {
    let deployment = observed.deployment;
    let order = history::in_order(deployment, sets);
    if !order.is_empty() {
        return order;
    }
    let active = sets.old.iter().filter(|set| size_of(set) > 0);
    let mut actions: Vec<Action> = active
        .flat_map(|set| resize(deployment, plan, set, 0))
        .collect();
    let left = |set: &&ReplicaSet| {
        (observed.pods_left)(set.metadata.uid.as_deref().unwrap_or_default()) > 0
    };
    let mut reason = None;
    if actions.is_empty() && !sets.old.iter().any(left) {
        match sets.new {
            None => {
                actions = history::create_new(deployment, sets, plan);
                reason = Some(status::created(&actions));
            }
            Some(new) => {
                actions = resize(deployment, plan, new, plan.replicas);
                if actions.is_empty() && status::is_complete(deployment, sets, plan) {
                    actions = history::clean_up(plan, sets);
                }
            }
        }
    }
    actions.extend(status::update(observed, sets, plan, reason));
    actions
}
