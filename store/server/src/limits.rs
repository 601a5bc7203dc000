//! Every bound of the front, with its reason and what happens when it is reached.
use std::time::Duration;

/// etcd's default for `--max-request-bytes`. A larger write is refused: "request is too large".
pub const REQUEST_BYTES_DEFAULT: usize = 3 << 19;

/// What etcd counts into a request beside the client's message: field heads and a header with a random id of 9 or 10 bytes.
/// So a request that is that much smaller than `--max-request-bytes` is the largest one that every etcd takes.
pub const ENVELOPE_BYTES: usize = 18;

/// What a gRPC message may be larger than the largest request, so that a slightly too large one is refused by name and not
/// by the transport. etcd's number. Beyond: ResourceExhausted.
pub const GRPC_OVERHEAD_BYTES: usize = 512 << 10;

/// Proposals of one core without an answer yet. The store's own queue is shared by all cores and refuses first; this keeps
/// one core from holding more calls open than that. Full: "too many requests".
pub const PROPOSALS_PER_CORE_MAX: usize = 20_000;

/// Reads of one core that wait for a read index. Full: "too many requests".
pub const READS_PER_CORE_MAX: usize = 20_000;

/// Ranges over many keys that one core works on at a time, turn by turn: each holds its whole answer. More wait.
pub const LARGE_RANGES_PER_CORE: usize = 2;

/// Those that are worked on and those that wait; they hold no more than their request. Full: "too many requests".
pub const LARGE_RANGES_WAITING_MAX: usize = 1_000;

/// Bytes of watch responses gathered before they are handed to the connection; a larger catch-up goes in several steps, each
/// waiting for the client.
pub const WATCH_SEND_BYTES: usize = 256 << 10;

/// Watches one client stream may hold. kube-apiserver holds a few hundred, load generators tens of thousands. Full: the
/// creation is answered as canceled, with the reason.
pub const WATCHES_PER_STREAM_MAX: usize = 100_000;

/// Renewals that one stream may have under way: at some 7 ms each, more than 100,000 a second. Full: the stream is read no further
/// until the oldest is answered.
pub const KEEP_ALIVES_PER_STREAM_MAX: usize = 1_024;

/// Elections without a leader after which streams that ask for one (`hasleader`) are ended. etcd's number.
pub const NO_LEADER_ELECTIONS_MAX: u32 = 3;

/// etcd's request timeout: this and two elections.
pub const REQUEST_TIMEOUT_BASE: Duration = Duration::from_secs(5);

/// How long `/health` and `/readyz` wait for a linearizable read.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
