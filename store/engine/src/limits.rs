//! Every bound of the engine, with its reason and what happens when it is reached.

/// One row. etcd refuses requests above 1.5 MiB by default and the flag can raise that; a row must fit a frame with room
/// to spare. When passed: the commit fails, as for any bug above the engine.
pub const ROW_BYTES_MAX: usize = 256 << 20;

/// One batch, which is one frame. The persister's are a few MiB; the purpose of the bound is that lengths and offsets fit
/// the format's 32 bits. When passed: the commit fails.
pub const BATCH_BYTES_MAX: usize = 1 << 30;

/// One name of a value. Names are ours, not a client's. When passed: the commit fails.
pub const NAME_BYTES_MAX: usize = u16::MAX as usize;

/// One chunk of a checkpoint's index. A start holds a few in memory. When passed: the checkpoint fails.
pub const CHUNK_BYTES_MAX: usize = 64 << 20;

/// Size of a segment file: large enough that a store of 10 GiB is a few hundred files, small enough that a dead one comes
/// soon and that moving the rest of one is short. When reached: the next batch opens a new file.
pub const SEGMENT_BYTES: u64 = 32 << 20;

/// The tail a start reads again, and the share of the live bytes above which a checkpoint is wanted. A start replays
/// 0.5-1 GB/s, so 32 MiB cost about 50 ms; and a checkpoint writes the index and the row table (about 25 bytes a row and
/// what the caller's index takes, together about an eighth of rows of 1 KiB), so one per eighth of the live bytes at most
/// doubles what is written in the worst case and adds little in the usual one. When passed: `wants_checkpoint` says so; nothing stops.
pub const TAIL_BYTES: u64 = 32 << 20;
/// See [`TAIL_BYTES`].
pub const TAIL_SHARE: u64 = 8;

/// Bytes that one step of relocation moves: a quarter of a millisecond to copy, and an fdatasync that holds the log's up no
/// longer than a write of its own would.
pub const STEP_BYTES: u64 = 256 << 10;

/// Blocks of the row table that one step of relocation looks through for rows of its segment (64 Ki rows, some hundred
/// microseconds). When reached: the next step goes on from there.
pub const STEP_BLOCKS: usize = 64;

/// Percent of the older segments' bytes that may be dead before live rows are moved. At 12 % a segment chosen for being
/// the most dead is, in all but even distributions, far above that, so little is copied for much; and the disk holds no
/// more than 1.15 times the live bytes, the tail apart.
pub const DEAD_PERCENT: u64 = 12;

/// Rows applied to the table under one hold of its lock (some 20 microseconds), so that a compaction that frees a million rows does
/// not stop the readers, nor the other tasks of the thread: a write is answered after some ten turns of theirs. When reached: the
/// lock is given up, the others have their turn, and it is taken again.
pub const LOCK_ROWS: usize = 128;

/// Rows read together may be so far apart; reading on is cheaper than another system call.
pub const READ_GAP: u64 = 4 << 10;
/// And together take no more than this, unless one row does.
pub const READ_SPAN: u64 = 1 << 20;

/// A checkpoint being written is synced each time so many bytes were added, so that the last sync, which holds commits
/// up, is short, and none holds the log's fdatasync up for long.
pub const CHECKPOINT_SYNC_BYTES: u64 = 256 << 10;

/// Rows in one block of a checkpoint's table (192 KiB), and bytes in one of its named values, unless one value is larger.
pub const CHECKPOINT_BLOCK_ROWS: usize = 8 << 10;
/// See [`CHECKPOINT_BLOCK_ROWS`].
pub const CHECKPOINT_BLOCK_BYTES: usize = 768 << 10;

/// What is read ahead of a checkpoint at a start: several blocks of the usual sizes, for the last one, of which only a
/// part was read, is read again.
pub const READ_AHEAD: usize = 4 << 20;

/// Bytes of a checkpoint's index that a start keeps in memory between checking the whole file and telling the caller.
/// The caller's own index takes as much; more is read a second time.
pub const INDEX_KEPT_BYTES: usize = 64 << 20;

/// The engine on sled stores longer rows in pieces: sled puts items of more than 128 KiB aside in files that it never
/// syncs, and joins neighbouring items in one.
#[cfg(feature = "sled")]
pub const SLED_PIECE_BYTES: usize = 32 << 10;
#[cfg(feature = "sled")]
const _: () = assert!(BATCH_BYTES_MAX / SLED_PIECE_BYTES < u16::MAX as usize);

/// sled's page cache. It keeps to it loosely (1.5 GB were measured under 256 MiB).
#[cfg(feature = "sled")]
pub const SLED_CACHE_BYTES: u64 = 64 << 20;

/// How long sled's threads may keep a database that was closed, with its lock (measured: some milliseconds on a busy machine), and
/// how often it is looked. Beyond: opening it fails.
#[cfg(feature = "sled")]
pub const SLED_LINGERS_MAX: std::time::Duration = std::time::Duration::from_secs(10);
/// See [`SLED_LINGERS_MAX`].
#[cfg(feature = "sled")]
pub const SLED_LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(2);

const _: () = assert!(ROW_BYTES_MAX < BATCH_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX as u64 + SEGMENT_BYTES < u32::MAX as u64);
