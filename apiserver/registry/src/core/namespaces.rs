//! Namespaces: born Active with the finalizer that keeps them until their content is gone.
//! Not here: the two steps of their deletion (the gateway and the namespace controller).

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{child, copy_field, text};
use crate::columns::{self, AGE, NAME, text_column};
use crate::field_error::FieldError;
use crate::strategy::{Column, Strategy};
use crate::{meta, names};

pub struct Namespaces;

const COLUMNS: &[Column] = &[NAME, text_column("Status", "Active, or Terminating."), AGE];

impl Strategy for Namespaces {
    fn prepare_for_create(&self, obj: &mut Value) {
        obj["status"] = json!({"phase": "Active"});
        let finalizers = child(obj, "spec")
            .entry("finalizers")
            .or_insert_with(|| json!([]));
        if !finalizers.is_array() {
            *finalizers = json!([]);
        }
        if let Value::Array(finalizers) = finalizers
            && !finalizers.iter().any(|finalizer| finalizer == "kubernetes")
        {
            finalizers.push(Value::from("kubernetes"));
        }
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value) {
        copy_field(new, old, "spec");
        copy_field(new, old, "status");
    }

    fn prepare_for_status_update(&self, new: &mut Value, old: &Value) {
        copy_field(new, old, "spec");
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errors = meta::validate(obj, false, names::dns_label);
        for finalizer in crate::access::list(obj, "/spec/finalizers") {
            let finalizer = finalizer.as_str().unwrap_or_default();
            errors.extend(meta::invalid_each(
                "spec.finalizers",
                finalizer,
                names::qualified_name(finalizer),
            ));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        meta::validate_update(new, old)
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = meta::validate_update(new, old);
        let deleting = !text(new, "/metadata/deletionTimestamp").is_empty();
        let phase = text(new, "/status/phase");
        let shown = crate::field_error::quoted(phase);
        if !deleting && phase != "Active" {
            let why = "may only be 'Active' if `deletionTimestamp` is empty";
            errors.push(FieldError::invalid("status.Phase", &shown, why));
        }
        if deleting && phase != "Terminating" {
            let why = "may only be 'Terminating' if `deletionTimestamp` is not empty";
            errors.push(FieldError::invalid("status.Phase", &shown, why));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            columns::name(obj),
            Value::from(text(obj, "/status/phase")),
            columns::age(obj, now),
        ]
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        vec![
            ("metadata.name", text(obj, "/metadata/name").to_owned()),
            ("status.phase", text(obj, "/status/phase").to_owned()),
            // The name once more: what the client libraries of old asked for.
            ("name", text(obj, "/metadata/name").to_owned()),
        ]
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["metadata.name", "status.phase", "name"]
    }
}
