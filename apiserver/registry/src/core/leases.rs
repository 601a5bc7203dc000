//! Leases: who leads, who lives. The most written kind of all.

use jiff::Timestamp;
use serde_json::Value;

use crate::access::{number, present, text};
use crate::columns::{self, AGE, METADATA_FIELDS, NAME, text_column};
use crate::field_error::FieldError;
use crate::strategy::{Column, Strategy};
use crate::{meta, names};

pub struct Leases;

const COLUMNS: &[Column] = &[NAME, text_column("Holder", "Who holds the lease."), AGE];

impl Strategy for Leases {
    fn prepare_for_create(&self, _obj: &mut Value) {}
    fn prepare_for_update(&self, _new: &mut Value, _old: &Value) {}
    fn prepare_for_status_update(&self, _new: &mut Value, _old: &Value) {}

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errors = meta::validate(obj, true, names::dns_subdomain);
        errors.extend(spec_errors(obj));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = meta::validate_update(new, old);
        errors.extend(spec_errors(new));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            columns::name(obj),
            Value::from(text(obj, "/spec/holderIdentity")),
            columns::age(obj, now),
        ]
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        columns::metadata_fields(obj)
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        METADATA_FIELDS
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn spec_errors(obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let given = number(obj, "/spec/leaseDurationSeconds");
    if present(obj, "/spec/leaseDurationSeconds").is_some() && given <= 0 {
        errors.push(FieldError::invalid(
            "spec.leaseDurationSeconds",
            &given.to_string(),
            "must be greater than 0",
        ));
    }
    errors.extend(meta::nonnegative(
        obj,
        "/spec/leaseTransitions",
        "spec.leaseTransitions",
    ));
    if !text(obj, "/spec/preferredHolder").is_empty() && text(obj, "/spec/strategy").is_empty() {
        let why = "may only be specified if `strategy` is defined";
        errors.push(FieldError::forbidden("spec.preferredHolder", why));
    }
    errors
}
