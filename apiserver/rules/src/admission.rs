//! What an object must satisfy beyond being well formed: a living namespace, an identity, a node's own things.
//! Promise: changes first ([`stamp_new`]), then checks, so that the checks see what is stored.
//! Not here: defaults and validation of fields (the registry), clocks and chance (arguments).

use serde_json::{Map, Value};

use crate::{Attributes, User};

/// Characters of generated names: no vowels, no look-alikes, as Kubernetes.
const SUFFIX_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// A generated name stays a DNS label: 63 characters with the suffix.
const GENERATED_BASE_MAX: usize = 63 - SUFFIX_LENGTH;

/// Namespaces the cluster cannot live without.
const IMMORTAL_NAMESPACES: &[&str] = &["default", "kube-system", "kube-public"];
/// Created when the gateway starts.
pub const SYSTEM_NAMESPACES: &[&str] =
    &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Why admission turned a request down. The gateway adds the object's name and makes a Status of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("namespaces {0:?} not found")]
    NamespaceMissing(String),
    /// 403 with cause NamespaceTerminating.
    #[error("unable to create new content in namespace {0} because it is being terminated")]
    NamespaceTerminating(String),
    #[error("{0}")]
    Forbidden(String),
}

/// Nothing is created in a namespace that is missing or going away.
pub fn namespace_alive(name: &str, namespace: Option<&Value>) -> Result<(), Refused> {
    let Some(namespace) = namespace else {
        return Err(Refused::NamespaceMissing(name.to_owned()));
    };
    let terminating = namespace.pointer("/status/phase").and_then(Value::as_str)
        == Some("Terminating")
        || namespace
            .pointer("/metadata/deletionTimestamp")
            .is_some_and(|at| !at.is_null());
    if terminating {
        return Err(Refused::NamespaceTerminating(name.to_owned()));
    }
    Ok(())
}

pub fn namespace_deletable(name: &str) -> Result<(), Refused> {
    if IMMORTAL_NAMESPACES.contains(&name) {
        return Err(Refused::Forbidden(
            "this namespace may not be deleted".to_owned(),
        ));
    }
    Ok(())
}

/// Five letters chosen by 64 random bits.
pub fn name_suffix(random: u64) -> String {
    let base = SUFFIX_ALPHABET.len() as u64;
    let mut rest = random;
    (0..SUFFIX_LENGTH)
        .map(|_| {
            let letter = SUFFIX_ALPHABET[(rest % base) as usize];
            rest /= base;
            char::from(letter)
        })
        .collect()
}

/// `generateName` with its suffix, cut so that the whole stays a label.
pub fn generated_name(generate_name: &str, random: u64) -> String {
    let mut base = generate_name;
    if base.len() > GENERATED_BASE_MAX {
        let cut = (0..=GENERATED_BASE_MAX)
            .rev()
            .find(|at| base.is_char_boundary(*at))
            .unwrap_or(0);
        base = &base[..cut];
    }
    format!("{base}{}", name_suffix(random))
}

/// What the server alone decides about a new object.
pub struct Identity<'a> {
    pub uid: &'a str,
    /// RFC 3339, whole seconds.
    pub now: &'a str,
    /// `None` for cluster-scoped kinds.
    pub namespace: Option<&'a str>,
    /// Used when the object has a generateName and no name.
    pub random: u64,
}

/// Gives a new object its identity, and takes away what a client may not set.
pub fn stamp_new(object: &mut Value, identity: &Identity<'_>) {
    let metadata = metadata_mut(object);
    for server_owned in [
        "resourceVersion",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
    ] {
        metadata.shift_remove(server_owned);
    }
    let named = metadata
        .get("name")
        .and_then(Value::as_str)
        .is_some_and(|name| !name.is_empty());
    let generate_name = metadata
        .get("generateName")
        .and_then(Value::as_str)
        .filter(|base| !base.is_empty());
    if let (false, Some(base)) = (named, generate_name) {
        let name = generated_name(base, identity.random);
        metadata.insert("name".to_owned(), name.into());
    }
    match identity.namespace {
        Some(namespace) => metadata.insert("namespace".to_owned(), namespace.into()),
        None => metadata.shift_remove("namespace"),
    };
    metadata.insert("uid".to_owned(), identity.uid.into());
    metadata.insert("creationTimestamp".to_owned(), identity.now.into());
}

/// What an update may never change: the server puts it back as it was.
pub fn keep_identity(new: &mut Value, old: &Value) {
    let empty = Map::new();
    let old = old
        .get("metadata")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    let metadata = metadata_mut(new);
    metadata.shift_remove("selfLink");
    metadata.shift_remove("managedFields");
    for kept in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "generateName",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        match old.get(kept) {
            Some(value) => metadata.insert(kept.to_owned(), value.clone()),
            None => metadata.shift_remove(kept),
        };
    }
}

/// An object that is going away takes no new finalizers. Returns the ones that were added.
pub fn finalizers_added_while_deleting(new: &Value, old: &Value) -> Vec<String> {
    let deleting = old
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(|at| !at.is_null());
    if !deleting {
        return Vec::new();
    }
    let before = finalizers(old);
    finalizers(new)
        .into_iter()
        .filter(|name| !before.contains(name))
        .collect()
}

pub fn finalizers(object: &Value) -> Vec<String> {
    let list = object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

/// A node touches its own Node, its own Lease and the pods bound to it: what only the object itself can tell.
/// `object`: the new object of a create, the existing one of everything else.
pub fn node_restriction(
    user: &User,
    attributes: &Attributes,
    object: &Value,
) -> Result<(), Refused> {
    let Some(node) = user.node_name() else {
        return Ok(());
    };
    let name = object
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    match (attributes.group.as_str(), attributes.resource.as_str()) {
        ("", "pods") if attributes.verb != "create" => {
            let bound_to = object
                .pointer("/spec/nodeName")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if bound_to == node {
                return Ok(());
            }
            Err(Refused::Forbidden(format!(
                "node {node:?} can only {} pods with spec.nodeName set to itself",
                attributes.verb
            )))
        }
        ("", "nodes") if name != node => Err(Refused::Forbidden(format!(
            "node {node:?} is not allowed to modify node {name:?}"
        ))),
        ("coordination.k8s.io", "leases") if name != node => Err(Refused::Forbidden(format!(
            "can only access node lease with the same name as the requesting node: {node:?}"
        ))),
        _ => Ok(()),
    }
}

/// The object's metadata, made where it is missing; the object must be a JSON object.
fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let metadata = &mut object["metadata"];
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    metadata
        .as_object_mut()
        .expect("metadata was made an object above")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_is_created_where_nobody_lives() {
        let missing = namespace_alive("x", None).unwrap_err();
        assert_eq!(missing.to_string(), r#"namespaces "x" not found"#);
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(
            namespace_alive("x", Some(&going)),
            Err(Refused::NamespaceTerminating("x".to_owned()))
        );
        assert_eq!(namespace_alive("x", Some(&json!({}))), Ok(()));
    }

    #[test]
    fn generated_names_are_labels_of_the_safe_alphabet() {
        let long = generated_name(&"a".repeat(80), u64::MAX);
        assert_eq!(long.len(), 63);
        for random in [0, 1, 12_345_678_901, u64::MAX] {
            let suffix = name_suffix(random);
            assert_eq!(suffix.len(), 5);
            assert!(suffix.bytes().all(|b| SUFFIX_ALPHABET.contains(&b)));
        }
        assert_ne!(name_suffix(1), name_suffix(2));
    }

    #[test]
    fn a_client_cannot_choose_uid_or_times() {
        let mut pod = json!({"metadata": {"generateName": "web-", "uid": "mine", "creationTimestamp": null,
            "deletionTimestamp": "2020-01-01T00:00:00Z", "resourceVersion": "7"}});
        let identity = Identity {
            uid: "u",
            now: "2026-01-01T00:00:00Z",
            namespace: Some("default"),
            random: 0,
        };
        stamp_new(&mut pod, &identity);
        assert_eq!(
            pod,
            json!({"metadata": {"generateName": "web-", "name": "web-bbbbb", "namespace": "default",
            "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}})
        );
    }

    #[test]
    fn identity_survives_an_update() {
        let old = json!({"metadata": {"name": "a", "uid": "u", "creationTimestamp": "t"}});
        let mut new =
            json!({"metadata": {"name": "a", "deletionTimestamp": "x", "labels": {"k": "v"}}});
        keep_identity(&mut new, &old);
        assert_eq!(
            new,
            json!({"metadata": {"name": "a", "labels": {"k": "v"}, "uid": "u", "creationTimestamp": "t"}})
        );
    }

    #[test]
    fn a_dying_object_takes_no_new_finalizers() {
        let dying = json!({"metadata": {"deletionTimestamp": "t", "finalizers": ["a"]}});
        let wants = json!({"metadata": {"finalizers": ["a", "b"]}});
        assert_eq!(finalizers_added_while_deleting(&wants, &dying), ["b"]);
        assert!(finalizers_added_while_deleting(&wants, &json!({"metadata": {}})).is_empty());
    }

    #[test]
    fn a_node_cannot_touch_another_nodes_pod() {
        let kubelet =
            User::from_subject("system:node:n1", vec!["system:nodes".to_owned()]).unwrap();
        let attributes = Attributes {
            verb: "patch".to_owned(),
            resource: "pods".to_owned(),
            subresource: "status".to_owned(),
            ..Attributes::default()
        };
        let pod = |node: &str| json!({"metadata": {"name": "p"}, "spec": {"nodeName": node}});
        assert_eq!(node_restriction(&kubelet, &attributes, &pod("n1")), Ok(()));
        assert!(node_restriction(&kubelet, &attributes, &pod("n2")).is_err());
    }
}
