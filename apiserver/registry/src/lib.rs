//! barque-apiserver-registry: what differs per resource, one file each.
//! Promise: pure; every served kind of the schema has a strategy and a place in storage.
//! Not here: generic machinery (the gateway), who may do what (rules).

mod access;
mod apps;
mod columns;
mod core;
mod field_error;
mod human;
mod meta;
mod names;
mod pods;
mod selector;
mod strategy;

use std::sync::OnceLock;

use barque_apiserver_schema::{Kind, kinds};

pub use apps::scale;
pub use field_error::FieldError;
pub use pods::binding;
pub use strategy::{Column, Strategy};

/// A served resource: its kind, its rules, and the prefix of its keys.
pub struct Resource {
    pub kind: &'static Kind,
    pub strategy: &'static dyn Strategy,
    /// As kube-apiserver: "/registry/pods", "/registry/minions" for nodes.
    pub storage: &'static str,
}

/// The strategy and the storage prefix of a served kind.
fn entry(group: &str, plural: &str) -> Option<(&'static dyn Strategy, &'static str)> {
    let found: (&'static dyn Strategy, &'static str) = match (group, plural) {
        ("", "configmaps") => (&core::configmaps::ConfigMaps, "/registry/configmaps"),
        ("" | "events.k8s.io", "events") => (&core::events::Events, "/registry/events"),
        ("", "namespaces") => (&core::namespaces::Namespaces, "/registry/namespaces"),
        ("", "nodes") => (&core::nodes::Nodes, "/registry/minions"),
        ("", "pods") => (&pods::Pods, "/registry/pods"),
        ("", "secrets") => (&core::secrets::Secrets, "/registry/secrets"),
        ("", "serviceaccounts") => (
            &core::serviceaccounts::ServiceAccounts,
            "/registry/serviceaccounts",
        ),
        ("", "services") => (&core::services::Services, "/registry/services/specs"),
        ("apps", "deployments") => (&apps::deployments::Deployments, "/registry/deployments"),
        ("apps", "replicasets") => (&apps::replicasets::ReplicaSets, "/registry/replicasets"),
        ("coordination.k8s.io", "leases") => (&core::leases::Leases, "/registry/leases"),
        _ => return None,
    };
    Some(found)
}

/// All served resources, in the schema's order.
pub fn resources() -> &'static [Resource] {
    static RESOURCES: OnceLock<Vec<Resource>> = OnceLock::new();
    RESOURCES.get_or_init(|| {
        kinds()
            .iter()
            .map(|kind| {
                let (strategy, storage) = entry(kind.group, kind.plural).unwrap_or_else(|| {
                    panic!(
                        "{}/{} is served without a strategy",
                        kind.group, kind.plural
                    )
                });
                Resource {
                    kind,
                    strategy,
                    storage,
                }
            })
            .collect()
    })
}

/// The resource behind a path.
pub fn resource(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    resources().iter().find(|resource| {
        let kind = resource.kind;
        kind.plural == plural && kind.group == group && kind.version == version
    })
}

#[cfg(test)]
mod tests;
