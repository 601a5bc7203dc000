//! Protobuf to JSON, one message at a time.
//! Promise: any bytes end in an object or an error; depth is bounded.

use serde_json::{Map, Number, Value};

use super::decode_enveloped;
use crate::error::DecodeError;
use crate::normal::{DEPTH_MAX, Slots};
use crate::scalar;
use crate::table::{Field, Message, Shape, Type, table};
use crate::wire::{Content, Reader, WireError};

pub fn malformed(problem: WireError) -> DecodeError {
    DecodeError::Malformed(problem.to_string())
}

pub fn text(bytes: &[u8]) -> Result<String, DecodeError> {
    String::from_utf8(bytes.to_vec())
        .map_err(|_| DecodeError::Malformed("string field contains invalid UTF-8".to_owned()))
}

fn wrong(field: &str) -> DecodeError {
    DecodeError::Malformed(format!("wrong wireType for field {field}"))
}

/// Decodes one message and appends its printed fields to `out`.
pub fn message(
    message: &Message,
    bytes: &[u8],
    depth: usize,
    out: &mut Map<String, Value>,
) -> Result<(), DecodeError> {
    if depth > DEPTH_MAX {
        return Err(DecodeError::Malformed("exceeded max depth".to_owned()));
    }
    let mut slots = Slots::new(message);
    let mut reader = Reader::new(bytes);
    while let Some((number, content)) = reader.next_field().map_err(malformed)? {
        let Some(index) = message
            .fields
            .iter()
            .position(|field| field.number == number)
        else {
            continue; // Written by someone newer than the table; Go skips it as well.
        };
        let field = &message.fields[index];
        match field.shape {
            Shape::One => *slots.slot(index) = Some(one(field, content, depth)?),
            Shape::List => {
                let slot = slots
                    .slot(index)
                    .get_or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(items) = slot {
                    list_items(field, content, depth, items)?;
                }
            }
            Shape::Map => {
                let (key, value) = map_entry(field, content, depth)?;
                let slot = slots
                    .slot(index)
                    .get_or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(entries) = slot {
                    entries.insert(key, value);
                }
            }
        }
    }
    slots.print(out);
    Ok(())
}

/// Lists of numbers may be packed although Go does not pack them.
fn list_items(
    field: &Field,
    content: Content<'_>,
    depth: usize,
    items: &mut Vec<Value>,
) -> Result<(), DecodeError> {
    match (field.ty, content) {
        (Type::Int32 | Type::Int64 | Type::Bool, Content::Bytes(packed)) => {
            let mut rest = Reader::new(packed);
            while rest.remaining() > 0 {
                let value = rest.varint().map_err(malformed)?;
                items.push(one(field, Content::Varint(value), depth)?);
            }
        }
        _ => items.push(one(field, content, depth)?),
    }
    Ok(())
}

fn map_entry(
    field: &Field,
    content: Content<'_>,
    depth: usize,
) -> Result<(String, Value), DecodeError> {
    let Content::Bytes(entry) = content else {
        return Err(wrong(field.name));
    };
    let mut reader = Reader::new(entry);
    let (mut key, mut value) = (String::new(), None);
    while let Some((number, content)) = reader.next_field().map_err(malformed)? {
        match (number, content) {
            (1, Content::Bytes(bytes)) => key = text(bytes)?,
            (2, content) => value = Some(one(field, content, depth)?),
            _ => {}
        }
    }
    let value = match value {
        Some(value) => value,
        None => match field.ty {
            Type::String => Value::from(""),
            Type::Bytes => Value::Null,
            _ => one(field, Content::Bytes(&[]), depth)?,
        },
    };
    Ok((key, value))
}

fn one(field: &Field, content: Content<'_>, depth: usize) -> Result<Value, DecodeError> {
    let value = match (field.ty, content) {
        (Type::String, Content::Bytes(bytes)) => Value::String(text(bytes)?),
        // Protobuf's integers are two's complement in a varint, negative ones sign-extended.
        (Type::Int32, Content::Varint(raw)) => Value::from(raw as i32),
        (Type::Int64, Content::Varint(raw)) => Value::from(raw as i64),
        (Type::Bool, Content::Varint(raw)) => Value::Bool(raw != 0),
        (Type::Double, Content::Fixed64(raw)) => {
            Number::from_f64(f64::from_bits(raw)).map_or(Value::Null, Value::Number)
        }
        (Type::Bytes, Content::Bytes(bytes)) => Value::String(scalar::encode_base64(bytes)),
        (Type::Message(id), Content::Bytes(bytes)) => {
            let mut inner = Map::new();
            message(table().message(id), bytes, depth + 1, &mut inner)?;
            Value::Object(inner)
        }
        (Type::Time | Type::MicroTime, Content::Bytes(bytes)) => time(field, bytes)?,
        (Type::Strings, Content::Bytes(bytes)) => {
            let mut items = Vec::new();
            let mut reader = Reader::new(bytes);
            while let Some((number, content)) = reader.next_field().map_err(malformed)? {
                if let (1, Content::Bytes(item)) = (number, content) {
                    items.push(Value::String(text(item)?));
                }
            }
            // Go cannot tell an empty list from none.
            if items.is_empty() {
                Value::Null
            } else {
                Value::Array(items)
            }
        }
        (Type::Quantity, Content::Bytes(bytes)) => {
            let mut quantity = "0".to_owned();
            let mut reader = Reader::new(bytes);
            while let Some((number, content)) = reader.next_field().map_err(malformed)? {
                if let (1, Content::Bytes(written)) = (number, content) {
                    quantity = text(written)?;
                }
            }
            Value::String(quantity)
        }
        (Type::IntOrString, Content::Bytes(bytes)) => int_or_string(bytes)?,
        (Type::Duration, Content::Bytes(bytes)) => {
            let mut nanos = 0;
            let mut reader = Reader::new(bytes);
            while let Some((number, content)) = reader.next_field().map_err(malformed)? {
                if let (1, Content::Varint(raw)) = (number, content) {
                    nanos = raw as i64;
                }
            }
            Value::String(scalar::format_duration(nanos))
        }
        (Type::Raw | Type::Fields | Type::Json, Content::Bytes(bytes)) => embedded(bytes, depth)?,
        (
            Type::SchemaOrBool | Type::SchemaOrArray | Type::SchemaOrStrings,
            Content::Bytes(bytes),
        ) => schema_or(field.ty, bytes, depth)?,
        _ => return Err(wrong(field.name)),
    };
    Ok(value)
}

fn time(field: &Field, bytes: &[u8]) -> Result<Value, DecodeError> {
    if bytes.is_empty() {
        return Ok(Value::Null); // Go writes its zero time as an empty message.
    }
    let (mut seconds, mut nanos) = (0_i64, 0_i32);
    let mut reader = Reader::new(bytes);
    while let Some((number, content)) = reader.next_field().map_err(malformed)? {
        match (number, content) {
            (1, Content::Varint(raw)) => seconds = raw as i64,
            (2, Content::Varint(raw)) => nanos = raw as i32,
            _ => {}
        }
    }
    let printed = match field.ty {
        Type::MicroTime => scalar::format_micro_time(seconds, nanos),
        _ => scalar::format_time(seconds),
    };
    printed
        .map(Value::String)
        .ok_or_else(|| DecodeError::Malformed(format!("time out of range in field {}", field.name)))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, DecodeError> {
    let (mut kind, mut number_value, mut text_value) = (0, 0_i32, String::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, content)) = reader.next_field().map_err(malformed)? {
        match (number, content) {
            (1, Content::Varint(raw)) => kind = raw,
            (2, Content::Varint(raw)) => number_value = raw as i32,
            (3, Content::Bytes(bytes)) => text_value = text(bytes)?,
            _ => {}
        }
    }
    Ok(if kind == 0 {
        Value::from(number_value)
    } else {
        Value::String(text_value)
    })
}

/// The `raw` field of RawExtension, FieldsV1 and JSON: a JSON text, or an object in its own envelope.
fn embedded(bytes: &[u8], depth: usize) -> Result<Value, DecodeError> {
    let mut reader = Reader::new(bytes);
    let mut raw: &[u8] = &[];
    while let Some((number, content)) = reader.next_field().map_err(malformed)? {
        if let (1, Content::Bytes(bytes)) = (number, content) {
            raw = bytes;
        }
    }
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    if raw.starts_with(super::MAGIC) {
        if depth >= DEPTH_MAX {
            return Err(DecodeError::Malformed("exceeded max depth".to_owned()));
        }
        return decode_enveloped(raw, depth + 1);
    }
    serde_json::from_slice(raw).map_err(|problem| DecodeError::Malformed(problem.to_string()))
}

fn schema_or(ty: Type, bytes: &[u8], depth: usize) -> Result<Value, DecodeError> {
    let props = table()
        .by_name("apiextensions.v1.JSONSchemaProps")
        .expect("the table has JSONSchemaProps");
    let schema = |bytes: &[u8]| {
        let mut inner = Map::new();
        message(props, bytes, depth + 1, &mut inner).map(|()| Value::Object(inner))
    };
    let mut found = match ty {
        Type::SchemaOrBool => Value::Bool(false),
        _ => Value::Array(Vec::new()),
    };
    let mut reader = Reader::new(bytes);
    while let Some((number, content)) = reader.next_field().map_err(malformed)? {
        match (ty, number, content) {
            (Type::SchemaOrBool, 1, Content::Varint(allows)) if !found.is_object() => {
                found = Value::Bool(allows != 0)
            }
            (Type::SchemaOrBool, 2, Content::Bytes(bytes)) => found = schema(bytes)?,
            (_, 1, Content::Bytes(bytes)) => found = schema(bytes)?,
            (Type::SchemaOrArray, 2, Content::Bytes(bytes)) => {
                if let Value::Array(items) = &mut found {
                    items.push(schema(bytes)?);
                }
            }
            (Type::SchemaOrStrings, 2, Content::Bytes(bytes)) => {
                if let Value::Array(items) = &mut found {
                    items.push(Value::String(text(bytes)?));
                }
            }
            _ => {}
        }
    }
    Ok(found)
}
