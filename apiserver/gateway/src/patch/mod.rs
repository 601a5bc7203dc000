//! The three patch formats, each a function of the object and the patch.
//! Not here: server-side apply (refused with 415 for now), checks of the result (the pipeline treats it as an update).

mod json;

use barque_apiserver_schema::{self as schema, Kind};
use bytes::Bytes;
use json_patch::Patch;
use serde_json::Value;

use crate::limits::JSON_PATCH_OPERATIONS_MAX;
use crate::requests::body::json_problem;
use crate::requests::negotiate::media_type;
use crate::status::ApiError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    Json,
    Merge,
    Strategic,
}

const ACCEPTED: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

impl PatchType {
    pub fn from_content_type(content_type: Option<&str>) -> Result<Self, ApiError> {
        match content_type.map(media_type) {
            Some("application/json-patch+json") => Ok(PatchType::Json),
            Some("application/merge-patch+json") => Ok(PatchType::Merge),
            Some("application/strategic-merge-patch+json") => Ok(PatchType::Strategic),
            _ => Err(ApiError::unsupported_media_type(ACCEPTED)),
        }
    }
}

/// A patch whose text was read; applied to as many versions of the object as it takes.
pub enum ParsedPatch {
    Json(Patch),
    Merge(Value),
    Strategic(Value),
}

impl ParsedPatch {
    pub fn parse(patch_type: PatchType, body: &Bytes) -> Result<Self, ApiError> {
        let malformed = |error: serde_json::Error| {
            ApiError::bad_request(format!(
                "error decoding patch: {}",
                json_problem(body, &error)
            ))
        };
        let value: Value = serde_json::from_slice(body).map_err(malformed)?;
        if patch_type == PatchType::Json {
            let patch: Patch = serde_json::from_value(value)
                .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
            if patch.0.len() > JSON_PATCH_OPERATIONS_MAX {
                return Err(ApiError::too_large(format!(
                    "The allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS_MAX}, got {}",
                    patch.0.len()
                )));
            }
            return Ok(ParsedPatch::Json(patch));
        }
        if !value.is_object() {
            return Err(ApiError::bad_request(
                "error decoding patch: a merge patch must be a JSON object",
            ));
        }
        Ok(match patch_type {
            PatchType::Strategic => ParsedPatch::Strategic(value),
            _ => ParsedPatch::Merge(value),
        })
    }

    /// `kind`: of the object; a strategic patch of a type the schema does not know merges like RFC 7386.
    pub fn apply(&self, kind: Option<&Kind>, original: &Value) -> Result<Value, ApiError> {
        match (self, kind) {
            (ParsedPatch::Json(patch), _) => json::apply(patch, original),
            (ParsedPatch::Strategic(patch), Some(kind)) => {
                schema::strategic_merge(kind, original, patch)
                    .map_err(|error| ApiError::bad_request(error.to_string()))
            }
            (ParsedPatch::Merge(patch) | ParsedPatch::Strategic(patch), _) => {
                let mut patched = original.clone();
                json_patch::merge(&mut patched, patch);
                Ok(patched)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(patch_type: PatchType, text: &'static str) -> Result<ParsedPatch, ApiError> {
        ParsedPatch::parse(patch_type, &Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn unknown_formats_are_told_the_known_ones() {
        let error = PatchType::from_content_type(Some("application/apply-patch+yaml")).unwrap_err();
        assert_eq!(error.code, 415);
        assert!(error.message.ends_with("application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json"));
    }

    #[test]
    fn merge_removes_nulls_and_json_patch_tests() {
        let object = json!({"a": 1, "b": {"c": 2}});
        let merge = parsed(PatchType::Merge, r#"{"a":null,"b":{"d":3}}"#).unwrap();
        assert_eq!(
            merge.apply(None, &object).unwrap(),
            json!({"b": {"c": 2, "d": 3}})
        );
        let test = parsed(PatchType::Json, r#"[{"op":"test","path":"/a","value":2}]"#).unwrap();
        let error = test.apply(None, &object).unwrap_err();
        assert_eq!((error.code, error.reason), (422, "Invalid"));
        let replace = parsed(
            PatchType::Json,
            r#"[{"op":"replace","path":"/a","value":2}]"#,
        )
        .unwrap();
        assert_eq!(replace.apply(None, &object).unwrap()["a"], 2);
    }

    #[test]
    fn broken_patches_are_400_and_huge_ones_413() {
        for (patch_type, text) in [
            (PatchType::Merge, "{"),
            (PatchType::Merge, "[]"),
            (PatchType::Strategic, "7"),
            (PatchType::Json, "{}"),
            (PatchType::Json, r#"[{"op":"fly"}]"#),
        ] {
            assert_eq!(parsed(patch_type, text).err().unwrap().code, 400, "{text}");
        }
        let many = vec![r#"{"op":"remove","path":"/a"}"#; JSON_PATCH_OPERATIONS_MAX + 1].join(",");
        let body = Bytes::from(format!("[{many}]"));
        assert_eq!(
            ParsedPatch::parse(PatchType::Json, &body)
                .err()
                .unwrap()
                .code,
            413
        );
    }
}
