//! The numbers of a deployment: how many, how many more, how many fewer. Rounds surge up and unavailable down, as Kubernetes.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Kubernetes' "no deadline".
const NO_DEADLINE: i32 = i32::MAX;

#[derive(Clone, Debug)]
pub struct Plan {
    pub replicas: i32,
    pub max_surge: i32,
    pub max_unavailable: i32,
    pub recreate: bool,
    pub history_limit: i32,
    pub progress_deadline_seconds: Option<i32>,
}

impl Plan {
    pub fn of(deployment: &Deployment) -> Plan {
        let spec = deployment.spec.clone().unwrap_or_default();
        let replicas = spec.replicas.unwrap_or(1);
        let strategy = spec.strategy.unwrap_or_default();
        let recreate = strategy.type_.as_deref() == Some("Recreate");
        let rolling = strategy.rolling_update.unwrap_or_default();
        let quarter = IntOrString::String("25%".to_owned());
        let surge = resolve(
            rolling.max_surge.as_ref().unwrap_or(&quarter),
            replicas,
            true,
        );
        let unavailable = resolve(
            rolling.max_unavailable.as_ref().unwrap_or(&quarter),
            replicas,
            false,
        );
        // With neither, nothing could ever move.
        let unavailable = if surge == 0 && unavailable == 0 {
            1
        } else {
            unavailable
        };
        Plan {
            replicas,
            max_surge: if recreate { 0 } else { surge },
            max_unavailable: if recreate {
                replicas
            } else {
                unavailable.min(replicas)
            },
            recreate,
            history_limit: spec.revision_history_limit.unwrap_or(10),
            progress_deadline_seconds: Some(spec.progress_deadline_seconds.unwrap_or(600))
                .filter(|seconds| *seconds != NO_DEADLINE),
        }
    }

    /// The most all sets together may ask for.
    pub fn max_total(&self) -> i32 {
        self.replicas.saturating_add(self.max_surge)
    }

    /// The fewest that must stay available.
    pub fn min_available(&self) -> i32 {
        (self.replicas - self.max_unavailable).max(0)
    }

    /// The size of the new set, given what all sets ask for.
    pub fn new_size(&self, new: i32, all: i32) -> i32 {
        if self.recreate {
            return self.replicas;
        }
        let room = self.max_total() - all;
        if room <= 0 {
            new
        } else {
            new + room.min(self.replicas - new).max(0)
        }
    }
}

fn resolve(value: &IntOrString, of: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent: i64 = text
                .strip_suffix('%')
                .and_then(|digits| digits.parse().ok())
                .unwrap_or(0);
            let product = percent.max(0) * i64::from(of);
            let share = if round_up {
                (product + 99) / 100
            } else {
                product / 100
            };
            i32::try_from(share).unwrap_or(i32::MAX)
        }
    }
}

/// What a set asks for.
pub fn size_of(set: &ReplicaSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

/// The pods of a set that are available, not counting those it is about to lose.
pub fn available_of(set: &ReplicaSet) -> i32 {
    let available = set
        .status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or(0);
    available.min(size_of(set))
}

/// Whether the counts of a set were made for its present size. Before that they may count pods it is just losing: a set that was made
/// smaller and larger again in quick succession would seem to have them all.
pub fn is_counted(set: &ReplicaSet) -> bool {
    let seen = set
        .status
        .as_ref()
        .and_then(|status| status.observed_generation);
    seen >= set.metadata.generation
}

/// The pods a set has.
pub fn actual_of(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn plan(replicas: i32, rolling: Value) -> Plan {
        let spec = json!({"replicas": replicas, "selector": {}, "template": {}, "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling}});
        Plan::of(&serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap())
    }

    #[test]
    fn surge_rounds_up_and_unavailable_down() {
        let cases = [
            (10, json!({}), 3, 2),
            (1, json!({}), 1, 0),
            (3, json!({"maxSurge": "50%", "maxUnavailable": "50%"}), 2, 1),
            (4, json!({"maxSurge": 0, "maxUnavailable": 0}), 0, 1),
            (4, json!({"maxSurge": 0, "maxUnavailable": "10%"}), 0, 1),
            (2, json!({"maxSurge": 7, "maxUnavailable": 9}), 7, 2),
        ];
        for (replicas, rolling, surge, unavailable) in cases {
            let plan = plan(replicas, rolling.clone());
            assert_eq!(
                (plan.max_surge, plan.max_unavailable),
                (surge, unavailable),
                "{replicas} {rolling}"
            );
        }
    }
}
