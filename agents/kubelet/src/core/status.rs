//! What a pod's status says, given what the runtime has. Keeps what others own (the scheduler's condition) and the times of
//! conditions that did not change.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::core::pod::{Container, Facts, restarts};
use crate::core::view::{ContainerView, PodView, RestartPolicy};

/// Conditions the kubelet owns; others are kept as they are.
const OWNED: [&str; 4] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
];

/// Times travel in whole seconds.
pub fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

fn container_id(pod: &PodView, container: &ContainerView, restarts: i32) -> String {
    format!("hollow://{}/{}/{restarts}", pod.uid, container.name)
}

fn terminated(
    pod: &PodView,
    container: &ContainerView,
    restarts: i32,
    since: Timestamp,
    at: Timestamp,
    code: i32,
) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(container_id(pod, container, restarts)),
            exit_code: code,
            started_at: Some(seconds(since)),
            finished_at: Some(seconds(at)),
            reason: Some(if code == 0 { "Completed" } else { "Error" }.to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container_status(
    pod: &PodView,
    view: &ContainerView,
    container: &Container,
    restart_count: i32,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let running = matches!(container, Container::Running { .. });
    let mut last_state = old.and_then(|o| o.last_state.clone());
    if let Some(old) = old
        && old.restart_count < restart_count
        && old.state.as_ref().is_some_and(|s| s.terminated.is_some())
    {
        last_state = old.state.clone();
    }
    let state = match container {
        Container::Running { since } => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: Some(seconds(*since)),
            }),
            ..Default::default()
        },
        Container::Exited { since, at, code }
            if restarts(pod.restart_policy, *code) && restart_count > 0 =>
        {
            last_state = Some(terminated(pod, view, restart_count, *since, *at, *code));
            let message = format!(
                "back-off restarting failed container={} pod={}_{}({})",
                view.name, pod.name, pod.namespace, pod.uid
            );
            ContainerState {
                waiting: Some(ContainerStateWaiting {
                    reason: Some("CrashLoopBackOff".to_owned()),
                    message: Some(message),
                }),
                ..Default::default()
            }
        }
        Container::Exited { since, at, code } => {
            terminated(pod, view, restart_count, *since, *at, *code)
        }
    };
    ContainerStatus {
        name: view.name.clone(),
        image: view.image.clone(),
        image_id: format!("hollow://{}", view.image),
        container_id: Some(container_id(pod, view, restart_count)),
        ready: running,
        started: Some(running),
        restart_count,
        state: Some(state),
        last_state,
        ..Default::default()
    }
}

/// Hollow init containers have run and succeeded the moment the pod starts.
fn init_status(pod: &PodView, view: &ContainerView, started: Timestamp) -> ContainerStatus {
    ContainerStatus {
        name: view.name.clone(),
        image: view.image.clone(),
        image_id: format!("hollow://{}", view.image),
        container_id: Some(container_id(pod, view, 0)),
        ready: true,
        started: Some(false),
        restart_count: 0,
        state: Some(terminated(pod, view, 0, started, started, 0)),
        ..Default::default()
    }
}

fn phase(pod: &PodView, facts: &Facts) -> &'static str {
    let ended = |c: &Container| match c {
        Container::Exited { code, .. } => {
            pod.deleting.is_some() || !restarts(pod.restart_policy, *code)
        }
        Container::Running { .. } => false,
    };
    if facts.containers.is_empty() || !facts.containers.iter().all(ended) {
        return "Running";
    }
    // A pod that always restarts and was stopped for its deletion has neither succeeded nor failed.
    if pod.restart_policy == RestartPolicy::Always {
        return "Running";
    }
    let failed = facts
        .containers
        .iter()
        .any(|c| matches!(c, Container::Exited { code, .. } if *code != 0));
    if failed { "Failed" } else { "Succeeded" }
}

/// The whole status. `address`: the pod's; `host`: the node's.
pub fn status_of(
    pod: &PodView,
    facts: &Facts,
    address: &str,
    host: &str,
    now: Timestamp,
) -> PodStatus {
    let old = &pod.status;
    let phase = phase(pod, facts);
    let finished = phase != "Running";
    let statuses: Vec<ContainerStatus> = pod
        .containers
        .iter()
        .zip(facts.containers.iter().zip(&facts.restarts))
        .map(|(view, (container, restarts))| {
            let old = old
                .container_statuses
                .iter()
                .flatten()
                .find(|s| s.name == view.name);
            container_status(pod, view, container, *restarts, old)
        })
        .collect();
    let unready: Vec<&str> = statuses
        .iter()
        .filter(|s| !s.ready)
        .map(|s| s.name.as_str())
        .collect();
    let ready = unready.is_empty();
    let (reason, message) = match (ready, phase) {
        (true, _) => (None, None),
        (false, "Succeeded") => (Some("PodCompleted".to_owned()), None),
        (false, "Failed") => (Some("PodFailed".to_owned()), None),
        (false, _) => (
            Some("ContainersNotReady".to_owned()),
            Some(format!(
                "containers with unready status: [{}]",
                unready.join(" ")
            )),
        ),
    };
    let mut conditions: Vec<PodCondition> = old
        .conditions
        .iter()
        .flatten()
        .filter(|c| !OWNED.contains(&c.type_.as_str()))
        .cloned()
        .collect();
    for type_ in OWNED {
        let (value, reason, message) = match type_ {
            "PodReadyToStartContainers" => (!finished, None, None),
            "Initialized" => (
                true,
                (phase == "Succeeded").then(|| "PodCompleted".to_owned()),
                None,
            ),
            _ => (ready, reason.clone(), message.clone()),
        };
        let status = if value { "True" } else { "False" };
        let before = old.conditions.iter().flatten().find(|c| c.type_ == type_);
        let since = before
            .filter(|c| c.status == status)
            .and_then(|c| c.last_transition_time.clone());
        conditions.push(PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason,
            message,
            last_transition_time: Some(since.unwrap_or_else(|| seconds(now))),
            ..Default::default()
        });
    }
    let inits: Vec<ContainerStatus> = pod
        .init_containers
        .iter()
        .map(|view| init_status(pod, view, facts.started))
        .collect();
    let address = if pod.host_network { host } else { address };
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions),
        host_ip: Some(host.to_owned()),
        host_ips: Some(vec![k8s_openapi::api::core::v1::HostIP {
            ip: host.to_owned(),
        }]),
        pod_ip: Some(address.to_owned()),
        pod_ips: Some(vec![PodIP {
            ip: address.to_owned(),
        }]),
        start_time: Some(
            old.start_time
                .clone()
                .unwrap_or_else(|| seconds(facts.started)),
        ),
        container_statuses: Some(statuses),
        init_container_statuses: (!inits.is_empty()).then_some(inits),
        qos_class: old.qos_class.clone(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("in range")
    }
    fn pod(restart_policy: RestartPolicy) -> PodView {
        let scheduled = PodCondition {
            type_: "PodScheduled".into(),
            status: "True".into(),
            ..Default::default()
        };
        PodView {
            uid: "u".into(),
            restart_policy,
            containers: vec![ContainerView {
                name: "c".into(),
                image: "i".into(),
            }],
            status: PodStatus {
                conditions: Some(vec![scheduled]),
                ..Default::default()
            },
            ..Default::default()
        }
    }
    fn condition<'a>(status: &'a PodStatus, type_: &str) -> &'a PodCondition {
        status
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == type_)
            .expect("that condition")
    }

    #[test]
    fn a_running_pod_is_ready_and_keeps_the_schedulers_condition() {
        let facts = Facts {
            containers: vec![Container::Running { since: at(1) }],
            restarts: vec![0],
            started: at(1),
        };
        let status = status_of(
            &pod(RestartPolicy::Always),
            &facts,
            "10.0.0.5",
            "127.0.0.1",
            at(2),
        );
        assert_eq!(status.phase.as_deref(), Some("Running"));
        assert_eq!(condition(&status, "Ready").status, "True");
        assert_eq!(condition(&status, "PodScheduled").status, "True");
        assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.5"));
        // Told again later, nothing is new.
        let mut later = pod(RestartPolicy::Always);
        later.status = status.clone();
        assert_eq!(
            status_of(&later, &facts, "10.0.0.5", "127.0.0.1", at(99)),
            status
        );
    }

    #[test]
    fn exits_end_the_pod_by_its_policy() {
        let exited = |code| Facts {
            containers: vec![Container::Exited {
                since: at(1),
                at: at(3),
                code,
            }],
            restarts: vec![0],
            started: at(1),
        };
        let phase_of = |policy, code| {
            status_of(&pod(policy), &exited(code), "a", "h", at(4))
                .phase
                .expect("a phase")
        };
        assert_eq!(phase_of(RestartPolicy::Never, 0), "Succeeded");
        assert_eq!(phase_of(RestartPolicy::Never, 3), "Failed");
        assert_eq!(phase_of(RestartPolicy::OnFailure, 0), "Succeeded");
        assert_eq!(phase_of(RestartPolicy::OnFailure, 3), "Running");
        assert_eq!(phase_of(RestartPolicy::Always, 0), "Running");
        let status = status_of(&pod(RestartPolicy::Never), &exited(0), "a", "h", at(4));
        assert_eq!(
            condition(&status, "Ready").reason.as_deref(),
            Some("PodCompleted")
        );
    }
}
