//! The fixed policies: what every authenticated user, the scheduler, the controllers and a node may do.
//! They stand in a table so that an RBAC authorizer can take their place without moving anything else.

use crate::{Attributes, User};

/// One grant: all of the verbs on all of the resources.
struct Rule {
    verbs: &'static [&'static str],
    /// `*` is every group.
    groups: &'static [&'static str],
    /// `pods`, `pods/status`; `*` is every resource and subresource.
    resources: &'static [&'static str],
    scope: Scope,
}

/// Which objects of the resources a grant covers.
#[derive(Clone, Copy)]
enum Scope {
    All,
    /// The object named as the requesting node. A create names none yet: admission looks at the object itself.
    OwnName,
    /// As `OwnName`, in this namespace only.
    OwnNameIn(&'static str),
    /// Lists and watches must be narrowed to the requesting node's pods.
    OwnPods,
}

const READ: &[&str] = &["get", "list", "watch"];
const WRITE_EVENTS: Rule = Rule {
    verbs: &["create", "patch", "update"],
    groups: &["", "events.k8s.io"],
    resources: &["events"],
    scope: Scope::All,
};
const ELECT_LEADER: Rule = Rule {
    verbs: &["get", "list", "watch", "create", "update", "patch"],
    groups: &["coordination.k8s.io"],
    resources: &["leases"],
    scope: Scope::All,
};

const SCHEDULER: &[Rule] = &[
    Rule {
        verbs: READ,
        groups: &["", "apps"],
        resources: &[
            "pods",
            "nodes",
            "namespaces",
            "services",
            "replicasets",
            "statefulsets",
        ],
        scope: Scope::All,
    },
    Rule {
        verbs: &["create"],
        groups: &[""],
        resources: &["pods/binding", "bindings"],
        scope: Scope::All,
    },
    Rule {
        verbs: &["update", "patch"],
        groups: &[""],
        resources: &["pods/status"],
        scope: Scope::All,
    },
    // Preemption.
    Rule {
        verbs: &["delete"],
        groups: &[""],
        resources: &["pods"],
        scope: Scope::All,
    },
    ELECT_LEADER,
    WRITE_EVENTS,
];

const CONTROLLERS: &[Rule] = &[
    // The garbage collector and the namespace controller act on every kind.
    Rule {
        verbs: &[
            "get",
            "list",
            "watch",
            "update",
            "patch",
            "delete",
            "deletecollection",
        ],
        groups: &["*"],
        resources: &["*"],
        scope: Scope::All,
    },
    Rule {
        verbs: &["create"],
        groups: &["", "apps"],
        resources: &[
            "pods",
            "replicasets",
            "configmaps",
            "serviceaccounts",
            "endpoints",
        ],
        scope: Scope::All,
    },
    ELECT_LEADER,
    WRITE_EVENTS,
];

const NODE: &[Rule] = &[
    Rule {
        verbs: &["get", "list", "watch", "create", "update", "patch"],
        groups: &[""],
        resources: &["nodes"],
        scope: Scope::OwnName,
    },
    Rule {
        verbs: &["get", "update", "patch"],
        groups: &[""],
        resources: &["nodes/status"],
        scope: Scope::OwnName,
    },
    Rule {
        verbs: &["get", "create", "update", "patch", "delete"],
        groups: &["coordination.k8s.io"],
        resources: &["leases"],
        scope: Scope::OwnNameIn("kube-node-lease"),
    },
    Rule {
        verbs: &["get", "list", "watch", "delete"],
        groups: &[""],
        resources: &["pods"],
        scope: Scope::OwnPods,
    },
    // Whether the pod is on this node is admission's question: only the object says.
    Rule {
        verbs: &["get", "update", "patch"],
        groups: &[""],
        resources: &["pods/status"],
        scope: Scope::All,
    },
    Rule {
        verbs: READ,
        groups: &[""],
        resources: &["services"],
        scope: Scope::All,
    },
    WRITE_EVENTS,
];

/// Paths that every authenticated user may read.
const OPEN_PATHS: &[&str] = &[
    "/api", "/apis", "/openapi", "/version", "/healthz", "/livez", "/readyz",
];

/// Whether a fixed policy lets `user` do this. Masters never come here.
pub(crate) fn allows(user: &User, attributes: &Attributes) -> bool {
    if !attributes.is_resource() {
        return !attributes.mutates() && is_open_path(&attributes.path);
    }
    let rules = match user.name.as_str() {
        "system:kube-scheduler" => SCHEDULER,
        "system:kube-controller-manager" => CONTROLLERS,
        _ if user.node_name().is_some() => NODE,
        _ => return false,
    };
    rules.iter().any(|rule| rule.covers(user, attributes))
}

fn is_open_path(path: &str) -> bool {
    OPEN_PATHS.iter().any(|open| {
        path.strip_prefix(open)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

impl Rule {
    fn covers(&self, user: &User, attributes: &Attributes) -> bool {
        let names = |list: &[&str], wanted: &str| list.iter().any(|x| *x == "*" || *x == wanted);
        names(self.verbs, &attributes.verb)
            && names(self.groups, &attributes.group)
            && names(self.resources, &attributes.resource_path())
            && self.scope.covers(user, attributes)
    }
}

impl Scope {
    fn covers(self, user: &User, attributes: &Attributes) -> bool {
        let Some(node) = user.node_name() else {
            return matches!(self, Scope::All);
        };
        let own_name = attributes.name == node || attributes.verb == "create";
        match self {
            Scope::All => true,
            Scope::OwnName => own_name,
            Scope::OwnNameIn(namespace) => own_name && attributes.namespace == namespace,
            Scope::OwnPods => match attributes.verb.as_str() {
                "list" | "watch" => attributes.has_field_term("spec.nodeName", node),
                _ => true,
            },
        }
    }
}
