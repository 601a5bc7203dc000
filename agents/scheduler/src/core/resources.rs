//! Amounts of resources: what pods request, what nodes have. Rounds up, as Kubernetes does.

use std::collections::BTreeMap;

use barque_agents_client::core::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// CPU in thousandths, everything else in whole units (bytes, counts).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu_millis: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    /// Counted for nodes; a pod is always one.
    pub pods: i64,
    /// Devices, huge pages and whatever else has a name.
    pub others: BTreeMap<String, i64>,
}

/// What a container without requests is taken to use when nodes are compared (not when they are filtered).
const ASSUMED_CPU_MILLIS: i64 = 100;
const ASSUMED_MEMORY: i64 = 200 << 20;

impl Resources {
    pub fn of(list: Option<&BTreeMap<String, Text>>) -> Resources {
        let mut resources = Resources::default();
        for (name, text) in list.into_iter().flatten() {
            // The API checks quantities; one that cannot be read is taken as nothing rather than stopping all scheduling.
            let amount = Quantity::parse(&text.0).unwrap_or_default();
            match name.as_str() {
                "cpu" => resources.cpu_millis = amount.millis(),
                "memory" => resources.memory = amount.units(),
                "ephemeral-storage" => resources.ephemeral_storage = amount.units(),
                "pods" => resources.pods = amount.units(),
                _ => {
                    resources.others.insert(name.clone(), amount.units());
                }
            }
        }
        resources
    }

    pub fn add(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_add);
    }

    pub fn subtract(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_sub);
    }

    pub fn at_least(&mut self, other: &Resources) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Resources, with: fn(i64, i64) -> i64) {
        self.cpu_millis = with(self.cpu_millis, other.cpu_millis);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        self.pods = with(self.pods, other.pods);
        for (name, amount) in &other.others {
            let mine = self.others.entry(name.clone()).or_insert(0);
            *mine = with(*mine, *amount);
        }
    }
}

/// What a pod asks for, and what it is taken to use when nodes are compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub asked: Resources,
    pub likely_cpu_millis: i64,
    pub likely_memory: i64,
}

/// The sum over the containers, or the largest need of the initialisation before them, whichever is more; plus the overhead.
pub fn request_of(spec: &PodSpec) -> Request {
    let asked = total(spec, &|container| {
        let requests = container
            .resources
            .as_ref()
            .and_then(|resources| resources.requests.as_ref());
        Resources::of(requests)
    });
    let likely = total(spec, &|container| {
        let requests = container
            .resources
            .as_ref()
            .and_then(|resources| resources.requests.as_ref());
        let mut resources = Resources::of(requests);
        let named = |name| requests.is_some_and(|list| list.contains_key(name));
        if !named("cpu") {
            resources.cpu_millis = ASSUMED_CPU_MILLIS;
        }
        if !named("memory") {
            resources.memory = ASSUMED_MEMORY;
        }
        resources
    });
    Request {
        asked: Resources { pods: 1, ..asked },
        likely_cpu_millis: likely.cpu_millis,
        likely_memory: likely.memory,
    }
}

fn total(spec: &PodSpec, of: &dyn Fn(&Container) -> Resources) -> Resources {
    let mut sum = Resources::default();
    for container in &spec.containers {
        sum.add(&of(container));
    }
    let mut sidecars = Resources::default();
    let mut initial = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut need = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&need);
            initial.at_least(&sidecars);
        } else {
            need.add(&sidecars);
            initial.at_least(&need);
        }
    }
    sum.add(&sidecars);
    sum.at_least(&initial);
    sum.add(&Resources::of(spec.overhead.as_ref()));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(spec: serde_json::Value) -> Request {
        request_of(&serde_json::from_value(spec).unwrap())
    }
    fn container(cpu: &str) -> serde_json::Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn containers_add_up_and_initialisation_counts_when_it_needs_more() {
        let spec = json!({"containers": [container("100m"), container("0.2")]});
        assert_eq!(request(spec).asked.cpu_millis, 300);
        let spec = json!({"containers": [container("100m")], "initContainers": [container("1"), container("500m")]});
        assert_eq!(request(spec).asked.cpu_millis, 1000);
        let mut sidecar = container("300m");
        sidecar["restartPolicy"] = "Always".into();
        let spec = json!({"containers": [container("100m")], "initContainers": [sidecar, container("1")], "overhead": {"cpu": "10m"}});
        assert_eq!(request(spec).asked.cpu_millis, 1310);
    }

    #[test]
    fn a_pod_without_requests_asks_for_nothing_but_is_not_thought_free() {
        let request = request(
            json!({"containers": [{"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "0", "example.com/gpu": "2"}}}]}),
        );
        assert_eq!(
            (
                request.asked.cpu_millis,
                request.asked.memory,
                request.asked.pods
            ),
            (0, 0, 1)
        );
        assert_eq!(request.asked.others["example.com/gpu"], 2);
        assert_eq!(
            (request.likely_cpu_millis, request.likely_memory),
            (100, 400 << 20)
        );
    }
}
