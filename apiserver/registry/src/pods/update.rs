//! What an update may change in a pod's spec: images, a shorter deadline, more tolerations, fewer scheduling gates.

use serde_json::Value;

use super::spec::tolerations;
use crate::access::{copy_field, list, number, present, remove, same, text};
use crate::field_error::{FieldError, quoted, shown};

/// Differences shown to the user at most.
const DIFFERENCES_MAX: usize = 20;

/// Problems of the change from `old` to `new`, both pod specs.
pub fn validate(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["containers", "initContainers"] {
        let pointer = format!("/{field}");
        if list(new, &pointer).len() != list(old, &pointer).len() {
            let why = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(&format!("spec.{field}"), why));
            return errors;
        }
        for (index, container) in list(new, &pointer).iter().enumerate() {
            let image = text(container, "/image");
            let at = format!("spec.{field}[{index}].image");
            // Kubernetes says it twice: once for any pod, once for an update.
            if image.is_empty() {
                errors.push(FieldError::required(&at, ""));
            }
            if image.trim() != image {
                errors.push(FieldError::invalid(
                    &at,
                    &quoted(image),
                    "must not have leading or trailing whitespace",
                ));
            }
        }
    }
    errors.extend(deadline(new, old));
    errors.extend(added_tolerations(new, old));
    let (gates, old_gates) = (list(new, "/schedulingGates"), list(old, "/schedulingGates"));
    for (index, gate) in gates
        .iter()
        .enumerate()
        .filter(|(_, gate)| !old_gates.contains(gate))
    {
        let name = text(gate, "/name");
        let why = format!("only deletion is allowed, but found new scheduling gate '{name}'");
        errors.push(FieldError::forbidden(
            &format!("spec.schedulingGates[{index}].name"),
            &why,
        ));
    }

    // What may change is put back; what differs then must not.
    let mut rest = new.clone();
    for field in ["containers", "initContainers"] {
        let before = list(old, &format!("/{field}"));
        let now = rest
            .get_mut(field)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten();
        for (container, before) in now.zip(before) {
            copy_field(container, before, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        copy_field(&mut rest, old, field);
    }
    let was_negative = number(old, "/terminationGracePeriodSeconds") < 0;
    if was_negative && number(&rest, "/terminationGracePeriodSeconds") == 1 {
        copy_field(&mut rest, old, "terminationGracePeriodSeconds");
    }
    if !old_gates.is_empty() {
        errors.extend(gated_changes(&mut rest, old));
    }
    if !same(Some(&rest), Some(old)) {
        let mut differences = Vec::new();
        difference("", old, &rest, &mut differences);
        let why = format!(
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
             `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
             `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n{}",
            differences.join("\n")
        );
        errors.push(FieldError::forbidden("spec", &why));
    }
    errors
}

fn deadline(new: &Value, old: &Value) -> Option<FieldError> {
    let at = "spec.activeDeadlineSeconds";
    let (is, was) = (
        number(new, "/activeDeadlineSeconds"),
        number(old, "/activeDeadlineSeconds"),
    );
    match (
        present(new, "/activeDeadlineSeconds"),
        present(old, "/activeDeadlineSeconds"),
    ) {
        (Some(_), Some(_)) if was < is => Some(FieldError::invalid(
            at,
            &is.to_string(),
            "must be less than or equal to previous value",
        )),
        (None, Some(_)) => Some(FieldError::invalid(
            at,
            "\"null\"",
            "must not update from a positive integer to nil value",
        )),
        _ => None,
    }
}

/// Every old toleration must still be there, but for its seconds.
fn added_tolerations(new: &Value, old: &Value) -> Vec<FieldError> {
    let without_seconds = |toleration: &Value| {
        let mut rest = toleration.clone();
        remove(&mut rest, "tolerationSeconds");
        rest
    };
    let now: Vec<Value> = list(new, "/tolerations")
        .iter()
        .map(without_seconds)
        .collect();
    let kept = list(old, "/tolerations").iter().all(|before| {
        let before = without_seconds(before);
        now.iter()
            .any(|toleration| same(Some(toleration), Some(&before)))
    });
    if kept {
        // `spec::validate` has checked the tolerations as such already; Kubernetes repeats what is wrong with them.
        return tolerations(list(new, "/tolerations"), "spec.tolerations");
    }
    let why = "existing toleration can not be modified except its tolerationSeconds";
    vec![FieldError::forbidden("spec.tolerations", why)]
}

/// A pod that may not be scheduled yet may become pickier about its node.
fn gated_changes(rest: &mut Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !same(rest.get("nodeSelector"), old.get("nodeSelector")) {
        let kept = crate::access::entries(old, "/nodeSelector")
            .into_iter()
            .all(|(key, value)| {
                rest.pointer("/nodeSelector")
                    .and_then(|selector| selector.get(key))
                    == Some(value)
            });
        if !kept {
            let given =
                crate::field_error::shown_map(rest.get("nodeSelector").unwrap_or(&Value::Null));
            let why = "only additions are allowed (no mutations or deletions)";
            errors.push(FieldError::invalid("spec.nodeSelector", &given, why));
        }
        copy_field(rest, old, "nodeSelector");
    }
    errors
}

/// Lines such as `- spec.dnsPolicy: "Default"` and `+ spec.dnsPolicy: "None"`.
fn difference(path: &str, old: &Value, new: &Value, out: &mut Vec<String>) {
    if out.len() >= DIFFERENCES_MAX || same(Some(old), Some(new)) {
        return;
    }
    match (old, new) {
        (Value::Object(before), Value::Object(now)) => {
            let mut keys: Vec<&String> = before
                .keys()
                .chain(now.keys().filter(|key| !before.contains_key(*key)))
                .collect();
            keys.sort();
            for key in keys {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                let null = Value::Null;
                difference(
                    &path,
                    before.get(key).unwrap_or(&null),
                    now.get(key).unwrap_or(&null),
                    out,
                );
            }
        }
        (Value::Array(before), Value::Array(now)) if before.len() == now.len() => {
            for (index, (before, now)) in before.iter().zip(now).enumerate() {
                difference(&format!("{path}[{index}]"), before, now, out);
            }
        }
        _ => {
            out.push(format!("- {path}: {}", shown(old)));
            out.push(format!("+ {path}: {}", shown(new)));
        }
    }
}
