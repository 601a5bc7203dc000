//! The pod rules against what Kubernetes says: defaults of status, validation texts, updates, printed rows.

use serde_json::{Value, json};

use super::binding::{self, BindingError};
use super::*;

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "p", "namespace": "default"}, "spec": spec})
}

#[test]
fn a_new_pod_is_pending_whatever_the_client_says() {
    let mut object =
        pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}));
    object["status"] = json!({"phase": "Running", "podIP": "1.2.3.4"});
    Pods.prepare_for_create(&mut object);
    assert_eq!(
        object["status"],
        json!({"phase": "Pending", "qosClass": "Burstable"})
    );
    assert_eq!(object["metadata"]["generation"], 1);
}

#[test]
fn a_gated_pod_says_so_from_the_start() {
    let mut object = pod(json!({"schedulingGates": [{"name": "a/b"}]}));
    Pods.prepare_for_create(&mut object);
    assert_eq!(
        object["status"]["conditions"][0]["reason"],
        "SchedulingGated"
    );
}

#[test]
fn grace_is_what_was_asked_but_nothing_for_pods_nobody_runs() {
    let bound = pod(json!({"nodeName": "n", "terminationGracePeriodSeconds": 30}));
    assert_eq!(Pods.delete_grace(&bound, None), 30);
    assert_eq!(Pods.delete_grace(&bound, Some(5)), 5);
    assert_eq!(Pods.delete_grace(&bound, Some(0)), 0);
    assert_eq!(Pods.delete_grace(&bound, Some(-1)), 1);
    assert_eq!(
        Pods.delete_grace(&pod(json!({"terminationGracePeriodSeconds": 30})), None),
        0
    );
    let mut done = bound;
    done["status"] = json!({"phase": "Succeeded"});
    assert_eq!(Pods.delete_grace(&done, Some(60)), 0);
}

#[test]
fn binding_puts_a_pod_on_a_node_once() {
    let mut object = pod(json!({}));
    let to = |node: &str| json!({"target": {"kind": "Node", "name": node}, "metadata": {"annotations": {"a": "b"}}});
    assert_eq!(binding::apply(&mut object, &to("n1")), Ok(()));
    assert_eq!(object["spec"]["nodeName"], "n1");
    assert_eq!(object["metadata"]["annotations"], json!({"a": "b"}));
    assert_eq!(object["status"]["conditions"][0]["type"], "PodScheduled");
    assert_eq!(object["status"]["conditions"][0]["status"], "True");
    assert_eq!(
        binding::apply(&mut object, &to("n2")),
        Err(BindingError::Conflict(
            "pod p is already assigned to node \"n1\"".to_owned()
        ))
    );
    assert!(matches!(
        binding::apply(&mut pod(json!({})), &to("")),
        Err(BindingError::Invalid(_))
    ));
}

#[test]
fn a_binding_may_carry_its_time() {
    let mut object = pod(json!({}));
    let bound = binding::apply_at(
        &mut object,
        &json!({"target": {"name": "n"}}),
        jiff::Timestamp::UNIX_EPOCH,
    );
    assert_eq!(bound, Ok(()));
    assert_eq!(
        object["status"]["conditions"][0]["lastTransitionTime"],
        "1970-01-01T00:00:00Z"
    );
}

#[test]
fn a_pod_that_is_going_is_not_bound() {
    let mut object = pod(json!({}));
    object["metadata"]["deletionTimestamp"] = json!("2026-03-01T10:00:00Z");
    let binding = json!({"target": {"name": "n"}});
    assert_eq!(
        binding::apply(&mut object, &binding),
        Err(BindingError::Conflict(
            "pod p is being deleted, cannot be assigned to a host".to_owned()
        ))
    );
}

#[test]
fn a_status_keeps_what_kubelets_must_not_touch() {
    let mut old = pod(json!({"nodeName": "n"}));
    old["status"] = json!({"phase": "Pending", "qosClass": "BestEffort"});
    old["metadata"]["ownerReferences"] = json!([{"uid": "u"}]);
    let mut new = old.clone();
    new["spec"]["nodeName"] = json!("elsewhere");
    new["metadata"]["ownerReferences"] = json!([]);
    new["status"] = json!({"phase": "Running", "podIP": "10.0.0.1"});
    Pods.prepare_for_status_update(&mut new, &old);
    assert_eq!(new["spec"]["nodeName"], "n");
    assert_eq!(new["metadata"]["ownerReferences"], json!([{"uid": "u"}]));
    assert_eq!(new["status"]["qosClass"], "BestEffort");
    assert_eq!(new["status"]["podIPs"], json!([{"ip": "10.0.0.1"}]));
}

#[test]
fn containers_that_ended_for_good_stay_ended() {
    let status = |state: Value| {
        let mut object = pod(json!({"restartPolicy": "Never"}));
        object["status"] = json!({"containerStatuses": [{"name": "c", "state": state}]});
        object
    };
    let ended = status(json!({"terminated": {"exitCode": 0}}));
    let running = status(json!({"running": {}}));
    let errors = Pods.validate_status_update(&running, &ended);
    assert_eq!(
        errors[0].detail,
        "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"
    );
    assert_eq!(Pods.validate_status_update(&ended, &running), Vec::new());
}
