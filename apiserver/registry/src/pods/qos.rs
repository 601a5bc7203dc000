//! The quality-of-service class of a pod, from what its containers request and may use.

use std::collections::BTreeMap;

use barque_apiserver_schema::Quantity;
use serde_json::Value;

use crate::access::{entries, list};

/// Guaranteed if every container limits cpu and memory and requests exactly that; BestEffort if none asks for either.
pub fn qos_class(pod: &Value) -> &'static str {
    let mut requests: BTreeMap<String, i128> = BTreeMap::new();
    let mut limits: BTreeMap<String, i128> = BTreeMap::new();
    let mut guaranteed = true;
    let containers = list(pod, "/spec/containers")
        .iter()
        .chain(list(pod, "/spec/initContainers"));
    for container in containers {
        add(&mut requests, container, "/resources/requests");
        let limited = add(&mut limits, container, "/resources/limits");
        guaranteed &= limited == 2;
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    if guaranteed && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Adds a container's cpu and memory; tells how many of the two it names.
fn add(sums: &mut BTreeMap<String, i128>, container: &Value, pointer: &str) -> usize {
    let mut found = 0;
    for (resource, amount) in entries(container, pointer) {
        if !["cpu", "memory"].contains(&resource.as_str()) {
            continue;
        }
        let milli = amount
            .as_str()
            .and_then(Quantity::parse)
            .map_or(0, |quantity| quantity.milli());
        if milli > 0 {
            found += 1;
            *sums.entry(resource.clone()).or_default() += milli;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"resources": resources}]}});
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(
            qos_class(&pod(json!({"requests": {"cpu": "1"}}))),
            "Burstable"
        );
        let all = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(
            qos_class(&pod(json!({"requests": all, "limits": all}))),
            "Guaranteed"
        );
        assert_eq!(
            qos_class(&pod(
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1"}})
            )),
            "Burstable"
        );
        let same_amount = json!({"requests": {"cpu": "1000m", "memory": "1024Mi"}, "limits": all});
        assert_eq!(qos_class(&pod(same_amount)), "Guaranteed");
    }
}
