//! Columns that many tables share, and the cells under them.

use jiff::Timestamp;
use serde_json::Value;

use crate::access::{list, text};
use crate::human;
use crate::strategy::Column;

const fn plain(
    name: &'static str,
    kind: &'static str,
    priority: i32,
    description: &'static str,
) -> Column {
    Column {
        name,
        kind,
        format: "",
        priority,
        description,
    }
}

pub const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    priority: 0,
    description: "The object's name, unique within its namespace and kind.",
};
pub const AGE: Column = text_column("Age", "Time since the object was created.");

/// A text that is always shown.
pub const fn text_column(name: &'static str, description: &'static str) -> Column {
    plain(name, "string", 0, description)
}

/// A number that is always shown.
pub const fn count_column(name: &'static str, description: &'static str) -> Column {
    plain(name, "integer", 0, description)
}

/// A text that only `-o wide` shows.
pub const fn wide_column(name: &'static str, description: &'static str) -> Column {
    plain(name, "string", 1, description)
}

pub fn name(obj: &Value) -> Value {
    Value::from(text(obj, "/metadata/name"))
}

pub fn age(obj: &Value, now: Timestamp) -> Value {
    Value::from(human::since(text(obj, "/metadata/creationTimestamp"), now))
}

pub fn or_none(text: &str) -> Value {
    Value::from(if text.is_empty() { "<none>" } else { text })
}

/// The names and the images of a pod template's containers.
pub fn template_cells(obj: &Value) -> [Value; 2] {
    let joined = |field: &str| {
        let containers = list(obj, "/spec/template/spec/containers").iter();
        let parts: Vec<&str> = containers.map(|container| text(container, field)).collect();
        Value::from(parts.join(","))
    };
    [joined("/name"), joined("/image")]
}

pub const METADATA_FIELDS: &[&str] = &["metadata.name", "metadata.namespace"];

/// The two selectable fields every kind has.
pub fn metadata_fields(obj: &Value) -> Vec<(&'static str, String)> {
    vec![
        ("metadata.name", text(obj, "/metadata/name").to_owned()),
        (
            "metadata.namespace",
            text(obj, "/metadata/namespace").to_owned(),
        ),
    ]
}
