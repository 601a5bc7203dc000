//! Cases with the answers Kubernetes gives, and laws that hold for any patch.

use serde_json::{Value, json};

use super::*;
use crate::kinds::kinds;

const CASES: &str = include_str!("../../testdata/strategic.jsonl");

fn kind(name: &str) -> &'static Kind {
    kinds()
        .iter()
        .find(|kind| kind.kind == name)
        .expect("served")
}

#[test]
fn patches_do_what_kubernetes_does() {
    for line in CASES.lines() {
        let case: Value = serde_json::from_str(line).expect("JSON");
        let kind = kind(case["kind"].as_str().expect("a kind"));
        let merged = strategic_merge(kind, &case["original"], &case["patch"]);
        match (merged, case.get("result")) {
            (Ok(merged), Some(expected)) => assert_eq!(&merged, expected, "{}", case["patch"]),
            (Err(_), None) => {}
            (merged, _) => panic!("{merged:?} for {line}"),
        }
    }
}

fn pod() -> Value {
    json!({"metadata": {"labels": {"a": "1"}, "finalizers": ["x", "y"]}, "spec": {
        "containers": [{"name": "a", "image": "a:1", "args": ["1"]}, {"name": "b", "image": "b:1"}],
        "tolerations": [{"key": "k"}], "nodeSelector": {"n": "1"}}})
}

#[test]
fn an_empty_patch_changes_nothing() {
    assert_eq!(strategic_merge(kind("Pod"), &pod(), &json!({})), Ok(pod()));
}

#[test]
fn a_patch_applied_twice_is_a_patch_applied_once() {
    let patches = [
        json!({"spec": {"containers": [{"name": "b", "image": "b:2"}, {"name": "c", "image": "c:1"}]}}),
        json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}),
        json!({"metadata": {"finalizers": ["z"], "$deleteFromPrimitiveList/finalizers": ["x"]}}),
        json!({"metadata": {"labels": {"a": null, "b": "2"}}}),
        json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
            "containers": [{"name": "a", "image": "a:2"}]}}),
        json!({"spec": {"tolerations": [{"key": "other"}], "nodeSelector": {"$patch": "replace", "m": "2"}}}),
    ];
    for patch in patches {
        let once = strategic_merge(kind("Pod"), &pod(), &patch).expect("a good patch");
        let twice = strategic_merge(kind("Pod"), &once, &patch).expect("a good patch");
        assert_eq!(once, twice, "{patch}");
    }
}

#[test]
fn the_object_itself_is_a_patch_without_effect() {
    assert_eq!(strategic_merge(kind("Pod"), &pod(), &pod()), Ok(pod()));
}

#[test]
fn directives_never_reach_the_object() {
    let patch = json!({"spec": {"initContainers": [{"name": "i", "$setElementOrder/env": [{"name": "E"}],
        "env": [{"name": "E"}, {"name": "F", "$patch": "delete"}]}]}});
    let merged = strategic_merge(kind("Pod"), &json!({}), &patch).expect("a good patch");
    assert_eq!(
        merged,
        json!({"spec": {"initContainers": [{"name": "i", "env": [{"name": "E"}]}]}})
    );
}
