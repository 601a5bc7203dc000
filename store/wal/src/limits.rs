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

/// Segments written ahead. One is enough: filling one takes a small part of the time that using one takes. When the
/// writer is faster, it waits for the fill.
pub const SEGMENTS_AHEAD: usize = 1;

/// Bytes zero-filled per write and sync, so that filling ahead never delays a batch's fdatasync by more than a few
/// milliseconds.
pub const FILL_BYTES: usize = 1 << 20;

/// Removals waiting for the task that carries them out. When full: the segment stays for the next purge.
pub const REMOVALS_MAX: usize = 16;

/// The smallest segment: room for the header and a batch of small records, so that tests can rotate often.
pub const SEGMENT_BYTES_MIN: u64 = 512;

const _: () = assert!(BATCH_BYTES_MAX <= APPEND_BYTES_MAX && APPEND_BYTES_MAX < u32::MAX as usize);
