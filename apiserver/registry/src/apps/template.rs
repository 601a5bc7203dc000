//! What workloads have in common: a selector, and a template whose pods it must match.

use serde_json::Value;

use crate::access::{list, number, present, text};
use crate::field_error::{FieldError, quoted, shown_map};
use crate::pods::spec;
use crate::{meta, selector};

/// Problems of spec.selector and spec.template.
pub fn validate(obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let found = present(obj, "/spec/selector");
    match found {
        None => errors.push(FieldError::required("spec.selector", "")),
        Some(found) => {
            errors.extend(selector::validate(found, "spec.selector"));
            if selector::is_empty(found) {
                let why = "empty selector is invalid for deployment";
                errors.push(FieldError::invalid(
                    "spec.selector",
                    &selector::shown(found),
                    why,
                ));
            }
        }
    }
    if let Some(found) = found.filter(|found| !selector::is_valid(found)) {
        errors.push(FieldError::invalid(
            "spec.selector",
            &selector::shown(found),
            "invalid label selector",
        ));
        return errors;
    }
    let null = Value::Null;
    let labels = obj
        .pointer("/spec/template/metadata/labels")
        .unwrap_or(&null);
    // No selector matches nothing; an empty one matches everything, and was told of above.
    if !found.is_some_and(|found| selector::matches(found, labels)) {
        let why = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid(
            "spec.template.metadata.labels",
            &shown_map(labels),
            why,
        ));
    }
    let template = obj.pointer("/spec/template").unwrap_or(&null);
    errors.extend(meta::labels(
        template.pointer("/metadata/labels"),
        "spec.template.labels",
    ));
    errors.extend(meta::annotations(
        template.pointer("/metadata/annotations"),
        "spec.template.annotations",
    ));
    errors.extend(spec::validate(
        template.get("spec").unwrap_or(&null),
        "spec.template.spec",
    ));
    if !list(template, "/spec/ephemeralContainers").is_empty() {
        let why = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(
            "spec.template.spec.ephemeralContainers",
            why,
        ));
    }
    let policy = text(template, "/spec/restartPolicy");
    if policy != "Always" {
        let at = "spec.template.spec.restartPolicy";
        errors.push(FieldError::not_supported(at, &quoted(policy), &["Always"]));
    }
    if present(template, "/spec/activeDeadlineSeconds").is_some() {
        let why = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.push(FieldError::forbidden(
            "spec.template.spec.activeDeadlineSeconds",
            why,
        ));
    }
    errors
}

/// A selector is for life: changing it would orphan pods silently.
pub fn selector_unchanged(new: &Value, old: &Value) -> Option<FieldError> {
    let (now, before) = (new.pointer("/spec/selector"), old.pointer("/spec/selector"));
    if crate::access::same(now, before) {
        return None;
    }
    let shown = selector::shown(now.unwrap_or(&Value::Null));
    Some(FieldError::invalid(
        "spec.selector",
        &shown,
        "field is immutable",
    ))
}

/// Counts in a status: none negative, none above `replicas`.
pub fn status_counts(obj: &Value, fields: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["observedGeneration", "replicas"].iter().chain(fields) {
        errors.extend(meta::nonnegative(
            obj,
            &format!("/status/{field}"),
            &format!("status.{field}"),
        ));
    }
    let replicas = number(obj, "/status/replicas");
    for field in fields
        .iter()
        .filter(|field| **field != "unavailableReplicas")
    {
        let given = number(obj, &format!("/status/{field}"));
        if given > replicas {
            let at = format!("status.{field}");
            errors.push(FieldError::invalid(
                &at,
                &given.to_string(),
                "cannot be greater than status.replicas",
            ));
        }
    }
    let (available, ready) = (
        number(obj, "/status/availableReplicas"),
        number(obj, "/status/readyReplicas"),
    );
    if available > ready {
        let at = "status.availableReplicas";
        errors.push(FieldError::invalid(
            at,
            &available.to_string(),
            "cannot be greater than readyReplicas",
        ));
    }
    errors
}
