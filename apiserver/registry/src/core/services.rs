//! Services, thinly: rules and tables, but no cluster IP is given out and no port is allocated yet.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{child, copy_field, entries, list, number, present, text};
use crate::columns::{self, AGE, NAME, text_column, wide_column};
use crate::field_error::{FieldError, quoted, shown};
use crate::strategy::{Column, Strategy};
use crate::{meta, names};

pub struct Services;

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Type", "How the service is exposed."),
    text_column("Cluster-IP", "The address inside the cluster."),
    text_column("External-IP", "Addresses outside the cluster."),
    text_column("Port(s)", "Ports and protocols."),
    AGE,
    wide_column("Selector", "Which pods stand behind the service."),
];

impl Strategy for Services {
    fn prepare_for_create(&self, obj: &mut Value) {
        obj["status"] = json!({"loadBalancer": {}});
        sync_cluster_ips(obj);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value) {
        copy_field(new, old, "status");
        let headless = text(new, "/spec/type") == "ExternalName";
        // Addresses once given stay, also for clients that do not send them back.
        if !headless
            && text(new, "/spec/clusterIP").is_empty()
            && list(new, "/spec/clusterIPs").is_empty()
        {
            for field in ["clusterIP", "clusterIPs"] {
                if let Some(value) = present(old, &format!("/spec/{field}")).cloned() {
                    child(new, "spec").insert(field.to_owned(), value);
                }
            }
        }
        sync_cluster_ips(new);
    }

    fn prepare_for_status_update(&self, new: &mut Value, old: &Value) {
        copy_field(new, old, "spec");
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errors = meta::validate(obj, true, names::dns_1035_label);
        errors.extend(spec_errors(obj));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = meta::validate_update(new, old);
        let (was, is) = (text(old, "/spec/clusterIP"), text(new, "/spec/clusterIP"));
        let external = |obj| text(obj, "/spec/type") == "ExternalName";
        if !was.is_empty() && was != is && !external(new) && !external(old) {
            let ips: Vec<String> = list(new, "/spec/clusterIPs").iter().map(shown).collect();
            let given = format!("[]string{{{}}}", ips.join(", "));
            errors.push(FieldError::invalid(
                "spec.clusterIPs[0]",
                &given,
                "may not change once set",
            ));
        }
        errors.extend(spec_errors(new));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let first_ip = list(obj, "/spec/clusterIPs")
            .first()
            .and_then(Value::as_str)
            .unwrap_or("<none>");
        let selector: Vec<String> = entries(obj, "/spec/selector")
            .iter()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        let selector = if selector.is_empty() {
            "<none>".to_owned()
        } else {
            selector.join(",")
        };
        vec![
            columns::name(obj),
            Value::from(text(obj, "/spec/type")),
            Value::from(first_ip),
            Value::from(external_ip(obj)),
            Value::from(ports(obj)),
            columns::age(obj, now),
            Value::from(selector),
        ]
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        let mut fields = columns::metadata_fields(obj);
        fields.push(("spec.clusterIP", text(obj, "/spec/clusterIP").to_owned()));
        fields.push(("spec.type", text(obj, "/spec/type").to_owned()));
        fields
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &[
            "metadata.name",
            "metadata.namespace",
            "spec.clusterIP",
            "spec.type",
        ]
    }
}

/// clusterIP is the first of clusterIPs; clients may set either.
fn sync_cluster_ips(obj: &mut Value) {
    let ip = text(obj, "/spec/clusterIP").to_owned();
    let ips = list(obj, "/spec/clusterIPs").to_vec();
    let spec = child(obj, "spec");
    if !ip.is_empty() && ips.is_empty() {
        spec.insert("clusterIPs".to_owned(), json!([ip]));
    } else if let (true, Some(first)) = (ip.is_empty(), ips.first()) {
        spec.insert("clusterIP".to_owned(), first.clone());
    }
}

fn external_ip(obj: &Value) -> String {
    let mut addresses: Vec<String> = list(obj, "/spec/externalIPs")
        .iter()
        .filter_map(|ip| ip.as_str().map(str::to_owned))
        .collect();
    match text(obj, "/spec/type") {
        "ClusterIP" | "NodePort" if addresses.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => addresses.join(","),
        "LoadBalancer" => {
            let given: BTreeSet<&str> = list(obj, "/status/loadBalancer/ingress")
                .iter()
                .map(|ingress| match text(ingress, "/ip") {
                    "" => text(ingress, "/hostname"),
                    ip => ip,
                })
                .filter(|address| !address.is_empty())
                .collect();
            let mut all: Vec<String> = given.into_iter().map(str::to_owned).collect();
            all.append(&mut addresses);
            if all.is_empty() {
                "<pending>".to_owned()
            } else {
                all.join(",")
            }
        }
        "ExternalName" => text(obj, "/spec/externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn ports(obj: &Value) -> String {
    let parts: Vec<String> = list(obj, "/spec/ports")
        .iter()
        .map(|port| {
            let (number_, protocol) = (number(port, "/port"), text(port, "/protocol"));
            match number(port, "/nodePort") {
                0 => format!("{number_}/{protocol}"),
                node => format!("{number_}:{node}/{protocol}"),
            }
        })
        .collect();
    if parts.is_empty() {
        "<none>".to_owned()
    } else {
        parts.join(",")
    }
}

fn spec_errors(obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = text(obj, "/spec/type");
    let headless = text(obj, "/spec/clusterIP") == "None";
    let service_ports = list(obj, "/spec/ports");
    if service_ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    match kind {
        "ExternalName" => {
            let name = text(obj, "/spec/externalName");
            if name.is_empty() {
                errors.push(FieldError::required("spec.externalName", ""));
            } else {
                let problems = names::dns_subdomain(name.trim_end_matches('.'));
                errors.extend(meta::invalid_each("spec.externalName", name, problems));
            }
        }
        "" => errors.push(FieldError::required("spec.type", "")),
        "ClusterIP" | "NodePort" | "LoadBalancer" => {}
        other => {
            let known = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
            errors.push(FieldError::not_supported(
                "spec.type",
                &quoted(other),
                &known,
            ));
        }
    }
    let mut seen_names = BTreeSet::new();
    let mut seen_ports = BTreeSet::new();
    for (index, port) in service_ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        let name = text(port, "/name");
        if name.is_empty() && service_ports.len() > 1 {
            errors.push(FieldError::required(&format!("{at}.name"), ""));
        } else if !name.is_empty() {
            errors.extend(meta::invalid_each(
                &format!("{at}.name"),
                name,
                names::dns_label(name),
            ));
            if !seen_names.insert(name) {
                errors.push(FieldError::duplicate(&format!("{at}.name"), &quoted(name)));
            }
        }
        let given = number(port, "/port");
        for problem in names::port_number(given) {
            errors.push(FieldError::invalid(
                &format!("{at}.port"),
                &given.to_string(),
                &problem,
            ));
        }
        let protocol = text(port, "/protocol");
        match protocol {
            "" => errors.push(FieldError::required(&format!("{at}.protocol"), "")),
            "TCP" | "UDP" | "SCTP" => {}
            other => errors.push(FieldError::not_supported(
                &format!("{at}.protocol"),
                &quoted(other),
                &["SCTP", "TCP", "UDP"],
            )),
        }
        match port.get("targetPort") {
            Some(Value::String(target)) => {
                errors.extend(meta::invalid_each(
                    &format!("{at}.targetPort"),
                    target,
                    names::port_name(target),
                ));
            }
            Some(target) => {
                let target = target.as_i64().unwrap_or_default();
                for problem in names::port_number(target) {
                    errors.push(FieldError::invalid(
                        &format!("{at}.targetPort"),
                        &target.to_string(),
                        &problem,
                    ));
                }
            }
            None => {}
        }
        if !seen_ports.insert((protocol, given)) {
            let shown = format!(
                "core.ServicePort{{Name:\"\", Protocol:{}, AppProtocol:(*string)(nil), Port:{given}, \
                 TargetPort:intstr.IntOrString{{Type:0, IntVal:0, StrVal:\"\"}}, NodePort:0}}",
                quoted(protocol)
            );
            errors.push(FieldError::duplicate(&at, &shown));
        }
    }
    errors.extend(meta::labels(obj.pointer("/spec/selector"), "spec.selector"));
    let affinity = text(obj, "/spec/sessionAffinity");
    if !["", "None", "ClientIP"].contains(&affinity) {
        errors.push(FieldError::not_supported(
            "spec.sessionAffinity",
            &quoted(affinity),
            &["ClientIP", "None"],
        ));
    }
    errors
}
