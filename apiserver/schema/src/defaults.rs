//! The values Kubernetes fills in for fields a client left out.
//! Promise: defaults belong to types, so a pod template gets the same ones wherever it stands; applying them twice changes
//! nothing.
//! Not here: what strategies set on create, what admission adds, what controllers decide.

use serde_json::{Map, Value, json};

use crate::kinds::Kind;
use crate::normal::DEPTH_MAX;
use crate::quantity::Quantity;
use crate::table::{Message, Shape, Type, table};

/// Fills in the defaults of `kind` in place.
pub fn apply_defaults(kind: &Kind, object: &mut Value) {
    if let (Some(message), Value::Object(fields)) =
        (table().root(&kind.api_version(), kind.kind), object)
    {
        walk(message, fields, 0);
    }
}

/// A type's own defaults first, then those of what it holds, as Kubernetes orders them.
fn walk(message: &Message, object: &mut Map<String, Value>, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    own_defaults(message.name, object);
    for field in &message.fields {
        match (field.ty, field.shape) {
            (Type::Message(id), Shape::One) if field.inline => {
                walk(table().message(id), object, depth + 1)
            }
            (Type::Message(id), Shape::One) => {
                let slot = object.get_mut(field.name).filter(|value| !value.is_null());
                match slot {
                    Some(Value::Object(inner)) => walk(table().message(id), inner, depth + 1),
                    Some(_) => {}
                    None if field.pointer => {}
                    // A struct that is not a pointer is always there.
                    None => {
                        let mut inner = Map::new();
                        walk(table().message(id), &mut inner, depth + 1);
                        object.insert(field.name.to_owned(), Value::Object(inner));
                    }
                }
            }
            (Type::Message(id), Shape::List) => {
                for item in object
                    .get_mut(field.name)
                    .and_then(Value::as_array_mut)
                    .into_iter()
                    .flatten()
                {
                    if let Value::Object(inner) = item {
                        walk(table().message(id), inner, depth + 1);
                    }
                }
            }
            (Type::Quantity, Shape::Map) => {
                let entries = object.get_mut(field.name).and_then(Value::as_object_mut);
                for (_, amount) in entries.into_iter().flatten() {
                    round_up(amount);
                }
            }
            _ => {}
        }
    }
}

/// Resource amounts are kept in thousandths, written in their shortest form.
fn round_up(amount: &mut Value) {
    if let Some(quantity) = amount.as_str().and_then(Quantity::parse) {
        *amount = Value::String(quantity.canonical());
    }
}

fn is_unset(object: &Map<String, Value>, name: &str) -> bool {
    match object.get(name) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        _ => false,
    }
}

/// For pointers: only absence counts.
fn is_absent(object: &Map<String, Value>, name: &str) -> bool {
    object.get(name).is_none_or(Value::is_null)
}

fn set(object: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    object.insert(name.to_owned(), value.into());
}

fn default_text(object: &mut Map<String, Value>, name: &str, value: &str) {
    if is_unset(object, name) {
        set(object, name, value);
    }
}

fn default_pointer(object: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    if is_absent(object, name) {
        set(object, name, value);
    }
}

fn default_number(object: &mut Map<String, Value>, name: &str, value: i64) {
    if value != 0 && object.get(name).and_then(Value::as_i64).unwrap_or(0) == 0 {
        set(object, name, value);
    }
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn own_defaults(type_name: &str, object: &mut Map<String, Value>) {
    match type_name {
        "core.v1.Pod" => pod(object),
        "core.v1.PodSpec" => pod_spec(object),
        "core.v1.Container" | "core.v1.EphemeralContainerCommon" => container(object),
        "core.v1.ContainerPort" => default_text(object, "protocol", "TCP"),
        "core.v1.Probe" => {
            default_number(object, "timeoutSeconds", 1);
            default_number(object, "periodSeconds", 10);
            default_number(object, "successThreshold", 1);
            default_number(object, "failureThreshold", 3);
        }
        "core.v1.HTTPGetAction" => {
            default_text(object, "path", "/");
            default_text(object, "scheme", "HTTP");
        }
        "core.v1.GRPCAction" => default_pointer(object, "service", ""),
        "core.v1.ObjectFieldSelector" => default_text(object, "apiVersion", "v1"),
        "core.v1.Volume" => volume(object),
        "core.v1.HostPathVolumeSource" => default_pointer(object, "type", ""),
        "core.v1.SecretVolumeSource"
        | "core.v1.ConfigMapVolumeSource"
        | "core.v1.DownwardAPIVolumeSource"
        | "core.v1.ProjectedVolumeSource" => default_pointer(object, "defaultMode", 0o644),
        "core.v1.ServiceAccountTokenProjection" => {
            default_pointer(object, "expirationSeconds", 3600)
        }
        "core.v1.ISCSIVolumeSource" | "core.v1.ISCSIPersistentVolumeSource" => {
            default_text(object, "iscsiInterface", "default");
        }
        "core.v1.RBDVolumeSource" | "core.v1.RBDPersistentVolumeSource" => {
            default_text(object, "pool", "rbd");
            default_text(object, "user", "admin");
            default_text(object, "keyring", "/etc/ceph/keyring");
        }
        "core.v1.ScaleIOVolumeSource" | "core.v1.ScaleIOPersistentVolumeSource" => {
            default_text(object, "storageMode", "ThinProvisioned");
            default_text(object, "fsType", "xfs");
        }
        "core.v1.AzureDiskVolumeSource" => {
            default_pointer(object, "cachingMode", "ReadWrite");
            default_pointer(object, "fsType", "ext4");
            default_pointer(object, "readOnly", false);
            default_pointer(object, "kind", "Shared");
        }
        "core.v1.PersistentVolumeClaimSpec" => default_pointer(object, "volumeMode", "Filesystem"),
        "core.v1.Service" => service(object),
        "core.v1.Secret" => default_text(object, "type", "Opaque"),
        "core.v1.Namespace" => namespace(object),
        "core.v1.NamespaceStatus" => default_text(object, "phase", "Active"),
        "core.v1.NodeStatus" => {
            if let (true, Some(capacity)) = (
                is_absent(object, "allocatable"),
                object.get("capacity").cloned(),
            ) {
                set(object, "allocatable", capacity);
            }
        }
        "core.v1.EndpointPort" => default_text(object, "protocol", "TCP"),
        "apps.v1.DeploymentSpec" => deployment(object),
        "apps.v1.ReplicaSetSpec" => default_pointer(object, "replicas", 1),
        _ => {}
    }
}

fn pod(object: &mut Map<String, Value>) {
    let spec = object.entry("spec").or_insert_with(|| json!({}));
    let Value::Object(spec) = spec else { return };
    for list in ["containers", "initContainers"] {
        for container in spec
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            requests_from_limits(container);
        }
    }
    default_pointer(spec, "enableServiceLinks", true);
    if spec
        .get("hostNetwork")
        .and_then(Value::as_bool)
        .unwrap_or(false)
    {
        for list in ["containers", "initContainers"] {
            for container in spec
                .get_mut(list)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                for port in container
                    .get_mut("ports")
                    .and_then(Value::as_array_mut)
                    .into_iter()
                    .flatten()
                {
                    let number = port.get("containerPort").and_then(Value::as_i64);
                    if let (Value::Object(port), Some(number)) = (port, number) {
                        default_number(port, "hostPort", number);
                    }
                }
            }
        }
    }
}

/// Only pods, not templates: a limit without a request requests that much.
fn requests_from_limits(container: &mut Value) {
    let Some(Value::Object(resources)) = container.get_mut("resources") else {
        return;
    };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else {
        return;
    };
    let requests = resources.entry("requests").or_insert_with(|| json!({}));
    if requests.is_null() {
        *requests = json!({});
    }
    if let Value::Object(requests) = requests {
        for (name, amount) in limits {
            requests.entry(name).or_insert(amount);
        }
    }
}

fn pod_spec(object: &mut Map<String, Value>) {
    default_text(object, "dnsPolicy", "ClusterFirst");
    default_text(object, "restartPolicy", "Always");
    default_pointer(object, "securityContext", json!({}));
    default_pointer(object, "terminationGracePeriodSeconds", 30);
    default_text(object, "schedulerName", "default-scheduler");
    // Two names of one field; the old one mirrors the new one.
    let account = match text(object, "serviceAccountName") {
        "" => text(object, "serviceAccount").to_owned(),
        name => name.to_owned(),
    };
    if !account.is_empty() {
        set(object, "serviceAccountName", account.clone());
        set(object, "serviceAccount", account);
    }
}

fn container(object: &mut Map<String, Value>) {
    let policy = pull_policy(text(object, "image"));
    default_text(object, "imagePullPolicy", policy);
    default_text(object, "terminationMessagePath", "/dev/termination-log");
    default_text(object, "terminationMessagePolicy", "File");
}

/// An image that names no tag or digest means `latest`, and latest is always pulled.
fn pull_policy(image: &str) -> &'static str {
    if image_tag(image) == Some("latest") {
        "Always"
    } else {
        "IfNotPresent"
    }
}

/// The tag of an image reference; None if it has only a digest, or is no reference at all.
fn image_tag(image: &str) -> Option<&str> {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last_slash = name.rfind('/').map_or(0, |at| at + 1);
    let (repository, tag) = match name[last_slash..].find(':') {
        Some(colon) => (
            &name[..last_slash + colon],
            Some(&name[last_slash + colon + 1..]),
        ),
        None => (name, None),
    };
    let tag_ok = |tag: &str| {
        !tag.is_empty()
            && tag.len() <= 128
            && !tag.starts_with(['.', '-'])
            && tag
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    if !repository_ok(repository) || tag.is_some_and(|tag| !tag_ok(tag)) {
        return None;
    }
    match (tag, digest) {
        (Some(tag), _) => Some(tag),
        (None, None) => Some("latest"),
        (None, Some(_)) => None,
    }
}

/// `[host/]path`: a first part with a dot, a port or "localhost" is a host and may have capitals; paths may not.
fn repository_ok(repository: &str) -> bool {
    let path = match repository.split_once('/') {
        Some((host, rest))
            if host.contains(['.', ':']) || host == "localhost" || host.to_lowercase() != host =>
        {
            rest
        }
        _ => repository,
    };
    // Runs of letters and digits, joined by one dot, one or two underscores, or any number of dashes.
    let part_ok = |part: &str| {
        let alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let joints_ok = part
            .split(alnum)
            .filter(|joint| !joint.is_empty())
            .all(|joint| matches!(joint, "." | "_" | "__") || joint.bytes().all(|b| b == b'-'));
        joints_ok && part.starts_with(alnum) && part.ends_with(alnum)
    };
    !path.is_empty() && path.split('/').all(part_ok)
}

fn volume(object: &mut Map<String, Value>) {
    let sources = table()
        .by_name("core.v1.VolumeSource")
        .map(|message| &message.fields);
    let has_source = sources
        .into_iter()
        .flatten()
        .any(|field| !is_absent(object, field.name));
    if !has_source {
        set(object, "emptyDir", json!({}));
    }
}

fn namespace(object: &mut Map<String, Value>) {
    let name = object
        .get("metadata")
        .and_then(|meta| meta.get("name"))
        .and_then(Value::as_str)
        .unwrap_or_default();
    if name.is_empty() {
        return;
    }
    let name = name.to_owned();
    let Some(Value::Object(metadata)) = object.get_mut("metadata") else {
        return;
    };
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if labels.is_null() {
        *labels = json!({});
    }
    if let Value::Object(labels) = labels {
        set(labels, "kubernetes.io/metadata.name", name);
    }
}

fn service(object: &mut Map<String, Value>) {
    if let Value::Object(spec) = object.entry("spec").or_insert_with(|| json!({})) {
        service_spec(spec);
        if text(spec, "type") != "LoadBalancer" {
            return;
        }
    }
    let ingress = object
        .get_mut("status")
        .and_then(|status| status.pointer_mut("/loadBalancer/ingress"));
    for entry in ingress
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        if !is_unset(entry, "ip") {
            default_pointer(entry, "ipMode", "VIP");
        }
    }
}

fn service_spec(spec: &mut Map<String, Value>) {
    default_text(spec, "sessionAffinity", "None");
    if text(spec, "sessionAffinity") == "None" {
        spec.shift_remove("sessionAffinityConfig");
    } else if text(spec, "sessionAffinity") == "ClientIP" {
        let seconds = spec
            .get("sessionAffinityConfig")
            .and_then(|config| config.pointer("/clientIP/timeoutSeconds"))
            .is_some();
        if !seconds {
            set(
                spec,
                "sessionAffinityConfig",
                json!({"clientIP": {"timeoutSeconds": 10800}}),
            );
        }
    }
    default_text(spec, "type", "ClusterIP");
    for port in spec
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let Value::Object(port) = port else { continue };
        default_text(port, "protocol", "TCP");
        let target_unset = is_unset(port, "targetPort")
            || port.get("targetPort").and_then(Value::as_i64) == Some(0);
        if let (true, Some(number)) = (target_unset, port.get("port").cloned()) {
            set(port, "targetPort", number);
        }
    }
    let kind = text(spec, "type").to_owned();
    let has_external_ips = spec
        .get("externalIPs")
        .and_then(Value::as_array)
        .is_some_and(|ips| !ips.is_empty());
    let external =
        kind == "LoadBalancer" || kind == "NodePort" || (kind == "ClusterIP" && has_external_ips);
    if external {
        default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if ["NodePort", "LoadBalancer", "ClusterIP"].contains(&kind.as_str()) {
        default_pointer(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default_pointer(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn deployment(spec: &mut Map<String, Value>) {
    default_pointer(spec, "replicas", 1);
    let strategy = spec.entry("strategy").or_insert_with(|| json!({}));
    if strategy.is_null() {
        *strategy = json!({});
    }
    if let Value::Object(strategy) = strategy {
        default_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            default_pointer(strategy, "rollingUpdate", json!({}));
            if let Some(Value::Object(rolling)) = strategy.get_mut("rollingUpdate") {
                default_pointer(rolling, "maxUnavailable", "25%");
                default_pointer(rolling, "maxSurge", "25%");
            }
        }
    }
    default_pointer(spec, "revisionHistoryLimit", 10);
    default_pointer(spec, "progressDeadlineSeconds", 600);
}

#[cfg(test)]
mod tests;
