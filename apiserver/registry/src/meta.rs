//! Validation of metadata, the same for every kind.

use serde_json::Value;

use crate::access::{entries, flag, list, number, present, text};
use crate::field_error::{FieldError, quoted, shown};
use crate::names;

/// All annotations of an object together.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// The problems of a name, none for a good one.
pub type NameRule = fn(&str) -> Vec<String>;

/// Metadata of a new object. `namespaced`: whether a namespace must or must not be there.
pub fn validate(obj: &Value, namespaced: bool, rule: NameRule) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let generate = text(obj, "/metadata/generateName");
    if !generate.is_empty() {
        // A prefix may end in a dash, since something follows.
        let candidate = match generate.strip_suffix('-') {
            Some(stem) if !stem.is_empty() => format!("{}a", &stem[..stem.len() - last_char(stem)]),
            _ => generate.to_owned(),
        };
        errors.extend(invalid_each(
            "metadata.generateName",
            generate,
            rule(&candidate),
        ));
    }
    let name = text(obj, "/metadata/name");
    if name.is_empty() {
        errors.push(FieldError::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else {
        errors.extend(invalid_each("metadata.name", name, rule(name)));
    }
    let namespace = text(obj, "/metadata/namespace");
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.push(FieldError::required("metadata.namespace", "")),
        (true, false) => errors.extend(invalid_each(
            "metadata.namespace",
            namespace,
            names::dns_label(namespace),
        )),
        (false, false) => errors.push(FieldError::forbidden(
            "metadata.namespace",
            "not allowed on this type",
        )),
        (false, true) => {}
    }
    errors.extend(nonnegative(
        obj,
        "/metadata/generation",
        "metadata.generation",
    ));
    errors.extend(common(obj));
    for finalizer in list(obj, "/metadata/finalizers") {
        let finalizer = finalizer.as_str().unwrap_or_default();
        errors.extend(invalid_each(
            "metadata.finalizers",
            finalizer,
            names::qualified_name(finalizer),
        ));
    }
    const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
    for (index, finalizer) in list(obj, "/metadata/finalizers").iter().enumerate() {
        let finalizer = finalizer.as_str().unwrap_or_default();
        if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(
                &format!("metadata.finalizers[{index}]"),
                &quoted(finalizer),
                why,
            ));
        }
    }
    errors
}

fn last_char(text: &str) -> usize {
    text.chars().next_back().map_or(0, char::len_utf8)
}

/// Metadata of a changed object. The resourceVersion and new finalizers are the gateway's business.
pub fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if number(new, "/metadata/generation") < number(old, "/metadata/generation") {
        let given = number(new, "/metadata/generation").to_string();
        errors.push(FieldError::invalid(
            "metadata.generation",
            &given,
            "must not be decremented",
        ));
    }
    const FIXED: [&str; 6] = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ];
    for name in FIXED {
        let pointer = format!("/metadata/{name}");
        let (now, before) = (present(new, &pointer), present(old, &pointer));
        if now != before {
            let given = shown(now.unwrap_or(&Value::Null));
            errors.push(FieldError::invalid(
                &format!("metadata.{name}"),
                &given,
                "field is immutable",
            ));
        }
    }
    errors.extend(common(new));
    errors
}

fn common(obj: &Value) -> Vec<FieldError> {
    let mut errors = labels(obj.pointer("/metadata/labels"), "metadata.labels");
    errors.extend(annotations(
        obj.pointer("/metadata/annotations"),
        "metadata.annotations",
    ));
    let mut controller: Option<String> = None;
    for owner in list(obj, "/metadata/ownerReferences") {
        let path = "metadata.ownerReferences";
        let version = text(owner, "/apiVersion");
        if version.is_empty() {
            errors.push(FieldError::invalid(
                &format!("{path}.apiVersion"),
                "\"\"",
                "version must not be empty",
            ));
        }
        for field in ["kind", "name", "uid"] {
            if text(owner, &format!("/{field}")).is_empty() {
                let why = format!("{field} must not be empty");
                errors.push(FieldError::invalid(
                    &format!("{path}.{field}"),
                    "\"\"",
                    &why,
                ));
            }
        }
        if flag(owner, "/controller") {
            let this = format!("{}/{}", text(owner, "/kind"), text(owner, "/name"));
            match &controller {
                Some(first) => {
                    let why = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                         and {this}"
                    );
                    errors.push(FieldError::invalid(
                        path,
                        &obj["metadata"]["ownerReferences"].to_string(),
                        &why,
                    ));
                }
                None => controller = Some(this),
            }
        }
    }
    errors
}

pub fn labels(found: Option<&Value>, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in found.map(|found| entries(found, "")).unwrap_or_default() {
        let value = value.as_str().unwrap_or_default();
        errors.extend(invalid_each(path, key, names::qualified_name(key)));
        errors.extend(invalid_each(path, value, names::label_value(value)));
    }
    errors
}

pub fn annotations(found: Option<&Value>, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut bytes = 0;
    for (key, value) in found.map(|found| entries(found, "")).unwrap_or_default() {
        errors.extend(invalid_each(
            path,
            key,
            names::qualified_name(&key.to_lowercase()),
        ));
        bytes += key.len() + value.as_str().unwrap_or_default().len();
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.push(FieldError::too_long(path, ANNOTATIONS_BYTES_MAX));
    }
    errors
}

/// One Invalid line per problem.
pub fn invalid_each(field: &str, value: &str, problems: Vec<String>) -> Vec<FieldError> {
    problems
        .iter()
        .map(|problem| FieldError::invalid(field, &quoted(value), problem))
        .collect()
}

pub fn nonnegative(obj: &Value, pointer: &str, field: &str) -> Option<FieldError> {
    let given = number(obj, pointer);
    (given < 0).then(|| {
        FieldError::invalid(
            field,
            &given.to_string(),
            "must be greater than or equal to 0",
        )
    })
}

/// A field that must stay as it was.
pub fn immutable(new: &Value, old: &Value, pointer: &str, field: &str) -> Option<FieldError> {
    let (now, before) = (new.pointer(pointer), old.pointer(pointer));
    (!crate::access::same(now, before)).then(|| {
        FieldError::invalid(
            field,
            &shown(now.unwrap_or(&Value::Null)),
            "field is immutable",
        )
    })
}
