//! One row, several API versions: events are served as core/v1 and as events.k8s.io/v1 and stored as core/v1.
//! Promise: converting there and back gives the same object.

use barque_apiserver_registry::Resource;
use bytes::Bytes;
use serde_json::{Map, Value};

use super::object::{self, Stored};

/// core/v1 name, events.k8s.io/v1 name. Fields not named here are called the same in both.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];
const CORE: &str = "v1";

/// Whether the row's bytes already are what a reader of `resource` is to see.
pub fn is_native(stored: &Stored, resource: &Resource) -> bool {
    let kind = resource.kind;
    let wanted = stored.api_version();
    match wanted.rsplit_once('/') {
        Some((group, version)) => group == kind.group && version == kind.version,
        None => kind.group.is_empty() && wanted == kind.version,
    }
}

/// The object in the version of `resource`.
pub fn decode(stored: &Stored, resource: &Resource) -> Value {
    let object = stored.decode();
    if is_native(stored, resource) {
        return object;
    }
    if resource.kind.kind == "Event" {
        return rename(
            object,
            &resource.kind.api_version(),
            resource.kind.group.is_empty(),
        );
    }
    object
}

/// The row for an object in the version of `resource`.
pub fn encode(object: &Value, resource: &Resource) -> Bytes {
    if resource.kind.kind == "Event" && !resource.kind.group.is_empty() {
        return object::encode(&rename(object.clone(), CORE, true));
    }
    object::encode(object)
}

fn rename(object: Value, api_version: &str, to_core: bool) -> Value {
    let Value::Object(fields) = object else {
        return object;
    };
    let mut out = Map::new();
    for (key, value) in fields {
        let renamed = EVENT_FIELDS
            .iter()
            .find(|(core, events)| key == if to_core { *events } else { *core })
            .map(|(core, events)| if to_core { *core } else { *events });
        match renamed {
            Some(name) => out.insert(name.to_owned(), value),
            None if key == "apiVersion" => out.insert(key, api_version.into()),
            None => out.insert(key, value),
        };
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_go_there_and_back() {
        let core = json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "e"}, "message": "m",
            "involvedObject": {"name": "p"}, "count": 3, "reportingComponent": "c", "type": "Normal"});
        let there = rename(core.clone(), "events.k8s.io/v1", false);
        assert_eq!(there["note"], "m");
        assert_eq!(there["deprecatedCount"], 3);
        assert_eq!(there["apiVersion"], "events.k8s.io/v1");
        assert_eq!(rename(there, "v1", true), core);
    }
}
