//! Every bound of consensus: its derivation, and what happens when it is full.

use std::time::Duration;

/// Bytes of entries proposed here and not yet applied: 1-2 s of a saturated 1 GbE follower link, and what a leader may
/// hold in memory before its own disk has it. When full: `ProposeError::Busy`.
pub const UNCOMMITTED_BYTES_MAX: usize = 128 << 20;

/// Bytes the leader's own disk has not written yet. Followers commit without it, so that a slow disk of the leader only
/// shows here. When full: `ProposeError::Busy`.
pub const UNWRITTEN_BYTES_MAX: u64 = 128 << 20;

/// Bytes of one entry. Clients' requests end at 1.5 MiB and an entry carries about 1 MiB of them; anything near this is
/// a bug above. A larger one is refused with `ProposeError::Busy`.
pub const ENTRY_BYTES_MAX: usize = 8 << 20;

/// Entries read back at a time (for replication) end at this many bytes, so that no append holds a connection for
/// longer than ~10 ms at 1 Gbit/s. A single larger entry still goes, alone.
pub const READ_CHUNK_BYTES: usize = 1 << 20;

/// Entries of one append at most; its bytes are bounded by [`READ_CHUNK_BYTES`].
pub const APPEND_ENTRIES_MAX: u64 = 4096;

/// Body of one peer frame. When a peer announces more: the connection is closed.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
const _: () = assert!(READ_CHUNK_BYTES + ENTRY_BYTES_MAX < FRAME_BYTES_MAX);
// A chunk holds at most APPEND_ENTRIES_MAX entries, each with at most 32 bytes of index, term and lengths around it.
const _: () = assert!(APPEND_ENTRIES_MAX as usize * 32 < FRAME_BYTES_MAX - ENTRY_BYTES_MAX);

/// Outcomes of one forwarded batch; the rest of the frame is for their codes. Rows read or deleted by a transaction come
/// back in its outcome, and there is no bound on them. When full: the largest outcomes are left out ("outcome unknown"),
/// so that one client's answer does not cost the connection, and with it everybody's.
pub const FORWARD_OUTCOMES_BYTES_MAX: usize = FRAME_BYTES_MAX - (1 << 20);

/// Body of the first frame of a connection: fixed fields and one short text.
pub const HELLO_BYTES_MAX: usize = 4 << 10;

/// Appends sent to one follower and not yet answered: 10 ms of a 10 Gbit/s link with some slack. When full: the next
/// append waits.
pub const WINDOW_BYTES: usize = 12 << 20;

/// The same by number; the follower's Raft core queues 64 itself. When full: the next append waits.
pub const WINDOW_APPENDS: usize = 128;

/// Calls (votes, heartbeats, forwards, read indexes) queued or unanswered on one connection. The queue of proposals
/// keeps 8 forwards in flight, so this is only reached by a peer that does not answer. When full: the call fails
/// unsent.
pub const CALLS_MAX: usize = 256;

/// Calls of one peer being worked on here. When full: its further calls wait in the socket.
pub const CALLS_SERVED_MAX: usize = 64;

/// Connections of one member on one lane: the one that is used, and some that are dying, whose end the network has not told
/// (whoever loses its power tells nobody). When full: the oldest ends.
pub const CONNECTIONS_PER_LANE_MAX: usize = 4;
/// Peer connections accepted at a time: those of eight other members on six lanes, and of strangers before they have said who
/// they are. When full: new ones are closed at once.
pub const CONNECTIONS_MAX: usize = 256;

/// Answers coalesced into one write.
pub const WRITE_BATCH_BYTES: usize = 256 << 10;

/// Entries applied before other tasks of this thread get their turn.
pub const APPLY_TURN_ENTRIES: usize = 64;

/// A peer that does not finish its handshake in this time is disconnected.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The first reconnect waits this long; it doubles up to [`RECONNECT_MAX`].
pub const RECONNECT_MIN: Duration = Duration::from_millis(10);
/// Kept below an election timeout: a voter that comes back is asked in the next round.
pub const RECONNECT_MAX: Duration = Duration::from_millis(200);

/// Election timeouts that one write to the log may take before a leader takes its disk for hung (5 s with the default flags: no
/// disk that works takes so long, and the followers have long committed without it).
pub const DISK_HANG_ELECTIONS: u32 = 5;
/// Leases that a leader with a bad disk looks for somebody to hand over to, before it ends without.
pub const HAND_OVER_LEASES: u32 = 1;

/// How long applying waits before it asks again whether the persister has caught up: a fraction of the time a batch takes.
pub const BUSY_POLL: Duration = Duration::from_millis(2);

/// Log kept behind what is persisted, so that a follower which was away for a short while catches up from it: a quarter of
/// the live bytes (less than sending the state would cost), within these. It is in memory as well. Older entries are
/// purged; who needs them is sent the state.
pub const LOG_KEPT_BYTES_MIN: u64 = 64 << 20;
pub const LOG_KEPT_BYTES_MAX: u64 = 512 << 20;
/// Log kept beyond that for a member that is being sent the state, or that is slow: what 10 s of a saturated 400 Mbit/s
/// link write. When reached: it is purged all the same, and that member is sent the state (again).
pub const LOG_KEPT_BYTES_HARD: u64 = 512 << 20;
/// How often purging is looked at when nothing was persisted: pins end by themselves.
pub const PURGE_LOOK: Duration = Duration::from_secs(1);

/// One piece of a state: about 2 ms of a 1 Gbit/s link, and a fraction of a millisecond of reading on the sender's thread,
/// which is the one that heartbeats and appends go through.
pub const IMAGE_PIECE_BYTES: usize = 256 << 10;
const _: () = assert!(IMAGE_PIECE_BYTES + ENTRY_BYTES_MAX < FRAME_BYTES_MAX);
/// What a transfer takes of the network and of both disks at most, half of a 1 Gbit/s link: appends, heartbeats and
/// fdatasyncs of both ends come first. The receiver waits before it asks for more.
pub const IMAGE_BYTES_PER_SECOND: u64 = 64 << 20;
/// And it waits at least so many times what a piece took from asking to taking in: on slow disks and links, too, three
/// quarters of the time are for others. (With half of it, and pieces and batches four times as long, the 99th percentile of
/// writes rose to four times its figure while a member joined.)
pub const IMAGE_PAUSE_FACTOR: u32 = 3;
/// A sender gives a transfer up when no piece was asked for in this time, and a receiver when none came (guard 11).
pub const IMAGE_IDLE_MAX: Duration = Duration::from_secs(2);
/// The same while the receiver, which has everything, puts the state together and installs it. It says every
/// [`IMAGE_PROBE`] that it is still at it, but its thread may be busy for some seconds with millions of keys.
pub const IMAGE_INSTALL_MAX: Duration = Duration::from_secs(10);
/// And the sender says so often that it waits: a receiver that was restarted does not know the connection.
pub const IMAGE_PROBE: Duration = Duration::from_millis(500);
/// The state stays pinned so long after the last piece was asked for, so that a receiver that was restarted, or whose
/// connection was cut, goes on where it was. What it costs: disk space that relocation would give back, and log.
pub const IMAGE_HELD: Duration = Duration::from_secs(10);

/// How long a member that is to go on alone waits for another one to say that it runs: they are asked side by side.
pub const ALONE_ASK_MAX: Duration = Duration::from_secs(2);

/// How long a member that takes its state anew waits for the answer to one question: who the members are, and a state. Above the
/// lease that a leader of the default flags takes to confirm that it leads. Then: the next one is asked.
pub const FETCH_ASK_MAX: Duration = Duration::from_secs(3);
/// How long it waits after it has asked everybody in vain.
pub const FETCH_RETRY: Duration = Duration::from_millis(500);
/// How long all who answer must know no leader before any of them may give its state: an election takes a second or two. Without
/// it, a majority that is damaged at once could never come back.
pub const FETCH_LEADERLESS: Duration = Duration::from_secs(10);
/// How often it says how far it is, or why it waits.
pub const FETCH_TELL: Duration = Duration::from_secs(5);
