//! What the scheduler knows of the cluster: nodes, and what the pods on them take. Owns the accounting.
//! Promise: a pod counts on at most one node; one that was only assumed there counts like one that is.
//! Not here: deciding (`decide`), learning (`run` feeds it from informers).

use std::collections::{BTreeMap, BTreeSet};

use barque_agents_client::core::reflector::Key;
use k8s_openapi::api::core::v1::{Node, NodeSelectorTerm, Pod, Taint, Toleration};

use super::resources::{Request, Resources, request_of};

/// A node as far as placing pods is concerned. Heartbeats do not show, so that they wake nobody.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeView {
    pub name: String,
    pub unschedulable: bool,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub allocatable: Resources,
}

impl NodeView {
    pub fn of(node: Node) -> NodeView {
        let spec = node.spec.unwrap_or_default();
        let status = node.status.unwrap_or_default();
        NodeView {
            name: node.metadata.name.unwrap_or_default(),
            unschedulable: spec.unschedulable.unwrap_or(false),
            labels: node.metadata.labels.unwrap_or_default(),
            taints: spec.taints.unwrap_or_default(),
            allocatable: Resources::of(status.allocatable.as_ref().or(status.capacity.as_ref())),
        }
    }
}

/// A port of the node itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    pub port: i32,
    pub protocol: String,
    pub ip: String,
}

impl HostPort {
    fn collides(&self, other: &HostPort) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// A pod as far as placing it is concerned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodView {
    pub uid: String,
    /// Where it is; empty while pending.
    pub node: String,
    pub scheduler_name: String,
    pub terminating: bool,
    pub gated: bool,
    pub request: Request,
    pub node_selector: BTreeMap<String, String>,
    /// Required node affinity: any of the terms. None: anywhere.
    pub affinity: Option<Vec<NodeSelectorTerm>>,
    pub tolerations: Vec<Toleration>,
    pub host_ports: Vec<HostPort>,
}

impl PodView {
    /// None for a pod that has run to its end: it takes nothing any more.
    pub fn of(pod: Pod) -> Option<PodView> {
        let phase = pod.status.and_then(|status| status.phase);
        if matches!(phase.as_deref(), Some("Succeeded" | "Failed")) {
            return None;
        }
        let spec = pod.spec.unwrap_or_default();
        let host_ports = spec
            .containers
            .iter()
            .flat_map(|container| container.ports.iter().flatten());
        let host_ports = host_ports.filter_map(|port| {
            Some(HostPort {
                port: port.host_port.filter(|port| *port > 0)?,
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                ip: port.host_ip.clone().unwrap_or_default(),
            })
        });
        let affinity = spec
            .affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.as_ref());
        let required = affinity.and_then(|node| {
            node.required_during_scheduling_ignored_during_execution
                .as_ref()
        });
        Some(PodView {
            uid: pod.metadata.uid.unwrap_or_default(),
            host_ports: host_ports.collect(),
            affinity: required.map(|selector| selector.node_selector_terms.clone()),
            request: request_of(&spec),
            node: spec.node_name.unwrap_or_default(),
            scheduler_name: spec
                .scheduler_name
                .unwrap_or_else(|| "default-scheduler".to_owned()),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            gated: spec.scheduling_gates.is_some_and(|gates| !gates.is_empty()),
            node_selector: spec.node_selector.unwrap_or_default(),
            tolerations: spec.tolerations.unwrap_or_default(),
        })
    }

    /// Whether it waits for `scheduler` to give it a node.
    pub fn is_pending(&self, scheduler: &str) -> bool {
        self.node.is_empty() && !self.terminating && !self.gated && self.scheduler_name == scheduler
    }
}

/// A node and what is taken of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeState {
    /// None: pods are there, but the node is not known (yet, or any more).
    pub node: Option<NodeView>,
    pub used: Resources,
    pub likely_cpu_millis: i64,
    pub likely_memory: i64,
    pub ports: BTreeMap<HostPort, u32>,
    pods: BTreeSet<Key>,
}

impl NodeState {
    pub fn port_taken(&self, wanted: &HostPort) -> bool {
        self.ports.keys().any(|port| port.collides(wanted))
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Placed {
    uid: String,
    node: String,
    request: Request,
    host_ports: Vec<HostPort>,
    assumed: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterView {
    /// Invariant: `used`, `likely_*`, `ports` and `pods` of each node are the sums over `placed` there.
    nodes: BTreeMap<String, NodeState>,
    placed: BTreeMap<Key, Placed>,
}

impl ClusterView {
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeView, &NodeState)> {
        self.nodes
            .values()
            .filter_map(|state| Some((state.node.as_ref()?, state)))
    }

    pub fn node_seen(&mut self, node: NodeView) {
        let name = node.name.clone();
        self.nodes.entry(name).or_default().node = Some(node);
    }

    pub fn node_gone(&mut self, name: &str) {
        if let Some(state) = self.nodes.get_mut(name) {
            state.node = None;
        }
        self.drop_empty(name);
    }

    /// A pod as the API has it. One that is nowhere leaves an assumption alone: the binding may be on its way.
    pub fn pod_seen(&mut self, key: &Key, pod: &PodView) {
        if pod.node.is_empty() {
            // The same name, another pod: the assumption was about its predecessor.
            if self
                .placed
                .get(key)
                .is_some_and(|placed| placed.uid != pod.uid)
            {
                self.take_off(key);
            }
            return;
        }
        self.put_on(key, pod, &pod.node, false);
    }

    pub fn pod_gone(&mut self, key: &Key) {
        self.take_off(key);
    }

    /// Counts a pod on a node before the API has it there.
    pub fn assume(&mut self, key: &Key, pod: &PodView, node: &str) {
        self.put_on(key, pod, node, true);
    }

    /// The binding failed for good. Leaves a pod alone that the API has meanwhile, or another one of the name.
    pub fn forget(&mut self, key: &Key, uid: &str) {
        if self
            .placed
            .get(key)
            .is_some_and(|placed| placed.assumed && placed.uid == uid)
        {
            self.take_off(key);
        }
    }

    pub fn is_assumed(&self, key: &Key) -> bool {
        self.placed.get(key).is_some_and(|placed| placed.assumed)
    }

    fn put_on(&mut self, key: &Key, pod: &PodView, node: &str, assumed: bool) {
        self.take_off(key);
        let state = self.nodes.entry(node.to_owned()).or_default();
        state.used.add(&pod.request.asked);
        state.likely_cpu_millis += pod.request.likely_cpu_millis;
        state.likely_memory += pod.request.likely_memory;
        for port in &pod.host_ports {
            *state.ports.entry(port.clone()).or_default() += 1;
        }
        state.pods.insert(key.clone());
        let placed = Placed {
            uid: pod.uid.clone(),
            node: node.to_owned(),
            request: pod.request.clone(),
            host_ports: pod.host_ports.clone(),
            assumed,
        };
        self.placed.insert(key.clone(), placed);
    }

    fn take_off(&mut self, key: &Key) {
        let Some(placed) = self.placed.remove(key) else {
            return;
        };
        if let Some(state) = self.nodes.get_mut(&placed.node) {
            state.used.subtract(&placed.request.asked);
            state.likely_cpu_millis -= placed.request.likely_cpu_millis;
            state.likely_memory -= placed.request.likely_memory;
            for port in &placed.host_ports {
                if let Some(count) = state.ports.get_mut(port) {
                    *count -= 1;
                }
            }
            state.ports.retain(|_, count| *count > 0);
            state.pods.remove(key);
        }
        self.drop_empty(&placed.node);
    }

    fn drop_empty(&mut self, name: &str) {
        if self
            .nodes
            .get(name)
            .is_some_and(|state| state.node.is_none() && state.pods.is_empty())
        {
            self.nodes.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pod(uid: &str, node: &str, cpu: i64) -> PodView {
        PodView {
            uid: uid.to_owned(),
            node: node.to_owned(),
            request: Request {
                asked: Resources {
                    cpu_millis: cpu,
                    pods: 1,
                    ..Default::default()
                },
                likely_cpu_millis: cpu,
                likely_memory: 1,
            },
            host_ports: vec![HostPort {
                port: cpu as i32,
                protocol: "TCP".to_owned(),
                ip: String::new(),
            }],
            ..Default::default()
        }
    }
    fn used(view: &ClusterView, node: &str) -> i64 {
        view.nodes
            .get(node)
            .map_or(0, |state| state.used.cpu_millis)
    }

    #[test]
    fn an_assumption_holds_until_the_api_decides() {
        let mut view = ClusterView::default();
        let key = Key::new("ns", "p");
        view.assume(&key, &pod("1", "", 5), "n1");
        view.pod_seen(&key, &pod("1", "", 5));
        assert_eq!(
            used(&view, "n1"),
            5,
            "still pending in the API: the binding is on its way"
        );
        view.pod_seen(&key, &pod("1", "n1", 5));
        view.forget(&key, "1");
        assert_eq!(used(&view, "n1"), 5, "bound after all");
        view.assume(&key, &pod("2", "", 5), "n2");
        view.forget(&key, "1");
        assert_eq!((used(&view, "n1"), used(&view, "n2")), (0, 5));
        view.forget(&key, "2");
        assert_eq!(used(&view, "n2"), 0);
    }

    #[test]
    fn a_new_pod_of_the_name_ends_the_assumption_about_the_old_one() {
        let mut view = ClusterView::default();
        let key = Key::new("ns", "p");
        view.assume(&key, &pod("1", "", 5), "n1");
        view.pod_seen(&key, &pod("2", "", 5));
        assert_eq!(used(&view, "n1"), 0);
    }

    proptest! {
        // Whatever happens in whatever order, the sums equal a recount.
        #[test]
        fn the_accounting_adds_up(steps in proptest::collection::vec((0u8..6, 0u8..4, 0u8..3, 1i64..9), 1..120)) {
            let mut view = ClusterView::default();
            for (what, name, node, cpu) in steps {
                let key = Key::new("ns", &name.to_string());
                let node = node.to_string();
                match what {
                    0 => view.node_seen(NodeView { name: node, ..Default::default() }),
                    1 => view.node_gone(&node),
                    2 => view.pod_seen(&key, &pod("1", &node, cpu)),
                    3 => view.pod_gone(&key),
                    4 => view.assume(&key, &pod("2", "", cpu), &node),
                    _ => view.forget(&key, "2"),
                }
                for (name, state) in &view.nodes {
                    let here: Vec<&Placed> = view.placed.values().filter(|placed| placed.node == *name).collect();
                    prop_assert_eq!(state.used.cpu_millis, here.iter().map(|placed| placed.request.asked.cpu_millis).sum::<i64>());
                    prop_assert_eq!(state.used.pods, here.len() as i64);
                    prop_assert_eq!(state.ports.values().sum::<u32>() as usize, here.len());
                    prop_assert!(state.node.is_some() || !here.is_empty(), "an empty entry stays");
                }
            }
        }
    }
}
