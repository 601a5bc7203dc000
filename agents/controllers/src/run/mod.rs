//! The executor: the one hand of all controllers. Takes items from the queue, shows them to their core, carries out the actions.
//! Promise: an item is never decided on a copy older than what was written for it before; an action whose fate is unknown is cleared up before the
//! item is decided again; a refusal only means "look again, later".
//! Not here: deciding (`core`), what makes an item be looked at (`world`), how an action is carried out (`act`).

mod act;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use barque_agents_client::core::reflector::Key;
use barque_agents_client::{
    Client, Error, KINDS, Outcome, PartialObject, Recorder, Selectors, WorkQueue,
};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use tokio::time::Instant;

use crate::Config;
use crate::core::garbage::Lookup;
use crate::core::node::Health;
use crate::core::pod::{Phase, PodView};
use crate::core::settled::Settled;
use crate::core::{Action, deployment, namespace, node, replicaset};
use crate::limits::{ABSENT_OWNERS_MAX, SETTLE_RETRY, WORKERS};
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
}

/// The API keeps whole seconds.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
