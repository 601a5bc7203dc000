//! What `kubectl get pods` says of a pod: ready containers, one word of status, restarts.

use jiff::Timestamp;
use serde_json::Value;

use crate::access::{flag, list, number, present, text};
use crate::human;

pub struct Row {
    pub ready: String,
    pub status: String,
    pub restarts: String,
}

/// The cells that come from looking at all containers.
pub fn row(pod: &Value, now: Timestamp) -> Row {
    let phase = text(pod, "/status/phase");
    let mut count = Count::default();
    let mut total = list(pod, "/spec/containers").len();
    total += list(pod, "/spec/initContainers")
        .iter()
        .filter(|container| is_sidecar(container))
        .count();
    let mut status = match text(pod, "/status/reason") {
        "" => phase.to_owned(),
        reason => reason.to_owned(),
    };
    let gated = conditions(pod).any(|condition| {
        text(condition, "/type") == "PodScheduled"
            && text(condition, "/reason") == "SchedulingGated"
    });
    if gated {
        status = "SchedulingGated".to_owned();
    }

    let initializing = init_containers(pod, &mut count);
    if let Some(reason) = &initializing {
        status.clone_from(reason);
    }
    if initializing.is_none() || condition_is_true(pod, "Initialized") {
        count.forget_plain_init();
        status = containers(pod, status, &mut count);
    }

    if !text(pod, "/metadata/deletionTimestamp").is_empty() {
        if text(pod, "/status/reason") == "NodeLost" {
            status = "Unknown".to_owned();
        } else if !["Failed", "Succeeded"].contains(&phase) {
            status = "Terminating".to_owned();
        }
    }
    let restarts = match count.last_restart {
        Some(at) if count.restarts != 0 => {
            format!(
                "{} ({} ago)",
                count.restarts,
                human::duration(now.duration_since(at).as_secs())
            )
        }
        _ => count.restarts.to_string(),
    };
    Row {
        ready: format!("{}/{total}", count.ready),
        status,
        restarts,
    }
}

/// Running sums over the containers' statuses.
#[derive(Default)]
struct Count {
    ready: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
    /// The part of the two above that belongs to sidecars: it stays when the pod is past initialization.
    sidecar_restarts: i64,
    last_sidecar_restart: Option<Timestamp>,
}

impl Count {
    fn add_restarts(&mut self, status: &Value, sidecar: bool) {
        let restarts = number(status, "/restartCount");
        let ended: Option<Timestamp> = text(status, "/lastState/terminated/finishedAt")
            .parse()
            .ok();
        self.restarts += restarts;
        self.last_restart = self.last_restart.max(ended);
        if sidecar {
            self.sidecar_restarts += restarts;
            self.last_sidecar_restart = self.last_sidecar_restart.max(ended);
        }
    }

    /// Once initialized, restarts of init containers that ran to their end no longer tell anything.
    fn forget_plain_init(&mut self) {
        self.restarts = self.sidecar_restarts;
        self.last_restart = self.last_sidecar_restart;
    }
}

fn is_sidecar(container: &Value) -> bool {
    text(container, "/restartPolicy") == "Always"
}

fn conditions(pod: &Value) -> impl Iterator<Item = &Value> {
    list(pod, "/status/conditions").iter()
}

fn condition_is_true(pod: &Value, kind: &str) -> bool {
    let found = conditions(pod).find(|condition| text(condition, "/type") == kind);
    found.is_some_and(|condition| text(condition, "/status") == "True")
}

/// The status while the first unfinished init container holds the pod back; None when all are done.
fn init_containers(pod: &Value, count: &mut Count) -> Option<String> {
    let specs = list(pod, "/spec/initContainers");
    for (index, status) in list(pod, "/status/initContainerStatuses")
        .iter()
        .enumerate()
    {
        let name = text(status, "/name");
        let sidecar = specs
            .iter()
            .any(|spec| text(spec, "/name") == name && is_sidecar(spec));
        count.add_restarts(status, sidecar);
        let terminated = present(status, "/state/terminated");
        if terminated.is_some_and(|end| number(end, "/exitCode") == 0) {
            continue;
        }
        if sidecar && flag(status, "/started") {
            count.ready += usize::from(flag(status, "/ready"));
            continue;
        }
        if let Some(end) = terminated {
            return Some(format!("Init:{}", end_reason(end)));
        }
        return Some(match text(status, "/state/waiting/reason") {
            "" | "PodInitializing" => format!("Init:{index}/{}", specs.len()),
            reason => format!("Init:{reason}"),
        });
    }
    None
}

fn end_reason(terminated: &Value) -> String {
    match (text(terminated, "/reason"), number(terminated, "/signal")) {
        ("", 0) => format!("ExitCode:{}", number(terminated, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// The status from the containers proper; the first container that has something to say wins.
fn containers(pod: &Value, mut status: String, count: &mut Count) -> String {
    let mut running = false;
    for container in list(pod, "/status/containerStatuses").iter().rev() {
        count.add_restarts(container, false);
        let waiting = text(container, "/state/waiting/reason");
        if !waiting.is_empty() {
            status = waiting.to_owned();
        } else if let Some(end) = present(container, "/state/terminated") {
            status = end_reason(end);
        } else if flag(container, "/ready") && present(container, "/state/running").is_some() {
            running = true;
            count.ready += 1;
        }
    }
    // One container done, another still at work: the pod is running.
    if status == "Completed" && running {
        return if condition_is_true(pod, "Ready") {
            "Running".to_owned()
        } else {
            "NotReady".to_owned()
        };
    }
    status
}

/// "1/2": conditions the pod waits for beyond its containers.
pub fn readiness_gates(pod: &Value) -> String {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates
        .iter()
        .filter(|gate| condition_is_true(pod, text(gate, "/conditionType")))
        .count();
    format!("{open}/{}", gates.len())
}
