//! ServiceAccounts: an identity for pods.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{list, text};
use crate::columns::{self, AGE, METADATA_FIELDS, NAME, text_column};
use crate::field_error::FieldError;
use crate::strategy::{Column, Strategy};
use crate::{meta, names};

pub struct ServiceAccounts;

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Secrets", "How many secrets the account names."),
    AGE,
];

impl Strategy for ServiceAccounts {
    fn prepare_for_create(&self, obj: &mut Value) {
        keep_secret_names(obj);
    }

    fn prepare_for_update(&self, new: &mut Value, _old: &Value) {
        keep_secret_names(new);
    }

    fn prepare_for_status_update(&self, _new: &mut Value, _old: &Value) {}

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        meta::validate(obj, true, names::dns_subdomain)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        meta::validate_update(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            columns::name(obj),
            Value::from(list(obj, "/secrets").len()),
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

/// Of the references to secrets only the name means anything.
fn keep_secret_names(obj: &mut Value) {
    for secret in obj
        .get_mut("secrets")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        *secret = json!({"name": text(secret, "/name")});
    }
}
