//! ReplicaSets.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::template;
use crate::access::{bump_generation, copy_field, copy_metadata, number, same, set_generation};
use crate::columns::{self, AGE, NAME, count_column, wide_column};
use crate::field_error::FieldError;
use crate::strategy::{Column, Strategy};
use crate::{meta, names, selector};

pub struct ReplicaSets;

const COLUMNS: &[Column] = &[
    NAME,
    count_column("Desired", "How many pods there should be."),
    count_column("Current", "How many pods there are."),
    count_column("Ready", "How many of them are ready."),
    AGE,
    wide_column("Containers", "Names of the template's containers."),
    wide_column("Images", "Images of the template's containers."),
    wide_column("Selector", "Which pods belong to it."),
];

impl Strategy for ReplicaSets {
    fn prepare_for_create(&self, obj: &mut Value) {
        obj["status"] = json!({"replicas": 0});
        set_generation(obj, 1);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value) {
        copy_field(new, old, "status");
        let changed = !same(new.get("spec"), old.get("spec"));
        bump_generation(new, old, changed);
    }

    fn prepare_for_status_update(&self, new: &mut Value, old: &Value) {
        copy_field(new, old, "spec");
        copy_metadata(new, old, "generation");
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errors = meta::validate(obj, true, names::dns_subdomain);
        errors.extend(spec_errors(obj));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = meta::validate_update(new, old);
        errors.extend(spec_errors(new));
        errors.extend(template::selector_unchanged(new, old));
        errors
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = meta::validate_update(new, old);
        let counts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
        errors.extend(template::status_counts(new, &counts));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let [containers, images] = columns::template_cells(obj);
        let shown = selector::format(&obj["spec"]["selector"]);
        vec![
            columns::name(obj),
            Value::from(number(obj, "/spec/replicas")),
            Value::from(number(obj, "/status/replicas")),
            Value::from(number(obj, "/status/readyReplicas")),
            columns::age(obj, now),
            containers,
            images,
            columns::or_none(&shown),
        ]
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        let mut fields = columns::metadata_fields(obj);
        fields.push((
            "status.replicas",
            number(obj, "/status/replicas").to_string(),
        ));
        fields
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["metadata.name", "metadata.namespace", "status.replicas"]
    }
}

fn spec_errors(obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["replicas", "minReadySeconds"] {
        errors.extend(meta::nonnegative(
            obj,
            &format!("/spec/{field}"),
            &format!("spec.{field}"),
        ));
    }
    errors.extend(template::validate(obj));
    errors
}
