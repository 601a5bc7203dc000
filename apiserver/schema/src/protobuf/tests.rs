//! Golden bytes: bodies a real kubectl sent, and objects as Go's own code encodes them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;

const KUBECTL: &str = include_str!("../../testdata/kubectl.tsv");
const OBJECTS: &str = include_str!("../../testdata/objects.tsv");

fn goldens() -> impl Iterator<Item = (Vec<u8>, Value)> {
    KUBECTL
        .lines()
        .chain(OBJECTS.lines())
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (bytes, json) = line.split_once('\t').expect("bytes, tab, JSON");
            (
                STANDARD.decode(bytes).expect("base64"),
                serde_json::from_str(json).expect("JSON"),
            )
        })
}

#[test]
fn bytes_become_the_json_that_go_prints() {
    for (bytes, json) in goldens() {
        assert_eq!(decode_protobuf(&bytes), Ok(json));
    }
}

#[test]
fn json_becomes_the_bytes_that_go_writes() {
    for (bytes, json) in goldens() {
        let encoded = encode_protobuf(&json).expect("goldens can be encoded");
        assert_eq!(encoded, bytes, "{json}");
    }
}

#[test]
fn fields_stand_in_the_order_of_the_go_struct() {
    let (bytes, json) = goldens().next().expect("a Deployment comes first");
    assert_eq!(
        decode_protobuf(&bytes).map(|value| value.to_string()),
        Ok(json.to_string())
    );
}

#[test]
fn every_prefix_and_every_damaged_byte_ends_in_an_answer() {
    for (bytes, _) in goldens() {
        for end in 0..bytes.len() {
            let _ = decode_protobuf(&bytes[..end]);
        }
        for index in 4..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[index] ^= 0xff;
            let _ = decode_protobuf(&damaged);
        }
    }
}

#[test]
fn what_is_not_protobuf_is_refused() {
    assert_eq!(decode_protobuf(b"{}"), Err(DecodeError::NoEnvelope));
    let unknown = encode_protobuf(&json!({"apiVersion": "v1", "kind": "Nope"}));
    assert_eq!(
        unknown,
        Err(EncodeError::UnknownKind {
            api_version: "v1".to_owned(),
            kind: "Nope".to_owned()
        })
    );
    let wrong = encode_protobuf(
        &json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": "three"}}),
    );
    assert_eq!(
        wrong.map_err(|problem| problem.to_string()),
        Err("spec.replicas: expected an integer".to_owned())
    );
}

#[test]
fn a_deeply_nested_body_is_refused_not_followed() {
    // NodeSelector and friends do not nest; a schema inside a schema does.
    let mut schema: Vec<u8> = Vec::new();
    for _ in 0..1_000 {
        let mut outer = Writer::default();
        outer.bytes(28, &schema);
        schema = outer.bytes;
    }
    let props = table()
        .by_name("apiextensions.v1.JSONSchemaProps")
        .expect("in the table");
    let found = decode::message(props, &schema, 0, &mut Map::new());
    assert_eq!(
        found,
        Err(DecodeError::Malformed("exceeded max depth".to_owned()))
    );
}
