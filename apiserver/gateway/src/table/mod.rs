//! Other shapes of the same objects: server-printed tables and metadata only.
//! Not here: the columns and cells of a kind (the registry's strategies).

use barque_apiserver_registry::Resource;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::requests::options::IncludeObject;

/// A meta.k8s.io Table of some objects. `version`: `v1` or `v1beta1`. Later events of a watch leave out the columns.
pub fn table(
    resource: &Resource,
    version: &str,
    objects: &[Value],
    list_metadata: Value,
    include: IncludeObject,
    with_columns: bool,
    now: Timestamp,
) -> Value {
    let columns: Vec<Value> = resource
        .strategy
        .columns()
        .iter()
        .filter(|_| with_columns)
        .map(|column| {
            json!({
                "name": column.name, "type": column.kind, "format": column.format,
                "description": column.description, "priority": column.priority,
            })
        })
        .collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut row = Map::new();
            let cells = resource.strategy.cells(object, now);
            row.insert("cells".to_owned(), Value::Array(cells));
            let conditions = resource.strategy.row_conditions(object);
            if !conditions.is_empty() {
                row.insert("conditions".to_owned(), Value::Array(conditions));
            }
            let shown = match include {
                IncludeObject::None => None,
                IncludeObject::Metadata => Some(metadata_only(object, version)),
                IncludeObject::Object => Some(object.clone()),
            };
            if let Some(shown) = shown {
                row.insert("object".to_owned(), shown);
            }
            Value::Object(row)
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": list_metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

/// PartialObjectMetadata of an object.
pub fn metadata_only(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}
