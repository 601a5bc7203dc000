//! The part every object has, and small helpers on it.

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Anything with Kubernetes metadata.
pub trait HasMeta {
    fn meta(&self) -> &ObjectMeta;
}

impl<K: Metadata<Ty = ObjectMeta>> HasMeta for K {
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }
}

/// An object of any kind of which only the metadata matters.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PartialObject {
    #[serde(default)]
    pub metadata: ObjectMeta,
}

impl HasMeta for PartialObject {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// A merge patch that applies only to exactly the object it was decided on: its uid and resourceVersion travel along,
/// so that a change in between is a conflict.
pub fn merge_patch_of(uid: &str, resource_version: &str, mut patch: Value) -> Value {
    let metadata = patch
        .as_object_mut()
        .map(|fields| fields.entry("metadata").or_insert_with(|| json!({})));
    if let Some(Value::Object(metadata)) = metadata {
        metadata.insert("uid".to_owned(), uid.into());
        metadata.insert("resourceVersion".to_owned(), resource_version.into());
    }
    patch
}
