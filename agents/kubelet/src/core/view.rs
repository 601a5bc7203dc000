//! What the kubelet keeps of a pod: no more than its decisions and its status need.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};

/// How long the hollow runtime lets containers run before they exit by themselves, such as `2s`; absent: for ever.
pub const EXIT_AFTER: &str = "barque.io/hollow-exit-after";
/// The code they exit with; 0 when absent.
pub const EXIT_CODE: &str = "barque.io/hollow-exit-code";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    #[default]
    Always,
    OnFailure,
    Never,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerView {
    pub name: String,
    pub image: String,
}

/// Asked of the hollow runtime by annotations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HollowExit {
    pub after: Option<SignedDuration>,
    pub code: i32,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodView {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    pub generation: Option<i64>,
    pub restart_policy: RestartPolicy,
    pub init_containers: Vec<ContainerView>,
    pub containers: Vec<ContainerView>,
    pub host_network: bool,
    /// Deletion was asked for: when the grace period ends.
    pub deleting: Option<Timestamp>,
    pub exit: HollowExit,
    /// As the API has it: what was told last.
    pub status: PodStatus,
}

impl PodView {
    pub fn of(pod: Pod) -> PodView {
        let meta = pod.metadata;
        let spec = pod.spec.unwrap_or_default();
        let container = |c: k8s_openapi::api::core::v1::Container| ContainerView {
            name: c.name,
            image: c.image.unwrap_or_default(),
        };
        let annotations = meta.annotations.unwrap_or_default();
        let exit = HollowExit {
            // A duration nobody can read is as good as none: the pod runs.
            after: annotations
                .get(EXIT_AFTER)
                .and_then(|text| text.parse().ok()),
            code: annotations
                .get(EXIT_CODE)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
        };
        PodView {
            namespace: meta.namespace.unwrap_or_default(),
            name: meta.name.unwrap_or_default(),
            uid: meta.uid.unwrap_or_default(),
            resource_version: meta.resource_version.unwrap_or_default(),
            generation: meta.generation,
            restart_policy: match spec.restart_policy.as_deref() {
                Some("Never") => RestartPolicy::Never,
                Some("OnFailure") => RestartPolicy::OnFailure,
                _ => RestartPolicy::Always,
            },
            init_containers: spec
                .init_containers
                .into_iter()
                .flatten()
                .map(container)
                .collect(),
            containers: spec.containers.into_iter().map(container).collect(),
            host_network: spec.host_network.unwrap_or(false),
            deleting: meta.deletion_timestamp.map(|t| t.0),
            exit,
            status: pod.status.unwrap_or_default(),
        }
    }

    /// The pod has ended for good.
    pub fn is_finished(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }
}
