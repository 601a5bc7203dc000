//! Every bound of this crate, with its derivation and what happens when it is full.

use std::time::Duration;

/// Commands waiting to be proposed. At 100k writes/s this is a fifth of a second of backlog; more only adds latency.
/// When full: the command is refused with "too many requests".
pub const QUEUE_COMMANDS_MAX: usize = 20_000;

/// Bytes of keys and values waiting to be proposed, about one second of a 1 GbE client. When full: refused likewise.
pub const QUEUE_BYTES_MAX: usize = 96 << 20;

/// Commands in one Raft entry: enough to amortise an entry's ~5 us, few enough that applying one holds the state's
/// lock for about a millisecond. The rest waits for the next entry.
pub const ENTRY_COMMANDS_MAX: usize = 512;

/// Bytes of one Raft entry before no further command joins it (a single larger command still goes alone).
pub const ENTRY_BYTES_MAX: usize = 1 << 20;

/// Entries proposed or forwarded and not yet answered. The log groups them into one fdatasync; with more in flight
/// entries only get smaller. When full: commands wait in the queue and so share larger entries.
pub const ENTRIES_IN_FLIGHT_MAX: usize = 8;

/// Readers waiting for one read-index round. When full: refused with "too many requests".
pub const READERS_MAX: usize = 50_000;

/// Lease renewals coalesced into one entry wait at most this long.
pub const KEEP_ALIVE_LINGER: Duration = Duration::from_millis(5);

/// Distinct leases waiting for renewal. When full: the renewal is refused with "too many requests" (clients retry at a third of the TTL).
pub const KEEP_ALIVES_MAX: usize = 100_000;

/// Leases revoked per round of the expiry loop (every [`EXPIRY_INTERVAL`]): etcd's 1000 per second. The rest waits for the next round.
pub const EXPIRY_BATCH: usize = 500;
pub const EXPIRY_INTERVAL: Duration = Duration::from_millis(500);

/// With leases granted and nothing written, cluster time is stamped into the log this often, so that a new leader does
/// not give idle time back to every lease.
pub const TIME_STAMP_INTERVAL: Duration = Duration::from_secs(5);

/// How long to wait for a change of leadership before looking again; only a safety net, changes wake the queue.
pub const LEADER_POLL: Duration = Duration::from_millis(50);
