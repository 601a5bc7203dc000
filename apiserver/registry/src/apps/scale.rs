//! The scale subresource: one number in, two numbers and a selector out, as autoscaling/v1 Scale.

use serde_json::{Map, Value, json};

use crate::access::{child, number, present};
use crate::field_error::FieldError;
use crate::selector;

/// The Scale of a Deployment or ReplicaSet.
pub fn get(obj: &Value) -> Value {
    let mut metadata = Map::new();
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(value) = present(obj, &format!("/metadata/{field}")) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let mut spec = Map::new();
    let replicas = number(obj, "/spec/replicas");
    if replicas != 0 {
        spec.insert("replicas".to_owned(), Value::from(replicas));
    }
    let mut status = Map::new();
    status.insert(
        "replicas".to_owned(),
        Value::from(number(obj, "/status/replicas")),
    );
    let shown = selector::format(obj.pointer("/spec/selector").unwrap_or(&Value::Null));
    if !shown.is_empty() {
        status.insert("selector".to_owned(), Value::from(shown));
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// Takes over the wanted number of replicas; a Scale without one means zero.
pub fn apply(obj: &mut Value, scale: &Value) -> Result<(), FieldError> {
    let wanted = number(scale, "/spec/replicas");
    if wanted < 0 {
        let why = "must be greater than or equal to 0";
        return Err(FieldError::invalid(
            "spec.replicas",
            &wanted.to_string(),
            why,
        ));
    }
    child(obj, "spec").insert("replicas".to_owned(), Value::from(wanted));
    Ok(())
}
