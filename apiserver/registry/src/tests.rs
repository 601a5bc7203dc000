//! Compares validation and tables with what Kubernetes 1.33 said of the same objects. The recorded answers are in
//! `testdata/`; each line is one object.

use std::collections::BTreeSet;

use barque_apiserver_schema::{apply_defaults, drop_unknown};
use jiff::Timestamp;
use serde_json::Value;

use super::*;

const VALIDATE: &str = include_str!("../testdata/validate.jsonl");
const UPDATE: &str = include_str!("../testdata/update.jsonl");
const TABLES: &str = include_str!("../testdata/tables.jsonl");

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a line of test data is JSON"))
        .collect()
}

/// The object as handlers see it, and its resource.
fn prepared(object: &Value) -> (Value, &'static Resource) {
    let mut object = object.clone();
    let api_version = object["apiVersion"].as_str().unwrap_or_default().to_owned();
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let kind = barque_apiserver_schema::by_kind(
        group,
        version,
        object["kind"].as_str().unwrap_or_default(),
    );
    let kind = kind.expect("test data is of served kinds");
    drop_unknown(kind, &mut object);
    apply_defaults(kind, &mut object);
    (
        object,
        resource(group, version, kind.plural).expect("served"),
    )
}

fn texts(errors: &Value) -> BTreeSet<String> {
    // What follows the first line of a forbidden pod update is a diff whose form is nobody's contract.
    let first_line = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    errors
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(first_line)
        .collect()
}

fn ours(errors: &[FieldError]) -> BTreeSet<String> {
    errors
        .iter()
        .map(|error| error.detail.lines().next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn new_objects_are_judged_as_kubernetes_judges_them() {
    let mut wrong = Vec::new();
    for case in lines(VALIDATE) {
        let (object, resource) = prepared(&case["object"]);
        let found = ours(&resource.strategy.validate(&object));
        if found != texts(&case["errors"]) {
            wrong.push(format!(
                "{}\n ours {found:#?}\n kubernetes {:#?}",
                case["object"],
                texts(&case["errors"])
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn changes_are_judged_as_kubernetes_judges_them() {
    let mut wrong = Vec::new();
    for case in lines(UPDATE) {
        let (old, _) = prepared(&case["old"]);
        let (new, resource) = prepared(&case["new"]);
        let found = ours(&resource.strategy.validate_update(&new, &old));
        if found != texts(&case["errors"]) {
            wrong.push(format!(
                "{}\n ours {found:#?}\n kubernetes {:#?}",
                case["new"],
                texts(&case["errors"])
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn rows_are_printed_as_kubernetes_prints_them() {
    let mut cases = lines(TABLES).into_iter();
    let now: Timestamp = cases.next().expect("the first line")["now"]
        .as_str()
        .unwrap_or_default()
        .parse()
        .expect("a time");
    let mut wrong = Vec::new();
    for case in cases {
        let (object, resource) = prepared(&case["object"]);
        let cells = Value::Array(resource.strategy.cells(&object, now));
        let columns: Value = resource
            .strategy
            .columns()
            .iter()
            .map(|column| {
                serde_json::json!([column.name, column.kind, column.format, column.priority])
            })
            .collect();
        let conditions: Vec<String> = resource
            .strategy
            .row_conditions(&object)
            .iter()
            .map(|condition| condition["reason"].to_string())
            .collect();
        let expected: Vec<String> = case["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|condition| condition["reason"].to_string())
            .collect();
        if cells != case["cells"] || columns != case["columns"] || conditions != expected {
            wrong.push(format!(
                "{}\n ours {cells} {columns}\n kubernetes {} {}",
                case["object"], case["cells"], case["columns"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_served_kind_has_a_strategy_and_rows_fit_their_columns() {
    assert_eq!(resources().len(), kinds().len());
    for resource in resources() {
        let (object, _) = prepared(&serde_json::json!({
            "apiVersion": resource.kind.api_version(), "kind": resource.kind.kind, "metadata": {"name": "a"},
        }));
        let strategy = resource.strategy;
        assert_eq!(
            strategy.columns().len(),
            strategy.cells(&object, Timestamp::UNIX_EPOCH).len()
        );
        let fields: BTreeSet<&str> = strategy
            .fields(&object)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let selectable: BTreeSet<&str> = strategy.selectable_fields().iter().copied().collect();
        assert_eq!(fields, selectable, "{}", resource.kind.plural);
    }
    assert_eq!(
        resource("", "v1", "nodes").map(|nodes| nodes.storage),
        Some("/registry/minions")
    );
    assert!(resource("", "v2", "nodes").is_none());
}

#[test]
fn generations_count_changes_of_the_spec_only() {
    let (mut object, resource) = prepared(&serde_json::json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}},
        "status": {"replicas": 7},
    }));
    let strategy = resource.strategy;
    strategy.prepare_for_create(&mut object);
    assert_eq!(object["metadata"]["generation"], 1);
    assert_eq!(
        object["status"],
        serde_json::json!({}),
        "a client cannot create a status"
    );

    let mut relabelled = object.clone();
    relabelled["metadata"]["labels"] = serde_json::json!({"x": "y"});
    relabelled["status"] = serde_json::json!({"replicas": 9});
    strategy.prepare_for_update(&mut relabelled, &object);
    assert_eq!(relabelled["metadata"]["generation"], 1);
    assert_eq!(
        relabelled["status"], object["status"],
        "nor change it through the object"
    );

    let mut scaled = object.clone();
    scale::apply(&mut scaled, &serde_json::json!({"spec": {"replicas": 4}})).expect("a good scale");
    strategy.prepare_for_update(&mut scaled, &object);
    assert_eq!(scaled["metadata"]["generation"], 2);
    assert_eq!(scale::get(&scaled)["spec"]["replicas"], 4);
    assert_eq!(scale::get(&scaled)["status"]["selector"], "a=b");

    let mut reported = scaled.clone();
    reported["status"] = serde_json::json!({"replicas": 4, "readyReplicas": 5});
    reported["spec"]["replicas"] = Value::from(1);
    strategy.prepare_for_status_update(&mut reported, &scaled);
    assert_eq!(reported["spec"], scaled["spec"]);
    assert_eq!(reported["metadata"]["generation"], 2);
    let errors = strategy.validate_status_update(&reported, &scaled);
    assert_eq!(
        errors[0].detail,
        "status.readyReplicas: Invalid value: 5: cannot be greater than status.replicas"
    );
}

#[test]
fn a_negative_scale_is_refused() {
    let error = scale::apply(
        &mut serde_json::json!({}),
        &serde_json::json!({"spec": {"replicas": -1}}),
    );
    assert_eq!(
        error.map_err(|error| error.detail),
        Err("spec.replicas: Invalid value: -1: must be greater than or equal to 0".to_owned())
    );
}

#[test]
fn string_data_of_secrets_becomes_data() {
    let (mut object, resource) = prepared(&serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"},
        "data": {"a": "MQ=="}, "stringData": {"b": "two"},
    }));
    resource.strategy.prepare_for_create(&mut object);
    assert_eq!(
        object["data"],
        serde_json::json!({"a": "MQ==", "b": "dHdv"})
    );
    assert!(object.get("stringData").is_none());
}
