//! The executor: the one hand of all controllers. Takes items from the queue, shows them to their core, carries out the actions.
//! Promise: an item is never decided on a copy older than what was written for it before; an action whose fate is unknown is cleared up before the
//! item is decided again; a refusal only means "look again, later".
//! Not here: deciding (`core`), what makes an item be looked at (`world`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use barque_agents_client::core::backoff::delay;
use barque_agents_client::core::reflector::Key;
use barque_agents_client::resources::{PODS, REPLICASETS};
use barque_agents_client::{
    Client, Error, KINDS, Outcome, PartialObject, Propagation, Reason, Recorder, ResourceId,
    Selectors, WorkQueue, merge_patch_of,
};
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::Config;
use crate::core::garbage::Lookup;
use crate::core::node::Health;
use crate::core::pod::{Phase, PodView};
use crate::core::settled::Settled;
use crate::core::{Action, Target, deployment, namespace, node, replicaset};
use crate::limits::{ABSENT_OWNERS_MAX, BATCH_FIRST, BATCH_MAX, SETTLE_RETRY, WORKERS};
use crate::world::{Item, World, orphans};

struct Executor {
    client: Client,
    config: Config,
    recorder: Recorder,
    queue: WorkQueue<Item>,
    world: World,
    origin: Instant,
    memory: Mutex<Memory>,
}

/// What is remembered between looks; all of it can be lost.
#[derive(Default)]
struct Memory {
    settled: Settled<Item>,
    /// Why the last creation for a replica set failed.
    failures: BTreeMap<Key, String>,
    health: BTreeMap<Key, Health>,
    /// Owners that were looked up and are gone. A uid never comes back.
    absent: BTreeSet<String>,
}

/// Controls until dropped.
pub async fn control(client: Client, config: Config) {
    let queue: WorkQueue<Item> = WorkQueue::default();
    let world = World::watch(&client, &queue).await;
    let executor = Executor {
        recorder: Recorder::start(&client, "barque-controllers", &config.identity),
        client,
        config,
        queue,
        world,
        origin: Instant::now(),
        memory: Mutex::default(),
    };
    join_all((0..WORKERS).map(|_| executor.work())).await;
}

impl Executor {
    async fn work(&self) {
        loop {
            let work = self.queue.next().await;
            let outcome = self.look(&work.key).await;
            work.finish(outcome);
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn uptime(&self) -> Duration {
        self.origin.elapsed()
    }

    async fn look(&self, item: &Item) -> Outcome {
        if !self.is_settled(item) {
            return Outcome::After(SETTLE_RETRY);
        }
        let actions = match item {
            Item::Deployment(key) => self.look_at_deployment(key),
            Item::ReplicaSet(key) => self.look_at_set(key),
            Item::Node(key) => self.look_at_node(key),
            Item::Namespace(key) => match self.look_at_namespace(key).await {
                Ok(actions) => actions,
                Err(error) => {
                    tracing::debug!(namespace = %key, %error, "contents not listed");
                    return Outcome::Failed;
                }
            },
            Item::Garbage(uid) => match self.look_at_garbage(uid).await {
                Ok(actions) => actions,
                Err(error) => {
                    tracing::debug!(uid, %error, "owners not looked up");
                    return Outcome::Failed;
                }
            },
        };
        self.carry_out(item, actions).await
    }

    fn is_settled(&self, item: &Item) -> bool {
        let is_there = |uid: &str| match item {
            Item::ReplicaSet(key) => self.world.sets.get(key).is_some_and(|set| {
                let group = set.metadata.uid.as_deref().unwrap_or_default();
                let pods = self.world.pods.in_group(group);
                pods.iter()
                    .any(|(_, pod)| pod.uid == uid && pod.is_active())
            }),
            Item::Garbage(_) => self.world.graph().get(uid).is_some(),
            _ => false,
        };
        let revision = |resource| self.world.revision(item, resource);
        let now = self.uptime();
        self.memory()
            .settled
            .is_settled(item, revision, is_there, now)
    }

    fn look_at_deployment(&self, key: &Key) -> Vec<Action> {
        let Some(deployment) = self.world.deployments.get(key) else {
            self.memory().settled.forget(&Item::Deployment(key.clone()));
            return vec![];
        };
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        let sets: Vec<Arc<ReplicaSet>> = [uid.to_owned(), orphans(&key.namespace)]
            .iter()
            .flat_map(|group| self.world.sets.in_group(group))
            .map(|(_, set)| set)
            .collect();
        let pods_left = |uid: &str| {
            let pods = self.world.pods.in_group(uid);
            pods.iter()
                .filter(|(_, pod)| pod.phase != Phase::Finished)
                .count()
        };
        deployment::reconcile(&deployment::Observed {
            deployment: &deployment,
            sets: &sets,
            pods_left: &pods_left,
            now: now(),
        })
    }

    fn look_at_set(&self, key: &Key) -> Vec<Action> {
        let Some(set) = self.world.sets.get(key) else {
            let mut memory = self.memory();
            memory.settled.forget(&Item::ReplicaSet(key.clone()));
            memory.failures.remove(key);
            return vec![];
        };
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let pods: Vec<Arc<PodView>> = [uid.to_owned(), orphans(&key.namespace)]
            .iter()
            .flat_map(|group| self.world.pods.in_group(group))
            .map(|(_, pod)| pod)
            .collect();
        let failure = self.memory().failures.get(key).cloned();
        replicaset::reconcile(&replicaset::Observed {
            set: &set,
            pods: &pods,
            failure: failure.as_deref(),
            now: now(),
        })
    }

    fn look_at_node(&self, key: &Key) -> Vec<Action> {
        let Some(node) = self.world.nodes.get(key) else {
            self.memory().health.remove(key);
            return vec![];
        };
        let lease = self
            .world
            .leases
            .get(&Key::new("kube-node-lease", &key.name))
            .and_then(|renewed| *renewed);
        let uptime = self.uptime();
        let health = {
            let mut memory = self.memory();
            let health = Health::seen(memory.health.get(key), &node, lease, uptime);
            memory.health.insert(key.clone(), health.clone());
            health
        };
        let pods: Vec<Arc<PodView>> = match node.is_ready() {
            true => vec![],
            false => self
                .world
                .pods
                .all()
                .into_iter()
                .map(|(_, pod)| pod)
                .filter(|pod| pod.node == key.name)
                .collect(),
        };
        let mut actions = node::reconcile(&node::Observed {
            node: &node,
            health: &health,
            pods: &pods,
            grace: self.config.node_grace,
            uptime,
            now: now(),
        });
        actions.push(Action::LookAgain {
            after: self.config.node_period,
        });
        actions
    }

    async fn look_at_namespace(&self, key: &Key) -> Result<Vec<Action>, Error> {
        let Some(view) = self.world.namespaces.get(key).filter(|view| view.is_ours()) else {
            return Ok(vec![]);
        };
        // Fresh lists, not copies: what is not seen here stays behind for ever.
        let kinds = KINDS.iter().filter(|kind| kind.namespaced);
        let lists = kinds.map(|kind| async {
            match self
                .client
                .list::<PartialObject>(kind.resource, &key.name, &Selectors::all())
                .await
            {
                Ok(list) => Ok(list
                    .items
                    .into_iter()
                    .map(|object| (kind.resource, object))
                    .collect()),
                Err(error) if error.is_not_found() => Ok(vec![]), // not served
                Err(error) => Err(error),
            }
        });
        let lists: Result<Vec<Vec<_>>, Error> = join_all(lists).await.into_iter().collect();
        Ok(namespace::reconcile(&view, &lists?.concat()))
    }

    async fn look_at_garbage(&self, uid: &str) -> Result<Vec<Action>, Error> {
        loop {
            let verdict = {
                let memory = self.memory();
                self.world.graph().reconcile(uid, &memory.absent)
            };
            for uid in verdict.look_at {
                self.queue.add(Item::Garbage(uid));
            }
            if verdict.lookups.is_empty() {
                return Ok(verdict.actions);
            }
            for lookup in verdict.lookups {
                if self.is_present(&lookup).await? {
                    // Its informer has not seen it yet; it soon will, and it is not gone.
                    return Ok(vec![Action::LookAgain {
                        after: Duration::from_secs(1),
                    }]);
                }
                let mut memory = self.memory();
                if memory.absent.len() >= ABSENT_OWNERS_MAX {
                    memory.absent.clear();
                }
                memory.absent.insert(lookup.uid);
            }
        }
    }

    async fn is_present(&self, lookup: &Lookup) -> Result<bool, Error> {
        let found = self
            .client
            .get::<PartialObject>(lookup.resource, &lookup.key.namespace, &lookup.key.name)
            .await;
        match found {
            Ok(found) => Ok(found.metadata.uid.as_deref() == Some(lookup.uid.as_str())),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn carry_out(&self, item: &Item, actions: Vec<Action>) -> Outcome {
        let mut outcome = Outcome::Done;
        let mut failed = false;
        // Deletions of one look do not depend on each other.
        let (deletions, others): (Vec<Action>, Vec<Action>) = actions
            .into_iter()
            .partition(|action| matches!(action, Action::Delete { .. }));
        let deleted: Vec<bool> = stream::iter(deletions)
            .map(|action| self.act(item, action))
            .buffer_unordered(BATCH_MAX)
            .collect()
            .await;
        failed |= deleted.contains(&false);
        let mut last_failed = false;
        for action in others {
            match action {
                Action::LookAgain { after } => {
                    outcome = match outcome {
                        Outcome::After(earlier) => Outcome::After(earlier.min(after)),
                        _ => Outcome::After(after),
                    };
                }
                Action::NotYet => failed = true,
                Action::Event { .. } if last_failed => {} // tells of what did not happen
                action => {
                    last_failed = !self.act(item, action).await;
                    failed |= last_failed;
                }
            }
        }
        if failed { Outcome::Failed } else { outcome }
    }

    /// Carries out one action. False: look again.
    async fn act(&self, item: &Item, action: Action) -> bool {
        let result = match action {
            Action::Event {
                subject,
                event_type,
                reason,
                message,
            } => {
                self.recorder.event(&subject, event_type, reason, &message);
                Ok(())
            }
            Action::Create {
                resource,
                namespace,
                object,
                count,
                on_collision,
            } => {
                return Box::pin(self.create(
                    item,
                    resource,
                    &namespace,
                    &object,
                    count,
                    on_collision,
                ))
                .await;
            }
            Action::Patch {
                target,
                subresource,
                patch,
            } => {
                let patch = merge_patch_of(&target.uid, &target.resource_version, patch);
                let done = self
                    .client
                    .patch::<Value>(target.resource, &target.key, subresource, &patch)
                    .await;
                self.note(item, &target, done)
            }
            Action::Replace {
                target,
                subresource,
                object,
            } => {
                let done = self
                    .client
                    .update::<Value>(target.resource, &target.key, subresource, &*object)
                    .await;
                self.note(item, &target, done)
            }
            Action::Delete {
                target,
                exactly,
                propagation,
            } => self.delete(item, &target, exactly, propagation).await,
            Action::PodNotReady { target } => self.say_not_ready(item, &target).await,
            Action::LookAgain { .. } | Action::NotYet => Ok(()),
        };
        match result {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(?item, %error, "action refused");
                false
            }
        }
    }

    /// Notes what a write did, so that the next look waits for it. One whose answer was lost needs no clearing up here: if it did happen, the
    /// next patch or update on the old copy is a conflict.
    fn note(&self, item: &Item, target: &Target, done: Result<Value, Error>) -> Result<(), Error> {
        self.wrote(item, target.resource, &done?);
        Ok(())
    }

    fn wrote(&self, item: &Item, resource: ResourceId, object: &Value) {
        let version = object["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|version| version.parse().ok());
        if let Some(revision) = version {
            let now = self.uptime();
            self.memory().settled.wrote(item, resource, revision, now);
        }
    }

    async fn delete(
        &self,
        item: &Item,
        target: &Target,
        exactly: bool,
        propagation: Option<Propagation>,
    ) -> Result<(), Error> {
        let options = Action::delete_options(target, exactly, propagation);
        match self
            .client
            .delete(target.resource, &target.key, &options)
            .await
        {
            Ok(object) if object["metadata"]["deletionTimestamp"].is_string() => {
                self.wrote(item, target.resource, &object);
                Ok(())
            }
            Ok(_) => {
                self.gone(item, target);
                Ok(())
            }
            Err(error) if error.is_not_found() => {
                self.gone(item, target);
                Ok(())
            }
            Err(error) => {
                if error.is_ambiguous() {
                    self.clear_up(
                        item,
                        target.resource,
                        &target.key.namespace,
                        Some(&target.uid),
                    )
                    .await;
                }
                Err(error)
            }
        }
    }

    fn gone(&self, item: &Item, target: &Target) {
        let now = self.uptime();
        self.memory().settled.removed(item, &target.uid, now);
    }

    /// Nobody knows whether a write happened: what the API holds now is what the copy must show before the item is decided on again.
    async fn clear_up(
        &self,
        item: &Item,
        resource: ResourceId,
        namespace: &str,
        deleted: Option<&str>,
    ) {
        for tries in 0.. {
            match self
                .client
                .list::<PartialObject>(resource, namespace, &Selectors::all())
                .await
            {
                Ok(list) => {
                    let version = |object: &PartialObject| {
                        object
                            .metadata
                            .resource_version
                            .as_ref()?
                            .parse::<i64>()
                            .ok()
                    };
                    let now = self.uptime();
                    let mut memory = self.memory();
                    if let Some(newest) = list.items.iter().filter_map(version).max() {
                        memory.settled.wrote(item, resource, newest, now);
                    }
                    let is_left = |uid: &str| {
                        list.items
                            .iter()
                            .any(|object| object.metadata.uid.as_deref() == Some(uid))
                    };
                    if let Some(uid) = deleted.filter(|uid| !is_left(uid)) {
                        memory.settled.removed(item, uid, now);
                    }
                    return;
                }
                Err(error) => {
                    tracing::debug!(?item, %error, "state after a lost answer not read, trying again");
                    sleep(delay(
                        Duration::from_millis(50),
                        Duration::from_secs(5),
                        tries,
                    ))
                    .await;
                }
            }
        }
    }

    /// Creates `count` objects in growing batches; the first failure ends it.
    async fn create(
        &self,
        item: &Item,
        resource: ResourceId,
        namespace: &str,
        object: &Value,
        count: usize,
        on_collision: Option<Box<Action>>,
    ) -> bool {
        let mut left = count;
        let mut batch = BATCH_FIRST;
        let mut failure = None;
        while left > 0 && failure.is_none() {
            let size = batch.min(left);
            let results = join_all(
                (0..size).map(|_| self.client.create::<Value>(resource, namespace, object)),
            )
            .await;
            for result in results {
                match result {
                    Ok(made) => self.wrote(item, resource, &made),
                    Err(error) => failure = Some(error),
                }
            }
            left -= size;
            batch = (batch * 2).min(BATCH_MAX);
        }
        let Some(error) = failure else {
            if let Item::ReplicaSet(key) = item {
                self.memory().failures.remove(key);
            }
            return true;
        };
        tracing::debug!(?item, %error, "not created");
        if error.is_ambiguous() {
            self.clear_up(item, resource, namespace, None).await;
        } else if error.reason() == Some(Reason::NamespaceTerminating) {
            return true; // everything here is going: nothing to try again
        } else if error.is_already_exists() {
            if let Some(collision) = on_collision {
                return self.name_taken(item, namespace, object, *collision).await;
            }
        } else if let Error::Api(api) = &error
            && resource == PODS
            && let Item::ReplicaSet(key) = item
        {
            self.memory()
                .failures
                .insert(key.clone(), api.message.clone());
            if let Some(set) = self.world.sets.get(key) {
                let event = replicaset::failed_create(&set, &api.message);
                self.act(item, event).await;
            }
        }
        false
    }

    /// The name of a new replica set exists: it is ours and our copy is late, or two templates have one hash.
    async fn name_taken(
        &self,
        item: &Item,
        namespace: &str,
        wanted: &Value,
        collision: Action,
    ) -> bool {
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
        let found: ReplicaSet = match self.client.get(REPLICASETS, namespace, name).await {
            Ok(found) => found,
            Err(_) => return false,
        };
        let wanted: Option<ReplicaSet> = serde_json::from_value(wanted.clone()).ok();
        if wanted.is_some_and(|wanted| deployment::is_same_set(&found, &wanted)) {
            let version = found
                .metadata
                .resource_version
                .as_ref()
                .and_then(|version| version.parse().ok());
            if let Some(revision) = version {
                let now = self.uptime();
                self.memory()
                    .settled
                    .wrote(item, REPLICASETS, revision, now);
            }
            return false;
        }
        tracing::warn!(%name, namespace, "two templates have one hash, taking another name");
        self.act(item, collision).await;
        false
    }

    async fn say_not_ready(&self, item: &Item, target: &Target) -> Result<(), Error> {
        let mut pod: Pod = self
            .client
            .get(PODS, &target.key.namespace, &target.key.name)
            .await?;
        if pod.metadata.uid.as_deref() != Some(target.uid.as_str()) {
            return Ok(());
        }
        let conditions = pod
            .status
            .get_or_insert_default()
            .conditions
            .get_or_insert_default();
        let ready = conditions
            .iter_mut()
            .find(|condition| condition.type_ == "Ready" && condition.status == "True");
        let Some(ready) = ready else { return Ok(()) };
        ready.status = "False".to_owned();
        ready.reason = Some("NodeNotReady".to_owned());
        ready.last_transition_time = Some(Time(now()));
        let done = self
            .client
            .update::<Value>(PODS, &target.key, "status", &pod)
            .await;
        self.note(item, target, done)
    }
}

/// The API keeps whole seconds.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
