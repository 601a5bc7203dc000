//! Strict reading of a JSON body: which fields it has that the type has not, and which it has twice.
//! Promise: reads the bytes themselves, since a parsed value no longer knows of duplicates; texts and paths are Kubernetes'.
//! Not here: wrong types (`typed`); malformed JSON is silently left to the ordinary parser.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::kinds::Kind;
use crate::table::{Message, Shape, Type, table};

/// More findings than this are not reported.
const FINDINGS_MAX: usize = 100;

/// Texts such as `unknown field "spec.foo"` and `duplicate field "spec.replicas"`, in document order.
pub fn unknown_fields(kind: &Kind, raw: &[u8]) -> Vec<String> {
    let Some(message) = table().root(&kind.api_version(), kind.kind) else {
        return Vec::new();
    };
    unknown_fields_of(message, raw)
}

pub(crate) fn unknown_fields_of(message: &'static Message, raw: &[u8]) -> Vec<String> {
    let mut findings = Findings {
        path: String::new(),
        texts: Vec::new(),
    };
    let mut reader = serde_json::Deserializer::from_slice(raw);
    let walk = Walk {
        expect: Expect::Message {
            message,
            root: true,
        },
        findings: &mut findings,
    };
    // A syntax error ends the walk; the ordinary parser reports it.
    let _ = walk.deserialize(&mut reader);
    findings.texts
}

struct Findings {
    path: String,
    texts: Vec<String>,
}

impl Findings {
    fn add(&mut self, what: &str, key: &str) {
        let dot = if self.path.is_empty() { "" } else { "." };
        let text = format!("{what} field \"{}{dot}{key}\"", self.path);
        if self.texts.len() < FINDINGS_MAX && !self.texts.contains(&text) {
            self.texts.push(text);
        }
    }
}

/// What the table says should stand here.
#[derive(Clone, Copy)]
enum Expect {
    Message {
        message: &'static Message,
        root: bool,
    },
    /// List elements and map values of this type.
    List(Type),
    Map(Type),
    /// Free-form content and scalars.
    Anything,
}

fn expect_one(ty: Type) -> Expect {
    match ty {
        Type::Message(id) => Expect::Message {
            message: table().message(id),
            root: false,
        },
        Type::SchemaOrBool => match table().by_name("apiextensions.v1.JSONSchemaProps") {
            Some(message) => Expect::Message {
                message,
                root: false,
            },
            None => Expect::Anything,
        },
        _ => Expect::Anything,
    }
}

struct Walk<'a> {
    expect: Expect,
    findings: &'a mut Findings,
}

impl Walk<'_> {
    fn below(&mut self, step: &str, expect: Expect) -> (usize, Walk<'_>) {
        let length = self.findings.path.len();
        if !step.starts_with('[') && length > 0 {
            self.findings.path.push('.');
        }
        self.findings.path.push_str(step);
        (
            length,
            Walk {
                expect,
                findings: self.findings,
            },
        )
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.expect {
            Expect::Anything => deserializer.deserialize_ignored_any(IgnoredAny).map(|_| ()),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut seen: BTreeSet<String> = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let expect = match self.expect {
                Expect::Message { message, root } => match message.field(&key) {
                    Some(field) => match field.shape {
                        Shape::One => Some(expect_one(field.ty)),
                        Shape::List => Some(Expect::List(field.ty)),
                        Shape::Map => Some(Expect::Map(field.ty)),
                    },
                    None if root && (key == "apiVersion" || key == "kind") => {
                        Some(Expect::Anything)
                    }
                    None => None,
                },
                Expect::Map(ty) => Some(expect_one(ty)),
                Expect::List(_) | Expect::Anything => Some(Expect::Anything),
            };
            let Some(expect) = expect else {
                self.findings.add("unknown", &key);
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let again = seen.contains(&key);
            if again {
                self.findings.add("duplicate", &key);
            }
            let (length, walk) = self.below(&key, expect);
            map.next_value_seed(walk)?;
            self.findings.path.truncate(length);
            if !again {
                seen.insert(key);
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        let expect = match self.expect {
            Expect::List(ty) => expect_one(ty),
            _ => Expect::Anything,
        };
        let mut index = 0;
        loop {
            let (length, walk) = self.below(&format!("[{index}]"), expect);
            let more = seq.next_element_seed(walk)?.is_some();
            self.findings.path.truncate(length);
            if !more {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::by_resource;

    #[test]
    fn findings_carry_full_paths_in_document_order() {
        let deployments = by_resource("apps", "v1", "deployments").expect("served");
        let raw = br#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"labels":{"a":"1","a":"2"},"nope":1},
            "spec":{"replicas":1,"replicas":2,"foo":{"bar":1},"template":{"spec":{"containers":[{"name":"a"},
            {"name":"b","imagee":"x","livenessProbe":{"httpGet":{"port":1,"host":"a"},"httpget":{}}}]}}}}"#;
        assert_eq!(
            unknown_fields(deployments, raw),
            [
                r#"duplicate field "metadata.labels.a""#,
                r#"unknown field "metadata.nope""#,
                r#"duplicate field "spec.replicas""#,
                r#"unknown field "spec.foo""#,
                r#"unknown field "spec.template.spec.containers[1].imagee""#,
                r#"unknown field "spec.template.spec.containers[1].livenessProbe.httpget""#,
            ]
        );
    }

    #[test]
    fn free_form_content_is_not_judged() {
        let pods = by_resource("", "v1", "pods").expect("served");
        let raw = br#"{"metadata":{"managedFields":[{"fieldsV1":{"f:x":{},"f:x":{}}}]}}"#;
        assert_eq!(unknown_fields(pods, raw), Vec::<String>::new());
        assert_eq!(unknown_fields(pods, b"{\"spec\": {"), Vec::<String>::new());
    }
}
