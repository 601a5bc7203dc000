//! The discovery and OpenAPI documents, made from the tables at start.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use barque_apiserver_schema::{self as schema, Kind, Subresource};
use bytes::Bytes;
use http::HeaderValue;
use serde_json::{Map, Value, json};

pub struct Document {
    pub body: Bytes,
    /// With its quotes.
    pub etag: String,
    pub content_type: HeaderValue,
}

impl Document {
    fn new(value: &Value, content_type: &'static str) -> Self {
        let body = Bytes::from(value.to_string());
        Document {
            etag: format!("\"{}\"", hash(&body)),
            body,
            content_type: HeaderValue::from_static(content_type),
        }
    }
}

/// Tells documents apart; the same for the same document in every process of one build.
fn hash(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{:016X}", hasher.finish())
}

const JSON: &str = "application/json";
const AGGREGATED_V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const AGGREGATED_V2BETA1: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// One path: its plain document and, for /api and /apis, the aggregated ones.
struct Page {
    plain: Document,
    v2: Option<Document>,
    v2beta1: Option<Document>,
}

pub struct Documents {
    /// By path without slashes at the ends; "" lists the paths.
    pages: BTreeMap<String, Page>,
    openapi: BTreeMap<String, Document>,
}

impl Documents {
    pub fn new(address: &str) -> Self {
        let mut pages = BTreeMap::new();
        let plain = |value: Value| Page {
            plain: Document::new(&value, JSON),
            v2: None,
            v2beta1: None,
        };
        let with_aggregated = |value: Value, core: bool| Page {
            plain: Document::new(&value, JSON),
            v2: Some(Document::new(&aggregated("v2", core), AGGREGATED_V2)),
            v2beta1: Some(Document::new(
                &aggregated("v2beta1", core),
                AGGREGATED_V2BETA1,
            )),
        };
        let addresses = json!([{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]);
        let core_versions: Vec<String> = versions("");
        pages.insert(
            "api".to_owned(),
            with_aggregated(
                json!({"kind": "APIVersions", "versions": core_versions, "serverAddressByClientCIDRs": addresses}),
                true,
            ),
        );
        let groups: Vec<Value> = groups().iter().map(|name| group(name)).collect();
        pages.insert(
            "apis".to_owned(),
            with_aggregated(
                json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}),
                false,
            ),
        );
        for name in self::groups() {
            let mut value = group(&name);
            value["kind"] = "APIGroup".into();
            value["apiVersion"] = "v1".into();
            pages.insert(format!("apis/{name}"), plain(value));
        }
        for (group, version) in schema::group_versions() {
            pages.insert(
                group_version_path(&group, &version),
                plain(resource_list(&group, &version)),
            );
        }
        let mut openapi = BTreeMap::new();
        let mut paths = Map::new();
        for (group, version) in schema::group_versions() {
            let path = group_version_path(&group, &version);
            let document = Document::new(&schema::openapi_v3(&group, &version), JSON);
            let url = format!(
                "/openapi/v3/{path}?hash={}",
                document.etag.trim_matches('"')
            );
            paths.insert(path.clone(), json!({"serverRelativeURL": url}));
            openapi.insert(path, document);
        }
        openapi.insert(String::new(), Document::new(&json!({"paths": paths}), JSON));
        let mut known: Vec<String> = pages.keys().map(|path| format!("/{path}")).collect();
        known.extend(
            [
                "/healthz",
                "/livez",
                "/openapi/v2",
                "/openapi/v3",
                "/readyz",
                "/version",
            ]
            .map(str::to_owned),
        );
        pages.insert(String::new(), plain(json!({"paths": known})));
        Documents { pages, openapi }
    }

    /// `path`: what follows `/openapi/v3/`.
    pub fn openapi(&self, path: &str) -> Option<&Document> {
        self.openapi.get(path)
    }

    pub fn discovery(&self, segments: &[&str], accept: &str) -> Option<&Document> {
        let page = self.pages.get(&segments.join("/"))?;
        for clause in accept.split(',') {
            let has = |what: &str| clause.split(';').any(|part| part.trim() == what);
            let wanted = if !has("as=APIGroupDiscoveryList") || !has("g=apidiscovery.k8s.io") {
                None
            } else if has("v=v2") {
                page.v2.as_ref()
            } else if has("v=v2beta1") {
                page.v2beta1.as_ref()
            } else {
                None
            };
            if wanted.is_some() {
                return wanted;
            }
            if has("application/json") && !has("as=APIGroupDiscoveryList") {
                break;
            }
        }
        Some(&page.plain)
    }
}

fn group_version_path(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// Named groups, in the table's order.
fn groups() -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (group, _) in schema::group_versions() {
        if !group.is_empty() && !names.contains(&group) {
            names.push(group);
        }
    }
    names
}

fn versions(group: &str) -> Vec<String> {
    schema::group_versions()
        .into_iter()
        .filter(|(name, _)| name == group)
        .map(|(_, version)| version)
        .collect()
}

fn group(name: &str) -> Value {
    let versions: Vec<Value> = versions(name)
        .iter()
        .map(|version| json!({"groupVersion": group_version(name, version), "version": version}))
        .collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

fn kinds_of<'a>(group: &'a str, version: &'a str) -> impl Iterator<Item = &'static Kind> + 'a {
    schema::kinds()
        .iter()
        .filter(move |kind| kind.group == group && kind.version == version)
}

fn resource_list(group: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    for kind in kinds_of(group, version) {
        let mut entry = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": kind.verbs,
        });
        if !kind.short_names.is_empty() {
            entry["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            entry["categories"] = json!(kind.categories);
        }
        resources.push(entry);
        for sub in kind.subresources {
            resources.push(subresource_entry(kind, sub));
        }
    }
    let mut list = json!({"kind": "APIResourceList"});
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    list["groupVersion"] = group_version(group, version).into();
    list["resources"] = Value::Array(resources);
    list
}

fn subresource_entry(kind: &Kind, sub: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", kind.plural, sub.name), "singularName": "", "namespaced": kind.namespaced,
    });
    if (sub.group, sub.version) != (kind.group, kind.version) {
        entry["group"] = sub.group.into();
        entry["version"] = sub.version.into();
    }
    entry["kind"] = sub.kind.into();
    entry["verbs"] = json!(sub.verbs);
    entry
}

/// APIGroupDiscoveryList of the core group or of all others.
fn aggregated(version: &str, core: bool) -> Value {
    let names = if core { vec![String::new()] } else { groups() };
    let items: Vec<Value> = names
        .iter()
        .map(|name| {
            let versions: Vec<Value> = versions(name)
                .iter()
                .map(|version| {
                    let resources: Vec<Value> =
                        kinds_of(name, version).map(aggregated_resource).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let mut metadata = json!({"creationTimestamp": null});
            if !core {
                metadata["name"] = name.as_str().into();
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {}, "items": items,
    })
}

fn aggregated_resource(kind: &'static Kind) -> Value {
    let mut entry = json!({
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    if !kind.short_names.is_empty() {
        entry["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        entry["categories"] = json!(kind.categories);
    }
    let subresources: Vec<Value> = kind
        .subresources
        .iter()
        .map(|sub| {
            json!({
                "subresource": sub.name,
                "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
                "verbs": sub.verbs,
            })
        })
        .collect();
    if !subresources.is_empty() {
        entry["subresources"] = Value::Array(subresources);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(document: &Document) -> Value {
        serde_json::from_slice(&document.body).unwrap()
    }

    #[test]
    fn every_served_kind_is_told_of_in_both_forms() {
        let documents = Documents::new("host:1");
        let aggregated = format!("{AGGREGATED_V2},{AGGREGATED_V2BETA1},application/json");
        for kind in schema::kinds() {
            let path = group_version_path(kind.group, kind.version);
            let segments: Vec<&str> = path.split('/').collect();
            let list = value(documents.discovery(&segments, "application/json").unwrap());
            let names: Vec<&str> = list["resources"]
                .as_array()
                .unwrap()
                .iter()
                .map(|r| r["name"].as_str().unwrap())
                .collect();
            assert!(names.contains(&kind.plural), "{path} {}", kind.plural);
            let root = if kind.group.is_empty() { "api" } else { "apis" };
            let document = documents.discovery(&[root], &aggregated).unwrap();
            assert_eq!(document.content_type, AGGREGATED_V2);
            assert!(
                String::from_utf8_lossy(&document.body)
                    .contains(&format!("\"resource\":{:?}", kind.plural))
            );
            assert!(documents.openapi(&path).is_some());
        }
    }

    #[test]
    fn old_clients_get_the_form_they_know() {
        let documents = Documents::new("host:1");
        let old = documents.discovery(&["apis"], AGGREGATED_V2BETA1).unwrap();
        assert_eq!(value(old)["apiVersion"], "apidiscovery.k8s.io/v2beta1");
        let plain = documents
            .discovery(&["apis"], "application/json, */*")
            .unwrap();
        assert_eq!(value(plain)["kind"], "APIGroupList");
        assert!(
            documents
                .discovery(&["apis", "nobody.example"], "")
                .is_none()
        );
    }
}
