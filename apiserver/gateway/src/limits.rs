//! Every bound of the gateway: where the number comes from, and what happens when it is reached.

use std::time::Duration;

/// Bytes of one request body, kube-apiserver's number. Beyond it: 413.
pub const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Of a body that is too large, so much is read and dropped, so that its client sees the 413. Beyond it: the stream is
/// reset.
pub const BODY_DISCARDED_MAX: usize = 64 * 1024 * 1024;

/// Bytes of one request's headers and URL over HTTP/2, as HPACK counts them: room for a selector of some thousand values.
/// Beyond it: 431 without a body, from the HTTP library.
pub const HEADER_BYTES_MAX: u32 = 256 * 1024;

/// Operations of one JSON patch, kube-apiserver's number. Beyond it: 413.
pub const JSON_PATCH_OPERATIONS_MAX: usize = 10_000;
/// Bytes that the copies (and moves) of one JSON patch may handle together, kube-apiserver's number: each copy of a
/// value into itself doubles it. Beyond it: 413.
pub const JSON_PATCH_COPIED_BYTES_MAX: usize = BODY_BYTES_MAX;
/// Levels of nesting of an object, the JSON parser's own bound: what a patch makes deeper could not be read back.
/// Beyond it: 422.
pub const JSON_DEPTH_MAX: usize = 127;

/// Reads served at once, kube-apiserver's `--max-requests-inflight`. Beyond it: 429, retry after a second.
pub const READS_INFLIGHT_MAX: usize = 400;
/// Writes served at once, kube-apiserver's `--max-mutating-requests-inflight`. Beyond it: 429.
pub const WRITES_INFLIGHT_MAX: usize = 200;
/// What one user may hold of either: half, so that the others always find room. Beyond it: 429 for that user.
pub const INFLIGHT_PER_USER_MAX_DIVISOR: usize = 2;
/// Watches open at once. Each holds a stream and a cursor in the store's hub, some 10 kB: 160 MB at the bound.
/// Beyond it: 429, clients come back or go to another master.
pub const WATCHES_MAX: usize = 16_384;

/// Time for one request that is not a watch, kube-apiserver's `--request-timeout`. Beyond it: 504.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Time the store has for one read or write; covers an election, so that a client does not notice one. Beyond it:
/// 503 or 504. Well below `REQUEST_TIMEOUT`, so that the answer names the cause.
pub const STORE_TIMEOUT: Duration = Duration::from_secs(10);
/// A write whose outcome is unknown (its leader died) is asked for again this often. Beyond it: 504, and the client
/// has to look.
pub const STORE_WRITE_ATTEMPTS_MAX: u32 = 4;
/// How long a read waits for a revision this member has not seen yet, as kube-apiserver's cache. Beyond it: 504
/// with cause ResourceVersionTooLarge.
pub const FRESHNESS_WAIT: Duration = Duration::from_secs(3);

/// A watch without `timeoutSeconds` ends after a random time of this to twice this, so that they do not all come
/// back at once (kube-apiserver's `--min-request-timeout`).
pub const WATCH_TIMEOUT_MIN: Duration = Duration::from_secs(1_800);
/// How often a quiet watch that asked for bookmarks gets one.
pub const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// The same for agents: they resume on another master after a failure, and a newer bookmark is less to catch up.
pub const AGENT_BOOKMARK_INTERVAL: Duration = Duration::from_secs(10);

/// Rows read from the store at a time while listing; bounds what a list holds twice.
pub const LIST_PAGE_ROWS: u64 = 500;

/// A compare-and-write that loses this often in a row is answered with a conflict. Each loss means that somebody
/// else's write won, so the bound is only reached when one object is written without pause.
pub const WRITE_ATTEMPTS_MAX: usize = 64;
/// A generated name that is taken is drawn again this often, as kube-apiserver. Beyond it: 409 AlreadyExists.
pub const GENERATE_NAME_ATTEMPTS_MAX: usize = 8;

/// How long events live, kube-apiserver's `--event-ttl`.
pub const EVENT_TTL: Duration = Duration::from_secs(3_600);
/// One lease serves the events of this long, so their lifetimes are at most this much too long (as kube-apiserver).
pub const EVENT_LEASE_REUSE: Duration = Duration::from_secs(60);
/// … and at most this many, so that its expiry is not one huge transaction.
pub const EVENT_LEASE_OBJECTS_MAX: u32 = 1_000;

/// Connections served at once. Each is a task and its TLS buffers, some 100 kB. Beyond it: new ones wait in the
/// kernel's accept queue.
pub const CONNECTIONS_MAX: usize = 4_096;
/// HTTP/2 streams of one connection; an agent keeps a few watches and its requests in one. Beyond it: the client's
/// HTTP/2 library queues.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 1_000;
/// A TLS handshake that takes longer is dropped.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a shutdown waits for requests under way. Watches are ended at once.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

const _: () = assert!(
    STORE_TIMEOUT.as_secs() * (STORE_WRITE_ATTEMPTS_MAX as u64) < REQUEST_TIMEOUT.as_secs()
);
