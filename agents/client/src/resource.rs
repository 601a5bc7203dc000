//! The names of the resources the agents work with, and which of them may own others.

use barque_proto::objects as wire;

/// A resource as REST paths name it. Group "" is core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceId {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
}

impl ResourceId {
    pub const fn new(
        group: &'static str,
        version: &'static str,
        plural: &'static str,
    ) -> ResourceId {
        ResourceId {
            group,
            version,
            plural,
        }
    }

    pub(crate) fn to_wire(self) -> Option<wire::Resource> {
        Some(wire::Resource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            resource: self.plural.to_owned(),
        })
    }
}

impl std::fmt::Display for ResourceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.group {
            "" => f.write_str(self.plural),
            group => write!(f, "{}.{group}", self.plural),
        }
    }
}

/// The resources by name.
pub mod resources {
    use super::ResourceId;
    pub const PODS: ResourceId = ResourceId::new("", "v1", "pods");
    pub const NODES: ResourceId = ResourceId::new("", "v1", "nodes");
    pub const NAMESPACES: ResourceId = ResourceId::new("", "v1", "namespaces");
    pub const EVENTS: ResourceId = ResourceId::new("", "v1", "events");
    pub const CONFIGMAPS: ResourceId = ResourceId::new("", "v1", "configmaps");
    pub const SECRETS: ResourceId = ResourceId::new("", "v1", "secrets");
    pub const SERVICES: ResourceId = ResourceId::new("", "v1", "services");
    pub const SERVICE_ACCOUNTS: ResourceId = ResourceId::new("", "v1", "serviceaccounts");
    pub const DEPLOYMENTS: ResourceId = ResourceId::new("apps", "v1", "deployments");
    pub const REPLICASETS: ResourceId = ResourceId::new("apps", "v1", "replicasets");
    pub const LEASES: ResourceId = ResourceId::new("coordination.k8s.io", "v1", "leases");
}

/// What garbage collection and namespace deletion need to know of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindInfo {
    pub resource: ResourceId,
    pub kind: &'static str,
    pub namespaced: bool,
    /// Whether objects of the kind may own or be owned, so that the garbage collector follows them.
    pub collected: bool,
}

const fn kind(
    resource: ResourceId,
    kind: &'static str,
    namespaced: bool,
    collected: bool,
) -> KindInfo {
    KindInfo {
        resource,
        kind,
        namespaced,
        collected,
    }
}

/// All kinds the agents know. One the masters do not serve is harmless: it counts as empty.
pub const KINDS: &[KindInfo] = &[
    kind(resources::NODES, "Node", false, true),
    kind(resources::NAMESPACES, "Namespace", false, true),
    kind(resources::DEPLOYMENTS, "Deployment", true, true),
    kind(resources::REPLICASETS, "ReplicaSet", true, true),
    kind(resources::PODS, "Pod", true, true),
    kind(resources::CONFIGMAPS, "ConfigMap", true, true),
    kind(resources::SECRETS, "Secret", true, true),
    kind(resources::SERVICES, "Service", true, true),
    kind(resources::SERVICE_ACCOUNTS, "ServiceAccount", true, true),
    kind(resources::LEASES, "Lease", true, true),
    // Events refer to objects without being owned by them, and are the most numerous of all.
    kind(resources::EVENTS, "Event", true, false),
];

/// The kind behind a resource.
pub fn kind_info(resource: ResourceId) -> Option<&'static KindInfo> {
    KINDS.iter().find(|info| info.resource == resource)
}

/// The kind an owner reference names; any version of the group will do.
pub fn resource_of_kind(api_version: &str, kind: &str) -> Option<&'static KindInfo> {
    let group = match api_version.split_once('/') {
        Some((group, _)) => group,
        None => "",
    };
    KINDS
        .iter()
        .find(|info| info.kind == kind && info.resource.group == group)
}
