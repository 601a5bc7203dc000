//! Goldens: the defaults Kubernetes 1.33 gives to the same objects.

use serde_json::{Value, json};

use super::*;
use crate::{by_kind, drop_unknown};

const CASES: &str = include_str!("../../testdata/defaults.jsonl");

fn defaulted(object: &Value) -> Value {
    let mut object = object.clone();
    let api_version = object["apiVersion"].as_str().unwrap_or_default().to_owned();
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let kind =
        by_kind(group, version, object["kind"].as_str().unwrap_or_default()).expect("served");
    drop_unknown(kind, &mut object);
    apply_defaults(kind, &mut object);
    object
}

#[test]
fn defaults_are_those_of_kubernetes() {
    for line in CASES.lines() {
        let case: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(
            defaulted(&case["object"]),
            case["defaulted"],
            "{}",
            case["object"]
        );
    }
}

#[test]
fn defaults_given_twice_change_nothing() {
    for line in CASES.lines() {
        let case: Value = serde_json::from_str(line).expect("JSON");
        let once = defaulted(&case["object"]);
        assert_eq!(defaulted(&once), once);
    }
}

#[test]
fn the_two_names_of_the_service_account_agree() {
    let pod = |spec: Value| {
        defaulted(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": spec}))
    };
    let old = pod(json!({"serviceAccount": "robot"}));
    assert_eq!(old["spec"]["serviceAccountName"], "robot");
    let both = pod(json!({"serviceAccount": "old", "serviceAccountName": "new"}));
    assert_eq!(both["spec"]["serviceAccount"], "new");
}

#[test]
fn tags_decide_whether_images_are_pulled_again() {
    for (image, policy) in [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.27", "IfNotPresent"),
        ("host:5000/a/b", "Always"),
        ("host:5000/a/b:1", "IfNotPresent"),
        ("Not A Reference", "IfNotPresent"),
        ("a..b", "IfNotPresent"),
        ("", "IfNotPresent"),
    ] {
        assert_eq!(pull_policy(image), policy, "{image}");
    }
}
