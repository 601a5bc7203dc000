//! Tables, and a little world: one deployment, its sets and their pods, run by the two controllers against made-up readiness.

use std::collections::BTreeMap;

use barque_agents_client::core::reflector::Key;
use k8s_openapi::api::apps::v1::DeploymentStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::Value;

use super::super::pod::{Phase, PodView};
use super::super::replicaset;
use super::plan::{available_of, size_of};
use super::*;

/// The world, and a clock that moves one second per step.
struct World {
    deployment: Deployment,
    sets: BTreeMap<String, ReplicaSet>,
    pods: BTreeMap<String, PodView>,
    clock: i64,
    numbers: u32,
    events: Vec<String>,
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        match value {
            Value::Null => drop(target.as_object_mut().unwrap().remove(name)),
            value => merge(&mut target[name], value),
        }
    }
}

fn patched<K: serde::Serialize + serde::de::DeserializeOwned>(object: &K, patch: &Value) -> K {
    let mut value = to_value(object).unwrap();
    merge(&mut value, patch);
    serde_json::from_value(value).unwrap()
}

impl World {
    fn new(spec: Value) -> World {
        let mut full = json!({
            "replicas": 3,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}},
        });
        merge(&mut full, &spec);
        let deployment = json!({"metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1}, "spec": full});
        World {
            deployment: serde_json::from_value(deployment).unwrap(),
            sets: BTreeMap::new(),
            pods: BTreeMap::new(),
            clock: 0,
            numbers: 0,
            events: vec![],
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + self.clock).unwrap()
    }

    fn change(&mut self, spec: Value) {
        self.deployment = patched(&self.deployment, &json!({"spec": spec}));
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }

    fn image(&mut self, image: &str) {
        self.change(json!({"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}));
    }

    fn actions(&self) -> Vec<Action> {
        let sets: Vec<Arc<ReplicaSet>> = self.sets.values().cloned().map(Arc::new).collect();
        let pods_left = |uid: &str| {
            self.pods
                .values()
                .filter(|pod| pod.owners[0].uid == uid)
                .count()
        };
        reconcile(&Observed {
            deployment: &self.deployment,
            sets: &sets,
            pods_left: &pods_left,
            now: self.now(),
        })
    }

    fn look_at_deployment(&mut self) -> usize {
        self.clock += 1;
        let actions = self.actions();
        let mut writes = 0;
        for action in actions {
            writes += usize::from(!matches!(
                action,
                Action::Event { .. } | Action::LookAgain { .. }
            ));
            self.apply(action);
        }
        writes
    }

    fn look_at_sets(&mut self) -> usize {
        let mut writes = 0;
        for uid in self.sets.keys().cloned().collect::<Vec<_>>() {
            let set = self.sets[&uid].clone();
            let pods: Vec<Arc<PodView>> = self
                .pods
                .values()
                .filter(|pod| pod.owners[0].uid == uid)
                .cloned()
                .map(Arc::new)
                .collect();
            let observed = replicaset::Observed {
                set: &set,
                pods: &pods,
                failure: None,
                now: self.now(),
            };
            for action in replicaset::reconcile(&observed) {
                writes += usize::from(!matches!(action, Action::LookAgain { .. }));
                self.apply(action);
            }
        }
        writes
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Create {
                resource,
                object,
                count,
                ..
            } if resource == REPLICASETS => {
                assert_eq!(count, 1);
                self.numbers += 1;
                let mut set: ReplicaSet = serde_json::from_value(*object).unwrap();
                let uid = format!("set{}", self.numbers);
                set.metadata.uid = Some(uid.clone());
                set.metadata.generation = Some(1);
                set.metadata.creation_timestamp = Some(Time(self.now()));
                let taken = self
                    .sets
                    .values()
                    .any(|known| known.metadata.name == set.metadata.name);
                assert!(!taken, "a name twice: {:?}", set.metadata.name);
                self.sets.insert(uid, set);
            }
            Action::Create { object, count, .. } => {
                for _ in 0..count {
                    self.numbers += 1;
                    let name = format!("pod{}", self.numbers);
                    let mut meta = object["metadata"].clone();
                    meta["name"] = name.as_str().into();
                    meta["uid"] = name.as_str().into();
                    let pod = json!({"metadata": meta, "status": {"phase": "Running"}});
                    let mut view = PodView::of(serde_json::from_value(pod).unwrap());
                    view.created = self.now();
                    self.pods.insert(name, view);
                }
            }
            Action::Patch { target, patch, .. } if target.resource == REPLICASETS => {
                let set = self.sets.get_mut(&target.uid).unwrap();
                let before = size_of(set);
                *set = patched(set, &patch);
                if size_of(set) != before {
                    *set.metadata.generation.as_mut().unwrap() += 1;
                }
            }
            Action::Patch { patch, .. } => self.deployment = patched(&self.deployment, &patch),
            Action::Replace { target, object, .. } => {
                let status = object["status"].clone();
                if target.resource == REPLICASETS {
                    self.sets.get_mut(&target.uid).unwrap().status =
                        serde_json::from_value(status).unwrap();
                } else {
                    self.deployment.status = serde_json::from_value(status).unwrap();
                }
            }
            Action::Delete { target, .. } => {
                self.sets.remove(&target.uid);
                self.pods.remove(&target.uid);
            }
            Action::Event { message, .. } => self.events.push(message),
            Action::LookAgain { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    fn make_ready(&mut self, index: usize) {
        let now = self.now();
        if let Some(pod) = self
            .pods
            .values_mut()
            .filter(|pod| pod.ready_since.is_none())
            .nth(index)
        {
            pod.ready_since = Some(now);
            pod.phase = Phase::Running;
        }
    }

    /// Everything becomes ready and everybody looks until nobody has anything to do.
    fn settle(&mut self) {
        for _ in 0..200 {
            let writes = self.look_at_deployment() + self.look_at_sets();
            let unready = self
                .pods
                .values()
                .filter(|pod| pod.ready_since.is_none())
                .count();
            (0..unready).for_each(|_| self.make_ready(0));
            if writes == 0 && unready == 0 {
                return;
            }
        }
        panic!("never settles: {:?}", self.deployment.status);
    }

    fn asked_for(&self) -> i32 {
        self.sets.values().map(size_of).sum()
    }

    fn available(&self) -> i32 {
        i32::try_from(
            self.pods
                .values()
                .filter(|pod| pod.ready_since.is_some())
                .count(),
        )
        .unwrap()
    }

    fn status(&self) -> DeploymentStatus {
        self.deployment.status.clone().unwrap()
    }

    fn reason(&self) -> String {
        let conditions = self.status().conditions.unwrap();
        let progressing = conditions
            .into_iter()
            .find(|condition| condition.type_ == "Progressing");
        progressing
            .and_then(|condition| condition.reason)
            .unwrap_or_default()
    }

    /// revision → size, of all sets
    fn sizes(&self) -> BTreeMap<String, i32> {
        self.sets
            .values()
            .map(|set| {
                (
                    set.metadata.annotations.as_ref().unwrap()[REVISION].clone(),
                    size_of(set),
                )
            })
            .collect()
    }
}

fn sizes(list: &[(&str, i32)]) -> BTreeMap<String, i32> {
    list.iter()
        .map(|(revision, size)| ((*revision).to_owned(), *size))
        .collect()
}

#[test]
fn a_first_rollout_makes_one_set_named_by_its_template() {
    let mut world = World::new(json!({}));
    world.look_at_deployment();
    assert_eq!(world.reason(), "NewReplicaSetCreated");
    world.settle();
    assert_eq!((world.sizes(), world.pods.len()), (sizes(&[("1", 3)]), 3));
    let set = world.sets.values().next().unwrap();
    let hash = &set.metadata.labels.as_ref().unwrap()[HASH_LABEL];
    assert_eq!(
        set.metadata.name.as_deref(),
        Some(format!("web-{hash}").as_str())
    );
    assert_eq!(
        set.spec
            .as_ref()
            .unwrap()
            .selector
            .match_labels
            .as_ref()
            .unwrap()[HASH_LABEL],
        *hash
    );
    let status = world.status();
    assert_eq!(
        (
            status.replicas,
            status.updated_replicas,
            status.available_replicas,
            status.unavailable_replicas
        ),
        (Some(3), Some(3), Some(3), None)
    );
    assert_eq!(
        (status.observed_generation, world.reason().as_str()),
        (Some(1), "NewReplicaSetAvailable")
    );
    assert_eq!(
        world.deployment.metadata.annotations.as_ref().unwrap()[REVISION],
        "1"
    );
    assert_eq!(
        world.events,
        [format!("Scaled up replica set web-{hash} from 0 to 3")]
    );
}

#[test]
fn rolling_forward_and_back_numbers_revisions_as_kubectl_expects() {
    let mut world = World::new(json!({}));
    world.settle();
    world.image("v2");
    world.settle();
    assert_eq!(world.sizes(), sizes(&[("1", 0), ("2", 3)]));
    world.image("v1");
    world.settle();
    assert_eq!(
        world.sizes(),
        sizes(&[("2", 0), ("3", 3)]),
        "the old set returns under a new number"
    );
    let current = world.sets.values().find(|set| size_of(set) == 3).unwrap();
    assert_eq!(
        current.metadata.annotations.as_ref().unwrap()[REVISION_HISTORY],
        "1"
    );
    assert_eq!(world.reason(), "NewReplicaSetAvailable");
    assert_eq!(
        world
            .pods
            .values()
            .filter(|pod| pod.ready_since.is_some())
            .count(),
        3
    );
}

#[test]
fn old_sets_beyond_the_limit_are_dropped() {
    let mut world = World::new(json!({"revisionHistoryLimit": 2}));
    for version in 1..6 {
        world.image(&format!("v{version}"));
        world.settle();
    }
    assert_eq!(world.sizes(), sizes(&[("3", 0), ("4", 0), ("5", 3)]));
}

#[test]
fn recreate_waits_until_nothing_old_is_left() {
    let mut world = World::new(json!({"strategy": {"type": "Recreate"}}));
    world.settle();
    world.image("v2");
    world.look_at_deployment();
    assert_eq!(world.sizes(), sizes(&[("1", 0)]));
    world.look_at_deployment();
    assert_eq!(world.sets.len(), 1, "old pods are still there");
    world.look_at_sets();
    world.settle();
    assert_eq!(world.sizes(), sizes(&[("1", 0), ("2", 3)]));
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(json!({}));
    world.settle();
    world.change(json!({"paused": true}));
    world.image("v2");
    world.change(json!({"replicas": 5}));
    world.settle();
    assert_eq!(
        (world.sizes(), world.reason().as_str()),
        (sizes(&[("1", 5)]), "DeploymentPaused")
    );
    world.change(json!({"paused": false}));
    world.settle();
    assert_eq!(
        (world.sizes(), world.reason().as_str()),
        (sizes(&[("1", 0), ("2", 5)]), "NewReplicaSetAvailable")
    );
}

#[test]
fn scaling_in_the_middle_of_a_rollout_keeps_the_proportions() {
    let mut world = World::new(
        json!({"replicas": 10, "strategy": {"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}}),
    );
    world.settle();
    world.image("v2");
    for _ in 0..6 {
        world.look_at_deployment();
        world.look_at_sets();
    }
    assert_eq!(
        world.sizes(),
        sizes(&[("1", 8), ("2", 5)]),
        "13 in all, 8 of them sure"
    );
    world.change(json!({"replicas": 15}));
    world.look_at_deployment();
    assert_eq!(
        world.sizes(),
        sizes(&[("1", 11), ("2", 7)]),
        "18 in all, shared 8:5"
    );
    world.settle();
    assert_eq!(world.sizes(), sizes(&[("1", 0), ("2", 15)]));
}

#[test]
fn a_rollout_that_stands_still_is_said_to_have_failed() {
    let mut world = World::new(json!({"progressDeadlineSeconds": 60}));
    world.settle();
    world.image("broken");
    for _ in 0..10 {
        world.look_at_deployment();
        world.look_at_sets();
    }
    assert_eq!(world.reason(), "ReplicaSetUpdated");
    let again = world.actions().into_iter().find_map(|action| match action {
        Action::LookAgain { after } => Some(after.as_secs()),
        _ => None,
    });
    assert!(again.is_some_and(|seconds| seconds <= 61), "{again:?}");
    world.clock += 70;
    world.look_at_deployment();
    assert_eq!(world.reason(), "ProgressDeadlineExceeded");
    assert_eq!(world.look_at_deployment(), 0, "said once");
    world.image("v1");
    world.settle();
    assert_eq!(world.reason(), "NewReplicaSetAvailable");
}

#[test]
fn sets_are_adopted_and_a_collision_changes_the_name() {
    let mut world = World::new(json!({}));
    world.settle();
    let name = world.sets.values().next().unwrap().metadata.name.clone();
    world
        .sets
        .values_mut()
        .next()
        .unwrap()
        .metadata
        .owner_references = None;
    assert!(matches!(world.actions().as_slice(), [Action::Patch { .. }]));
    world.settle();
    assert_eq!(world.sets.len(), 1);
    world.apply(after_collision(&world.deployment));
    world.sets.clear();
    world.pods.clear();
    world.settle();
    assert_ne!(world.sets.values().next().unwrap().metadata.name, name);
}

#[test]
fn nothing_to_do_means_no_action_at_all() {
    let mut world = World::new(json!({}));
    world.settle();
    assert_eq!(world.actions(), []);
    let selector: Deployment = patched(
        &world.deployment,
        &json!({"spec": {"selector": {"matchLabels": null}}}),
    );
    world.deployment = selector;
    assert!(matches!(
        world.actions().as_slice(),
        [
            Action::Event {
                reason: "SelectingAll",
                ..
            },
            ..
        ]
    ));
    let key = Key::new("ns", "web");
    assert_eq!(Target::of(DEPLOYMENTS, &world.deployment).key, key);
}

#[derive(Clone, Debug)]
enum Step {
    Deployment,
    Sets,
    Ready(usize),
    Image(u8),
    Scale(i32),
    Pause(bool),
}

fn look() -> impl Strategy<Value = Step> {
    prop_oneof![3 => Just(Step::Deployment), 3 => Just(Step::Sets), 4 => (0usize..5).prop_map(Step::Ready)]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => look(),
        1 => (0u8..4).prop_map(Step::Image),
        1 => (0i32..9).prop_map(Step::Scale),
        1 => any::<bool>().prop_map(Step::Pause),
    ]
}

fn rolling(surge: i32, unavailable: i32) -> Value {
    json!({"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

impl World {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Deployment => drop(self.look_at_deployment()),
            Step::Sets => drop(self.look_at_sets()),
            Step::Ready(index) => self.make_ready(*index),
            Step::Image(version) => self.image(&format!("v{version}")),
            Step::Scale(replicas) => self.change(json!({"replicas": replicas})),
            Step::Pause(paused) => self.change(json!({"paused": paused})),
        }
    }
}

proptest! {
    // However late the controllers look and however slowly pods become ready, templates changing on the way: never more asked for than
    // replicas + maxSurge, never fewer available than replicas - maxUnavailable.
    #[test]
    fn a_rolling_update_stays_within_its_bounds(
        replicas in 1i32..8, surge in 0i32..4, unavailable in 0i32..4,
        steps in proptest::collection::vec(prop_oneof![9 => look(), 1 => (0u8..3).prop_map(Step::Image)], 1..150),
    ) {
        let mut world = World::new(json!({"replicas": replicas, "strategy": rolling(surge, unavailable)}));
        world.settle();
        let plan = Plan::of(&world.deployment);
        for step in &steps {
            world.step(step);
            prop_assert!(world.asked_for() <= plan.max_total(), "{} asked for, {:?}", world.asked_for(), plan);
            prop_assert!(world.available() >= plan.min_available(), "{} available, {:?}", world.available(), plan);
        }
        world.settle();
        prop_assert_eq!(world.available(), replicas);
    }

    // Whatever users do, it ends as asked: one set of the last template with all replicas, all told in the status.
    #[test]
    fn it_always_ends_as_asked(
        surge in 0i32..4, unavailable in 0i32..4, recreate in any::<bool>(),
        steps in proptest::collection::vec(any_step(), 1..100),
    ) {
        let strategy = if recreate { json!({"type": "Recreate"}) } else { rolling(surge, unavailable) };
        let mut world = World::new(json!({"strategy": strategy}));
        steps.iter().for_each(|step| world.step(step));
        world.step(&Step::Pause(false));
        world.settle();
        let replicas = world.deployment.spec.as_ref().unwrap().replicas.unwrap();
        let template = &world.deployment.spec.as_ref().unwrap().template;
        for set in world.sets.values() {
            let current = same_template(template, set.spec.as_ref().unwrap().template.as_ref().unwrap());
            prop_assert_eq!(size_of(set), if current { replicas } else { 0 });
            prop_assert_eq!(available_of(set), size_of(set));
        }
        let status = world.status();
        prop_assert_eq!(status.updated_replicas.unwrap_or(0), replicas);
        prop_assert_eq!(status.replicas.unwrap_or(0), replicas);
        prop_assert_eq!(status.observed_generation, world.deployment.metadata.generation);
        prop_assert_eq!(world.reason(), "NewReplicaSetAvailable");
    }
}
