//! Every bound of the controllers: its derivation, and what happens when it is reached.

use std::time::Duration;

/// Items worked on at once. Each mostly waits for a commit (1-10 ms). When all are busy, items wait in the queue (bounded by the number of
/// objects).
pub const WORKERS: usize = 16;

/// Pods one look at a replica set creates or deletes, as Kubernetes. The rest follows with the next look.
pub const BURST_MAX: usize = 500;

/// Pods created together at first; doubled after each batch that went well. A set whose pods are all refused costs one call, not 500.
pub const BATCH_FIRST: usize = 1;

/// Pods created or deleted together at most: no more than the masters take from one client.
pub const BATCH_MAX: usize = 64;

/// After this long the copy is believed even if it does not show what was written (the store was restored to an earlier state).
pub const SETTLE_MAX: Duration = Duration::from_secs(300);

/// How often a look is tried again while the copy does not show yet what was written. The event that shows it comes first, usually.
pub const SETTLE_RETRY: Duration = Duration::from_millis(200);

/// Owners known to be gone, remembered so that each is looked up once. When full, all are forgotten, and looked up again.
pub const ABSENT_OWNERS_MAX: usize = 10_000;

/// Characters of the revision history annotation of a replica set, as Kubernetes; older revisions are dropped.
pub const REVISION_HISTORY_CHARS: usize = 2_000;
