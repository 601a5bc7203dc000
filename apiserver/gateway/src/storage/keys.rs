//! Where objects live: kube-apiserver's layout, so that its tools and a migration find them.

use barque_apiserver_registry::Resource;
use barque_store_state::KeyRange;
use bytes::Bytes;

/// `/registry/pods/default/web-1`, `/registry/minions/n1`.
pub fn object(resource: &Resource, namespace: Option<&str>, name: &str) -> Bytes {
    let mut key = collection_prefix(resource, namespace);
    key.push_str(name);
    key.into()
}

/// Everything of a resource, or of one namespace of it.
pub fn collection(resource: &Resource, namespace: Option<&str>) -> KeyRange {
    KeyRange::prefix(collection_prefix(resource, namespace).as_bytes())
}

pub fn collection_prefix(resource: &Resource, namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("{}/{namespace}/", resource.storage),
        None => format!("{}/", resource.storage),
    }
}

/// Reads the name back from a key: its last segment.
pub fn name_of(key: &[u8]) -> &str {
    let start = key.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
    std::str::from_utf8(&key[start..]).unwrap_or_default()
}
