//! Every bound of the state machine, with its reason and what happens at it.

/// Operations in one level of a transaction (the longest of compares, success, failure); nested ones get what the outer
/// left over. etcd's default `--max-txn-ops`. Beyond: refused with "too many operations in txn request".
pub const TXN_OPS_MAX: usize = 128;

/// Transactions within transactions. Each level costs two protobuf messages, and prost stops at 100 of them: a log entry
/// must never be writable and not readable. Beyond: refused as too many operations. (etcd's own bound follows from its
/// operations budget, 128; nobody was seen to nest more than 2.)
pub const TXN_DEPTH_MAX: usize = 32;

/// etcd's longest TTL, in seconds. Beyond: refused with "too large lease TTL".
pub const LEASE_TTL_MAX_S: u64 = 9_000_000_000;

/// Bytes of keys and values after which one read of history ends (at a whole revision): what a watcher that catches up
/// holds at once. When reached: the answer's `next` tells where to go on.
pub const CHANGES_BYTES_MAX: usize = 4 << 20;

/// Rows after which one read of history ends (at a whole revision), about a millisecond under the state's lock.
/// When reached: as above.
pub const CHANGES_ROWS_MAX: usize = 10_000;

/// Rows looked at with every entry after a compaction, to take away what it made superfluous: about 3 ms, where a whole
/// compaction of a million rows took 1.4 s, three times a leader's lease. More rows wait for the next entries. Part of
/// the replicated behaviour: all members must use the same number.
pub const SWEEP_ROWS: usize = 4_096;

/// Rows hashed before the state is given back to the writer: some milliseconds. (A hash of 300,000 rows in one go took
/// longer than a leader's lease.) The rest is hashed in further pieces.
pub const HASH_ROWS: usize = 8_192;

/// Cost of a row beside its key and value when live bytes are counted: etcd's estimate for its quota.
pub const ROW_OVERHEAD_BYTES: u64 = 256;

const _: () = assert!(2 * TXN_DEPTH_MAX + 8 < 100);
