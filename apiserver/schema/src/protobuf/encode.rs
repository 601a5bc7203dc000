//! JSON to protobuf, one message at a time, byte for byte as Go's generated code writes it: fields by number, values that
//! are not pointers always, maps sorted by key.

use serde_json::{Map, Value};

use super::encode_body;
use crate::error::EncodeError;
use crate::quantity::{PATTERN_PROBLEM, Quantity};
use crate::scalar;
use crate::table::{Field, Message, Shape, Type, table};
use crate::wire::Writer;

fn wrong(path: &str, expected: &str) -> EncodeError {
    EncodeError::WrongType {
        path: path.to_owned(),
        problem: format!("expected {expected}"),
    }
}

fn child(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Writes the fields of `message` found in `object`; None is the message's zero.
pub fn message(
    message: &Message,
    object: Option<&Map<String, Value>>,
    path: &str,
    out: &mut Writer,
) -> Result<(), EncodeError> {
    for index in &message.wire_order {
        let field = &message.fields[*index];
        if field.inline {
            if let Type::Message(id) = field.ty {
                let mut inner = Writer::default();
                self::message(table().message(id), object, path, &mut inner)?;
                out.bytes(field.number, &inner.bytes);
            }
            continue;
        }
        let found = object
            .and_then(|object| object.get(field.name))
            .filter(|value| !value.is_null());
        let path = child(path, field.name);
        match (field.shape, found) {
            (Shape::List, Some(Value::Array(items))) => {
                for (index, item) in items.iter().enumerate() {
                    one(
                        field,
                        field.number,
                        Some(item),
                        &format!("{path}[{index}]"),
                        out,
                    )?;
                }
            }
            (Shape::Map, Some(Value::Object(entries))) => {
                let mut sorted: Vec<(&String, &Value)> = entries.iter().collect();
                sorted.sort_unstable_by_key(|(key, _)| key.as_str());
                for (key, value) in sorted {
                    let mut entry = Writer::default();
                    entry.bytes(1, key.as_bytes());
                    one(
                        field,
                        2,
                        Some(value).filter(|value| !value.is_null()),
                        &child(&path, key),
                        &mut entry,
                    )?;
                    out.bytes(field.number, &entry.bytes);
                }
            }
            (Shape::List | Shape::Map, None) => {}
            (Shape::List, Some(_)) => return Err(wrong(&path, "a list")),
            (Shape::Map, Some(_)) => return Err(wrong(&path, "an object")),
            (Shape::One, None) if field.pointer => {}
            (Shape::One, found) => one(field, field.number, found, &path, out)?,
        }
    }
    Ok(())
}

/// Writes one value; None writes the zero that Go writes for a value that is not a pointer.
fn one(
    field: &Field,
    number: u32,
    value: Option<&Value>,
    path: &str,
    out: &mut Writer,
) -> Result<(), EncodeError> {
    match field.ty {
        Type::String => {
            let text = value.map_or(Ok(""), |value| {
                value.as_str().ok_or_else(|| wrong(path, "a string"))
            })?;
            out.bytes(number, text.as_bytes());
        }
        Type::Int32 | Type::Int64 => {
            let amount = value.map_or(Ok(0), |value| {
                value.as_i64().ok_or_else(|| wrong(path, "an integer"))
            })?;
            if field.ty == Type::Int32 && i32::try_from(amount).is_err() {
                return Err(wrong(path, "a 32 bit integer"));
            }
            out.varint(number, amount as u64);
        }
        Type::Bool => {
            let flag = value.map_or(Ok(false), |value| {
                value.as_bool().ok_or_else(|| wrong(path, "a boolean"))
            })?;
            out.varint(number, u64::from(flag));
        }
        Type::Double => {
            let amount = value.map_or(Ok(0.0), |value| {
                value.as_f64().ok_or_else(|| wrong(path, "a number"))
            })?;
            out.fixed64(number, amount.to_bits());
        }
        Type::Bytes => {
            let Some(value) = value else { return Ok(()) };
            let text = value.as_str().ok_or_else(|| wrong(path, "base64 text"))?;
            let bytes = scalar::decode_base64(text).map_err(|problem| EncodeError::WrongType {
                path: path.to_owned(),
                problem,
            })?;
            out.bytes(number, &bytes);
        }
        _ => {
            let mut inner = Writer::default();
            nested(field, value, path, &mut inner)?;
            out.bytes(number, &inner.bytes);
        }
    }
    Ok(())
}

/// The content of values that are messages on the wire.
fn nested(
    field: &Field,
    value: Option<&Value>,
    path: &str,
    out: &mut Writer,
) -> Result<(), EncodeError> {
    match field.ty {
        Type::Message(id) => {
            let object = value
                .map(|value| value.as_object().ok_or_else(|| wrong(path, "an object")))
                .transpose()?;
            message(table().message(id), object, path, out)?;
        }
        Type::Time | Type::MicroTime => {
            let Some(value) = value else { return Ok(()) };
            let (seconds, nanos) = value
                .as_str()
                .and_then(scalar::parse_time)
                .ok_or_else(|| wrong(path, "an RFC 3339 time"))?;
            let nanos = if field.ty == Type::Time {
                0
            } else {
                nanos / 1_000 * 1_000
            };
            out.varint(1, seconds as u64);
            out.varint(2, i64::from(nanos) as u64);
        }
        Type::Strings => {
            for item in value.and_then(Value::as_array).into_iter().flatten() {
                out.bytes(
                    1,
                    item.as_str()
                        .ok_or_else(|| wrong(path, "a string"))?
                        .as_bytes(),
                );
            }
        }
        Type::Quantity => {
            let text = match value {
                None => "0".to_owned(),
                Some(Value::String(text)) => text.clone(),
                Some(Value::Number(number)) => number.to_string(),
                Some(_) => return Err(wrong(path, "a quantity")),
            };
            if Quantity::parse(&text).is_none() {
                return Err(EncodeError::WrongType {
                    path: path.to_owned(),
                    problem: PATTERN_PROBLEM.to_owned(),
                });
            }
            out.bytes(1, text.as_bytes());
        }
        Type::IntOrString => {
            let (kind, amount, text) = match value {
                None => (0, 0, ""),
                Some(Value::String(text)) => (1, 0, text.as_str()),
                Some(value) => {
                    let amount = value.as_i64().and_then(|amount| i32::try_from(amount).ok());
                    (
                        0,
                        amount.ok_or_else(|| wrong(path, "a 32 bit integer or a string"))?,
                        "",
                    )
                }
            };
            out.varint(1, kind);
            out.varint(2, i64::from(amount) as u64);
            out.bytes(3, text.as_bytes());
        }
        Type::Duration => {
            let nanos = match value {
                None => 0,
                Some(value) => value
                    .as_str()
                    .and_then(scalar::parse_duration)
                    .ok_or_else(|| wrong(path, "a duration"))?,
            };
            out.varint(1, nanos as u64);
        }
        Type::Raw | Type::Fields | Type::Json => {
            if let Some(value) = value {
                out.bytes(1, value.to_string().as_bytes());
            }
        }
        Type::SchemaOrBool | Type::SchemaOrArray | Type::SchemaOrStrings => {
            schema_or(field.ty, value, path, out)?
        }
        Type::String | Type::Int32 | Type::Int64 | Type::Bool | Type::Double | Type::Bytes => {
            unreachable!("scalars are written by `one`")
        }
    }
    Ok(())
}

fn schema_or(
    ty: Type,
    value: Option<&Value>,
    path: &str,
    out: &mut Writer,
) -> Result<(), EncodeError> {
    let props = table()
        .by_name("apiextensions.v1.JSONSchemaProps")
        .expect("the table has JSONSchemaProps");
    match (ty, value) {
        (Type::SchemaOrBool, Some(Value::Bool(allows))) => out.varint(1, u64::from(*allows)),
        (Type::SchemaOrBool, Some(schema @ Value::Object(_))) => {
            out.varint(1, 1);
            out.bytes(2, &encode_body(props, schema)?);
        }
        (Type::SchemaOrBool, None) => out.varint(1, 0),
        (_, Some(schema @ Value::Object(_))) => out.bytes(1, &encode_body(props, schema)?),
        (_, Some(Value::Array(items))) => {
            for item in items {
                match (ty, item) {
                    (Type::SchemaOrStrings, Value::String(text)) => out.bytes(2, text.as_bytes()),
                    (Type::SchemaOrArray, schema @ Value::Object(_)) => {
                        out.bytes(2, &encode_body(props, schema)?)
                    }
                    _ => return Err(wrong(path, "a schema")),
                }
            }
        }
        (_, None) => {}
        _ => return Err(wrong(path, "a schema")),
    }
    Ok(())
}
