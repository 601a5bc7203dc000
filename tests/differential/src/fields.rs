//! Messages as flat lists of named fields, so that two answers can be compared without knowing what they are.
//! Promise: nothing is left out: presence of messages, unknown fields and bytes that do not decode show as fields too.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, Value};

use crate::limits::BYTES_PRINTED;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(barque_proto::DESCRIPTORS).expect("our own descriptors decode")
});

/// Path (`kvs[3].lease`) to value.
pub type Fields = BTreeMap<String, String>;

/// The messages a method takes and gives.
#[derive(Clone, Debug)]
pub struct Method {
    pub input: MessageDescriptor,
    pub output: MessageDescriptor,
}

/// `None`: a path nobody serves.
pub fn method(path: &str) -> Option<Method> {
    let (service, method) = path.strip_prefix('/')?.rsplit_once('/')?;
    let service = POOL.get_service_by_name(service)?;
    let method = service.methods().find(|m| m.name() == method)?;
    Some(Method {
        input: method.input(),
        output: method.output(),
    })
}

/// A message by its full name, one of ours.
pub fn message(name: &str) -> MessageDescriptor {
    POOL.get_message_by_name(name)
        .unwrap_or_else(|| panic!("{name} is not in our descriptors"))
}

pub fn fields(of: &MessageDescriptor, prefix: &str, message: &Bytes) -> Fields {
    let mut out = Fields::new();
    match DynamicMessage::decode(of.clone(), message.clone()) {
        Ok(message) => flatten(&message, prefix, &mut out),
        Err(error) => {
            out.insert(prefix.to_owned(), format!("not a {}: {error}", of.name()));
        }
    }
    out
}

fn flatten(message: &DynamicMessage, prefix: &str, out: &mut Fields) {
    let join = |name: &str| match prefix {
        "" => name.to_owned(),
        prefix => format!("{prefix}.{name}"),
    };
    let mut empty = true;
    for (field, value) in message.fields() {
        empty = false;
        flatten_value(value, &join(field.name()), out);
    }
    for unknown in message.unknown_fields() {
        empty = false;
        out.insert(
            join(&format!("?{}", unknown.number())),
            "unknown".to_owned(),
        );
    }
    if empty && !prefix.is_empty() {
        out.insert(prefix.to_owned(), "{}".to_owned());
    }
}

fn flatten_value(value: &Value, path: &str, out: &mut Fields) {
    match value {
        Value::Message(message) => flatten(message, path, out),
        Value::List(values) => {
            for (i, value) in values.iter().enumerate() {
                flatten_value(value, &format!("{path}[{i}]"), out);
            }
        }
        Value::Bytes(bytes) => {
            out.insert(path.to_owned(), shown(bytes));
        }
        Value::String(text) => {
            out.insert(path.to_owned(), format!("{text:?}"));
        }
        Value::EnumNumber(n) => {
            out.insert(path.to_owned(), n.to_string());
        }
        other => {
            let text = match other {
                Value::Bool(v) => v.to_string(),
                Value::I32(v) => v.to_string(),
                Value::I64(v) => v.to_string(),
                Value::U32(v) => v.to_string(),
                Value::U64(v) => v.to_string(),
                other => format!("{other:?}"),
            };
            out.insert(path.to_owned(), text);
        }
    }
}

/// Short bytes as text, long ones by length and checksum.
pub fn shown(bytes: &[u8]) -> String {
    if bytes.len() <= BYTES_PRINTED {
        return format!("\"{}\"", bytes.escape_ascii());
    }
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{} bytes, fnv {sum:016x}", bytes.len())
}

/// `{ key: "a" limit: -1 }`, for people.
pub fn described(fields: &Fields) -> String {
    let parts: Vec<String> = fields.iter().map(|(k, v)| format!("{k}={v}")).collect();
    format!("{{{}}}", parts.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use barque_proto::etcdserverpb as pb;
    use prost::Message;

    #[test]
    fn presence_unknown_fields_and_garbage_are_fields_too() {
        let put = method("/etcdserverpb.KV/Put").unwrap().output;
        let of = |bytes: &[u8]| fields(&put, "", &Bytes::copy_from_slice(bytes));
        let with_header = pb::PutResponse {
            header: Some(pb::ResponseHeader::default()),
            prev_kv: None,
        };
        assert_eq!(of(&with_header.encode_to_vec())["header"], "{}");
        assert!(of(&[]).is_empty());
        assert_eq!(of(&[0xf8, 0x01, 5])["?31"], "unknown");
        assert!(of(b"\xff")[""].starts_with("not a PutResponse"));
        assert!(method("/etcdserverpb.KV/Nothing").is_none());
    }
}
