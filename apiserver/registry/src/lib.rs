//! barque-apiserver-registry: what differs per resource, one file each.
//! Promise: pure; every served kind of the schema has a strategy and a place in storage.
//! Not here: generic machinery (the gateway), who may do what (rules).

mod field_error;
mod strategy;

use barque_apiserver_schema::Kind;
pub use field_error::FieldError;
pub use strategy::{Column, Strategy};

/// A served resource: its kind, its rules, and the prefix of its keys.
pub struct Resource {
    pub kind: &'static Kind,
    pub strategy: &'static dyn Strategy,
    /// As kube-apiserver: "/registry/pods", "/registry/minions" for nodes.
    pub storage: &'static str,
}

pub fn resources() -> &'static [Resource] {
    &[]
}

pub fn resource(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    resources().iter().find(|resource| {
        let kind = resource.kind;
        kind.plural == plural && kind.group == group && kind.version == version
    })
}

/// The scale subresource.
pub mod scale {
    use serde_json::Value;

    use crate::FieldError;

    pub fn get(_obj: &Value) -> Value {
        Value::Null
    }
    pub fn apply(_obj: &mut Value, _scale: &Value) -> Result<(), FieldError> {
        Ok(())
    }
}

/// The binding subresource of pods.
pub mod binding {
    use serde_json::Value;

    /// Why a pod cannot be bound.
    #[derive(Debug, thiserror::Error, PartialEq, Eq)]
    pub enum BindingError {
        /// 409.
        #[error("{0}")]
        Conflict(String),
        /// 422 or 400.
        #[error("{0}")]
        Invalid(String),
    }

    pub fn apply(_pod: &mut Value, _binding: &Value) -> Result<(), BindingError> {
        Ok(())
    }
}
