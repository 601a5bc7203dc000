//! Every bound of the load generator, with its reason and what happens when it is reached.

use std::time::Duration;

/// Clients of one run. Each is a task with a connection; the process's one thread is busy long before this, and then
/// measures itself. More are refused.
pub const CLIENTS_MAX: usize = 2_000;

/// How long a cluster may take to answer its first request. etcd of three members takes about 2 s on a slow disk.
/// After it: void.
pub const READY: Duration = Duration::from_secs(60);

/// Pause between attempts while a cluster starts.
pub const READY_RETRY: Duration = Duration::from_millis(50);

/// How long one request may take before the run is void: far longer than an election.
pub const REQUEST: Duration = Duration::from_secs(30);

/// How long a server may take to end by itself after SIGTERM. After it: SIGKILL.
pub const STOP: Duration = Duration::from_secs(10);

/// Pause before each round, so that what one side's last round left to its background work does not slow the other.
pub const SETTLE: Duration = Duration::from_millis(500);

/// The largest response read; a put's is below 100 bytes. A longer one is an error.
pub const RESPONSE_BYTES_MAX: usize = 1 << 20;

/// Lines of a server's log shown when it fails.
pub const LOG_LINES: usize = 20;
