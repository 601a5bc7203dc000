//! Deployments.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::template;
use crate::access::{
    bump_generation, copy_field, copy_metadata, number, present, same, set_generation, text,
};
use crate::columns::{self, AGE, METADATA_FIELDS, NAME, text_column, wide_column};
use crate::field_error::{FieldError, quoted, shown_int_or_string};
use crate::strategy::{Column, Strategy};
use crate::{meta, names, selector};

pub struct Deployments;

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Ready", "Pods that are ready, of how many wanted."),
    text_column("Up-to-date", "Pods of the current template."),
    text_column("Available", "Pods ready for long enough."),
    AGE,
    wide_column("Containers", "Names of the template's containers."),
    wide_column("Images", "Images of the template's containers."),
    wide_column("Selector", "Which pods belong to it."),
];

impl Strategy for Deployments {
    fn prepare_for_create(&self, obj: &mut Value) {
        obj["status"] = json!({});
        set_generation(obj, 1);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value) {
        copy_field(new, old, "status");
        // Annotations count as well: the controller copies them to ReplicaSets.
        let annotations = "/metadata/annotations";
        let changed = !same(new.get("spec"), old.get("spec"))
            || !same(new.pointer(annotations), old.pointer(annotations));
        bump_generation(new, old, changed);
    }

    fn prepare_for_status_update(&self, new: &mut Value, old: &Value) {
        copy_field(new, old, "spec");
        copy_metadata(new, old, "labels");
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
        let counts = [
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
        ];
        errors.extend(template::status_counts(new, &counts));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let count = |field: &str| number(obj, &format!("/status/{field}"));
        let [containers, images] = columns::template_cells(obj);
        vec![
            columns::name(obj),
            Value::from(format!(
                "{}/{}",
                count("readyReplicas"),
                number(obj, "/spec/replicas")
            )),
            Value::from(count("updatedReplicas")),
            Value::from(count("availableReplicas")),
            columns::age(obj, now),
            containers,
            images,
            Value::from(selector::format(&obj["spec"]["selector"])),
        ]
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        columns::metadata_fields(obj)
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        METADATA_FIELDS
    }
}

fn spec_errors(obj: &Value) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> = meta::nonnegative(obj, "/spec/replicas", "spec.replicas")
        .into_iter()
        .collect();
    errors.extend(template::validate(obj));
    errors.extend(strategy_errors(obj));
    for field in [
        "minReadySeconds",
        "revisionHistoryLimit",
        "progressDeadlineSeconds",
    ] {
        errors.extend(meta::nonnegative(
            obj,
            &format!("/spec/{field}"),
            &format!("spec.{field}"),
        ));
    }
    let deadline = number(obj, "/spec/progressDeadlineSeconds");
    if present(obj, "/spec/progressDeadlineSeconds").is_some()
        && deadline <= number(obj, "/spec/minReadySeconds")
    {
        let why = "must be greater than minReadySeconds";
        errors.push(FieldError::invalid(
            "spec.progressDeadlineSeconds",
            &deadline.to_string(),
            why,
        ));
    }
    errors
}

fn strategy_errors(obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let rolling = present(obj, "/spec/strategy/rollingUpdate");
    match text(obj, "/spec/strategy/type") {
        "Recreate" if rolling.is_some() => {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", why));
        }
        "Recreate" => {}
        "RollingUpdate" => match rolling {
            None => {
                let why = "this should be defaulted and never be nil";
                errors.push(FieldError::required("spec.strategy.rollingUpdate", why));
            }
            Some(rolling) => errors.extend(rolling_errors(rolling)),
        },
        other => {
            // Kubernetes shows the whole struct; the pointer in it is of no use to anyone.
            let shown = format!(
                "apps.DeploymentStrategy{{Type:{}, RollingUpdate:(*apps.RollingUpdateDeployment)(nil)}}",
                quoted(other)
            );
            errors.push(FieldError::not_supported(
                "spec.strategy",
                &shown,
                &["Recreate", "RollingUpdate"],
            ));
        }
    }
    errors
}

fn rolling_errors(rolling: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let amount = |value: &Value| match value {
        Value::String(text) => text
            .strip_suffix('%')
            .and_then(|digits| digits.parse::<i64>().ok())
            .unwrap_or(0),
        other => other.as_i64().unwrap_or(0),
    };
    for field in ["maxUnavailable", "maxSurge"] {
        let at = format!("spec.strategy.rollingUpdate.{field}");
        match &rolling[field] {
            value @ Value::String(text) => {
                for problem in names::percent(text) {
                    errors.push(FieldError::invalid(
                        &at,
                        &shown_int_or_string(value),
                        &problem,
                    ));
                }
            }
            value => {
                let given = value.as_i64().unwrap_or(0);
                if given < 0 {
                    errors.push(FieldError::invalid(
                        &at,
                        &given.to_string(),
                        "must be greater than or equal to 0",
                    ));
                }
            }
        }
    }
    let unavailable = &rolling["maxUnavailable"];
    let at = "spec.strategy.rollingUpdate.maxUnavailable";
    if amount(unavailable) == 0 && amount(&rolling["maxSurge"]) == 0 {
        let why = "may not be 0 when `maxSurge` is 0";
        errors.push(FieldError::invalid(
            at,
            &shown_int_or_string(unavailable),
            why,
        ));
    }
    if unavailable.is_string() && amount(unavailable) > 100 {
        errors.push(FieldError::invalid(
            at,
            &shown_int_or_string(unavailable),
            "must not be greater than 100%",
        ));
    }
    errors
}
