//! Every bound of the agents' client: its derivation, and what happens when it is reached.

use std::time::Duration;

/// Largest message accepted from a master. A list of 10,000 pods of 4 KiB is 40 MiB. Larger: the call fails, named as such.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Events waiting to be written. They are best effort: when the writer falls behind (masters away), new ones are dropped and counted.
pub const EVENTS_QUEUED_MAX: usize = 256;

/// Distinct events remembered for counting repeats. When full, the least recently seen is forgotten, and would be written as new.
pub const EVENTS_REMEMBERED_MAX: usize = 1_024;

/// Events one object may cause at once, then one per `EVENT_REFILL`; more are dropped: a crash loop must not flood the store.
pub const EVENT_BURST_PER_OBJECT: u32 = 25;

/// How often one object earns another event.
pub const EVENT_REFILL: Duration = Duration::from_secs(300);

/// First and largest delay of a failing work item (doubled each time), as Kubernetes' controllers use them; the largest is shorter
/// so that a cluster that was away for an hour is worked on within half a minute of its return.
pub const RETRY_DELAY_MIN: Duration = Duration::from_millis(5);
pub const RETRY_DELAY_MAX: Duration = Duration::from_secs(30);

/// Delay before a broken watch is opened again: short first (a master died, the next one is up), bounded because every informer of
/// every agent does it at once when all masters are away.
pub const REWATCH_DELAY_MIN: Duration = Duration::from_millis(50);
pub const REWATCH_DELAY_MAX: Duration = Duration::from_secs(5);

/// Delay before asking again for a resource the masters do not serve.
pub const ABSENT_RESOURCE_DELAY: Duration = Duration::from_secs(30);

/// Initial lists in a row that may be older than what is already known (a lagging master) before the older state is believed
/// (the store was restored from a snapshot).
pub const STALE_LISTS_MAX: u32 = 5;

/// How long an endpoint that failed is passed over while another is to be had.
pub const ENDPOINT_COOLDOWN: Duration = Duration::from_secs(5);
