//! The acting half: follows this node's pods, carries the core's orders out, and keeps the node registered.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use barque_agents_client::core::reflector::{Change, Key};
use barque_agents_client::resources::PODS;
use barque_agents_client::{
    Client, DeleteOptions, Error, EventType, Informer, InformerConfig, Outcome, Recorder,
    Selectors, Store, Subject, WorkQueue, merge_patch_of,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::Config;
use crate::core::{Action, Addresses, PodView, next, status};
use crate::hollow::{Hollow, START_DELAY, STOP_DELAY};
use crate::limits::{CONFLICT_DELAY, WORKERS};

mod node;

#[derive(Clone)]
struct Kubelet {
    client: Client,
    recorder: Recorder,
    host_address: String,
    pods: Store<PodView>,
    queue: WorkQueue<Key>,
    state: Arc<Mutex<State>>,
}

struct State {
    runtime: Hollow,
    addresses: Addresses,
}

/// Works until dropped.
pub(crate) async fn kubelet(client: Client, config: Config, addresses: Addresses) {
    let queue: WorkQueue<Key> = WorkQueue::default();
    let state = Arc::new(Mutex::new(State {
        runtime: Hollow::default(),
        addresses,
    }));
    let (changed_queue, changed_state) = (queue.clone(), state.clone());
    let selectors = Selectors::fields(&format!("spec.nodeName={}", config.node_name));
    let informer = Informer::start(
        &client,
        InformerConfig {
            resource: PODS,
            namespace: String::new(),
            selectors,
        },
        None,
        |pod: Pod| Some(PodView::of(pod)),
        move |change| changed(&changed_state, &changed_queue, change),
    );
    let kubelet = Kubelet {
        recorder: Recorder::start(&client, "kubelet", &config.node_name),
        host_address: config.address.clone(),
        pods: informer.store(),
        client: client.clone(),
        queue,
        state,
    };
    let node = node::keep_registered(client, config);
    let workers = async {
        // Before the first list is whole, a pod that is not in it cannot be told from one that is gone.
        informer.synced().await;
        futures::future::join_all((0..WORKERS).map(|_| kubelet.clone().work())).await;
    };
    futures::future::join(node, workers).await;
}

/// Runs on the informer's task: notes what must not wait, queues the rest.
fn changed(state: &Mutex<State>, queue: &WorkQueue<Key>, change: &Change<PodView>) {
    let mut state = locked(state);
    let replaced = change
        .before()
        .filter(|old| change.after().is_none_or(|new| new.uid != old.uid));
    if let Some(gone) = replaced {
        state.runtime.remove(&gone.uid);
        state.addresses.free(&gone.uid);
    }
    if let Some(pod) = change.after() {
        if change.before().is_none_or(|old| old.uid != pod.uid) && !pod.is_finished() {
            state.runtime.recover(pod);
            if let Some(address) = &pod.status.pod_ip {
                state.addresses.claim(&pod.uid, address);
            }
        }
        queue.add(change.key().clone());
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Kubelet {
    async fn work(self) {
        loop {
            let work = self.queue.next().await;
            let outcome = match self.pods.get(&work.key) {
                Some(pod) => self.sync(&work.key, &pod).await,
                None => Ok(Outcome::Done),
            };
            match outcome {
                Ok(outcome) => work.finish(outcome),
                // The pod is gone: the watch brings the news.
                Err(error) if error.is_not_found() => work.finish(Outcome::Done),
                // The pod changed meanwhile: look again, most likely with the news.
                Err(error) if error.is_conflict() => work.finish(Outcome::After(CONFLICT_DELAY)),
                Err(error) => {
                    tracing::warn!(pod = %work.key, %error, "cannot bring the pod further, trying again");
                    work.finish(Outcome::Failed);
                }
            }
        }
    }

    /// Asks the core what the pod needs, and does it.
    async fn sync(&self, key: &Key, pod: &PodView) -> Result<Outcome, Error> {
        let decided = {
            let mut state = locked(&self.state);
            let now = Timestamp::now();
            let facts = state.runtime.facts(pod, now).cloned();
            next(pod, facts.as_ref(), now)
        };
        for action in &decided.actions {
            match action {
                Action::Start => {
                    sleep(START_DELAY).await;
                    locked(&self.state).runtime.start(pod, Timestamp::now());
                    for container in &pod.containers {
                        self.event(
                            pod,
                            "Started",
                            &format!("Started container {}", container.name),
                        );
                    }
                    self.report(key, pod).await?;
                }
                Action::Restart { container } => {
                    sleep(START_DELAY).await;
                    locked(&self.state)
                        .runtime
                        .restart(&pod.uid, *container, Timestamp::now());
                    self.event(
                        pod,
                        "Started",
                        &format!("Started container {}", pod.containers[*container].name),
                    );
                }
                Action::Stop { .. } => {
                    for container in &pod.containers {
                        self.event(
                            pod,
                            "Killing",
                            &format!("Stopping container {}", container.name),
                        );
                    }
                    sleep(STOP_DELAY).await;
                    locked(&self.state).runtime.stop(&pod.uid, Timestamp::now());
                    return Ok(Outcome::After(Duration::ZERO));
                }
                Action::Report => self.report(key, pod).await?,
                Action::Remove => {
                    let options = DeleteOptions {
                        uid: Some(pod.uid.clone()),
                        grace_seconds: Some(0),
                        ..Default::default()
                    };
                    self.client.delete(PODS, key, &options).await?;
                }
            }
        }
        Ok(match decided.again {
            Some(at) => Outcome::After(
                Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default(),
            ),
            None if decided.actions.contains(&Action::Start) => Outcome::After(Duration::ZERO),
            None => Outcome::Done,
        })
    }

    /// Tells the status if it differs from what the API has, on the version of the pod it was decided on.
    async fn report(&self, key: &Key, pod: &PodView) -> Result<(), Error> {
        let told = {
            let mut state = locked(&self.state);
            let now = Timestamp::now();
            let Some(address) = state.addresses.give(&pod.uid) else {
                drop(state);
                self.recorder.event(
                    &subject(pod),
                    EventType::Warning,
                    "FailedCreatePodSandBox",
                    "the node's pod address range is used up",
                );
                return Ok(());
            };
            let Some(facts) = state.runtime.facts(pod, now) else {
                return Ok(());
            };
            status::status_of(pod, facts, &address, &self.host_address, now)
        };
        if told == pod.status {
            return Ok(());
        }
        let patch = merge_patch_of(&pod.uid, &pod.resource_version, json!({ "status": told }));
        self.client
            .patch::<Value>(PODS, key, "status", &patch)
            .await
            .map(drop)
    }

    fn event(&self, pod: &PodView, reason: &str, message: &str) {
        self.recorder
            .event(&subject(pod), EventType::Normal, reason, message);
    }
}

fn subject(pod: &PodView) -> Subject {
    Subject {
        api_version: "v1".into(),
        kind: "Pod".into(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
    }
}
