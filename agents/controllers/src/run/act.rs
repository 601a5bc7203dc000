//! How each action is carried out, and what is remembered of it so that the next look waits for its effect.
//! Promise: a write whose answer was lost is cleared up (by what the API holds now) before the item is decided on again.

use std::time::Duration;

use barque_agents_client::core::backoff::delay;
use barque_agents_client::resources::{PODS, REPLICASETS};
use barque_agents_client::{
    Error, Outcome, PartialObject, Propagation, Reason, ResourceId, Selectors, merge_patch_of,
};
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;
use tokio::time::sleep;

use super::{Executor, now};
use crate::core::{Action, Target, deployment, replicaset};
use crate::limits::{BATCH_FIRST, BATCH_MAX};
use crate::world::Item;

impl Executor {
    pub(super) async fn carry_out(&self, item: &Item, actions: Vec<Action>) -> Outcome {
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
                if error.needs_attention() {
                    tracing::warn!(?item, %error, "action refused");
                } else {
                    tracing::debug!(?item, %error, "action refused");
                }
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
