//! Nodes: registered by kubelets, which own the status; labels, taints and cordons come from people.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use crate::access::{copy_field, entries, flag, list, present, text};
use crate::columns::{self, AGE, NAME, or_none, text_column, wide_column};
use crate::field_error::{FieldError, quoted};
use crate::strategy::{Column, Strategy};
use crate::{meta, names};

pub struct Nodes;

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Status", "Ready or not, and whether pods may be scheduled."),
    text_column("Roles", "Roles, from the node's labels."),
    AGE,
    text_column("Version", "The kubelet's version."),
    wide_column("Internal-IP", "First address of type InternalIP."),
    wide_column("External-IP", "First address of type ExternalIP."),
    wide_column("OS-Image", "The operating system as it calls itself."),
    wide_column("Kernel-Version", "The kernel's version."),
    wide_column(
        "Container-Runtime",
        "Name and version of the container runtime.",
    ),
];

impl Strategy for Nodes {
    fn prepare_for_create(&self, _obj: &mut Value) {}

    fn prepare_for_update(&self, new: &mut Value, old: &Value) {
        copy_field(new, old, "status");
    }

    fn prepare_for_status_update(&self, new: &mut Value, old: &Value) {
        copy_field(new, old, "spec");
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errors = meta::validate(obj, false, names::dns_subdomain);
        errors.extend(taint_errors(obj));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = meta::validate_update(new, old);
        if !list(old, "/spec/podCIDRs").is_empty()
            && list(old, "/spec/podCIDRs") != list(new, "/spec/podCIDRs")
        {
            let why = "node updates may not change podCIDR except from \"\" to valid";
            errors.push(FieldError::forbidden("spec.podCIDRs", why));
        }
        let provider = text(old, "/spec/providerID");
        if !provider.is_empty() && provider != text(new, "/spec/providerID") {
            let why = "node updates may not change providerID except from \"\" to valid";
            errors.push(FieldError::forbidden("spec.providerID", why));
        }
        errors.extend(taint_errors(new));
        errors
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = meta::validate_update(new, old);
        let mut seen = BTreeSet::new();
        for (index, address) in list(new, "/status/addresses").iter().enumerate() {
            let pair = (text(address, "/type"), text(address, "/address"));
            if !seen.insert(pair) {
                let shown = format!(
                    "core.NodeAddress{{Type:{}, Address:{}}}",
                    quoted(pair.0),
                    quoted(pair.1)
                );
                errors.push(FieldError::duplicate(
                    &format!("status.addresses[{index}]"),
                    &shown,
                ));
            }
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let info = |field: &str| text(obj, &format!("/status/nodeInfo/{field}"));
        let known = |text: &str| Value::from(if text.is_empty() { "<unknown>" } else { text });
        let address = |kind: &str| {
            let addresses = list(obj, "/status/addresses");
            let found = addresses
                .iter()
                .find(|address| text(address, "/type") == kind);
            or_none(
                found
                    .map(|address| text(address, "/address"))
                    .unwrap_or_default(),
            )
        };
        vec![
            columns::name(obj),
            Value::from(status(obj)),
            or_none(&roles(obj)),
            columns::age(obj, now),
            Value::from(info("kubeletVersion")),
            address("InternalIP"),
            address("ExternalIP"),
            known(info("osImage")),
            known(info("kernelVersion")),
            known(info("containerRuntimeVersion")),
        ]
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        vec![
            ("metadata.name", text(obj, "/metadata/name").to_owned()),
            (
                "spec.unschedulable",
                flag(obj, "/spec/unschedulable").to_string(),
            ),
        ]
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["metadata.name", "spec.unschedulable"]
    }
}

fn status(obj: &Value) -> String {
    let ready = list(obj, "/status/conditions")
        .iter()
        .rfind(|condition| text(condition, "/type") == "Ready");
    let mut shown = match ready.map(|condition| text(condition, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if flag(obj, "/spec/unschedulable") {
        shown.push_str(",SchedulingDisabled");
    }
    shown
}

/// Labels `node-role.kubernetes.io/ROLE` and `kubernetes.io/role=ROLE`, sorted.
fn roles(obj: &Value) -> String {
    let roles: BTreeSet<&str> = entries(obj, "/metadata/labels")
        .into_iter()
        .filter_map(
            |(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) => Some(role),
                None if key == "kubernetes.io/role" => value.as_str(),
                None => None,
            },
        )
        .filter(|role| !role.is_empty())
        .collect();
    roles.into_iter().collect::<Vec<_>>().join(",")
}

/// The paths say metadata where they mean spec; so does Kubernetes.
fn taint_errors(obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, taint) in list(obj, "/spec/taints").iter().enumerate() {
        let at = format!("metadata.taints[{index}]");
        let (key, value, effect) = (
            text(taint, "/key"),
            text(taint, "/value"),
            text(taint, "/effect"),
        );
        errors.extend(meta::invalid_each(
            &format!("{at}.key"),
            key,
            names::qualified_name(key),
        ));
        let problems = names::label_value(value);
        if !problems.is_empty() {
            errors.push(FieldError::invalid(
                &format!("{at}.value"),
                &quoted(value),
                &problems.join(";"),
            ));
        }
        errors.extend(effect_error(effect, false, &format!("{at}.effect")));
        if !seen.insert((effect, key)) {
            let added = match present(taint, "/timeAdded") {
                Some(time) => time.to_string(),
                None => "<nil>".to_owned(),
            };
            let shown = format!(
                "core.Taint{{Key:{}, Value:{}, Effect:{}, TimeAdded:{added}}}: taints must be unique by key and \
                 effect pair",
                quoted(key),
                quoted(value),
                quoted(effect)
            );
            errors.push(FieldError::duplicate(&at, &shown));
        }
    }
    errors
}

/// Effects of taints and of tolerations.
pub fn effect_error(effect: &str, may_be_empty: bool, path: &str) -> Option<FieldError> {
    const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    match effect {
        "" if may_be_empty => None,
        "" => Some(FieldError::required(path, "")),
        _ if EFFECTS.contains(&effect) => None,
        _ => Some(FieldError::not_supported(path, &quoted(effect), &EFFECTS)),
    }
}
