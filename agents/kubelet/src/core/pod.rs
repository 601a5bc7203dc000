//! The pod state machine: from what the API wants and what the runtime has, to what happens next. Never asks for the time and
//! never acts.

use jiff::{SignedDuration, Timestamp};

use crate::core::view::{PodView, RestartPolicy};

/// One container as the runtime has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Container {
    Running {
        since: Timestamp,
    },
    Exited {
        since: Timestamp,
        at: Timestamp,
        code: i32,
    },
}

/// A pod as the runtime has it. Containers stand in the order of the pod's spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub containers: Vec<Container>,
    pub restarts: Vec<i32>,
    /// When the pod was first started here.
    pub started: Timestamp,
}

/// One order to the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give it an address if it has none, and start all its containers.
    Start,
    /// Start this container again.
    Restart { container: usize },
    /// End all containers; they have until then to do so by themselves.
    Stop { until: Timestamp },
    /// Compare the status with what the API has and tell the difference.
    Report,
    /// The pod has stopped and was to be deleted: remove it from the API.
    Remove,
}

/// What to do now, and when to look again even if nothing changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Next {
    pub actions: Vec<Action>,
    pub again: Option<Timestamp>,
}

/// First restart at once, then 10 s, doubling to 5 min, as Kubernetes' crash-loop back-off.
const RESTART_DELAY_FIRST: SignedDuration = SignedDuration::from_secs(10);
const RESTART_DELAY_MAX: SignedDuration = SignedDuration::from_mins(5);

fn restart_delay(restarts: i32) -> SignedDuration {
    match restarts {
        ..=0 => SignedDuration::ZERO,
        n => RESTART_DELAY_FIRST
            .checked_mul(1 << (n - 1).min(5))
            .map_or(RESTART_DELAY_MAX, |d| d.min(RESTART_DELAY_MAX)),
    }
}

/// Whether a container that exited so is started again.
pub fn restarts(policy: RestartPolicy, code: i32) -> bool {
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => code != 0,
        RestartPolicy::Never => false,
    }
}

/// Decides what `pod` needs next. `facts`: what the runtime has of it, if anything.
pub fn next(pod: &PodView, facts: Option<&Facts>, now: Timestamp) -> Next {
    let order = |actions: Vec<Action>| Next {
        actions,
        again: None,
    };
    if let Some(until) = pod.deleting {
        let runs = facts.is_some_and(|f| {
            f.containers
                .iter()
                .any(|c| matches!(c, Container::Running { .. }))
        });
        return if runs {
            Next {
                actions: vec![Action::Stop { until }],
                again: Some(until.max(now)),
            }
        } else {
            order(vec![Action::Remove])
        };
    }
    if pod.is_finished() {
        return Next::default();
    }
    let Some(facts) = facts else {
        return order(vec![Action::Start]);
    };
    let mut actions = Vec::new();
    let mut again = None;
    for (index, container) in facts.containers.iter().enumerate() {
        match container {
            Container::Running { since } => {
                if let Some(after) = pod.exit.after {
                    again = earliest(again, since.checked_add(after).ok());
                }
            }
            Container::Exited { at, code, .. } if restarts(pod.restart_policy, *code) => {
                let due = at
                    .checked_add(restart_delay(facts.restarts[index]))
                    .unwrap_or(*at);
                if due <= now {
                    actions.push(Action::Restart { container: index });
                } else {
                    again = earliest(again, Some(due));
                }
            }
            Container::Exited { .. } => {}
        }
    }
    actions.push(Action::Report);
    Next { actions, again }
}

fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::view::{ContainerView, HollowExit};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("in range")
    }
    fn pod() -> PodView {
        PodView {
            containers: vec![ContainerView {
                name: "c".into(),
                image: "i".into(),
            }],
            ..Default::default()
        }
    }
    fn facts(container: Container, restarts: i32) -> Facts {
        Facts {
            containers: vec![container],
            restarts: vec![restarts],
            started: at(0),
        }
    }

    #[test]
    fn a_new_pod_is_started_and_a_running_one_reported() {
        assert_eq!(next(&pod(), None, at(0)).actions, [Action::Start]);
        let running = facts(Container::Running { since: at(0) }, 0);
        assert_eq!(
            next(&pod(), Some(&running), at(1)),
            Next {
                actions: vec![Action::Report],
                again: None
            }
        );
    }

    #[test]
    fn a_deleted_pod_is_stopped_first_and_removed_when_nothing_runs() {
        let deleted = PodView {
            deleting: Some(at(30)),
            ..pod()
        };
        let running = facts(Container::Running { since: at(0) }, 0);
        assert_eq!(
            next(&deleted, Some(&running), at(1)).actions,
            [Action::Stop { until: at(30) }]
        );
        let exited = facts(
            Container::Exited {
                since: at(0),
                at: at(2),
                code: 0,
            },
            0,
        );
        assert_eq!(
            next(&deleted, Some(&exited), at(2)).actions,
            [Action::Remove]
        );
        assert_eq!(
            next(&deleted, None, at(2)).actions,
            [Action::Remove],
            "one that never started is removed, too"
        );
    }

    #[test]
    fn restarts_follow_the_policy_and_back_off() {
        let exited = |code, restarts| {
            facts(
                Container::Exited {
                    since: at(0),
                    at: at(5),
                    code,
                },
                restarts,
            )
        };
        let with = |restart_policy| PodView {
            restart_policy,
            ..pod()
        };
        let restart = [Action::Restart { container: 0 }, Action::Report];
        assert_eq!(
            next(&with(RestartPolicy::Always), Some(&exited(0, 0)), at(5)).actions,
            restart
        );
        assert_eq!(
            next(&with(RestartPolicy::OnFailure), Some(&exited(1, 0)), at(5)).actions,
            restart
        );
        assert_eq!(
            next(&with(RestartPolicy::OnFailure), Some(&exited(0, 0)), at(5)).actions,
            [Action::Report]
        );
        assert_eq!(
            next(&with(RestartPolicy::Never), Some(&exited(1, 0)), at(5)).actions,
            [Action::Report]
        );
        let waiting = next(&with(RestartPolicy::Always), Some(&exited(1, 2)), at(6));
        assert_eq!(
            waiting,
            Next {
                actions: vec![Action::Report],
                again: Some(at(25))
            }
        );
        assert_eq!(restart_delay(40), RESTART_DELAY_MAX);
    }

    #[test]
    fn a_finished_pod_is_left_alone() {
        let mut finished = pod();
        finished.status.phase = Some("Succeeded".into());
        assert_eq!(next(&finished, None, at(9)), Next::default());
    }

    #[test]
    fn a_container_that_will_exit_is_looked_at_then() {
        let mut short = pod();
        short.exit = HollowExit {
            after: Some(SignedDuration::from_secs(2)),
            code: 0,
        };
        let running = facts(Container::Running { since: at(1) }, 0);
        assert_eq!(next(&short, Some(&running), at(1)).again, Some(at(3)));
    }
}
