//! What a resource does differently from every other: the seam between the gateway's generic handlers and one kind.
//! Promise: pure; a strategy never looks at storage, the clock or the requester.

use serde_json::Value;

use crate::field_error::FieldError;

/// One column of a server-printed table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// OpenAPI type: string, integer, date …
    pub kind: &'static str,
    /// "name" for the name column, else "".
    pub format: &'static str,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: i32,
    pub description: &'static str,
}

/// The rules of one resource. Defaults here are what most kinds do.
pub trait Strategy: Send + Sync {
    fn prepare_for_create(&self, obj: &mut Value);
    fn prepare_for_update(&self, new: &mut Value, old: &Value);
    fn prepare_for_status_update(&self, new: &mut Value, old: &Value);
    /// Problems of a new object.
    fn validate(&self, obj: &Value) -> Vec<FieldError>;
    /// Problems of a change; includes those of `validate` that an update can introduce.
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError>;
    /// Problems of a change through /status.
    fn validate_status_update(&self, _new: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }
    /// Columns of `kubectl get`.
    fn columns(&self) -> &'static [Column];
    /// One cell per column.
    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Vec<Value>;
    /// Conditions of the row (finished pods carry `Completed`), empty for most.
    fn row_conditions(&self, _obj: &Value) -> Vec<Value> {
        Vec::new()
    }
    /// Values of the selectable fields, metadata.name and metadata.namespace included.
    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)>;
    /// Names `fieldSelector` may use.
    fn selectable_fields(&self) -> &'static [&'static str];
    /// Seconds the object stays after a delete was asked; 0 removes it at once (unless finalizers hold it).
    fn delete_grace(&self, _obj: &Value, _asked: Option<i64>) -> i64 {
        0
    }
    /// PUT to a missing name creates it.
    fn allow_create_on_update(&self) -> bool {
        false
    }
    /// PUT without resourceVersion overwrites whatever is there.
    fn allow_unconditional_update(&self) -> bool {
        true
    }
}
