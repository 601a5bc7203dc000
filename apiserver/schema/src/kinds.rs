//! The kinds this server serves: names, scope, verbs, subresources. Discovery, routing and the registry read it.
//! Promise: one entry per served resource; everything else the table knows is codec-only.
//! Not here: fields of the kinds (`table`), behaviour (`registry`).

/// One served resource.
#[derive(Debug)]
pub struct Kind {
    /// "" is the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub list_kind: String,
    pub plural: &'static str,
    pub singular: String,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    pub verbs: &'static [&'static str],
    pub subresources: &'static [Subresource],
}

/// A path below an object. `group`/`version`/`kind` name the type of its body, which need not be the parent's.
#[derive(Debug)]
pub struct Subresource {
    pub name: &'static str,
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub verbs: &'static [&'static str],
}

impl Kind {
    /// "v1" for the core group, else "group/version".
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

const ALL: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
/// Namespaces cannot be deleted as a collection.
const NO_COLLECTION: &[&str] = &[
    "create", "delete", "get", "list", "patch", "update", "watch",
];
const GET_PATCH_UPDATE: &[&str] = &["get", "patch", "update"];

struct Row {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    namespaced: bool,
    verbs: &'static [&'static str],
    subresources: &'static [Subresource],
}

const fn sub(
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
) -> Subresource {
    Subresource {
        name,
        group,
        version,
        kind,
        verbs,
    }
}

const fn row(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short_names: &'static [&'static str],
    namespaced: bool,
) -> Row {
    Row {
        group,
        version: "v1",
        kind,
        plural,
        short_names,
        categories: &[],
        namespaced,
        verbs: ALL,
        subresources: &[],
    }
}

const SERVED: &[Row] = &[
    row("", "ConfigMap", "configmaps", &["cm"], true),
    row("", "Event", "events", &["ev"], true),
    Row {
        verbs: NO_COLLECTION,
        subresources: &[
            sub("finalize", "", "v1", "Namespace", &["update"]),
            sub("status", "", "v1", "Namespace", GET_PATCH_UPDATE),
        ],
        ..row("", "Namespace", "namespaces", &["ns"], false)
    },
    Row {
        subresources: &[sub("status", "", "v1", "Node", GET_PATCH_UPDATE)],
        ..row("", "Node", "nodes", &["no"], false)
    },
    Row {
        categories: &["all"],
        subresources: &[
            sub("binding", "", "v1", "Binding", &["create"]),
            sub("status", "", "v1", "Pod", GET_PATCH_UPDATE),
        ],
        ..row("", "Pod", "pods", &["po"], true)
    },
    row("", "Secret", "secrets", &[], true),
    row("", "ServiceAccount", "serviceaccounts", &["sa"], true),
    Row {
        categories: &["all"],
        subresources: &[sub("status", "", "v1", "Service", GET_PATCH_UPDATE)],
        ..row("", "Service", "services", &["svc"], true)
    },
    Row {
        categories: &["all"],
        subresources: &[
            sub("scale", "autoscaling", "v1", "Scale", GET_PATCH_UPDATE),
            sub("status", "apps", "v1", "Deployment", GET_PATCH_UPDATE),
        ],
        ..row("apps", "Deployment", "deployments", &["deploy"], true)
    },
    Row {
        categories: &["all"],
        subresources: &[
            sub("scale", "autoscaling", "v1", "Scale", GET_PATCH_UPDATE),
            sub("status", "apps", "v1", "ReplicaSet", GET_PATCH_UPDATE),
        ],
        ..row("apps", "ReplicaSet", "replicasets", &["rs"], true)
    },
    row("coordination.k8s.io", "Lease", "leases", &[], true),
    row("events.k8s.io", "Event", "events", &["ev"], true),
];

/// Every served resource, grouped by group-version in discovery order.
pub fn kinds() -> &'static [Kind] {
    static KINDS: std::sync::OnceLock<Vec<Kind>> = std::sync::OnceLock::new();
    KINDS.get_or_init(|| {
        SERVED
            .iter()
            .map(|row| Kind {
                group: row.group,
                version: row.version,
                kind: row.kind,
                list_kind: format!("{}List", row.kind),
                plural: row.plural,
                singular: row.kind.to_lowercase(),
                short_names: row.short_names,
                categories: row.categories,
                namespaced: row.namespaced,
                verbs: row.verbs,
                subresources: row.subresources,
            })
            .collect()
    })
}

/// The kind behind a path such as /apis/apps/v1/…/deployments.
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    kinds()
        .iter()
        .find(|kind| kind.plural == plural && kind.group == group && kind.version == version)
}

/// The kind an object names with its apiVersion and kind.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    kinds()
        .iter()
        .find(|served| served.kind == kind && served.group == group && served.version == version)
}

/// The group-versions served, each once, core first.
pub fn group_versions() -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for kind in kinds() {
        let pair = (kind.group.to_owned(), kind.version.to_owned());
        if !found.contains(&pair) {
            found.push(pair);
        }
    }
    found
}
