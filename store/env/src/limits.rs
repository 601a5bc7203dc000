//! Every bound of the worlds, with its reason and what happens when it is reached.

use std::time::Duration;

/// Operations waiting for one open file's I/O thread. The log keeps at most a few writes in flight per file (one per
/// group commit) and recovery reads one chunk at a time, so this is never the limit in practice; it keeps a hung disk
/// from hoarding buffers. When full: the caller waits, in order.
pub const FILE_QUEUE_OPS: usize = 64;

/// TLS handshakes a listener runs at once. A member has a handful of peers; the rest are strangers, and each costs a
/// signature. When full: further connections wait in the kernel's backlog.
pub const HANDSHAKES_MAX: usize = 64;

/// Connections whose handshake is done and which nobody has accepted yet. When full: handshakes wait with their slot.
pub const ACCEPTED_MAX: usize = 64;

/// How long a stranger may take for a TLS handshake before the connection is dropped: generous for a loaded
/// three-round-trip handshake, short enough that silent connections cannot hold all slots for long.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after an accept that failed for want of resources (file descriptors), so that the loop does not spin.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Room a socket read is offered. One read then takes a whole batch of small frames, or a good part of a large one.
pub const READ_CHUNK: usize = 64 * 1024;
/// The least room left in a read buffer before it grows by [`READ_CHUNK`].
pub const READ_CHUNK_MIN: usize = 8 * 1024;
const _: () = assert!(READ_CHUNK_MIN <= READ_CHUNK);

/// Bytes of a removed file whose space is given back in one go: a third of a millisecond in which others' writes wait.
pub const REMOVAL_STEP_BYTES: u64 = 1 << 20;

/// How long after a change of files that are read again when they change ([`crate::real::Reloading`]) they are read each time: times
/// of files are as coarse as two seconds (FAT), so that a second change may leave them as they are.
pub const RELOAD_SETTLING: Duration = Duration::from_secs(2);
