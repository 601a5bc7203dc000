//! Rules of a pod's spec, wherever it stands: in a pod or in a template.
//! Promise: the mistakes people make are told in Kubernetes' words.
//! Not here: every rule of every volume type; what is not checked here is simply stored.

use std::collections::BTreeSet;

use barque_apiserver_schema::Quantity;
use serde_json::Value;

use crate::access::{entries, list, number, present, text};
use crate::core::nodes::effect_error;
use crate::field_error::{FieldError, quoted};
use crate::meta::{self, invalid_each};
use crate::names;

/// Problems of the pod spec at `path`.
pub fn validate(spec: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let volumes = volumes(spec, path, &mut errors);
    containers(spec, path, &volumes, &mut errors);
    init_containers(spec, path, &volumes, &mut errors);
    let one_of = [
        ("restartPolicy", &["Always", "OnFailure", "Never"][..]),
        (
            "dnsPolicy",
            &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"][..],
        ),
    ];
    for (field, known) in one_of {
        let given = text(spec, &format!("/{field}"));
        errors.extend(choice(given, known, &format!("{path}.{field}")));
    }
    errors.extend(meta::labels(
        spec.get("nodeSelector"),
        &format!("{path}.nodeSelector"),
    ));
    for (index, secret) in list(spec, "/imagePullSecrets").iter().enumerate() {
        if text(secret, "/name").is_empty() {
            errors.push(FieldError::required(
                &format!("{path}.imagePullSecrets[{index}].name"),
                "",
            ));
        }
    }
    let named: [(&str, meta::NameRule); 6] = [
        ("serviceAccountName", names::dns_subdomain),
        ("nodeName", names::dns_subdomain),
        ("hostname", names::dns_label),
        ("subdomain", names::dns_label),
        ("priorityClassName", names::dns_subdomain),
        ("runtimeClassName", names::dns_subdomain),
    ];
    for (field, rule) in named {
        let given = text(spec, &format!("/{field}"));
        if !given.is_empty() {
            errors.extend(invalid_each(&format!("{path}.{field}"), given, rule(given)));
        }
    }
    if present(spec, "/activeDeadlineSeconds").is_some() {
        let given = number(spec, "/activeDeadlineSeconds");
        for problem in names::in_range(given, 1, i64::from(i32::MAX)) {
            let at = format!("{path}.activeDeadlineSeconds");
            errors.push(FieldError::invalid(&at, &given.to_string(), &problem));
        }
    }
    errors.extend(tolerations(
        list(spec, "/tolerations"),
        &format!("{path}.tolerations"),
    ));
    if text(spec, "/dnsPolicy") == "None" && list(spec, "/dnsConfig/nameservers").is_empty() {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(
            &format!("{path}.dnsConfig.nameservers"),
            why,
        ));
    }
    errors
}

fn choice(given: &str, known: &[&str], path: &str) -> Option<FieldError> {
    match given {
        "" => Some(FieldError::required(path, "")),
        _ if known.contains(&given) => None,
        _ => Some(FieldError::not_supported(path, &quoted(given), known)),
    }
}

/// Checks the volumes and returns their names.
fn volumes<'a>(spec: &'a Value, path: &str, errors: &mut Vec<FieldError>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for (index, volume) in list(spec, "/volumes").iter().enumerate() {
        let at = format!("{path}.volumes[{index}]");
        let name = text(volume, "/name");
        let before = errors.len();
        let sources: Vec<&str> = volume
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, value)| *key != "name" && !value.is_null())
            .map(|(key, _)| key.as_str())
            .collect();
        if sources.is_empty() {
            errors.push(FieldError::required(&at, "must specify a volume type"));
        }
        for extra in sources.iter().skip(1) {
            errors.push(FieldError::forbidden(
                &format!("{at}.{extra}"),
                "may not specify more than 1 volume type",
            ));
        }
        let required = [
            ("hostPath", "path"),
            ("secret", "secretName"),
            ("configMap", "name"),
            ("persistentVolumeClaim", "claimName"),
        ];
        for (source, field) in required {
            if volume.get(source).is_some_and(|found| {
                !found.is_null() && text(found, &format!("/{field}")).is_empty()
            }) {
                errors.push(FieldError::required(&format!("{at}.{source}.{field}"), ""));
            }
        }
        let name_at = format!("{at}.name");
        if name.is_empty() {
            errors.push(FieldError::required(&name_at, ""));
        } else {
            errors.extend(invalid_each(&name_at, name, names::dns_label(name)));
        }
        if seen.contains(name) {
            errors.push(FieldError::duplicate(&name_at, &quoted(name)));
        }
        if errors.len() == before {
            seen.insert(name);
        }
    }
    seen
}

fn containers(spec: &Value, path: &str, volumes: &BTreeSet<&str>, errors: &mut Vec<FieldError>) {
    let all = list(spec, "/containers");
    let path = format!("{path}.containers");
    if all.is_empty() {
        errors.push(FieldError::required(&path, ""));
    }
    let mut seen = BTreeSet::new();
    for (index, container) in all.iter().enumerate() {
        let at = format!("{path}[{index}]");
        common(container, &at, volumes, errors);
        let name = text(container, "/name");
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&format!("{at}.name"), &quoted(name)));
        }
        probes(container, &at, errors);
        if present(container, "/restartPolicy").is_some() {
            let why = "may not be set for non-init containers";
            errors.push(FieldError::forbidden(&format!("{at}.restartPolicy"), why));
        }
    }
    host_ports(all, &path, errors);
}

fn init_containers(
    spec: &Value,
    path: &str,
    volumes: &BTreeSet<&str>,
    errors: &mut Vec<FieldError>,
) {
    let mut seen: BTreeSet<&str> = list(spec, "/containers")
        .iter()
        .map(|container| text(container, "/name"))
        .collect();
    for (index, container) in list(spec, "/initContainers").iter().enumerate() {
        let at = format!("{path}.initContainers[{index}]");
        common(container, &at, volumes, errors);
        let policy = text(container, "/restartPolicy");
        if !["", "Always"].contains(&policy) {
            errors.push(FieldError::not_supported(
                &format!("{at}.restartPolicy"),
                &quoted(policy),
                &["Always"],
            ));
        }
        let name = text(container, "/name");
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&format!("{at}.name"), &quoted(name)));
        }
        if policy == "Always" {
            probes(container, &at, errors);
        } else {
            for field in [
                "lifecycle",
                "livenessProbe",
                "readinessProbe",
                "startupProbe",
            ] {
                if container.get(field).is_some_and(|value| !value.is_null()) {
                    let why = "may not be set for init containers without restartPolicy=Always";
                    errors.push(FieldError::forbidden(&format!("{at}.{field}"), why));
                }
            }
        }
    }
}

fn common(container: &Value, at: &str, volumes: &BTreeSet<&str>, errors: &mut Vec<FieldError>) {
    let name = text(container, "/name");
    if name.is_empty() {
        errors.push(FieldError::required(&format!("{at}.name"), ""));
    } else {
        errors.extend(invalid_each(
            &format!("{at}.name"),
            name,
            names::dns_label(name),
        ));
    }
    if text(container, "/image").is_empty() {
        errors.push(FieldError::required(&format!("{at}.image"), ""));
    }
    let policies = ["File", "FallbackToLogsOnError"];
    let given = text(container, "/terminationMessagePolicy");
    errors.extend(choice(
        given,
        &policies,
        &format!("{at}.terminationMessagePolicy"),
    ));
    ports(container, at, errors);
    environment(container, at, errors);
    mounts(container, at, volumes, errors);
    let policies = ["Always", "IfNotPresent", "Never"];
    errors.extend(choice(
        text(container, "/imagePullPolicy"),
        &policies,
        &format!("{at}.imagePullPolicy"),
    ));
    resources(container, at, errors);
}

fn ports(container: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, port) in list(container, "/ports").iter().enumerate() {
        let at = format!("{at}.ports[{index}]");
        let name = text(port, "/name");
        if !name.is_empty() {
            let problems = names::port_name(name);
            if problems.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(&format!("{at}.name"), &quoted(name)));
            }
            errors.extend(invalid_each(&format!("{at}.name"), name, problems));
        }
        for (field, required) in [("containerPort", true), ("hostPort", false)] {
            let given = number(port, &format!("/{field}"));
            let at = format!("{at}.{field}");
            match given {
                0 if required => errors.push(FieldError::required(&at, "")),
                0 => {}
                _ => {
                    for problem in names::port_number(given) {
                        errors.push(FieldError::invalid(&at, &given.to_string(), &problem));
                    }
                }
            }
        }
        errors.extend(choice(
            text(port, "/protocol"),
            &["SCTP", "TCP", "UDP"],
            &format!("{at}.protocol"),
        ));
    }
}

fn environment(container: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for (index, variable) in list(container, "/env").iter().enumerate() {
        let at = format!("{at}.env[{index}]");
        let name = text(variable, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(&format!("{at}.name"), ""));
        } else {
            errors.extend(invalid_each(
                &format!("{at}.name"),
                name,
                names::env_var_name(name),
            ));
        }
        let Some(from) = present(variable, "/valueFrom") else {
            continue;
        };
        let at = format!("{at}.valueFrom");
        let known = [
            "fieldRef",
            "resourceFieldRef",
            "configMapKeyRef",
            "secretKeyRef",
        ];
        let sources = known
            .iter()
            .filter(|source| from.get(**source).is_some_and(|found| !found.is_null()))
            .count();
        if sources == 0 {
            let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
            errors.push(FieldError::invalid(&at, "\"\"", why));
        } else if !text(variable, "/value").is_empty() {
            errors.push(FieldError::invalid(
                &at,
                "\"\"",
                "may not be specified when `value` is not empty",
            ));
        }
        if sources > 1 {
            errors.push(FieldError::invalid(
                &at,
                "\"\"",
                "may not have more than one field specified at a time",
            ));
        }
        for source in ["configMapKeyRef", "secretKeyRef"] {
            let Some(reference) = from.get(source).filter(|found| !found.is_null()) else {
                continue;
            };
            let name = text(reference, "/name");
            errors.extend(invalid_each(
                &format!("{at}.{source}.name"),
                name,
                names::dns_subdomain(name),
            ));
            if text(reference, "/key").is_empty() {
                errors.push(FieldError::required(&format!("{at}.{source}.key"), ""));
            }
        }
    }
}

fn mounts(container: &Value, at: &str, volumes: &BTreeSet<&str>, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, mount) in list(container, "/volumeMounts").iter().enumerate() {
        let at = format!("{at}.volumeMounts[{index}]");
        let (name, path) = (text(mount, "/name"), text(mount, "/mountPath"));
        if name.is_empty() {
            errors.push(FieldError::required(&format!("{at}.name"), ""));
        }
        if !volumes.contains(name) {
            errors.push(FieldError::not_found(&format!("{at}.name"), &quoted(name)));
        }
        if path.is_empty() {
            errors.push(FieldError::required(&format!("{at}.mountPath"), ""));
        }
        if !seen.insert(path) {
            errors.push(FieldError::invalid(
                &format!("{at}.mountPath"),
                &quoted(path),
                "must be unique",
            ));
        }
    }
}

fn resources(container: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let amount = |value: &Value| value.as_str().and_then(Quantity::parse);
    for field in ["limits", "requests"] {
        for (name, value) in entries(container, &format!("/resources/{field}")) {
            let at = format!("{at}.resources.{field}[{name}]");
            let shown = value.as_str().map(quoted).unwrap_or_default();
            match amount(value) {
                Some(quantity) if quantity.is_negative() => {
                    errors.push(FieldError::invalid(
                        &at,
                        &shown,
                        "must be greater than or equal to 0",
                    ));
                }
                Some(_) => {}
                None => errors.push(FieldError::invalid(&at, &shown, "must be a quantity")),
            }
        }
    }
    for (name, request) in entries(container, "/resources/requests") {
        let limit = container
            .pointer("/resources/limits")
            .and_then(|limits| limits.get(name));
        let (Some(wanted), Some(limit)) = (amount(request), limit) else {
            continue;
        };
        if amount(limit).is_some_and(|most| wanted.milli() > most.milli()) {
            let shown = request.as_str().map(quoted).unwrap_or_default();
            let most = limit.as_str().unwrap_or_default();
            let why = format!("must be less than or equal to {name} limit of {most}");
            errors.push(FieldError::invalid(
                &format!("{at}.resources.requests"),
                &shown,
                &why,
            ));
        }
    }
}

fn probes(container: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get(kind).filter(|probe| !probe.is_null()) else {
            continue;
        };
        let at = format!("{at}.{kind}");
        let handlers: Vec<&str> = ["exec", "httpGet", "tcpSocket", "grpc"]
            .into_iter()
            .filter(|handler| probe.get(*handler).is_some_and(|found| !found.is_null()))
            .collect();
        if handlers.is_empty() {
            errors.push(FieldError::required(&at, "must specify a handler type"));
        }
        for extra in handlers.iter().skip(1) {
            errors.push(FieldError::forbidden(
                &format!("{at}.{extra}"),
                "may not specify more than 1 handler type",
            ));
        }
        let numbers = [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ];
        for field in numbers {
            errors.extend(meta::nonnegative(
                probe,
                &format!("/{field}"),
                &format!("{at}.{field}"),
            ));
        }
        let once = number(probe, "/successThreshold");
        if kind != "readinessProbe" && once != 1 {
            errors.push(FieldError::invalid(
                &format!("{at}.successThreshold"),
                &once.to_string(),
                "must be 1",
            ));
        }
    }
}

fn host_ports(containers: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        for (port_index, port) in list(container, "/ports").iter().enumerate() {
            let host_port = number(port, "/hostPort");
            if host_port == 0 {
                continue;
            }
            let key = format!(
                "{}/{}/{host_port}",
                text(port, "/protocol"),
                text(port, "/hostIP")
            );
            if !seen.insert(key.clone()) {
                let at = format!("{path}[{index}].ports[{port_index}].hostPort");
                errors.push(FieldError::duplicate(&at, &quoted(&key)));
            }
        }
    }
}

/// Pods, unlike templates, must not have images with blanks around them.
pub fn image_blanks(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["containers", "initContainers"] {
        for (index, container) in list(spec, &format!("/{field}")).iter().enumerate() {
            let image = text(container, "/image");
            if image.trim() != image {
                let at = format!("spec.{field}[{index}].image");
                errors.push(FieldError::invalid(
                    &at,
                    &quoted(image),
                    "must not have leading or trailing whitespace",
                ));
            }
        }
    }
    errors
}

/// Problems of tolerations at `path`.
pub fn tolerations(all: &[Value], path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, toleration) in all.iter().enumerate() {
        let at = format!("{path}[{index}]");
        let (key, operator) = (text(toleration, "/key"), text(toleration, "/operator"));
        let (value, effect) = (text(toleration, "/value"), text(toleration, "/effect"));
        if !key.is_empty() {
            errors.extend(invalid_each(
                &format!("{at}.key"),
                key,
                names::qualified_name(key),
            ));
        }
        let operator_at = format!("{at}.operator");
        if key.is_empty() && operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(&operator_at, &quoted(operator), why));
        }
        if present(toleration, "/tolerationSeconds").is_some() && effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(
                &format!("{at}.effect"),
                &quoted(effect),
                why,
            ));
        }
        match operator {
            "" | "Equal" => {
                let problems = names::label_value(value);
                if !problems.is_empty() {
                    errors.push(FieldError::invalid(
                        &operator_at,
                        &quoted(value),
                        &problems.join(";"),
                    ));
                }
            }
            "Exists" if !value.is_empty() => {
                let why = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(&operator_at, &quoted(value), why));
            }
            "Exists" => {}
            other => errors.push(FieldError::not_supported(
                &operator_at,
                &quoted(other),
                &["Equal", "Exists"],
            )),
        }
        errors.extend(effect_error(effect, true, &format!("{at}.effect")));
    }
    errors
}
