//! A pod as the controllers see it: small, and the same for all of them.

use std::collections::BTreeMap;

use barque_agents_client::core::reflector::Key;
use barque_agents_client::resources::PODS;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::action::{Target, key_of};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Pending,
    Unknown,
    Running,
    Finished,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PodView {
    pub key: Key,
    pub uid: String,
    pub resource_version: String,
    pub labels: BTreeMap<String, String>,
    pub owners: Vec<OwnerReference>,
    pub node: String,
    pub phase: Phase,
    /// Since when it is ready, if it is.
    pub ready_since: Option<Timestamp>,
    pub terminating: bool,
    pub restarts: i32,
    pub deletion_cost: i64,
    pub created: Timestamp,
}

impl PodView {
    pub fn of(pod: Pod) -> PodView {
        let key = key_of(&pod.metadata);
        let meta = pod.metadata;
        let status = pod.status.unwrap_or_default();
        let created = meta
            .creation_timestamp
            .map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let ready = status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == "Ready");
        let ready = ready.filter(|condition| condition.status == "True");
        let cost = meta
            .annotations
            .as_ref()
            .and_then(|notes| notes.get("controller.kubernetes.io/pod-deletion-cost"));
        PodView {
            key,
            uid: meta.uid.unwrap_or_default(),
            resource_version: meta.resource_version.unwrap_or_default(),
            labels: meta.labels.unwrap_or_default(),
            owners: meta.owner_references.unwrap_or_default(),
            node: pod.spec.and_then(|spec| spec.node_name).unwrap_or_default(),
            phase: match status.phase.as_deref() {
                Some("Running") => Phase::Running,
                Some("Succeeded" | "Failed") => Phase::Finished,
                Some("Unknown") => Phase::Unknown,
                _ => Phase::Pending,
            },
            ready_since: ready.map(|ready| {
                ready
                    .last_transition_time
                    .as_ref()
                    .map_or(created, |time| time.0)
            }),
            terminating: meta.deletion_timestamp.is_some(),
            restarts: status
                .container_statuses
                .iter()
                .flatten()
                .map(|status| status.restart_count)
                .sum(),
            deletion_cost: cost.and_then(|cost| cost.parse().ok()).unwrap_or(0),
            created,
        }
    }

    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owners
            .iter()
            .find(|owner| owner.controller == Some(true))
    }

    /// Counts towards a set's replicas.
    pub fn is_active(&self) -> bool {
        !self.terminating && self.phase != Phase::Finished
    }

    /// When it has been ready for long enough, if it is ready.
    pub fn available_at(&self, min_ready_seconds: i32) -> Option<Timestamp> {
        let since = self.ready_since?;
        Some(
            since
                .checked_add(SignedDuration::from_secs(i64::from(min_ready_seconds)))
                .unwrap_or(Timestamp::MAX),
        )
    }

    pub fn target(&self) -> Target {
        Target {
            resource: PODS,
            key: self.key.clone(),
            uid: self.uid.clone(),
            resource_version: self.resource_version.clone(),
        }
    }
}
