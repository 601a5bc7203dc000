//! One stored object: the frame around its JSON (see FORMAT.md), and the resourceVersion, which is never stored but
//! put in when the object is read.
//! Promise: [`Stored::json`] and `serde_json::to_vec(&stored.decode())` give the same bytes.

use barque_apiserver_schema as schema;
use barque_store_state::{KeyValue, Revision};
use bytes::Bytes;
use serde_json::{Map, Value};

const MAGIC: &[u8; 4] = b"brq\0";
const FORMAT: u8 = 1;
const FLAG_ENCRYPTED: u8 = 1;
/// Magic, format, flags, splice offset, length of apiVersion.
const FIXED_HEADER: usize = 4 + 1 + 1 + 4 + 1;
/// What a kube-apiserver's rows begin with.
const KUBERNETES_PROTOBUF: &[u8; 4] = b"k8s\0";

/// Fields of metadata that stand before the resourceVersion, in Kubernetes' order.
const BEFORE_RESOURCE_VERSION: &[&str] = &["name", "generateName", "namespace", "uid"];

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stored object cannot be read: {0}")]
pub struct Corrupt(String);

/// An object as it lies in the store, with the revision that a reader is to see.
#[derive(Clone, Debug)]
pub struct Stored {
    value: Bytes,
    revision: Revision,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    /// Our own frame: JSON from `start` on, resourceVersion goes in at `splice`.
    Framed {
        api_version: String,
        start: usize,
        splice: usize,
    },
    /// Written by a kube-apiserver or by hand.
    Foreign(Box<Value>),
}

/// The row for an object. The resourceVersion in it is left out.
pub fn encode(object: &Value) -> Bytes {
    let empty = Map::new();
    let top = object.as_object().unwrap_or(&empty);
    let metadata = top
        .get("metadata")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    let api_version = top
        .get("apiVersion")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let api_version = &api_version.as_bytes()[..api_version.len().min(u8::MAX as usize)];

    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[FORMAT, 0]);
    out.extend_from_slice(&[0; 4]); // the splice offset, known below
    out.push(api_version.len() as u8);
    out.extend_from_slice(api_version);
    let start = out.len();

    out.push(b'{');
    for key in ["kind", "apiVersion"] {
        if let Some(value) = top.get(key) {
            field(&mut out, key, value);
        }
    }
    comma(&mut out);
    out.extend_from_slice(b"\"metadata\":{");
    for key in BEFORE_RESOURCE_VERSION {
        if let Some(value) = metadata.get(*key) {
            field(&mut out, key, value);
        }
    }
    let splice = (out.len() - start) as u32;
    out[6..10].copy_from_slice(&splice.to_le_bytes());
    for (key, value) in metadata {
        if !BEFORE_RESOURCE_VERSION.contains(&key.as_str()) && key != "resourceVersion" {
            field(&mut out, key, value);
        }
    }
    out.push(b'}');
    for (key, value) in top {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            field(&mut out, key, value);
        }
    }
    out.push(b'}');
    out.into()
}

fn comma(out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
}

fn field(out: &mut Vec<u8>, key: &str, value: &Value) {
    comma(out);
    serde_json::to_writer(&mut *out, key).expect("a string is JSON");
    out.push(b':');
    serde_json::to_writer(&mut *out, value).expect("a JSON value is JSON");
}

impl Stored {
    pub fn from_row(row: &KeyValue) -> Result<Self, Corrupt> {
        Self::new(row.value.clone(), row.mod_revision)
    }

    /// `revision`: what readers see as resourceVersion; the deletion's for a deleted object.
    pub fn new(value: Bytes, revision: Revision) -> Result<Self, Corrupt> {
        let body = if value.starts_with(MAGIC) {
            framed(&value)?
        } else if value.starts_with(KUBERNETES_PROTOBUF) {
            let object =
                schema::decode_protobuf(&value).map_err(|error| Corrupt(error.to_string()))?;
            Body::Foreign(Box::new(object))
        } else {
            let object =
                serde_json::from_slice(&value).map_err(|error| Corrupt(error.to_string()))?;
            Body::Foreign(Box::new(object))
        };
        Ok(Stored {
            value,
            revision,
            body,
        })
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }
    /// The row's bytes.
    pub fn value(&self) -> &Bytes {
        &self.value
    }
    pub fn api_version(&self) -> &str {
        match &self.body {
            Body::Framed { api_version, .. } => api_version,
            Body::Foreign(object) => object
                .get("apiVersion")
                .and_then(Value::as_str)
                .unwrap_or_default(),
        }
    }

    /// Appends the object's JSON, resourceVersion included, without decoding it.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match &self.body {
            Body::Framed { start, splice, .. } => {
                let body = &self.value[*start..];
                out.reserve(body.len() + 40);
                out.extend_from_slice(&body[..*splice]);
                comma(out);
                out.extend_from_slice(b"\"resourceVersion\":\"");
                out.extend_from_slice(self.revision.0.to_string().as_bytes());
                out.push(b'"');
                let rest = &body[*splice..];
                // An object whose metadata holds nothing but a name it never had: `{` then our field, then theirs.
                if *splice > 0 && body[*splice - 1] == b'{' && rest.first() != Some(&b'}') {
                    out.push(b',');
                }
                out.extend_from_slice(rest);
            }
            Body::Foreign(_) => {
                serde_json::to_writer(out, &self.decode()).expect("a JSON value is JSON");
            }
        }
    }

    pub fn json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_json(&mut out);
        out
    }

    pub fn decode(&self) -> Value {
        match &self.body {
            // Parsed once when the row was read: what fails here was not written by `encode`.
            Body::Framed { .. } => serde_json::from_slice(&self.json()).unwrap_or_else(|error| {
                tracing::error!(%error, revision = self.revision.0, "stored object is not JSON");
                Value::Null
            }),
            Body::Foreign(object) => {
                let mut object = (**object).clone();
                if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.insert(
                        "resourceVersion".to_owned(),
                        self.revision.0.to_string().into(),
                    );
                }
                object
            }
        }
    }
}

fn framed(value: &Bytes) -> Result<Body, Corrupt> {
    let short = || Corrupt("the row ends inside its header".to_owned());
    let header = value.get(..FIXED_HEADER).ok_or_else(short)?;
    if header[4] != FORMAT {
        return Err(Corrupt(format!(
            "format {} is newer than this program",
            header[4]
        )));
    }
    if header[5] & FLAG_ENCRYPTED != 0 {
        return Err(Corrupt(
            "the row is encrypted and there is no key".to_owned(),
        ));
    }
    let splice = u32::from_le_bytes([header[6], header[7], header[8], header[9]]) as usize;
    let start = FIXED_HEADER + header[10] as usize;
    let api_version = value.get(FIXED_HEADER..start).ok_or_else(short)?;
    if start + splice >= value.len() {
        return Err(short());
    }
    Ok(Body::Framed {
        api_version: String::from_utf8_lossy(api_version).into_owned(),
        start,
        splice,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stored(object: &Value, revision: u64) -> Stored {
        Stored::new(encode(object), Revision(revision)).unwrap()
    }

    #[test]
    fn the_revision_is_put_in_when_read() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"a": 1},
            "metadata": {"labels": {"k": "v"}, "uid": "u", "name": "p", "namespace": "d", "resourceVersion": "3"}});
        let row = stored(&pod, 42);
        assert_eq!(row.api_version(), "v1");
        assert_eq!(
            String::from_utf8(row.json()).unwrap(),
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","namespace":"d","uid":"u","resourceVersion":"42","labels":{"k":"v"}},"spec":{"a":1}}"#
        );
        assert_eq!(serde_json::to_vec(&row.decode()).unwrap(), row.json());
    }

    #[test]
    fn odd_objects_survive() {
        for object in [
            json!({"metadata": {}}),
            json!({"metadata": {"labels": {"a": "b"}}, "x": []}),
            json!({"kind": "K", "metadata": {"name": "ü\"\\\n"}}),
            json!({}),
        ] {
            let row = stored(&object, 7);
            let back = row.decode();
            assert_eq!(back["metadata"]["resourceVersion"], "7", "{object}");
            assert_eq!(serde_json::to_vec(&back).unwrap(), row.json());
            let again = stored(&back, 7);
            assert_eq!(
                again.value(),
                row.value(),
                "writing what was read changes nothing"
            );
        }
    }

    #[test]
    fn foreign_rows_are_read() {
        let plain = Bytes::from_static(b"{\"metadata\":{\"name\":\"a\"}}");
        let row = Stored::new(plain, Revision(5)).unwrap();
        assert_eq!(row.decode()["metadata"]["resourceVersion"], "5");
    }

    #[test]
    fn damage_is_an_error_not_a_panic() {
        let good = encode(&json!({"apiVersion": "v1", "metadata": {"name": "a"}}));
        for cut in 0..FIXED_HEADER + 4 {
            assert!(
                Stored::new(good.slice(..cut), Revision(1)).is_err(),
                "cut at {cut}"
            );
        }
        let mut newer = good.to_vec();
        newer[4] = 9;
        assert!(Stored::new(newer.into(), Revision(1)).is_err());
    }
}
