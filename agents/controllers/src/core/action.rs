//! What a controller may order. Each action carries what it was decided on; the executor only carries out.

use std::time::Duration;

use barque_agents_client::core::reflector::Key;
use barque_agents_client::{DeleteOptions, EventType, HasMeta, Propagation, ResourceId, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

/// Exactly one object in exactly one state.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub resource: ResourceId,
    pub key: Key,
    pub uid: String,
    pub resource_version: String,
}

impl Target {
    pub fn of(resource: ResourceId, object: &impl HasMeta) -> Target {
        let meta = object.meta();
        Target {
            resource,
            key: key_of(meta),
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// `count` objects of one shape (with generateName when more than one).
    Create {
        resource: ResourceId,
        namespace: String,
        object: Box<Value>,
        count: usize,
        /// What to do when the name is taken by something else.
        on_collision: Option<Box<Action>>,
    },
    /// A JSON merge patch, only on this state of the object.
    Patch {
        target: Target,
        subresource: &'static str,
        patch: Value,
    },
    /// The whole object (or what the subresource covers); it carries its resourceVersion.
    Replace {
        target: Target,
        subresource: &'static str,
        object: Box<Value>,
    },
    Delete {
        target: Target,
        /// Whether a change since the decision is a conflict, or only another uid.
        exactly: bool,
        propagation: Option<Propagation>,
    },
    /// Nobody speaks for the pod any more: its Ready condition becomes False, the others (the kubelet's) stay.
    PodNotReady { target: Target },
    Event {
        subject: Subject,
        event_type: EventType,
        reason: &'static str,
        message: String,
    },
    /// Look again after this time even if nothing happens.
    LookAgain { after: Duration },
    /// Look again, later and later, until there is nothing left to wait for.
    NotYet,
}

impl Action {
    /// Options that keep a deletion from hitting anything but what was decided on.
    pub fn delete_options(
        target: &Target,
        exactly: bool,
        propagation: Option<Propagation>,
    ) -> DeleteOptions {
        DeleteOptions {
            uid: Some(target.uid.clone()),
            resource_version: exactly.then(|| target.resource_version.clone()),
            grace_seconds: None,
            propagation,
        }
    }
}

pub fn key_of(meta: &ObjectMeta) -> Key {
    Key::new(
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    )
}

/// The one owner that controls an object.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
}

/// How an owner says that it controls what it creates.
pub fn controlled_by<K: k8s_openapi::Metadata<Ty = ObjectMeta>>(owner: &K) -> OwnerReference {
    let meta = owner.metadata();
    OwnerReference {
        api_version: K::API_VERSION.to_owned(),
        kind: K::KIND.to_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The owner references with one more, or without one.
pub fn adopted(owners: &[OwnerReference], owner: OwnerReference) -> Vec<OwnerReference> {
    let others = owners
        .iter()
        .filter(|known| known.uid != owner.uid)
        .cloned();
    others.chain([owner.clone()]).collect()
}

pub fn released(owners: &[OwnerReference], uid: &str) -> Vec<OwnerReference> {
    owners
        .iter()
        .filter(|owner| owner.uid != uid)
        .cloned()
        .collect()
}
