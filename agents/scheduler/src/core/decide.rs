//! The decision: filter the nodes, compare what is left. Pure and deterministic: of equal nodes the one with fewer pods wins, then the
//! first by name. Reasons read as Kubernetes words them.

use std::collections::BTreeMap;
use std::fmt;

use barque_agents_client::core::selector::requirement_holds;
use k8s_openapi::api::core::v1::{NodeSelectorTerm, Taint, Toleration};

use super::view::{ClusterView, NodeState, NodeView, PodView};

/// Why no node will do: how many of the nodes refuse for each reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unschedulable {
    pub nodes: usize,
    pub reasons: BTreeMap<String, usize>,
}

impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let mut parts: Vec<String> = self
            .reasons
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        parts.sort();
        write!(
            f,
            "0/{} nodes are available: {}.",
            self.nodes,
            parts.join(", ")
        )
    }
}

/// Chooses a node for the pod.
pub fn schedule(view: &ClusterView, pod: &PodView) -> Result<String, Unschedulable> {
    let mut refused = Unschedulable::default();
    let mut best: Option<(Rank, &str)> = None;
    for (node, state) in view.nodes() {
        refused.nodes += 1;
        let reasons = refusals(node, state, pod);
        if !reasons.is_empty() {
            for reason in reasons {
                *refused.reasons.entry(reason).or_default() += 1;
            }
            continue;
        }
        let rank = rank(node, state, pod);
        // Nodes come by name: of equals the first stays.
        if best.as_ref().is_none_or(|(best, _)| rank > *best) {
            best = Some((rank, &node.name));
        }
    }
    best.map(|(_, name)| name.to_owned()).ok_or(refused)
}

/// Why this node will not do. The first check that refuses speaks.
fn refusals(node: &NodeView, state: &NodeState, pod: &PodView) -> Vec<String> {
    let one = |reason: &str| vec![reason.to_owned()];
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Default::default()
    };
    if node.unschedulable && !tolerated(&cordon, &pod.tolerations) {
        return one("node(s) were unschedulable");
    }
    let repels = |taint: &&Taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !tolerated(taint, &pod.tolerations)
    };
    if let Some(taint) = node.taints.iter().find(repels) {
        let value = taint.value.as_deref().unwrap_or_default();
        return vec![format!(
            "node(s) had untolerated taint {{{}: {value}}}",
            taint.key
        )];
    }
    if !selected(node, pod) {
        return one("node(s) didn't match Pod's node affinity/selector");
    }
    if pod.host_ports.iter().any(|port| state.port_taken(port)) {
        return one("node(s) didn't have free ports for the requested pod ports");
    }
    shortages(node, state, pod)
}

fn shortages(node: &NodeView, state: &NodeState, pod: &PodView) -> Vec<String> {
    let (have, used, asked) = (&node.allocatable, &state.used, &pod.request.asked);
    let mut short = vec![];
    if used.pods.saturating_add(1) > have.pods {
        short.push("Too many pods".to_owned());
    }
    let mut check = |name: &str, asked: i64, used: i64, have: i64| {
        if asked > 0 && asked > have.saturating_sub(used) {
            short.push(format!("Insufficient {name}"));
        }
    };
    check("cpu", asked.cpu_millis, used.cpu_millis, have.cpu_millis);
    check("memory", asked.memory, used.memory, have.memory);
    check(
        "ephemeral-storage",
        asked.ephemeral_storage,
        used.ephemeral_storage,
        have.ephemeral_storage,
    );
    for (name, amount) in &asked.others {
        let of = |resources: &BTreeMap<String, i64>| resources.get(name).copied().unwrap_or(0);
        check(name, *amount, of(&used.others), of(&have.others));
    }
    short
}

fn selected(node: &NodeView, pod: &PodView) -> bool {
    let by_selector = pod
        .node_selector
        .iter()
        .all(|(key, value)| node.labels.get(key) == Some(value));
    by_selector
        && pod
            .affinity
            .as_ref()
            .is_none_or(|terms| terms.iter().any(|term| term_holds(term, node)))
}

/// A term without any requirement selects nothing.
fn term_holds(term: &NodeSelectorTerm, node: &NodeView) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = BTreeMap::from([("metadata.name".to_owned(), node.name.clone())]);
    let values = |values: &Option<Vec<String>>| values.clone().unwrap_or_default();
    !(expressions.is_empty() && fields.is_empty())
        && expressions
            .iter()
            .all(|r| requirement_holds(&r.key, &r.operator, &values(&r.values), &node.labels))
        && fields
            .iter()
            .all(|r| requirement_holds(&r.key, &r.operator, &values(&r.values), &name))
}

fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| {
        let key = toleration.key.as_deref().unwrap_or_default();
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let value = |text: &Option<String>| text.clone().unwrap_or_default();
        let by_effect = effect.is_empty() || effect == taint.effect;
        let by_key = key.is_empty() || key == taint.key;
        by_effect
            && by_key
            && match toleration.operator.as_deref() {
                Some("Exists") => true,
                None | Some("" | "Equal") => {
                    !key.is_empty() && value(&toleration.value) == value(&taint.value)
                }
                Some(_) => false,
            }
    })
}

/// Compared field by field; more is better.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Fewer taints that would rather not have the pod.
    welcome: i64,
    /// Mean of the free shares of CPU and memory, 0..=100, the pod included.
    free_share: i64,
    fewer_pods: i64,
}

fn rank(node: &NodeView, state: &NodeState, pod: &PodView) -> Rank {
    let reluctant = node
        .taints
        .iter()
        .filter(|taint| taint.effect == "PreferNoSchedule" && !tolerated(taint, &pod.tolerations));
    let share = |used: i64, asked: i64, have: i64| {
        let left = i128::from(have) - i128::from(used) - i128::from(asked);
        let share = if have > 0 {
            left.max(0) * 100 / i128::from(have)
        } else {
            0
        };
        i64::try_from(share).unwrap_or(0)
    };
    let cpu = share(
        state.likely_cpu_millis,
        pod.request.likely_cpu_millis,
        node.allocatable.cpu_millis,
    );
    let memory = share(
        state.likely_memory,
        pod.request.likely_memory,
        node.allocatable.memory,
    );
    Rank {
        welcome: -i64::try_from(reluctant.count()).unwrap_or(i64::MAX),
        free_share: (cpu + memory) / 2,
        fewer_pods: -state.used.pods,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barque_agents_client::core::reflector::Key;
    use k8s_openapi::api::core::v1::{Node, Pod};
    use serde_json::{Value, json};

    fn node(name: &str, changes: Value) -> NodeView {
        let mut node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "spec": {},
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"}},
        });
        for (path, value) in changes.as_object().unwrap() {
            *node.pointer_mut(path).unwrap() = value.clone();
        }
        NodeView::of(serde_json::from_value::<Node>(node).unwrap())
    }
    fn pod(spec: Value) -> PodView {
        let mut full = json!({"containers": [{"name": "c"}]});
        for (field, value) in spec.as_object().unwrap() {
            full[field] = value.clone();
        }
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": full})).unwrap();
        PodView::of(pod).unwrap()
    }
    fn needs(cpu: &str) -> PodView {
        pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}))
    }
    fn cluster(nodes: Vec<NodeView>) -> ClusterView {
        let mut view = ClusterView::default();
        nodes.into_iter().for_each(|node| view.node_seen(node));
        view
    }
    fn refusal(view: &ClusterView, pod: &PodView) -> String {
        schedule(view, pod).unwrap_err().to_string()
    }

    #[test]
    fn reasons_read_as_kubernetes_words_them() {
        let plain = || node("a", json!({}));
        let cases: Vec<(Vec<NodeView>, PodView, &str)> = vec![
            (vec![], needs("1"), "no nodes available to schedule pods"),
            (
                vec![plain(), node("b", json!({}))],
                needs("3"),
                "0/2 nodes are available: 2 Insufficient cpu.",
            ),
            (
                vec![
                    plain(),
                    node("b", json!({"/spec": {"unschedulable": true}})),
                ],
                needs("3"),
                "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable.",
            ),
            (
                vec![node(
                    "a",
                    json!({"/spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}),
                )],
                needs("1"),
                "0/1 nodes are available: 1 node(s) had untolerated taint {k: v}.",
            ),
            (
                vec![plain()],
                pod(json!({"nodeSelector": {"disk": "ssd"}})),
                "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
            ),
            (
                vec![node(
                    "a",
                    json!({"/status/allocatable": {"cpu": "1", "memory": "1Gi", "pods": "0"}}),
                )],
                needs("2"),
                "0/1 nodes are available: 1 Insufficient cpu, 1 Too many pods.",
            ),
            (
                vec![plain()],
                pod(
                    json!({"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}]}),
                ),
                "0/1 nodes are available: 1 Insufficient example.com/gpu.",
            ),
        ];
        for (nodes, pod, expected) in cases {
            assert_eq!(refusal(&cluster(nodes), &pod), expected);
        }
    }

    #[test]
    fn tolerations() {
        let taint =
            json!({"/spec": {"taints": [{"key": "k", "value": "v", "effect": "NoExecute"}]}});
        let view = cluster(vec![node("a", taint)]);
        let cases = [
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "value": "v"}), true),
            (
                json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute"}),
                true,
            ),
            (json!({"key": "k", "value": "other"}), false),
            (
                json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}),
                false,
            ),
            (json!({"key": "other", "operator": "Exists"}), false),
        ];
        for (toleration, fits) in cases {
            let pod = pod(json!({"tolerations": [toleration.clone()]}));
            assert_eq!(schedule(&view, &pod).is_ok(), fits, "{toleration}");
        }
        let cordoned = cluster(vec![node("a", json!({"/spec": {"unschedulable": true}}))]);
        let any = pod(json!({"tolerations": [{"operator": "Exists"}]}));
        assert!(schedule(&cordoned, &any).is_ok());
    }

    #[test]
    fn node_affinity_by_label_and_by_name() {
        let view = cluster(vec![node("a", json!({})), node("b", json!({}))]);
        let affine = |term: Value| {
            pod(
                json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}}),
            )
        };
        let by_label = affine(
            json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["b"]}]}),
        );
        assert_eq!(schedule(&view, &by_label).as_deref(), Ok("b"));
        let by_name = affine(
            json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}),
        );
        assert_eq!(schedule(&view, &by_name).as_deref(), Ok("b"));
        assert!(schedule(&view, &affine(json!({}))).is_err());
    }

    #[test]
    fn the_emptier_node_wins_and_ties_are_decided_by_name() {
        let mut view = cluster(vec![
            node("b", json!({})),
            node("a", json!({})),
            node("c", json!({})),
        ]);
        let mut order = vec![];
        for name in ["1", "2", "3", "4"] {
            let chosen = schedule(&view, &pod(json!({}))).unwrap();
            view.assume(&Key::new("ns", name), &pod(json!({})), &chosen);
            order.push(chosen);
        }
        assert_eq!(order, ["a", "b", "c", "a"]);
        view.assume(&Key::new("ns", "big"), &needs("1500m"), "b");
        assert_eq!(schedule(&view, &needs("100m")).as_deref(), Ok("c"));
        let reluctant = json!({"/spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
        view.node_seen(node("c", reluctant));
        assert_eq!(schedule(&view, &needs("100m")).as_deref(), Ok("a"));
    }

    #[test]
    fn a_host_port_is_taken_once_per_node() {
        let mut view = cluster(vec![node("a", json!({}))]);
        let web = |ip: &str| {
            pod(
                json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": ip}]}]}),
            )
        };
        view.assume(&Key::new("ns", "1"), &web("10.0.0.1"), "a");
        assert!(schedule(&view, &web("10.0.0.2")).is_ok());
        assert!(refusal(&view, &web("")).contains("free ports"));
    }

    #[test]
    fn pods_never_exceed_what_a_node_has() {
        let mut view = cluster(vec![node("a", json!({})), node("b", json!({}))]);
        let mut placed = 0;
        while let Ok(chosen) = schedule(&view, &needs("300m")) {
            view.assume(
                &Key::new("ns", &placed.to_string()),
                &needs("300m"),
                &chosen,
            );
            placed += 1;
        }
        assert_eq!(placed, 12, "6 of 300m fit into each 2 CPUs");
    }
}
