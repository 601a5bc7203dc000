//! The acting half: learns pods and nodes from informers, binds, rolls back. One task decides, bindings run beside it.
//! Not here: leading (`lib`), deciding (`core`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use barque_agents_client::core::backoff::delay;
use barque_agents_client::core::reflector::{Change, Key};
use barque_agents_client::resources::{NODES, PODS};
use barque_agents_client::{
    Client, Error, EventType, Informer, InformerConfig, Outcome, Recorder, Store, Subject,
    WorkQueue,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::Config;
use crate::core::{ClusterView, NodeView, PodView, schedule};
use crate::limits::{
    BINDINGS_MAX, UNSCHEDULABLE_DELAY_MAX, UNSCHEDULABLE_DELAY_MIN, UNSCHEDULABLE_FLUSH,
};

/// A pod that fits nowhere at present.
#[derive(Default)]
struct Parked {
    tries: u32,
    /// What its condition says.
    message: String,
}

#[derive(Default)]
struct State {
    view: ClusterView,
    parked: BTreeMap<Key, Parked>,
    /// Raised whenever something changed that might make room.
    room_epoch: u64,
}

#[derive(Clone)]
struct Scheduler {
    client: Client,
    recorder: Recorder,
    scheduler_name: String,
    state: Arc<Mutex<State>>,
    queue: WorkQueue<Key>,
    bindings: Arc<Semaphore>,
}

/// Schedules pods until dropped.
pub async fn schedule_pods(client: Client, config: Config) {
    let scheduler = Scheduler {
        recorder: Recorder::start(&client, &config.scheduler_name, &config.identity),
        client,
        scheduler_name: config.scheduler_name,
        state: Arc::default(),
        queue: WorkQueue::default(),
        bindings: Arc::new(Semaphore::new(BINDINGS_MAX)),
    };
    let on_node = scheduler.clone();
    let nodes: Informer<NodeView> = Informer::start(
        &scheduler.client,
        InformerConfig::all(NODES),
        None,
        |node: Node| Some(NodeView::of(node)),
        move |change| on_node.node_changed(change),
    );
    let on_pod = scheduler.clone();
    let pods: Informer<PodView> = Informer::start(
        &scheduler.client,
        InformerConfig::all(PODS),
        None,
        PodView::of,
        move |change| on_pod.pod_changed(change),
    );
    // Both whole before the first decision: a node without its pods looks empty.
    nodes.synced().await;
    pods.synced().await;
    scheduler.decide_for_ever(pods.store()).await;
}

impl Scheduler {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn node_changed(&self, change: &Change<NodeView>) {
        match change.after() {
            Some(node) => self.lock().view.node_seen((**node).clone()),
            None => self.lock().view.node_gone(&change.key().name),
        }
        self.room();
    }

    fn pod_changed(&self, change: &Change<PodView>) {
        let key = change.key();
        match change.after() {
            Some(pod) => {
                let mut state = self.lock();
                state.view.pod_seen(key, pod);
                if pod.is_pending(&self.scheduler_name) {
                    state.parked.remove(key);
                    drop(state);
                    self.queue.add(key.clone());
                }
            }
            None => {
                let mut state = self.lock();
                state.view.pod_gone(key);
                state.parked.remove(key);
            }
        }
        if change.before().is_some_and(|pod| !pod.node.is_empty()) {
            self.room();
        }
    }

    /// Something changed that might make room: pods that fit nowhere are worth another try.
    fn room(&self) {
        let mut state = self.lock();
        state.room_epoch += 1;
        for (key, parked) in &state.parked {
            let wait = delay(
                UNSCHEDULABLE_DELAY_MIN,
                UNSCHEDULABLE_DELAY_MAX,
                parked.tries.saturating_sub(1),
            );
            self.queue.add_after(key.clone(), wait);
        }
    }

    async fn decide_for_ever(&self, pods: Store<PodView>) {
        loop {
            let Ok(permit) = self.bindings.clone().acquire_owned().await else {
                return; // the semaphore is never closed
            };
            let work = self.queue.next().await;
            let key = work.key.clone();
            let Some(pod) = pods
                .get(&key)
                .filter(|pod| pod.is_pending(&self.scheduler_name))
            else {
                work.finish(Outcome::Done);
                continue;
            };
            let (decision, epoch) = {
                let mut state = self.lock();
                if state.view.is_assumed(&key) {
                    // Its binding is under way; whatever comes of it brings the pod back here.
                    drop(state);
                    work.finish(Outcome::Done);
                    continue;
                }
                let decision = schedule(&state.view, &pod);
                if let Ok(node) = &decision {
                    state.view.assume(&key, &pod, node);
                    state.parked.remove(&key);
                }
                (decision, state.room_epoch)
            };
            let scheduler = self.clone();
            match decision {
                Ok(node) => {
                    tokio::spawn(async move {
                        let _permit = permit;
                        let outcome = scheduler.bind(&key, &pod, &node).await;
                        work.finish(outcome);
                    });
                }
                Err(reasons) => {
                    tokio::spawn(async move {
                        let _permit = permit;
                        let outcome = scheduler
                            .park(&key, &pod, &reasons.to_string(), epoch)
                            .await;
                        work.finish(outcome);
                    });
                }
            }
        }
    }

    /// Writes the binding; on failure the assumption goes, unless the binding may have happened.
    async fn bind(&self, key: &Key, pod: &PodView, node: &str) -> Outcome {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let bound = self
            .client
            .create_sub::<Value>(PODS, key, "binding", &binding)
            .await;
        let error = match bound {
            Ok(_) => {
                let message = format!("Successfully assigned {key} to {node}");
                self.recorder.event(
                    &self.subject(key, pod),
                    EventType::Normal,
                    "Scheduled",
                    &message,
                );
                return Outcome::Done;
            }
            Err(error) => error,
        };
        tracing::info!(pod = %key, node, %error, "binding failed");
        if error.is_ambiguous() && self.was_bound(key, pod).await {
            return Outcome::Done;
        }
        self.lock().view.forget(key, &pod.uid);
        self.room();
        match error {
            error if error.is_not_found() => Outcome::Done,
            error => {
                let message = format!("Binding rejected: {error}");
                self.recorder.event(
                    &self.subject(key, pod),
                    EventType::Warning,
                    "FailedScheduling",
                    &message,
                );
                Outcome::Failed
            }
        }
    }

    /// Finds out what became of a binding whose answer was lost. Until that is known the pod keeps its place.
    async fn was_bound(&self, key: &Key, pod: &PodView) -> bool {
        for tries in 0.. {
            match self
                .client
                .get::<Pod>(PODS, &key.namespace, &key.name)
                .await
            {
                Ok(found) => {
                    let same = found.metadata.uid.as_deref() == Some(pod.uid.as_str());
                    return same
                        && found
                            .spec
                            .and_then(|spec| spec.node_name)
                            .is_some_and(|node| !node.is_empty());
                }
                Err(error) if error.is_not_found() => return false,
                Err(_) => {
                    sleep(delay(
                        Duration::from_millis(50),
                        Duration::from_secs(5),
                        tries,
                    ))
                    .await
                }
            }
        }
        false
    }

    /// Says why, and waits for room.
    async fn park(&self, key: &Key, pod: &PodView, message: &str, epoch: u64) -> Outcome {
        let (tries, room, told) = {
            let mut state = self.lock();
            let room = state.room_epoch != epoch;
            let parked = state.parked.entry(key.clone()).or_default();
            parked.tries = parked.tries.saturating_add(1);
            let told = parked.message == message;
            parked.message = message.to_owned();
            (parked.tries, room, told)
        };
        self.recorder.event(
            &self.subject(key, pod),
            EventType::Warning,
            "FailedScheduling",
            message,
        );
        if !told && let Err(error) = self.tell(key, pod, message).await {
            tracing::debug!(pod = %key, %error, "condition not written");
            if let Some(parked) = self.lock().parked.get_mut(key) {
                parked.message.clear();
            }
        }
        // Room made since the decision would not wake this pod any more: it was not parked yet.
        match room {
            true => Outcome::After(delay(
                UNSCHEDULABLE_DELAY_MIN,
                UNSCHEDULABLE_DELAY_MAX,
                tries - 1,
            )),
            false => Outcome::After(UNSCHEDULABLE_FLUSH),
        }
    }

    async fn tell(&self, key: &Key, view: &PodView, message: &str) -> Result<(), Error> {
        let mut pod: Pod = self.client.get(PODS, &key.namespace, &key.name).await?;
        let bound = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.as_deref())
            .is_some_and(|node| !node.is_empty());
        if bound || pod.metadata.uid.as_deref() != Some(view.uid.as_str()) {
            return Ok(());
        }
        let conditions = pod
            .status
            .get_or_insert_default()
            .conditions
            .get_or_insert_default();
        let old = conditions
            .iter()
            .find(|condition| condition.type_ == "PodScheduled");
        let since = old
            .filter(|old| old.status == "False")
            .and_then(|old| old.last_transition_time.clone());
        if old.is_some_and(|old| old.status == "False" && old.message.as_deref() == Some(message)) {
            return Ok(());
        }
        let condition = PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "False".to_owned(),
            reason: Some("Unschedulable".to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: since.or(Some(Time(Timestamp::now()))),
            ..Default::default()
        };
        conditions.retain(|condition| condition.type_ != "PodScheduled");
        conditions.push(condition);
        let _: Pod = self.client.update(PODS, key, "status", &pod).await?;
        Ok(())
    }

    fn subject(&self, key: &Key, pod: &PodView) -> Subject {
        Subject {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: pod.uid.clone(),
        }
    }
}
