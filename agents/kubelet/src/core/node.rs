//! What the node tells of itself: its object, its conditions, its lease.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeCondition;
use serde_json::{Value, json};

use crate::core::status::seconds;

/// The Kubernetes version this kubelet stands for.
pub const VERSION: &str = "v1.33.0";

/// What a node is, from flags.
#[derive(Clone, Debug)]
pub struct Identity {
    pub name: String,
    pub address: String,
    pub pod_cidr: String,
    pub cpus: u32,
    pub memory: String,
    pub pods: u32,
    pub runtime: &'static str,
}

/// Type, whether it is good to be "True", and reason and message in health.
const CONDITIONS: [(&str, &str, &str, &str); 4] = [
    (
        "MemoryPressure",
        "False",
        "KubeletHasSufficientMemory",
        "kubelet has sufficient memory available",
    ),
    (
        "DiskPressure",
        "False",
        "KubeletHasNoDiskPressure",
        "kubelet has no disk pressure",
    ),
    (
        "PIDPressure",
        "False",
        "KubeletHasSufficientPID",
        "kubelet has sufficient PID available",
    ),
    (
        "Ready",
        "True",
        "KubeletReady",
        "kubelet is posting ready status",
    ),
];

/// The object as it is created.
pub fn object(node: &Identity) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "labels": {
                "kubernetes.io/hostname": node.name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "beta.kubernetes.io/os": "linux",
                "beta.kubernetes.io/arch": "amd64",
            },
        },
        "spec": {"podCIDR": node.pod_cidr, "podCIDRs": [node.pod_cidr]},
    })
}

/// The status, with the times of conditions that did not change kept from `before`.
pub fn status(node: &Identity, before: &[NodeCondition], now: Timestamp) -> Value {
    let conditions: Vec<Value> = CONDITIONS
        .iter()
        .map(|(type_, status, reason, message)| {
            let since = before.iter().find(|c| c.type_ == *type_ && c.status == *status).and_then(|c| c.last_transition_time.clone());
            json!({
                "type": type_, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": seconds(now), "lastTransitionTime": since.unwrap_or_else(|| seconds(now)),
            })
        })
        .collect();
    let resources = json!({"cpu": node.cpus.to_string(), "memory": node.memory, "pods": node.pods.to_string(), "ephemeral-storage": "100Gi"});
    json!({
        "capacity": resources,
        "allocatable": resources,
        "conditions": conditions,
        "addresses": [{"type": "InternalIP", "address": node.address}, {"type": "Hostname", "address": node.name}],
        "nodeInfo": {
            "machineID": node.name, "systemUUID": node.name, "bootID": node.name,
            "kernelVersion": "hollow", "osImage": "Barque hollow node",
            "containerRuntimeVersion": node.runtime, "kubeletVersion": VERSION, "kubeProxyVersion": "",
            "operatingSystem": "linux", "architecture": "amd64",
        },
    })
}

/// The node's lease in `kube-node-lease`, renewed at `now`.
pub fn lease(node: &str, duration_s: u32, now: Timestamp) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": node, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": node, "leaseDurationSeconds": duration_s, "renewTime": format!("{now:.6}")},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_the_time_it_turned() {
        let at = |s| Timestamp::from_second(s).expect("in range");
        let node = Identity {
            name: "n".into(),
            address: "127.0.0.1".into(),
            pod_cidr: "10.0.0.0/24".into(),
            cpus: 4,
            memory: "8Gi".into(),
            pods: 110,
            runtime: "hollow://1",
        };
        let unknown = NodeCondition {
            type_: "Ready".into(),
            status: "Unknown".into(),
            last_transition_time: Some(seconds(at(5))),
            ..Default::default()
        };
        let pressure = NodeCondition {
            type_: "DiskPressure".into(),
            status: "False".into(),
            last_transition_time: Some(seconds(at(5))),
            ..Default::default()
        };
        let status = status(&node, &[unknown, pressure], at(60));
        let turned = |type_: &str| {
            let all = status["conditions"].as_array().expect("a list");
            all.iter()
                .find(|c| c["type"] == type_)
                .expect("that condition")["lastTransitionTime"]
                .clone()
        };
        assert_eq!(turned("Ready"), json!("1970-01-01T00:01:00Z"));
        assert_eq!(turned("DiskPressure"), json!("1970-01-01T00:00:05Z"));
    }

    #[test]
    fn renew_time_has_microseconds() {
        let now = Timestamp::from_microsecond(1_700_000_000_000_000).expect("in range");
        assert_eq!(
            lease("n", 40, now)["spec"]["renewTime"],
            "2023-11-14T22:13:20.000000Z"
        );
    }
}
