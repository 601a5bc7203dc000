//! OpenAPI v3 documents, one per served group-version, made from the table.
//! Promise: every served kind has paths with the operations kubectl looks for, and schemas with the types and merge marks
//! that `explain`, `apply` and typed clients read.
//! Not here: descriptions (the table carries none), hashes and the index document (the gateway's business).

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::kinds::{Kind, kinds};
use crate::table::{Field, Message, Shape, Topology, Type, table};

const BODY_TYPES: [&str; 2] = ["application/json", "application/vnd.kubernetes.protobuf"];
const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// The document of one group-version; kinds that are not served leave no trace in it.
pub fn openapi_v3(group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    let mut wanted: BTreeSet<&'static str> = BTreeSet::new();
    let mut roots: Vec<(&'static str, Value)> = Vec::new();
    for kind in kinds()
        .iter()
        .filter(|kind| kind.group == group && kind.version == version)
    {
        kind_paths(kind, &mut paths, &mut wanted, &mut roots);
    }
    if !paths.is_empty() {
        for name in ["meta.v1.Status", "meta.v1.DeleteOptions", "meta.v1.Patch"] {
            wanted.insert(name);
        }
    }
    let mut schemas = Map::new();
    for name in with_references(wanted) {
        if let Some(message) = table().by_name(name) {
            let gvks: Vec<&Value> = roots
                .iter()
                .filter(|(root, _)| *root == name)
                .map(|(_, gvk)| gvk)
                .collect();
            schemas.insert(schema_name(name), message_schema(message, &gvks));
        }
    }
    for (name, schema) in special_schemas() {
        if !paths.is_empty() {
            schemas.insert(name.to_owned(), schema);
        }
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.33.0"},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn root_name(group: &str, version: &str, kind: &str) -> Option<&'static str> {
    let api_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    table().root(&api_version, kind).map(|message| message.name)
}

fn kind_paths(
    kind: &'static Kind,
    paths: &mut Map<String, Value>,
    wanted: &mut BTreeSet<&'static str>,
    roots: &mut Vec<(&'static str, Value)>,
) {
    let prefix = if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    };
    let scope = if kind.namespaced {
        "/namespaces/{namespace}"
    } else {
        ""
    };
    let collection = format!("{prefix}{scope}/{}", kind.plural);
    let mark = gvk(kind.group, kind.version, kind.kind);
    let list_mark = gvk(kind.group, kind.version, &kind.list_kind);
    let (Some(object), Some(list)) = (
        root_name(kind.group, kind.version, kind.kind),
        root_name(kind.group, kind.version, &kind.list_kind),
    ) else {
        return;
    };
    wanted.extend([object, list]);
    roots.push((object, mark.clone()));
    roots.push((list, list_mark));
    let tag = tag(kind);
    let operation = |action: &str, answer: &str, body: Option<Body<'_>>, parameters: &[&str]| {
        operation(&tag, action, &mark, answer, body, parameters)
    };
    let mut on_collection = Map::new();
    let mut on_object = Map::new();
    for verb in kind.verbs {
        match *verb {
            "list" => {
                on_collection.insert(
                    "get".to_owned(),
                    operation("list", list, None, LIST_PARAMETERS),
                );
            }
            "create" => {
                let made = operation("post", object, Some(Body::Object(object)), WRITE_PARAMETERS);
                on_collection.insert("post".to_owned(), made);
            }
            "deletecollection" => {
                let made = operation(
                    "deletecollection",
                    "meta.v1.Status",
                    Some(Body::DeleteOptions),
                    LIST_PARAMETERS,
                );
                on_collection.insert("delete".to_owned(), made);
            }
            "get" => {
                on_object.insert("get".to_owned(), operation("get", object, None, &[]));
            }
            "update" => {
                let made = operation("put", object, Some(Body::Object(object)), WRITE_PARAMETERS);
                on_object.insert("put".to_owned(), made);
            }
            "patch" => {
                let made = operation("patch", object, Some(Body::Patch), PATCH_PARAMETERS);
                on_object.insert("patch".to_owned(), made);
            }
            "delete" => {
                let made = operation(
                    "delete",
                    "meta.v1.Status",
                    Some(Body::DeleteOptions),
                    DELETE_PARAMETERS,
                );
                on_object.insert("delete".to_owned(), made);
            }
            _ => {}
        }
    }
    let with_namespace = |mut item: Map<String, Value>, named: bool| {
        let mut parameters = Vec::new();
        if named {
            parameters.push(path_parameter(
                "name",
                &format!("name of the {}", kind.kind),
            ));
        }
        if kind.namespaced {
            parameters.push(path_parameter(
                "namespace",
                "object name and auth scope, such as for teams and projects",
            ));
        }
        item.insert("parameters".to_owned(), Value::Array(parameters));
        Value::Object(item)
    };
    paths.insert(collection.clone(), with_namespace(on_collection, false));
    paths.insert(
        format!("{collection}/{{name}}"),
        with_namespace(on_object, true),
    );
    if kind.namespaced {
        let everywhere = operation("list", list, None, LIST_PARAMETERS);
        paths.insert(
            format!("{prefix}/{}", kind.plural),
            json!({"get": everywhere}),
        );
    }
    for sub in kind.subresources {
        let Some(body) = root_name(sub.group, sub.version, sub.kind) else {
            continue;
        };
        wanted.insert(body);
        let mark = gvk(sub.group, sub.version, sub.kind);
        if !roots.iter().any(|(root, _)| *root == body) {
            roots.push((body, mark.clone()));
        }
        let mut item = Map::new();
        for verb in sub.verbs {
            let (method, request, parameters) = match *verb {
                "get" => ("get", None, &[][..]),
                "create" => ("post", Some(Body::Object(body)), WRITE_PARAMETERS),
                "update" => ("put", Some(Body::Object(body)), WRITE_PARAMETERS),
                "patch" => ("patch", Some(Body::Patch), PATCH_PARAMETERS),
                _ => continue,
            };
            item.insert(
                method.to_owned(),
                self::operation(&tag, method, &mark, body, request, parameters),
            );
        }
        paths.insert(
            format!("{collection}/{{name}}/{}", sub.name),
            with_namespace(item, true),
        );
    }
}

fn tag(kind: &Kind) -> String {
    let group = kind.group.split('.').next().unwrap_or_default();
    let group = if group.is_empty() { "core" } else { group };
    format!("{group}_{}", kind.version)
}

const LIST_PARAMETERS: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const WRITE_PARAMETERS: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
const PATCH_PARAMETERS: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "force"];
const DELETE_PARAMETERS: &[&str] = &[
    "dryRun",
    "gracePeriodSeconds",
    "orphanDependents",
    "propagationPolicy",
];

enum Body<'a> {
    Object(&'a str),
    DeleteOptions,
    Patch,
}

fn operation(
    tag: &str,
    action: &str,
    mark: &Value,
    answer: &str,
    body: Option<Body<'_>>,
    parameters: &[&str],
) -> Value {
    let mut out = json!({
        "tags": [tag],
        "parameters": parameters.iter().map(|name| query_parameter(name)).collect::<Vec<_>>(),
        "responses": {"200": {"description": "OK", "content": content(&BODY_TYPES, answer)}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": mark,
    });
    if let Some(body) = body {
        let body = match body {
            Body::Object(name) => json!({"content": content(&["*/*"], name), "required": true}),
            Body::DeleteOptions => json!({"content": content(&["*/*"], "meta.v1.DeleteOptions")}),
            Body::Patch => {
                json!({"content": content(&PATCH_TYPES, "meta.v1.Patch"), "required": true})
            }
        };
        out["requestBody"] = body;
    }
    out
}

fn content(types: &[&str], name: &str) -> Value {
    let schema = json!({"schema": {"$ref": format!("#/components/schemas/{}", schema_name(name))}});
    Value::Object(
        types
            .iter()
            .map(|ty| ((*ty).to_owned(), schema.clone()))
            .collect(),
    )
}

fn query_parameter(name: &str) -> Value {
    let ty = match name {
        "allowWatchBookmarks" | "force" | "orphanDependents" | "sendInitialEvents" | "watch" => {
            "boolean"
        }
        "gracePeriodSeconds" | "limit" | "timeoutSeconds" => "integer",
        _ => "string",
    };
    json!({"name": name, "in": "query", "schema": {"type": ty, "uniqueItems": true}})
}

fn path_parameter(name: &str, description: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "description": description,
        "schema": {"type": "string", "uniqueItems": true}})
}

/// The types reachable from `wanted`, themselves included.
fn with_references(wanted: BTreeSet<&'static str>) -> BTreeSet<&'static str> {
    let mut found: BTreeSet<&'static str> = BTreeSet::new();
    let mut open: Vec<&'static str> = wanted.into_iter().collect();
    while let Some(name) = open.pop() {
        if !found.insert(name) {
            continue;
        }
        for field in table()
            .by_name(name)
            .into_iter()
            .flat_map(|message| &message.fields)
        {
            match field.ty {
                Type::Message(id) => open.push(table().message(id).name),
                Type::SchemaOrBool | Type::SchemaOrArray | Type::SchemaOrStrings => {
                    open.push("apiextensions.v1.JSONSchemaProps");
                }
                _ => {}
            }
        }
    }
    found
}

/// "core.v1.Pod" → "io.k8s.api.core.v1.Pod".
pub(crate) fn schema_name(name: &str) -> String {
    match name.split('.').next().unwrap_or_default() {
        "meta" => format!("io.k8s.apimachinery.pkg.apis.{name}"),
        "apiextensions" => format!("io.k8s.apiextensions-apiserver.pkg.apis.{name}"),
        "apiregistration" => format!("io.k8s.kube-aggregator.pkg.apis.{name}"),
        _ => format!("io.k8s.api.{name}"),
    }
}

fn message_schema(message: &'static Message, gvks: &[&Value]) -> Value {
    let mut properties = Map::new();
    let mut required: Vec<&str> = Vec::new();
    if !gvks.is_empty()
        || message.api_version.is_some()
        || message.has_object_meta()
        || is_options(message)
    {
        properties.insert("apiVersion".to_owned(), json!({"type": "string"}));
        properties.insert("kind".to_owned(), json!({"type": "string"}));
    }
    collect_properties(message, &mut properties, &mut required);
    required.sort_unstable();
    properties.sort_keys();
    let mut out = Map::new();
    out.insert("type".to_owned(), Value::from("object"));
    if !properties.is_empty() {
        out.insert("properties".to_owned(), Value::Object(properties));
    }
    if !required.is_empty() {
        out.insert("required".to_owned(), json!(required));
    }
    if message.atomic {
        out.insert("x-kubernetes-map-type".to_owned(), Value::from("atomic"));
    }
    if !gvks.is_empty() {
        out.insert("x-kubernetes-group-version-kind".to_owned(), json!(gvks));
    }
    Value::Object(out)
}

fn is_options(message: &Message) -> bool {
    ["meta.v1.Status", "meta.v1.DeleteOptions"].contains(&message.name)
}

fn collect_properties(
    message: &'static Message,
    properties: &mut Map<String, Value>,
    required: &mut Vec<&'static str>,
) {
    for field in &message.fields {
        if field.inline {
            if let Type::Message(id) = field.ty {
                collect_properties(table().message(id), properties, required);
            }
            continue;
        }
        properties.insert(field.name.to_owned(), field_schema(field));
        if field.is_required() {
            required.push(field.name);
        }
    }
}

fn field_schema(field: &Field) -> Value {
    let one = value_schema(field);
    let mut out = match field.shape {
        Shape::One => one,
        Shape::List => json!({"type": "array", "items": one}),
        Shape::Map => json!({"type": "object", "additionalProperties": one}),
    };
    let Value::Object(marks) = &mut out else {
        return out;
    };
    if field.merge.merge || field.merge.retain_keys || field.merge.replace {
        let words = [
            (field.merge.merge, "merge"),
            (field.merge.retain_keys, "retainKeys"),
            (field.merge.replace, "replace"),
        ];
        let strategy: Vec<&str> = words
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, word)| *word)
            .collect();
        marks.insert(
            "x-kubernetes-patch-strategy".to_owned(),
            Value::from(strategy.join(",")),
        );
    }
    if let Some(key) = field.merge.key {
        marks.insert("x-kubernetes-patch-merge-key".to_owned(), Value::from(key));
    }
    let is_list = field.shape == Shape::List;
    match &field.topology {
        Topology::Implied => {}
        Topology::Atomic if is_list => {
            marks.insert("x-kubernetes-list-type".to_owned(), Value::from("atomic"));
        }
        Topology::Atomic => {
            marks.insert("x-kubernetes-map-type".to_owned(), Value::from("atomic"));
        }
        Topology::Granular => {
            marks.insert("x-kubernetes-map-type".to_owned(), Value::from("granular"));
        }
        Topology::Set => {
            marks.insert("x-kubernetes-list-type".to_owned(), Value::from("set"));
        }
        Topology::Keyed(keys) => {
            marks.insert("x-kubernetes-list-type".to_owned(), Value::from("map"));
            marks.insert("x-kubernetes-list-map-keys".to_owned(), json!(keys));
        }
    }
    out
}

fn reference(name: &str) -> Value {
    // A reference may carry no siblings; what marks it needs stand beside an allOf.
    json!({"allOf": [{"$ref": format!("#/components/schemas/{name}")}]})
}

fn value_schema(field: &Field) -> Value {
    match field.ty {
        Type::String => json!({"type": "string"}),
        Type::Int32 => json!({"type": "integer", "format": "int32"}),
        Type::Int64 => json!({"type": "integer", "format": "int64"}),
        Type::Bool => json!({"type": "boolean"}),
        Type::Double => json!({"type": "number", "format": "double"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Strings => json!({"type": "array", "items": {"type": "string"}}),
        Type::Duration => json!({"type": "string"}),
        Type::Time => reference("io.k8s.apimachinery.pkg.apis.meta.v1.Time"),
        Type::MicroTime => reference("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime"),
        Type::Quantity => reference("io.k8s.apimachinery.pkg.api.resource.Quantity"),
        Type::IntOrString => reference("io.k8s.apimachinery.pkg.util.intstr.IntOrString"),
        Type::Raw => reference("io.k8s.apimachinery.pkg.runtime.RawExtension"),
        Type::Fields => reference("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1"),
        Type::Json => json!({}),
        Type::SchemaOrBool | Type::SchemaOrArray | Type::SchemaOrStrings => json!({}),
        Type::Message(id) => reference(&schema_name(table().message(id).name)),
    }
}

fn special_schemas() -> [(&'static str, Value); 7] {
    let time = json!({"type": "string", "format": "date-time"});
    [
        ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", time.clone()),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", time),
        (
            "io.k8s.apimachinery.pkg.api.resource.Quantity",
            json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        ),
        (
            "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        ),
        (
            "io.k8s.apimachinery.pkg.runtime.RawExtension",
            json!({"type": "object"}),
        ),
        (
            "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
            json!({"type": "object"}),
        ),
        (
            "io.k8s.apimachinery.pkg.apis.meta.v1.Patch",
            json!({"type": "object"}),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_served_kind_can_be_patched_with_field_validation() {
        for kind in kinds() {
            let document = openapi_v3(kind.group, kind.version);
            let found = document["paths"]
                .as_object()
                .into_iter()
                .flatten()
                .any(|(_, item)| {
                    let patch = &item["patch"];
                    patch["x-kubernetes-group-version-kind"]
                        == gvk(kind.group, kind.version, kind.kind)
                        && patch["parameters"]
                            .as_array()
                            .into_iter()
                            .flatten()
                            .any(|p| p["name"] == "fieldValidation")
                });
            assert!(found, "{} {}", kind.group, kind.kind);
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        for (group, version) in crate::group_versions() {
            let document = openapi_v3(&group, &version);
            let schemas = &document["components"]["schemas"];
            let mut open = vec![&document];
            while let Some(value) = open.pop() {
                match value {
                    Value::Object(fields) => {
                        if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
                            let name = target.trim_start_matches("#/components/schemas/");
                            assert!(
                                schemas.get(name).is_some(),
                                "{name} is missing in {group}/{version}"
                            );
                        }
                        open.extend(fields.values());
                    }
                    Value::Array(items) => open.extend(items),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn schemas_carry_types_and_merge_marks() {
        let document = openapi_v3("apps", "v1");
        let schemas = &document["components"]["schemas"];
        let spec = &schemas["io.k8s.api.core.v1.PodSpec"];
        assert_eq!(
            spec["properties"]["containers"]["x-kubernetes-patch-merge-key"],
            "name"
        );
        assert_eq!(
            spec["properties"]["containers"]["x-kubernetes-list-map-keys"],
            json!(["name"])
        );
        assert_eq!(
            spec["properties"]["volumes"]["x-kubernetes-patch-strategy"],
            "merge,retainKeys"
        );
        assert_eq!(spec["required"], json!(["containers"]));
        let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(
            deployment["x-kubernetes-group-version-kind"],
            json!([gvk("apps", "v1", "Deployment")])
        );
        assert_eq!(
            schemas["io.k8s.api.core.v1.ContainerPort"]["required"],
            json!(["containerPort"])
        );
        assert_eq!(openapi_v3("nope", "v1")["paths"], json!({}));
    }
}
