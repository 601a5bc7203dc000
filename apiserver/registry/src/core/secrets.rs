//! Secrets: data in base64, a type that never changes, and for some types keys that must be there.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::configmaps::{DATA_BYTES_MAX, decoded_length, frozen_errors};
use crate::access::{copy_field, entries, present, remove, text};
use crate::columns::{self, AGE, NAME, text_column};
use crate::field_error::FieldError;
use crate::strategy::{Column, Strategy};
use crate::{meta, names};

pub struct Secrets;

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Type", "What the secret is for."),
    text_column("Data", "How many keys there are."),
    AGE,
];

impl Strategy for Secrets {
    fn prepare_for_create(&self, obj: &mut Value) {
        merge_string_data(obj);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value) {
        merge_string_data(new);
        if text(new, "/type").is_empty() {
            copy_field(new, old, "type");
        }
    }

    fn prepare_for_status_update(&self, _new: &mut Value, _old: &Value) {}

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errors = meta::validate(obj, true, names::dns_subdomain);
        errors.extend(data_errors(obj));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = meta::validate_update(new, old);
        errors.extend(meta::immutable(new, old, "/type", "type"));
        errors.extend(frozen_errors(new, old, &["data"]));
        errors.extend(data_errors(new));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            columns::name(obj),
            Value::from(text(obj, "/type")),
            Value::from(entries(obj, "/data").len()),
            columns::age(obj, now),
        ]
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        let mut fields = columns::metadata_fields(obj);
        fields.push(("type", text(obj, "/type").to_owned()));
        fields
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["metadata.name", "metadata.namespace", "type"]
    }
}

/// `stringData` is for writing only: its values move into `data`.
fn merge_string_data(obj: &mut Value) {
    let Some(Value::Object(texts)) = obj.get("stringData").cloned() else {
        remove(obj, "stringData");
        return;
    };
    remove(obj, "stringData");
    let Value::Object(fields) = obj else { return };
    let data = fields
        .entry("data")
        .or_insert_with(|| Value::Object(Map::new()));
    if data.is_null() {
        *data = Value::Object(Map::new());
    }
    if let Value::Object(data) = data {
        for (key, value) in texts {
            let bytes = value.as_str().unwrap_or_default().as_bytes();
            data.insert(
                key,
                Value::String(barque_apiserver_schema::encode_base64(bytes)),
            );
        }
    }
}

fn data_errors(obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut bytes = 0;
    for (key, value) in entries(obj, "/data") {
        errors.extend(meta::invalid_each(
            &format!("data[{key}]"),
            key,
            names::config_key(key),
        ));
        bytes += decoded_length(value);
    }
    if bytes > DATA_BYTES_MAX {
        errors.push(FieldError::too_long("data", DATA_BYTES_MAX));
    }
    let has = |key: &str| obj.get("data").is_some_and(|data| data.get(key).is_some());
    let mut require = |key: &str| {
        if !has(key) {
            errors.push(FieldError::required(&format!("data[{key}]"), ""));
        }
    };
    match text(obj, "/type") {
        "kubernetes.io/dockercfg" => require(".dockercfg"),
        "kubernetes.io/dockerconfigjson" => require(".dockerconfigjson"),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            require("username");
            require("password");
        }
        "kubernetes.io/ssh-auth" => require("ssh-privatekey"),
        "kubernetes.io/tls" => {
            require("tls.crt");
            require("tls.key");
        }
        "kubernetes.io/service-account-token" => {
            let account = present(
                obj,
                "/metadata/annotations/kubernetes.io~1service-account.name",
            );
            if account
                .and_then(Value::as_str)
                .unwrap_or_default()
                .is_empty()
            {
                let at = "metadata.annotations[kubernetes.io/service-account.name]";
                errors.push(FieldError::required(at, ""));
            }
        }
        _ => {}
    }
    errors
}
