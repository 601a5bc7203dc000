//! OpenAPI v2 in the one form that matters: the protobuf that kubectl before 1.28 asks for before it applies anything,
//! to see which kinds can be patched with which query parameters.
//! Not here: definitions of types; those clients find them in OpenAPI v3 or in their own code.

use barque_apiserver_schema::{self as schema, Kind};
use prost::Message;

/// Query parameters of a patch that clients look for.
const PATCH_PARAMETERS: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "force"];

// The parts of gnostic's `openapi.v2` messages that are filled in, by their field numbers.

#[derive(Clone, PartialEq, Message)]
struct Document {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, optional, tag = "2")]
    info: Option<Info>,
    #[prost(message, optional, tag = "8")]
    paths: Option<Paths>,
    #[prost(message, optional, tag = "9")]
    definitions: Option<Definitions>,
}
#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(string, tag = "2")]
    version: String,
}
#[derive(Clone, PartialEq, Message)]
struct Definitions {}
#[derive(Clone, PartialEq, Message)]
struct Paths {
    #[prost(message, repeated, tag = "2")]
    path: Vec<NamedPathItem>,
}
#[derive(Clone, PartialEq, Message)]
struct NamedPathItem {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<PathItem>,
}
#[derive(Clone, PartialEq, Message)]
struct PathItem {
    #[prost(message, optional, tag = "8")]
    patch: Option<Operation>,
}
#[derive(Clone, PartialEq, Message)]
struct Operation {
    #[prost(message, repeated, tag = "8")]
    parameters: Vec<ParametersItem>,
    #[prost(message, repeated, tag = "13")]
    vendor_extension: Vec<NamedAny>,
}
#[derive(Clone, PartialEq, Message)]
struct ParametersItem {
    #[prost(message, optional, tag = "1")]
    parameter: Option<Parameter>,
}
#[derive(Clone, PartialEq, Message)]
struct Parameter {
    #[prost(message, optional, tag = "2")]
    non_body: Option<NonBodyParameter>,
}
#[derive(Clone, PartialEq, Message)]
struct NonBodyParameter {
    #[prost(message, optional, tag = "3")]
    query: Option<QueryParameter>,
}
#[derive(Clone, PartialEq, Message)]
struct QueryParameter {
    #[prost(string, tag = "2")]
    location: String,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "6")]
    kind: String,
}
#[derive(Clone, PartialEq, Message)]
struct NamedAny {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Any>,
}
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "2")]
    yaml: String,
}

/// The document of everything that is served.
pub fn document(version: &str) -> Vec<u8> {
    Document {
        swagger: "2.0".to_owned(),
        info: Some(Info {
            title: "Kubernetes".to_owned(),
            version: version.to_owned(),
        }),
        paths: Some(Paths {
            path: schema::kinds().iter().map(path).collect(),
        }),
        definitions: Some(Definitions {}),
    }
    .encode_to_vec()
}

fn path(kind: &Kind) -> NamedPathItem {
    let root = if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    };
    let scope = if kind.namespaced {
        "/namespaces/{namespace}"
    } else {
        ""
    };
    let parameter = |name: &&str| ParametersItem {
        parameter: Some(Parameter {
            non_body: Some(NonBodyParameter {
                query: Some(QueryParameter {
                    location: "query".to_owned(),
                    name: (*name).to_owned(),
                    kind: "string".to_owned(),
                }),
            }),
        }),
    };
    let kind_of_body = NamedAny {
        name: "x-kubernetes-group-version-kind".to_owned(),
        value: Some(Any {
            yaml: format!(
                "group: \"{}\"\nkind: {}\nversion: {}\n",
                kind.group, kind.kind, kind.version
            ),
        }),
    };
    NamedPathItem {
        name: format!("{root}{scope}/{}/{{name}}", kind.plural),
        value: Some(PathItem {
            patch: Some(Operation {
                parameters: PATCH_PARAMETERS.iter().map(parameter).collect(),
                vendor_extension: vec![kind_of_body],
            }),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_says_that_it_validates_fields() {
        let document = Document::decode(document("v1").as_slice()).unwrap();
        let paths = document.paths.unwrap().path;
        assert_eq!(paths.len(), schema::kinds().len());
        for path in paths {
            let patch = path.value.unwrap().patch.unwrap();
            let names: Vec<String> = patch
                .parameters
                .into_iter()
                .map(|p| p.parameter.unwrap().non_body.unwrap().query.unwrap().name)
                .collect();
            assert!(names.iter().any(|name| name == "fieldValidation"));
        }
    }
}
