//! Kubernetes' protobuf: an envelope naming the kind, and proto2 messages with Go's conventions around it.
//! Promise: every root of the table, served or not, goes both ways; a decoded object prints as Kubernetes prints it, an
//! encoded one has the bytes Go would write.
//! Not here: framing of watch streams, content negotiation.

mod decode;
mod encode;

use serde_json::{Map, Value};

use crate::error::{DecodeError, EncodeError};
use crate::table::{Message, table};
use crate::wire::{Content, Reader, Writer};

const MAGIC: &[u8] = b"k8s\0";

/// Decodes an enveloped object; apiVersion and kind come from the envelope.
pub fn decode_protobuf(bytes: &[u8]) -> Result<Value, DecodeError> {
    decode_enveloped(bytes, 0)
}

fn decode_enveloped(bytes: &[u8], depth: usize) -> Result<Value, DecodeError> {
    let body = bytes.strip_prefix(MAGIC).ok_or(DecodeError::NoEnvelope)?;
    let mut reader = Reader::new(body);
    let (mut type_meta, mut raw, mut encoding, mut content_type) =
        (&[][..], &[][..], &[][..], &[][..]);
    while let Some((number, content)) = reader.next_field().map_err(decode::malformed)? {
        match (number, content) {
            (1, Content::Bytes(bytes)) => type_meta = bytes,
            (2, Content::Bytes(bytes)) => raw = bytes,
            (3, Content::Bytes(bytes)) => encoding = bytes,
            (4, Content::Bytes(bytes)) => content_type = bytes,
            _ => {}
        }
    }
    let (api_version, kind) = decode_type_meta(type_meta)?;
    if !encoding.is_empty() {
        return Err(DecodeError::Unsupported(
            String::from_utf8_lossy(encoding).into_owned(),
        ));
    }
    if content_type == b"application/json" {
        return serde_json::from_slice(raw)
            .map_err(|problem| DecodeError::Malformed(problem.to_string()));
    }
    let message = table()
        .root(&api_version, &kind)
        .ok_or_else(|| DecodeError::UnknownKind {
            api_version: api_version.clone(),
            kind: kind.clone(),
        })?;
    let mut object = Map::new();
    object.insert("kind".to_owned(), Value::String(kind));
    object.insert("apiVersion".to_owned(), Value::String(api_version));
    decode::message(message, raw, depth, &mut object)?;
    Ok(Value::Object(object))
}

fn decode_type_meta(bytes: &[u8]) -> Result<(String, String), DecodeError> {
    let mut reader = Reader::new(bytes);
    let (mut api_version, mut kind) = (String::new(), String::new());
    while let Some((number, content)) = reader.next_field().map_err(decode::malformed)? {
        match (number, content) {
            (1, Content::Bytes(bytes)) => api_version = decode::text(bytes)?,
            (2, Content::Bytes(bytes)) => kind = decode::text(bytes)?,
            _ => {}
        }
    }
    Ok((api_version, kind))
}

/// Encodes an object (or list, or Status) with its envelope.
pub fn encode_protobuf(object: &Value) -> Result<Vec<u8>, EncodeError> {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let message = table()
        .root(api_version, kind)
        .ok_or_else(|| EncodeError::UnknownKind {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
        })?;
    let mut type_meta = Writer::default();
    type_meta.bytes(1, api_version.as_bytes());
    type_meta.bytes(2, kind.as_bytes());
    let mut envelope = Writer {
        bytes: MAGIC.to_vec(),
    };
    envelope.bytes(1, &type_meta.bytes);
    envelope.bytes(2, &encode_body(message, object)?);
    envelope.bytes(3, b"");
    envelope.bytes(4, b"");
    Ok(envelope.bytes)
}

fn encode_body(message: &Message, object: &Value) -> Result<Vec<u8>, EncodeError> {
    let mut body = Writer::default();
    encode::message(message, object.as_object(), "", &mut body)?;
    Ok(body.bytes)
}

#[cfg(test)]
mod tests;
