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
    let Value::Object(fields) = object else { return };
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
        return Some(format!("json: cannot unmarshal {} into Go value of type {}", described(object), message.go_name()));
    };
    for name in ["apiVersion", "kind"] {
        if let Some(value) = fields.get(name).filter(|value| !value.is_string() && !value.is_null()) {
            return Some(format!(
                "json: cannot unmarshal {} into Go struct field {}.{name} of type string",
                described(value),
                message.short_name()
            ));
        }
    }
    of_object(message, fields, "", 0)
}

fn of_object(message: &Message, fields: &Map<String, Value>, path: &str, depth: usize) -> Option<String> {
    if depth > DEPTH_MAX {
        return Some("exceeded max depth".to_owned());
    }
    fields.iter().find_map(|(name, value)| {
        let field = message.field(name)?;
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        of_field(message, field, value, &path, depth)
    })
}

fn of_field(owner: &Message, field: &Field, value: &Value, path: &str, depth: usize) -> Option<String> {
    let wrong = |value: &Value, go_type: &str| {
        Some(format!(
            "json: cannot unmarshal {} into Go struct field {}.{path} of type {go_type}",
            described(value),
            owner.short_name()
        ))
    };
    match (field.shape, value) {
        (_, Value::Null) => None,
        (Shape::List, Value::Array(items)) => {
            items.iter().find_map(|item| of_one(field, item, path, depth, &wrong))
        }
        (Shape::List, other) => wrong(other, &format!("[]{}", go_type(field))),
        (Shape::Map, Value::Object(entries)) => {
            entries.iter().find_map(|(_, entry)| of_one(field, entry, path, depth, &wrong))
        }
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
    let go_string = |value: &Value| Some(format!("json: cannot unmarshal {} into Go value of type string", described(value)));
    match (field.ty, value) {
        (_, Value::Null) | (Type::Raw | Type::Fields | Type::Json, _) => None,
        (Type::String, Value::String(_)) | (Type::Bool, Value::Bool(_)) | (Type::Double, Value::Number(_)) => None,
        (Type::Int32, Value::Number(number)) => match number.as_i64() {
            Some(amount) if i32::try_from(amount).is_ok() => None,
            _ => wrong_number(number, field, wrong, value),
        },
        (Type::Int64, Value::Number(number)) => match number.as_i64() {
            Some(_) => None,
            None => wrong_number(number, field, wrong, value),
        },
        (Type::Bytes, Value::String(text)) => scalar::decode_base64(text).err(),
        (Type::Strings, Value::Array(items)) => {
            items.iter().find(|item| !item.is_string() && !item.is_null()).and_then(|item| wrong(item, "string"))
        }
        (Type::Time | Type::MicroTime, Value::String(text)) => {
            scalar::parse_time(text).is_none().then(|| scalar::time_problem(text))
        }
        (Type::Time | Type::MicroTime | Type::Duration, other) if !other.is_string() => go_string(other),
        (Type::Duration, Value::String(text)) => {
            scalar::parse_duration(text).is_none().then(|| format!("time: invalid duration \"{text}\""))
        }
        (Type::Quantity, Value::String(text)) => Quantity::parse(text).is_none().then(|| PATTERN_PROBLEM.to_owned()),
        (Type::Quantity, Value::Number(_)) => None,
        (Type::Quantity, _) => Some(PATTERN_PROBLEM.to_owned()),
        (Type::IntOrString, Value::String(_)) => None,
        (Type::IntOrString, Value::Number(number)) => {
            let fits = number.as_i64().is_some_and(|amount| i32::try_from(amount).is_ok());
            (!fits).then(|| format!("json: cannot unmarshal number {number} into Go value of type int32"))
        }
        (Type::IntOrString, other) => {
            Some(format!("json: cannot unmarshal {} into Go value of type int32", described(other)))
        }
        (Type::Message(id), Value::Object(fields)) => of_object(table().message(id), fields, path, depth + 1),
        (Type::SchemaOrBool, Value::Bool(_)) => None,
        (Type::SchemaOrBool | Type::SchemaOrArray | Type::SchemaOrStrings, Value::Object(fields)) => {
            of_object(table().by_name("apiextensions.v1.JSONSchemaProps")?, fields, path, depth + 1)
        }
        (Type::SchemaOrArray | Type::SchemaOrStrings, Value::Array(_)) => None,
        (_, other) => wrong(other, &go_type(field)),
    }
}

/// Numbers that are numbers but not this type's are shown with their digits.
fn wrong_number(
    number: &serde_json::Number,
    field: &Field,
    wrong: &dyn Fn(&Value, &str) -> Option<String>,
    value: &Value,
) -> Option<String> {
    let text = wrong(value, &go_type(field))?;
    Some(text.replacen("unmarshal number into", &format!("unmarshal number {number} into"), 1))
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
