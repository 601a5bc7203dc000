//! ConfigMaps: free data, frozen once `immutable` is set.

use jiff::Timestamp;
use serde_json::Value;

use crate::access::{entries, flag, same};
use crate::columns::{self, AGE, METADATA_FIELDS, NAME, text_column};
use crate::field_error::{FieldError, quoted};
use crate::strategy::{Column, Strategy};
use crate::{meta, names};

/// All values of one ConfigMap or Secret together.
pub const DATA_BYTES_MAX: usize = 1024 * 1024;

pub struct ConfigMaps;

const COLUMNS: &[Column] = &[NAME, text_column("Data", "How many keys there are."), AGE];

impl Strategy for ConfigMaps {
    fn prepare_for_create(&self, _obj: &mut Value) {}
    fn prepare_for_update(&self, _new: &mut Value, _old: &Value) {}
    fn prepare_for_status_update(&self, _new: &mut Value, _old: &Value) {}

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errors = meta::validate(obj, true, names::dns_subdomain);
        errors.extend(data_errors(obj));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = meta::validate_update(new, old);
        errors.extend(frozen_errors(new, old, &["data", "binaryData"]));
        errors.extend(data_errors(new));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let keys = entries(obj, "/data").len() + entries(obj, "/binaryData").len();
        vec![
            columns::name(obj),
            Value::from(keys),
            columns::age(obj, now),
        ]
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        columns::metadata_fields(obj)
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        METADATA_FIELDS
    }
}

fn data_errors(obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut bytes = 0;
    for (key, value) in entries(obj, "/data") {
        let at = format!("data[{key}]");
        errors.extend(meta::invalid_each(&at, key, names::config_key(key)));
        if obj
            .get("binaryData")
            .is_some_and(|binary| binary.get(key).is_some())
        {
            errors.push(FieldError::invalid(
                &at,
                &quoted(key),
                "duplicate of key present in binaryData",
            ));
        }
        bytes += value.as_str().unwrap_or_default().len();
    }
    for (key, value) in entries(obj, "/binaryData") {
        errors.extend(meta::invalid_each(
            &format!("binaryData[{key}]"),
            key,
            names::config_key(key),
        ));
        bytes += decoded_length(value);
    }
    if bytes > DATA_BYTES_MAX {
        errors.push(FieldError::too_long("[]", DATA_BYTES_MAX));
    }
    errors
}

/// Bytes behind a base64 text.
pub fn decoded_length(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default().trim_end_matches('=');
    text.len() * 3 / 4
}

/// What `immutable` forbids, for ConfigMaps and Secrets alike.
pub fn frozen_errors(new: &Value, old: &Value, fields: &[&str]) -> Vec<FieldError> {
    if !flag(old, "/immutable") {
        return Vec::new();
    }
    const WHY: &str = "field is immutable when `immutable` is set";
    let mut errors = Vec::new();
    if !flag(new, "/immutable") {
        errors.push(FieldError::forbidden("immutable", WHY));
    }
    for field in fields {
        if !same(new.get(field), old.get(field)) {
            errors.push(FieldError::forbidden(field, WHY));
        }
    }
    errors
}
