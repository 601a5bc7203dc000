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

/// The largest response read: a page of `PAGE_KEYS` values of 16 KiB. A longer one is an error.
pub const RESPONSE_BYTES_MAX: usize = 16 << 20;

/// Keys of one page of a full read.
pub const PAGE_KEYS: i64 = 1_000;

/// Clients that load and overwrite keys, each on a connection of its own: enough for a server to fill its batches.
pub const LOADERS: usize = 32;

/// Writes of the steady load that may be under way: two seconds of them at 1,000 a second. When it is full the load waits, and the
/// waiting counts as latency.
pub const STEADY_IN_FLIGHT: usize = 2_000;

/// Pause between attempts to read from a server that is starting, where that time is what is measured.
pub const FIRST_READ_RETRY: Duration = Duration::from_millis(2);

/// How long a server may take from its start to its first answer where that time is measured. After it: void.
pub const FIRST_READ: Duration = Duration::from_secs(300);

/// Lines of a server's log shown when it fails.
pub const LOG_LINES: usize = 20;

/// How long one question to a member may take (status, a page) where it is asked again if need be: far longer than an answer takes
/// under full load, short enough to notice a member that is paused. After it: asked again, until `READY` has passed.
pub const ASK: Duration = Duration::from_secs(2);

/// How long a put of a failover scenario may take, as its client's deadline: etcd's own clients and kube-apiserver use 5 to 10 s.
/// After it: counted as not answered.
pub const PUT_DEADLINE: Duration = Duration::from_secs(5);

/// How long a cluster may take to acknowledge writes again after a fault: some 10 of the longest elections seen. After it: void.
pub const WINDOW_MAX: Duration = Duration::from_secs(60);

/// The least time between the puts of one probe: with `PUT_DEADLINE` it bounds those under way at 5,000 of one connection, which
/// both servers allow. Less is refused.
pub const PROBE_EVERY_MIN: Duration = Duration::from_millis(1);

/// How often the leader may change by itself just before a fault until the run is void: it would not measure faults any more.
pub const RETRIALS: usize = 20;

/// Failed requests that a report quotes. Further ones are only counted.
pub const FAILURES_TOLD: usize = 5;

/// Pause before a request is sent again, so that a client without any server does not keep the machine's only two cores busy.
pub const RETRY: Duration = Duration::from_millis(1);

/// How often the progress of a joining member is looked at: a hundredth of a second is nothing against a transfer of seconds.
pub const JOIN_POLL: Duration = Duration::from_millis(10);

/// How long a member may take to join, interruptions included: 1 GiB at 2 MiB/s. After it: it is reported as not completed.
pub const JOIN: Duration = Duration::from_secs(600);

/// How often the term is looked at while the machine is busy.
pub const TERM_POLL: Duration = Duration::from_secs(1);
