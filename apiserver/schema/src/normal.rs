//! The form in which Kubernetes prints an object: what is empty and what is left out.
//! Promise: `Slots` of the same message always print alike, whether they came from protobuf or from JSON; fields stand in
//! the table's order; unknown fields are gone.
//! Not here: defaults, validation.

use serde_json::{Map, Value};

use crate::quantity::Quantity;
use crate::scalar;
use crate::table::{Field, Message, Shape, Table, Type, table};

/// Nesting beyond this is refused by the decoders, so recursion here is bounded too.
pub const DEPTH_MAX: usize = 100;

/// The fields found in one message, by their index in the table.
pub struct Slots<'a> {
    message: &'a Message,
    found: Vec<Option<Value>>,
}

impl<'a> Slots<'a> {
    pub fn new(message: &'a Message) -> Self {
        Slots {
            message,
            found: message.fields.iter().map(|_| None).collect(),
        }
    }

    pub fn slot(&mut self, index: usize) -> &mut Option<Value> {
        &mut self.found[index]
    }

    /// Appends what Kubernetes would print to `out`.
    pub fn print(self, out: &mut Map<String, Value>) {
        for (field, found) in self.message.fields.iter().zip(self.found) {
            if field.inline {
                match found {
                    Some(Value::Object(inner)) => out.extend(inner),
                    _ => out.extend(zero_of(table(), field)),
                }
                continue;
            }
            if let Some(value) = printed(field, found) {
                out.insert(field.name.to_owned(), value);
            }
        }
    }
}

fn zero_of(table: &Table, field: &Field) -> Map<String, Value> {
    let mut out = Map::new();
    if let Type::Message(id) = field.ty {
        Slots::new(table.message(id)).print(&mut out);
    }
    out
}

/// The value to print, or None to leave the field out.
fn printed(field: &Field, found: Option<Value>) -> Option<Value> {
    let found = found.filter(|value| !value.is_null());
    match (field.shape, field.ty) {
        (Shape::List | Shape::Map, _) | (Shape::One, Type::Bytes | Type::Strings) => match found {
            Some(value) if field.always || !is_empty(&value) => Some(value),
            Some(_) => None,
            None => field.always.then_some(Value::Null),
        },
        _ if field.pointer => found.or_else(|| field.always.then_some(Value::Null)),
        (_, Type::Message(_)) => {
            Some(found.unwrap_or_else(|| Value::Object(zero_of(table(), field))))
        }
        (_, Type::Time | Type::MicroTime | Type::Raw | Type::Fields | Type::Json) => {
            Some(found.unwrap_or(Value::Null))
        }
        (_, Type::Quantity) => Some(found.unwrap_or_else(|| Value::from("0"))),
        (_, Type::IntOrString) => Some(found.unwrap_or_else(|| Value::from(0))),
        (_, Type::Duration) => Some(found.unwrap_or_else(|| Value::from("0s"))),
        (_, scalar) => match found {
            Some(value) if field.always || !is_empty(&value) => Some(value),
            Some(_) => None,
            None => field.always.then(|| match scalar {
                Type::String => Value::from(""),
                Type::Bool => Value::Bool(false),
                Type::Double | Type::Int32 | Type::Int64 => Value::from(0),
                _ => Value::Null,
            }),
        },
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(value) => value.as_f64() == Some(0.0),
        Value::String(value) => value.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// Rewrites a JSON object of `message` the way a typed decode and encode would: unknown fields and nulls go, empty
/// structs and fields without omitempty appear, texts such as times take their normal form. Values of a wrong type stay.
pub fn normalize(message: &Message, object: &mut Map<String, Value>, out: &mut Map<String, Value>) {
    let table = table();
    let mut slots = Slots::new(message);
    for (index, field) in message.fields.iter().enumerate() {
        if field.inline {
            if let Type::Message(id) = field.ty {
                let mut inner = Map::new();
                normalize(table.message(id), object, &mut inner);
                *slots.slot(index) = Some(Value::Object(inner));
            }
            continue;
        }
        if let Some(mut value) = object.remove(field.name) {
            match (&mut value, field.shape) {
                (Value::Array(items), Shape::List) => items
                    .iter_mut()
                    .for_each(|item| normalize_one(field.ty, item)),
                (Value::Object(entries), Shape::Map) => {
                    entries
                        .iter_mut()
                        .for_each(|(_, entry)| normalize_one(field.ty, entry));
                }
                (given, Shape::One) if !given.is_null() => normalize_one(field.ty, given),
                _ => {}
            }
            *slots.slot(index) = Some(value);
        }
    }
    slots.print(out);
}

fn normalize_one(ty: Type, value: &mut Value) {
    let replacement = match (ty, &mut *value) {
        (Type::Message(id), Value::Object(object)) => {
            let mut out = Map::new();
            normalize(table().message(id), object, &mut out);
            Some(Value::Object(out))
        }
        // An element that is null decodes to the type's zero.
        (Type::Message(id), Value::Null) => {
            let mut out = Map::new();
            Slots::new(table().message(id)).print(&mut out);
            Some(Value::Object(out))
        }
        (Type::Time, Value::String(text)) => scalar::parse_time(text)
            .and_then(|(seconds, _)| scalar::format_time(seconds))
            .map(Value::from),
        (Type::MicroTime, Value::String(text)) => scalar::parse_time(text)
            .and_then(|(seconds, nanos)| scalar::format_micro_time(seconds, nanos))
            .map(Value::from),
        // A number is as good as its text.
        (Type::Quantity, Value::Number(number)) => {
            let text = number.to_string();
            Quantity::parse(&text).map(|_| Value::from(text))
        }
        (Type::Double, Value::Number(_)) => None,
        _ => None,
    };
    if let Some(replacement) = replacement {
        *value = replacement;
    }
}
