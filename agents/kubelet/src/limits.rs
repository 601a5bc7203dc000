//! Every bound of the kubelet, with its reason and what happens when it is reached.

use std::time::Duration;

/// Pods worked on at once. Each is a call or two; more would only queue at the master. Further pods wait in the work queue,
/// which holds each pod once.
pub const WORKERS: usize = 8;

/// The lease's duration; Kubernetes' default. Controllers take the node for lost some time after it.
pub const LEASE_SECONDS: u32 = 40;

/// Node status is told at least this often, and at once when it changes (Kubernetes: nodeStatusReportFrequency).
pub const NODE_STATUS_INTERVAL: Duration = Duration::from_secs(300);

/// Between tries to register or to renew while no master answers.
pub const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// After a conflict the watch usually brings the newer pod within this time; looking earlier would only conflict again.
pub const CONFLICT_DELAY: Duration = Duration::from_millis(50);
