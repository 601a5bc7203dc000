//! Every bound of the log, with its reason and what happens when it is reached.

use std::time::Duration;

/// Queued and in-flight bytes above which callers stop admitting new proposals. 64 MiB is 40 ms of the measured
/// write rate (1.5 GB/s), and several times what Raft keeps in flight to its followers.
/// When reached: `append` itself still takes records (Raft's own must never be refused, and refusing in the middle
/// of an append would leave a hole); the proposal queue reads `Wal::pending_bytes` and makes clients wait.
pub const PENDING_BYTES_MAX: u64 = 64 << 20;

/// Bytes gathered into one batch. Large enough that the sync's fixed cost vanishes, small enough that the first
/// records of a full queue are not held up by the last (8 MiB is about 6 ms). When reached: the next append opens a
/// new batch, written after this one's sync.
pub const BATCH_BYTES_MAX: usize = 8 << 20;

/// Bytes of one append, which is never split over two batches. Far above what one Raft append carries; its purpose is
/// that lengths fit the format's 32 bits. When passed: the log fails, as for any bug above it.
pub const APPEND_BYTES_MAX: usize = 1 << 30;

/// How long records that nobody waits for (committed marks alone) may stay in memory. They only shorten the replay
/// after a restart, so an fdatasync of their own is not worth its time.
pub const LAZY: Duration = Duration::from_millis(50);

/// The usual size of a segment. A log takes the segments that hold what is not purged, and at most
/// [`SEGMENTS_AHEAD`] more: a small store's is 64 MiB at most times. Smaller ones would rotate several times a second
/// under full load, larger ones hold on to purged entries for longer.
pub const SEGMENT_BYTES: u64 = 32 << 20;

/// Segments beside those in use: the next one, filled ahead. It is the purged segment that went last, recycled, when
/// there was one by the time half of the present one was used; else a new file. Purged segments beyond that are
/// removed. One is enough: filling one takes less time than using half of one, mostly. When the writer is faster, it
/// waits for the fill.
pub const SEGMENTS_AHEAD: usize = 1;

/// A sync that takes longer is worth a warning: leases and elections are counted in seconds.
pub const SYNC_SLOW: Duration = Duration::from_secs(1);

/// The least time between two such warnings, so that a disk that stays slow does not fill the log of the process.
/// Those in between are counted in the next one.
pub const SYNC_SLOW_PAUSE: Duration = Duration::from_secs(10);

/// Bytes zero-filled per write and sync, so that filling ahead never delays a batch's fdatasync by more than a few
/// milliseconds.
pub const FILL_BYTES: usize = 1 << 20;

/// Purged segments waiting for the task that recycles or removes them. When full: the segment stays for the next batch.
pub const REMOVALS_MAX: usize = 16;

/// The smallest segment: room for the header and a batch of small records, so that tests can rotate often.
pub const SEGMENT_BYTES_MIN: u64 = 512;

const _: () = assert!(BATCH_BYTES_MAX <= APPEND_BYTES_MAX && APPEND_BYTES_MAX < u32::MAX as usize);
