//! Pods: the strategy. Rules of their spec, their table row and their quality of service have a file each.

mod printer;
mod qos;
pub mod spec;
mod update;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{
    bump_generation, copy_field, copy_metadata, flag, list, number, present, same, set_generation,
    text,
};
use crate::columns::{self, AGE, NAME, text_column, wide_column};
use crate::field_error::FieldError;
use crate::strategy::{Column, Strategy};
use crate::{meta, names};

pub use qos::qos_class;

pub struct Pods;

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Ready", "Containers that are ready, of how many."),
    text_column("Status", "What the pod as a whole is doing."),
    text_column(
        "Restarts",
        "How often its containers were restarted, and when last.",
    ),
    AGE,
    wide_column("IP", "The pod's first address."),
    wide_column("Node", "Where the pod runs."),
    wide_column("Nominated Node", "Where room is being made for the pod."),
    wide_column(
        "Readiness Gates",
        "Conditions beyond its containers that hold, of how many.",
    ),
];

const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.nominatedNodeName",
];

impl Strategy for Pods {
    fn prepare_for_create(&self, obj: &mut Value) {
        set_generation(obj, 1);
        let mut status = json!({"phase": "Pending", "qosClass": qos_class(obj)});
        if !list(obj, "/spec/schedulingGates").is_empty() {
            status["conditions"] = json!([{
                "type": "PodScheduled", "status": "False", "lastProbeTime": null, "lastTransitionTime": null,
                "reason": "SchedulingGated", "message": "Scheduling is blocked due to non-empty scheduling gates",
            }]);
        }
        obj["status"] = status;
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value) {
        copy_field(new, old, "status");
        let changed = !same(new.get("spec"), old.get("spec"));
        bump_generation(new, old, changed);
    }

    fn prepare_for_status_update(&self, new: &mut Value, old: &Value) {
        copy_field(new, old, "spec");
        // Kubelets are not trusted with what garbage collection and deletion go by.
        for field in [
            "ownerReferences",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
        ] {
            copy_metadata(new, old, field);
        }
        if text(new, "/status/qosClass").is_empty()
            && let Some(class) = present(old, "/status/qosClass").cloned()
        {
            crate::access::child(new, "status").insert("qosClass".to_owned(), class);
        }
        // One address in two fields: podIP is the first of podIPs.
        let ip = text(new, "/status/podIP").to_owned();
        if !ip.is_empty() && list(new, "/status/podIPs").is_empty() {
            crate::access::child(new, "status").insert("podIPs".to_owned(), json!([{"ip": ip}]));
        }
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errors = meta::validate(obj, true, names::dns_subdomain);
        errors.extend(spec::validate(&obj["spec"], "spec"));
        errors.extend(spec::image_blanks(&obj["spec"]));
        if !list(obj, "/spec/ephemeralContainers").is_empty() {
            let why = "cannot be set on create";
            errors.push(FieldError::forbidden("spec.ephemeralContainers", why));
        }
        if !list(obj, "/spec/schedulingGates").is_empty() && !text(obj, "/spec/nodeName").is_empty()
        {
            let why = "cannot be set until all schedulingGates have been cleared";
            errors.push(FieldError::forbidden("spec.nodeName", why));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = meta::validate_update(new, old);
        errors.extend(spec::validate(&new["spec"], "spec"));
        errors.extend(spec::image_blanks(&new["spec"]));
        errors.extend(update::validate(&new["spec"], &old["spec"]));
        errors
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = meta::validate_update(new, old);
        let nominated = text(new, "/status/nominatedNodeName");
        if !nominated.is_empty() && nominated != text(old, "/status/nominatedNodeName") {
            errors.extend(meta::invalid_each(
                "status.nominatedNodeName",
                nominated,
                names::dns_subdomain(nominated),
            ));
        }
        errors.extend(meta::immutable(
            new,
            old,
            "/status/qosClass",
            "status.qosClass",
        ));
        errors.extend(resurrected(new, old));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let row = printer::row(obj, now);
        vec![
            columns::name(obj),
            Value::from(row.ready),
            Value::from(row.status),
            Value::from(row.restarts),
            columns::age(obj, now),
            columns::or_none(first_ip(obj)),
            columns::or_none(text(obj, "/spec/nodeName")),
            columns::or_none(text(obj, "/status/nominatedNodeName")),
            Value::from(printer::readiness_gates(obj)),
        ]
    }

    fn row_conditions(&self, obj: &Value) -> Vec<Value> {
        let completed = |reason: &str, message: &str| {
            vec![
                json!({"type": "Completed", "status": "True", "reason": reason, "message": message}),
            ]
        };
        match text(obj, "/status/phase") {
            "Succeeded" => completed("Succeeded", "The pod has completed successfully."),
            "Failed" => completed("Failed", "The pod failed."),
            _ => Vec::new(),
        }
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        let ips: Vec<&str> = list(obj, "/status/podIPs")
            .iter()
            .map(|ip| text(ip, "/ip"))
            .collect();
        let mut fields = columns::metadata_fields(obj);
        fields.extend([
            ("spec.nodeName", text(obj, "/spec/nodeName").to_owned()),
            (
                "spec.restartPolicy",
                text(obj, "/spec/restartPolicy").to_owned(),
            ),
            (
                "spec.schedulerName",
                text(obj, "/spec/schedulerName").to_owned(),
            ),
            (
                "spec.serviceAccountName",
                text(obj, "/spec/serviceAccountName").to_owned(),
            ),
            (
                "spec.hostNetwork",
                flag(obj, "/spec/hostNetwork").to_string(),
            ),
            ("status.phase", text(obj, "/status/phase").to_owned()),
            ("status.podIP", first_ip(obj).to_owned()),
            ("status.podIPs", ips.join(",")),
            (
                "status.nominatedNodeName",
                text(obj, "/status/nominatedNodeName").to_owned(),
            ),
        ]);
        fields
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        FIELDS
    }

    /// What was asked, else what the spec says; nothing for pods no kubelet will ever report on, or that are done.
    fn delete_grace(&self, obj: &Value, asked: Option<i64>) -> i64 {
        let grace = asked.unwrap_or_else(|| number(obj, "/spec/terminationGracePeriodSeconds"));
        let done = ["Failed", "Succeeded"].contains(&text(obj, "/status/phase"));
        if text(obj, "/spec/nodeName").is_empty() || done {
            return 0;
        }
        if grace < 0 { 1 } else { grace }
    }
}

fn first_ip(obj: &Value) -> &str {
    match list(obj, "/status/podIPs").first() {
        Some(ip) => text(ip, "/ip"),
        None => text(obj, "/status/podIP"),
    }
}

/// A container that ended for good may not come back to life in a status.
fn resurrected(new: &Value, old: &Value) -> Vec<FieldError> {
    let policy = text(old, "/spec/restartPolicy");
    if policy == "Always" {
        return Vec::new();
    }
    let mut errors = Vec::new();
    for (index, before) in list(old, "/status/containerStatuses").iter().enumerate() {
        let Some(end) = present(before, "/state/terminated") else {
            continue;
        };
        if number(end, "/exitCode") != 0 && policy == "OnFailure" {
            continue;
        }
        let name = text(before, "/name");
        let again = list(new, "/status/containerStatuses").iter().any(|status| {
            text(status, "/name") == name && present(status, "/state/terminated").is_none()
        });
        if again {
            let at = format!("status.containerStatuses[{index}].state");
            errors.push(FieldError::forbidden(
                &at,
                "may not be transitioned to non-terminated state",
            ));
        }
    }
    errors
}

/// The binding subresource of pods.
pub mod binding {
    use serde_json::{Value, json};

    use crate::access::{child, entries, list, text};
    use crate::field_error::quoted;

    /// Why a pod cannot be bound.
    #[derive(Debug, thiserror::Error, PartialEq, Eq)]
    pub enum BindingError {
        /// 409: the pod is not waiting for a node any more.
        #[error("{0}")]
        Conflict(String),
        /// The binding itself is wrong.
        #[error("{0}")]
        Invalid(String),
    }

    /// Like `apply`, with the time of the PodScheduled condition.
    pub fn apply_at(
        pod: &mut Value,
        binding: &Value,
        now: jiff::Timestamp,
    ) -> Result<(), BindingError> {
        apply(pod, binding)?;
        let at = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let conditions = pod
            .pointer_mut("/status/conditions")
            .and_then(Value::as_array_mut);
        if let Some(condition) = conditions.and_then(|conditions| conditions.last_mut()) {
            condition["lastTransitionTime"] = Value::from(at);
        }
        Ok(())
    }

    /// Puts the pod on the binding's node: spec.nodeName, the annotations, and a PodScheduled condition without a time.
    pub fn apply(pod: &mut Value, binding: &Value) -> Result<(), BindingError> {
        let (kind, node) = (text(binding, "/target/kind"), text(binding, "/target/name"));
        if !["", "Node"].contains(&kind) {
            return Err(BindingError::Invalid(format!(
                "target.kind: Unsupported value: {}: supported values: \"<empty>\", \"Node\"",
                quoted(kind)
            )));
        }
        if node.is_empty() {
            return Err(BindingError::Invalid(
                "target.name: Required value".to_owned(),
            ));
        }
        let name = text(pod, "/metadata/name");
        let conflict = |why: String| Err(BindingError::Conflict(why));
        if !text(pod, "/metadata/deletionTimestamp").is_empty() {
            return conflict(format!(
                "pod {name} is being deleted, cannot be assigned to a host"
            ));
        }
        let bound_to = text(pod, "/spec/nodeName");
        if !bound_to.is_empty() {
            return conflict(format!(
                "pod {name} is already assigned to node {}",
                quoted(bound_to)
            ));
        }
        if !list(pod, "/spec/schedulingGates").is_empty() {
            return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
        }
        let node = Value::from(node);
        child(pod, "spec").insert("nodeName".to_owned(), node);
        let annotations = entries(binding, "/metadata/annotations");
        if !annotations.is_empty() {
            let all = child(pod, "metadata")
                .entry("annotations")
                .or_insert_with(|| json!({}));
            for (key, value) in annotations {
                all[key] = value.clone();
            }
        }
        let conditions = child(pod, "status")
            .entry("conditions")
            .or_insert_with(|| json!([]));
        if !conditions.is_array() {
            *conditions = json!([]);
        }
        if let Value::Array(conditions) = conditions {
            conditions.retain(|condition| text(condition, "/type") != "PodScheduled");
            conditions.push(json!({
                "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": null,
            }));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
