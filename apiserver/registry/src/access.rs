//! Reading and changing JSON objects by name, without ceremony.

use serde_json::{Map, Value, json};

/// A text, "" where there is none.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A number, 0 where there is none.
pub fn number(value: &Value, pointer: &str) -> i64 {
    value
        .pointer(pointer)
        .and_then(Value::as_i64)
        .unwrap_or_default()
}

pub fn flag(value: &Value, pointer: &str) -> bool {
    value
        .pointer(pointer)
        .and_then(Value::as_bool)
        .unwrap_or_default()
}

/// The elements of a list, none where there is no list.
pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

pub fn entries<'a>(value: &'a Value, pointer: &str) -> Vec<(&'a String, &'a Value)> {
    let mut found: Vec<_> = value
        .pointer(pointer)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .collect();
    found.sort_by_key(|(key, _)| key.as_str());
    found
}

/// A value that is there and not null.
pub fn present<'a>(value: &'a Value, pointer: &str) -> Option<&'a Value> {
    value.pointer(pointer).filter(|found| !found.is_null())
}

/// The object under `name`, made if missing.
pub fn child<'a>(value: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    let Value::Object(fields) = value else {
        unreachable!("made an object above")
    };
    let slot = fields.entry(name).or_insert_with(|| json!({}));
    if !slot.is_object() {
        *slot = json!({});
    }
    let Value::Object(inner) = slot else {
        unreachable!("made an object above")
    };
    inner
}

pub fn remove(value: &mut Value, name: &str) {
    if let Value::Object(fields) = value {
        fields.shift_remove(name);
    }
}

/// Takes the field from `from`, or removes it where `from` has none.
pub fn copy_field(to: &mut Value, from: &Value, name: &str) {
    let Value::Object(fields) = to else { return };
    match from.get(name) {
        Some(value) => {
            fields.insert(name.to_owned(), value.clone());
        }
        None => {
            fields.shift_remove(name);
        }
    }
}

/// The same for a field of metadata.
pub fn copy_metadata(to: &mut Value, from: &Value, name: &str) {
    let old = from.get("metadata").unwrap_or(&Value::Null);
    if let Some(metadata) = to.get_mut("metadata") {
        copy_field(metadata, old, name);
    }
}

/// Equal as Kubernetes sees it: null, missing and empty are one.
pub fn same(left: Option<&Value>, right: Option<&Value>) -> bool {
    fn empty(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            _ => false,
        }
    }
    let left = left.filter(|value| !value.is_null());
    let right = right.filter(|value| !value.is_null());
    match (left, right) {
        (None, None) => true,
        (Some(Value::Object(left)), Some(Value::Object(right))) => {
            left.iter()
                .all(|(key, value)| same(Some(value), right.get(key)))
                && right
                    .iter()
                    .all(|(key, value)| left.contains_key(key) || empty(value))
        }
        (Some(Value::Array(left)), Some(Value::Array(right))) => {
            left.len() == right.len()
                && left
                    .iter()
                    .zip(right)
                    .all(|(left, right)| same(Some(left), Some(right)))
        }
        (Some(value), None) | (None, Some(value)) => empty(value),
        (Some(left), Some(right)) => left == right,
    }
}

pub fn generation(value: &Value) -> i64 {
    number(value, "/metadata/generation")
}

pub fn set_generation(value: &mut Value, generation: i64) {
    child(value, "metadata").insert("generation".to_owned(), Value::from(generation));
}

/// Keeps the old generation, one more if `changed`.
pub fn bump_generation(new: &mut Value, old: &Value, changed: bool) {
    let generation = generation(old) + i64::from(changed);
    if generation > 0 {
        set_generation(new, generation);
    }
}
