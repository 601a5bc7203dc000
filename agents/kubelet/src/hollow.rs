//! The hollow runtime: pods without containers, everything else real. For tests and for large runs on one machine.
//! Owns what "runs" on this node; time is an argument. Containers take a moment to start and to stop, as real ones do.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerStatus;

use crate::core::pod::{Container, Facts};
use crate::core::view::PodView;

/// About what a cached image and a small process take.
pub const START_DELAY: Duration = Duration::from_millis(100);
/// How long a container takes to end when asked to.
pub const STOP_DELAY: Duration = Duration::from_millis(50);
/// What containers exit with that were asked to stop: they end well.
const STOPPED: i32 = 0;

#[derive(Debug, Default)]
pub struct Hollow {
    pods: BTreeMap<String, Facts>,
}

impl Hollow {
    /// What runs of the pod, with exits that have come by now.
    pub fn facts(&mut self, pod: &PodView, now: Timestamp) -> Option<&Facts> {
        let facts = self.pods.get_mut(&pod.uid)?;
        if let Some(after) = pod.exit.after {
            for container in &mut facts.containers {
                if let Container::Running { since } = *container
                    && let Ok(end) = since.checked_add(after)
                    && end <= now
                {
                    *container = Container::Exited {
                        since,
                        at: end,
                        code: pod.exit.code,
                    };
                }
            }
        }
        Some(facts)
    }

    /// Starts all containers of the pod.
    pub fn start(&mut self, pod: &PodView, now: Timestamp) {
        let containers = vec![Container::Running { since: now }; pod.containers.len()];
        let restarts = vec![0; pod.containers.len()];
        self.pods.insert(
            pod.uid.clone(),
            Facts {
                containers,
                restarts,
                started: now,
            },
        );
    }

    pub fn restart(&mut self, uid: &str, container: usize, now: Timestamp) {
        if let Some(facts) = self.pods.get_mut(uid) {
            facts.containers[container] = Container::Running { since: now };
            facts.restarts[container] += 1;
        }
    }

    /// Ends all containers of the pod.
    pub fn stop(&mut self, uid: &str, now: Timestamp) {
        for container in self
            .pods
            .get_mut(uid)
            .into_iter()
            .flat_map(|f| &mut f.containers)
        {
            if let Container::Running { since } = *container {
                *container = Container::Exited {
                    since,
                    at: now,
                    code: STOPPED,
                };
            }
        }
    }

    /// Forgets the pod.
    pub fn remove(&mut self, uid: &str) {
        self.pods.remove(uid);
    }

    /// After a restart of this process: takes over what the pod's status says is running, as a real runtime would still have it.
    /// A pod whose status tells of no containers has not been started.
    pub fn recover(&mut self, pod: &PodView) {
        let status = &pod.status;
        let told = status.container_statuses.as_deref().unwrap_or_default();
        if self.pods.contains_key(&pod.uid) || told.is_empty() {
            return;
        }
        let mut containers = Vec::new();
        let mut restarts = Vec::new();
        for view in &pod.containers {
            let Some((container, count)) = told
                .iter()
                .find(|s| s.name == view.name)
                .and_then(recovered)
            else {
                return;
            };
            containers.push(container);
            restarts.push(count);
        }
        let started = status
            .start_time
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |t| t.0);
        self.pods.insert(
            pod.uid.clone(),
            Facts {
                containers,
                restarts,
                started,
            },
        );
    }
}

fn recovered(status: &ContainerStatus) -> Option<(Container, i32)> {
    let state = status.state.as_ref()?;
    let ended = |t: &k8s_openapi::api::core::v1::ContainerStateTerminated| {
        Some(Container::Exited {
            since: t.started_at.as_ref()?.0,
            at: t.finished_at.as_ref()?.0,
            code: t.exit_code,
        })
    };
    let container = match (&state.running, &state.terminated) {
        (Some(running), _) => Container::Running {
            since: running.started_at.as_ref()?.0,
        },
        (_, Some(terminated)) => ended(terminated)?,
        // Waiting in its back-off: how it ended last is told apart.
        _ => ended(status.last_state.as_ref()?.terminated.as_ref()?)?,
    };
    Some((container, status.restart_count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::status::status_of;
    use crate::core::view::{ContainerView, HollowExit};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("in range")
    }

    #[test]
    fn a_restarted_kubelet_takes_over_what_ran() {
        let mut pod = PodView {
            uid: "u".into(),
            containers: vec![ContainerView {
                name: "c".into(),
                image: "i".into(),
            }],
            exit: HollowExit {
                after: Some(jiff::SignedDuration::from_secs(10)),
                code: 1,
            },
            ..Default::default()
        };
        let mut before = Hollow::default();
        before.start(&pod, at(0));
        let facts = before.facts(&pod, at(5)).expect("it runs").clone();
        pod.status = status_of(&pod, &facts, "10.0.0.2", "127.0.0.1", at(5));

        let mut after = Hollow::default();
        after.recover(&pod);
        assert_eq!(after.facts(&pod, at(6)), Some(&facts));
        assert_eq!(
            after.facts(&pod, at(11)).expect("it ran").containers,
            [Container::Exited {
                since: at(0),
                at: at(10),
                code: 1
            }]
        );
        let unstarted = PodView {
            uid: "new".into(),
            ..PodView::default()
        };
        after.recover(&unstarted);
        assert_eq!(after.facts(&unstarted, at(6)), None);
    }
}
