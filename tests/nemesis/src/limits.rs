//! Every bound of the nemesis, with its reason and what happens when it is reached.

use std::time::Duration;

/// From the start of a process to its first linearizable read. A debug build that replays a long soak's log on a busy
/// machine needs seconds. After it: a violation, with the end of the member's log.
pub const READY: Duration = Duration::from_secs(60);

/// Pause between attempts while a member starts: short, for the time to ready is measured and a flip must be quick.
pub const READY_RETRY: Duration = Duration::from_millis(5);

/// How long a member may take to end after SIGTERM. After it: SIGKILL and a violation.
pub const STOP: Duration = Duration::from_secs(20);

/// How long a client waits for an answer; far above what a loaded member takes, so that it ends waits on a dead one only.
/// After it: the outcome is unknown.
pub const REQUEST: Duration = Duration::from_secs(5);

/// The same with several members and while faults go on: longer than a pause of a leader's lease, so that answers after the
/// pause are still heard; short, so that a client soon asks another member.
pub const REQUEST_SHORT: Duration = Duration::from_millis(1500);

/// Requests that a client sends to one of several members before it goes on to the next.
pub const TURN: u32 = 12;

/// How long a cluster with a connected majority may go without an acknowledged write: five default election timeouts, and as
/// much again for a busy machine. After it: a violation.
pub const SERVES: Duration = Duration::from_secs(10);

/// Kinds of errors told apart in a report; more are counted together.
pub const ERRORS_MAX: usize = 24;

/// Pause of a client that found nobody to talk to.
pub const RECONNECT: Duration = Duration::from_millis(20);

/// A client's pause between requests, at most. Sixteen tasks in one thread must not take both cores of a small machine from the
/// member, and a soak's history must fit into memory: about 250 bytes an operation.
pub const THINK: Duration = Duration::from_millis(8);

/// Operations on one generation of registers. The search for a linearization is per key; with this many it takes thousands of steps.
pub const GENERATION_OPERATIONS: u64 = 400;

/// Generations that keep their keys; older ones are deleted as a range. No client's request lives that long.
pub const GENERATIONS_KEPT: u64 = 20;

/// How long everything may take to come to rest after the last fault: leases end (TTL and a re-armed one after the last restart),
/// watchers catch up. After it: a violation.
pub const SETTLE: Duration = Duration::from_secs(60);

/// What the clocks of member and client may differ by over a lease's few seconds.
pub const LEASE_SLACK: Duration = Duration::from_millis(20);

/// The largest message read: the whole history of a flip's member comes in a few.
pub const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Fewer acknowledged writes a second than this, and the run was no load: it is void, as etcd's own tests say of theirs.
pub const WRITES_PER_SECOND_MIN: f64 = 20.0;

/// Lines of a member's log shown with a failure.
pub const LOG_LINES: usize = 25;

/// Messages a client's stream may have on their way; more wait.
pub const STREAM_MESSAGES: usize = 8;

/// Violations kept; one broken thing breaks many. The rest are counted.
pub const VIOLATIONS_MAX: usize = 20;
