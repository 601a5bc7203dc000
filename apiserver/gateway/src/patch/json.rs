//! A JSON patch, one operation at a time.
//! Promise: what comes out is at most so deep and so much larger than the object and the patch together: a few
//! operations that move or copy a value into itself would otherwise end the process, by its stack or by its memory.

use json_patch::jsonptr::Pointer;
use json_patch::{Patch, PatchErrorKind, PatchOperation, patch_unsafe};
use serde_json::Value;

use crate::limits::{JSON_DEPTH_MAX, JSON_PATCH_COPIED_BYTES_MAX};
use crate::status::ApiError;

pub fn apply(patch: &Patch, original: &Value) -> Result<Value, ApiError> {
    let mut patched = original.clone();
    let mut copied = 0;
    for (index, operation) in patch.0.iter().enumerate() {
        let (path, value) = match operation {
            PatchOperation::Add(add) => (&add.path, Some(measure(&add.value))),
            PatchOperation::Replace(replace) => (&replace.path, Some(measure(&replace.value))),
            PatchOperation::Move(moved) => (&moved.path, measure_at(&patched, &moved.from)),
            PatchOperation::Copy(copy) => (&copy.path, measure_at(&patched, &copy.from)),
            PatchOperation::Remove(remove) => (&remove.path, None),
            PatchOperation::Test(test) => (&test.path, None),
        };
        if let Some(value) = value {
            if path.tokens().count() + value.depth > JSON_DEPTH_MAX {
                return Err(ApiError::patch_rejected(&format!(
                    "operation {index} does not apply: exceeded max depth of {JSON_DEPTH_MAX} at {path}"
                )));
            }
            if matches!(operation, PatchOperation::Move(_) | PatchOperation::Copy(_)) {
                copied += value.bytes;
            }
            if copied > JSON_PATCH_COPIED_BYTES_MAX {
                return Err(ApiError::too_large(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {JSON_PATCH_COPIED_BYTES_MAX}"
                )));
            }
        }
        // The unsafe of its name: a failure leaves the object half changed. It is a copy, dropped then.
        patch_unsafe(&mut patched, std::slice::from_ref(operation)).map_err(|error| {
            let path = error.path.to_string();
            ApiError::patch_rejected(&match error.kind {
                PatchErrorKind::TestFailed => {
                    format!("testing value {path} failed: test failed")
                }
                PatchErrorKind::InvalidPointer => {
                    format!("operation {index} does not apply: doc is missing path: {path}: missing value")
                }
                other => format!("operation {index} at {path}: {other}"),
            })
        })?;
    }
    Ok(patched)
}

struct Measure {
    /// Levels of nesting; a scalar has one.
    depth: usize,
    /// About what its JSON has.
    bytes: usize,
}

fn measure_at(object: &Value, at: &Pointer) -> Option<Measure> {
    at.resolve(object).ok().map(measure)
}

/// Recursive like everything that reads a value: whatever is measured is at most [`JSON_DEPTH_MAX`] deep, because the
/// parser and [`apply`] let nothing deeper in.
fn measure(value: &Value) -> Measure {
    const SCALAR: usize = 4;
    let mut whole = Measure {
        depth: 1,
        bytes: SCALAR,
    };
    let mut contain = |inner: &Value, key: usize| {
        let inner = measure(inner);
        whole.depth = whole.depth.max(inner.depth + 1);
        whole.bytes += key + inner.bytes;
    };
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::String(text) => whole.bytes += text.len(),
        Value::Array(items) => items.iter().for_each(|item| contain(item, 0)),
        Value::Object(fields) => fields
            .iter()
            .for_each(|(key, field)| contain(field, key.len())),
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patch(operations: Vec<Value>) -> Patch {
        serde_json::from_value(operations.into()).unwrap()
    }

    #[test]
    fn a_value_moved_into_itself_again_and_again_does_not_overflow_the_stack() {
        let mut operations = vec![json!({"op": "add", "path": "/a", "value": {}})];
        for _ in 0..3_000 {
            operations.push(json!({"op": "add", "path": "/n", "value": {"b": {}}}));
            operations.push(json!({"op": "move", "from": "/a", "path": "/n/b/a"}));
            operations.push(json!({"op": "move", "from": "/n", "path": "/a"}));
        }
        let error = apply(&patch(operations), &json!({})).unwrap_err();
        assert_eq!((error.code, error.reason), (422, "Invalid"));
    }

    #[test]
    fn paths_and_values_cannot_add_up_to_more_than_the_parser_would_read() {
        let mut value = json!({});
        for _ in 0..100 {
            value = json!({"a": value});
        }
        let deeper = format!("{}/b", "/a".repeat(100));
        let operations = vec![
            json!({"op": "add", "path": "/a", "value": value["a"]}),
            json!({"op": "add", "path": deeper, "value": value}),
        ];
        let error = apply(&patch(operations), &json!({})).unwrap_err();
        assert_eq!(error.code, 422);
    }

    #[test]
    fn copies_that_double_the_object_are_413_before_the_memory_is_gone() {
        let mut operations =
            vec![json!({"op": "add", "path": "/a", "value": {"text": "x".repeat(1_000)}})];
        for copy in 0..60 {
            operations.push(json!({"op": "copy", "from": "/a", "path": format!("/a/{copy}")}));
        }
        let error = apply(&patch(operations), &json!({})).unwrap_err();
        assert_eq!((error.code, error.reason), (413, "RequestEntityTooLarge"));
    }

    #[test]
    fn the_failed_operation_is_named_by_its_place() {
        let operations = vec![
            json!({"op": "move", "from": "/a", "path": "/b"}),
            json!({"op": "remove", "path": "/a"}),
        ];
        let error = apply(&patch(operations), &json!({"a": 1})).unwrap_err();
        let cause = error
            .to_value()
            .pointer("/details/causes/0/message")
            .cloned();
        assert_eq!(
            cause,
            Some(json!(
                "operation 1 does not apply: doc is missing path: /a: missing value"
            ))
        );
    }
}
