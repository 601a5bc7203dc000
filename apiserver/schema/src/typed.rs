//! Does a JSON object fit its type, and what would a typed decode make of it.
//! Promise: the first wrong type is reported in Go's words; dropping unknown fields changes nothing a typed client could see.

use serde_json::{Map, Value};

use crate::kinds::Kind;
use crate::normal::{DEPTH_MAX, normalize};
use crate::quantity::{PATTERN_PROBLEM, Quantity};
use crate::scalar;
use crate::table::{Field, Message, Shape, Type, table};

/// Rewrites the object as a typed decode and encode would: unknown fields and nulls go, empty structs and always-printed
/// fields appear, times and quantities take their normal form.
pub fn drop_unknown(kind: &Kind, object: &mut Value) {
    if let Some(message) = table().root(&kind.api_version(), kind.kind) {
        drop_unknown_of(message, object);
    }
}

pub(crate) fn drop_unknown_of(message: &Message, object: &mut Value) {
    let Value::Object(fields) = object else {
        return;
    };
    let mut out = Map::new();
    for name in ["kind", "apiVersion"] {
        if let Some(value) = fields.remove(name) {
            out.insert(name.to_owned(), value);
        }
    }
    normalize(message, fields, &mut out);
    *object = Value::Object(out);
}

/// `json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`, or None.
pub fn type_errors(kind: &Kind, object: &Value) -> Option<String> {
    let message = table().root(&kind.api_version(), kind.kind)?;
    type_errors_of(message, object)
}

pub(crate) fn type_errors_of(message: &Message, object: &Value) -> Option<String> {
    let Value::Object(fields) = object else {
        return Some(format!(
            "json: cannot unmarshal {} into Go value of type {}",
            described(object),
            message.go_name()
        ));
    };
    for name in ["apiVersion", "kind"] {
        if let Some(value) = fields
            .get(name)
            .filter(|value| !value.is_string() && !value.is_null())
        {
            return Some(format!(
                "json: cannot unmarshal {} into Go struct field {}.{name} of type string",
                described(value),
                message.short_name()
            ));
        }
    }
    of_object(message, fields, "", 0)
}

fn of_object(
    message: &Message,
    fields: &Map<String, Value>,
    path: &str,
    depth: usize,
) -> Option<String> {
    if depth > DEPTH_MAX {
        return Some("exceeded max depth".to_owned());
    }
    fields.iter().find_map(|(name, value)| {
        let field = message.field(name)?;
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        of_field(message, field, value, &path, depth)
    })
}

fn of_field(
    owner: &Message,
    field: &Field,
    value: &Value,
    path: &str,
    depth: usize,
) -> Option<String> {
    let wrong = |value: &Value, go_type: &str| {
        Some(format!(
            "json: cannot unmarshal {} into Go struct field {}.{path} of type {go_type}",
            described(value),
            owner.short_name()
        ))
    };
    match (field.shape, value) {
        (_, Value::Null) => None,
        (Shape::List, Value::Array(items)) => items
            .iter()
            .find_map(|item| of_one(field, item, path, depth, &wrong)),
        (Shape::List, other) => wrong(other, &format!("[]{}", go_type(field))),
        (Shape::Map, Value::Object(entries)) => entries
            .iter()
            .find_map(|(_, entry)| of_one(field, entry, path, depth, &wrong)),
        (Shape::Map, other) if field.ty == Type::Quantity => wrong(other, "v1.ResourceList"),
        (Shape::Map, other) => wrong(other, &format!("map[string]{}", go_type(field))),
        (Shape::One, value) => of_one(field, value, path, depth, &wrong),
    }
}

fn of_one(
    field: &Field,
    value: &Value,
    path: &str,
    depth: usize,
    wrong: &dyn Fn(&Value, &str) -> Option<String>,
) -> Option<String> {
    match (field.ty, value) {
        (_, Value::Null) | (Type::Raw | Type::Fields | Type::Json, _) => None,
        (Type::String, Value::String(_))
        | (Type::Bool, Value::Bool(_))
        | (Type::Double, Value::Number(_)) => None,
        (Type::Int32, Value::Number(number)) => match number.as_i64() {
            Some(amount) if i32::try_from(amount).is_ok() => None,
            _ => wrong_number(number, &go_type(field), wrong, value),
        },
        (Type::Int64, Value::Number(number)) => match number.as_i64() {
            Some(_) => None,
            None => wrong_number(number, &go_type(field), wrong, value),
        },
        (Type::Bytes, Value::String(text)) => scalar::decode_base64(text).err(),
        (Type::Strings, Value::Array(items)) => items
            .iter()
            .find(|item| !item.is_string() && !item.is_null())
            .and_then(|item| wrong(item, "string")),
        (Type::Time | Type::MicroTime, Value::String(text)) => scalar::parse_time(text)
            .is_none()
            .then(|| scalar::time_problem(text)),
        (Type::Time | Type::MicroTime | Type::Duration, other) if !other.is_string() => {
            wrong(other, "string")
        }
        (Type::Duration, Value::String(text)) => scalar::parse_duration(text)
            .is_none()
            .then(|| format!("time: invalid duration \"{text}\"")),
        (Type::Quantity, Value::String(text)) => Quantity::parse(text)
            .is_none()
            .then(|| PATTERN_PROBLEM.to_owned()),
        (Type::Quantity, Value::Number(_)) => None,
        (Type::Quantity, _) => Some(PATTERN_PROBLEM.to_owned()),
        (Type::IntOrString, Value::String(_)) => None,
        (Type::IntOrString, Value::Number(number)) => {
            let fits = number
                .as_i64()
                .is_some_and(|amount| i32::try_from(amount).is_ok());
            if fits {
                None
            } else {
                wrong_number(number, "int32", wrong, value)
            }
        }
        (Type::IntOrString, other) => wrong(other, "int32"),
        (Type::Message(id), Value::Object(fields)) => {
            of_object(table().message(id), fields, path, depth + 1)
        }
        (Type::SchemaOrBool, Value::Bool(_)) => None,
        (
            Type::SchemaOrBool | Type::SchemaOrArray | Type::SchemaOrStrings,
            Value::Object(fields),
        ) => of_object(
            table().by_name("apiextensions.v1.JSONSchemaProps")?,
            fields,
            path,
            depth + 1,
        ),
        (Type::SchemaOrArray | Type::SchemaOrStrings, Value::Array(_)) => None,
        (_, other) => wrong(other, &go_type(field)),
    }
}

/// Numbers that are numbers but not this type's are shown with their digits.
fn wrong_number(
    number: &serde_json::Number,
    go_type: &str,
    wrong: &dyn Fn(&Value, &str) -> Option<String>,
    value: &Value,
) -> Option<String> {
    let text = wrong(value, go_type)?;
    Some(text.replacen(
        "unmarshal number into",
        &format!("unmarshal number {number} into"),
        1,
    ))
}

/// What Go calls the type of one value of the field.
fn go_type(field: &Field) -> String {
    match field.ty {
        _ if field.go.is_some() => field.go.unwrap_or_default().to_owned(),
        Type::String => "string".to_owned(),
        Type::Int32 => "int32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Bool => "bool".to_owned(),
        Type::Double => "float64".to_owned(),
        Type::Bytes => "[]uint8".to_owned(),
        Type::Strings => "[]string".to_owned(),
        Type::Time => "v1.Time".to_owned(),
        Type::MicroTime => "v1.MicroTime".to_owned(),
        Type::Duration => "v1.Duration".to_owned(),
        Type::Quantity => "resource.Quantity".to_owned(),
        Type::IntOrString => "intstr.IntOrString".to_owned(),
        Type::Raw => "runtime.RawExtension".to_owned(),
        Type::Fields => "v1.FieldsV1".to_owned(),
        Type::Json => "v1.JSON".to_owned(),
        Type::SchemaOrBool => "v1.JSONSchemaPropsOrBool".to_owned(),
        Type::SchemaOrArray => "v1.JSONSchemaPropsOrArray".to_owned(),
        Type::SchemaOrStrings => "v1.JSONSchemaPropsOrStringArray".to_owned(),
        Type::Message(id) => table().message(id).go_name(),
    }
}

fn described(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::by_resource;

    #[test]
    fn wrong_types_are_told_in_gos_words() {
        let deployments = by_resource("apps", "v1", "deployments").expect("served");
        for (spec, problem) in [
            (
                json!({"replicas": "3"}),
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                json!({"replicas": 1.5}),
                "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                json!({"template": {"spec": {"containers": {}}}}),
                "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
            ),
            (
                json!({"template": {"spec": {"containers": [{"image": 7}]}}}),
                "json: cannot unmarshal number into Go struct field Container.spec.template.spec.containers.image of type string",
            ),
            (
                json!({"template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "much"}}}]}}}),
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
            (
                json!({"template": {"spec": {"containers": [{"resources": {"limits": "x"}}]}}}),
                "json: cannot unmarshal string into Go struct field ResourceRequirements.spec.template.spec.containers.resources.limits of type v1.ResourceList",
            ),
            (
                json!({"strategy": {"rollingUpdate": {"maxSurge": true}}}),
                "json: cannot unmarshal bool into Go struct field RollingUpdateDeployment.spec.strategy.rollingUpdate.maxSurge of type int32",
            ),
            (
                json!({"template": {"metadata": {"creationTimestamp": 5}}}),
                "json: cannot unmarshal number into Go struct field ObjectMeta.spec.template.metadata.creationTimestamp of type string",
            ),
            (
                json!({"template": {"metadata": {"labels": {"a": 1}}}}),
                "json: cannot unmarshal number into Go struct field ObjectMeta.spec.template.metadata.labels of type string",
            ),
            (
                json!({"template": {"spec": {"dnsPolicy": true}}}),
                "json: cannot unmarshal bool into Go struct field PodSpec.spec.template.spec.dnsPolicy of type v1.DNSPolicy",
            ),
        ] {
            assert_eq!(
                type_errors(deployments, &json!({"spec": spec})).as_deref(),
                Some(problem)
            );
        }
        assert_eq!(
            type_errors(
                deployments,
                &json!({"spec": {"replicas": 3, "unknown": []}, "metadata": null})
            ),
            None
        );
    }

    #[test]
    fn a_typed_round_trip_drops_the_unknown_and_shows_the_empty() {
        let pods = by_resource("", "v1", "pods").expect("served");
        let mut pod = json!({"metadata": {"name": "p", "nope": 1, "labels": {}, "creationTimestamp": null}, "kind": "Pod",
            "apiVersion": "v1", "spec": {"priority": 0, "hostNetwork": false, "nodeName": "", "volumes": null,
            "containers": [{"name": "c", "resources": {"limits": {"cpu": 2}}}]}});
        drop_unknown(pods, &mut pod);
        assert_eq!(
            pod,
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "creationTimestamp": null},
                "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}}}], "priority": 0},
                "status": {}})
        );
    }
}
