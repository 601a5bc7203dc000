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

/// Rows read from the archive at once for a read of history: most reads end with their revisions, long before the bounds.
pub const CHANGES_SLICE_ROWS: usize = 512;
/// Work of a compaction done with every entry, counted in keys looked at: a twentieth of a millisecond, so that no write notices,
/// where a whole compaction of a million keys takes half a second, a good part of a leader's lease. More waits for the next
/// entries. Part of the replicated behaviour: all members must use the same number.
pub const SWEEP_WORK: usize = 1_024;
/// Taking a version away costs so many times as much as looking at a key. Replicated behaviour likewise.
pub const SWEEP_VERSION_WORK: usize = 4;
/// Bytes of persisted values kept in memory unless a flag says otherwise. Beyond: rows are read from the engine.
pub const VALUE_CACHE_BYTES: u64 = 256 << 20;
/// Keys the cache's hand passes with every entry while the budget is passed: several times what one entry brings in.
pub const CACHE_TURN_KEYS: usize = 4_096;
/// Rows, and bytes of them, that are hashed before the state is given back to the writer, and the thread to others: one to three
/// milliseconds where they are read from disk. (A hash of 300,000 rows in one go took longer than a leader's lease.) The rest is
/// hashed in further pieces.
pub const HASH_ROWS: usize = 1_024;
pub const HASH_BYTES: usize = 1 << 20;

/// Cost of a row beside its key and value when live bytes are counted: etcd's estimate for its quota.
pub const ROW_OVERHEAD_BYTES: u64 = 256;

/// Learners at a time: etcd's default for `--experimental-max-learners`. More are refused.
pub const LEARNERS_MAX: usize = 1;

/// What a lease counts for when it is granted, beside the keys it will hold: etcd's estimate for its quota.
pub const LEASE_OVERHEAD_BYTES: u64 = 64;

const _: () = assert!(2 * TXN_DEPTH_MAX + 8 < 100);
