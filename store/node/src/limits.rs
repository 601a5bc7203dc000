//! Every bound of this crate, with its derivation and what happens when it is full.

use std::time::Duration;

use barque_store_state::AtOnce;

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

/// A round of read indexes that takes longer counts as slow: etcd's time before it asks again.
pub const READ_INDEX_SLOW: Duration = Duration::from_millis(500);

/// An entry that takes longer to carry out counts as slow (etcd's number).
pub const APPLY_SLOW: Duration = Duration::from_millis(100);

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

/// etcd's default for `--quota-backend-bytes`. Reached: growth is refused and the alarm NOSPACE goes up.
pub const QUOTA_BYTES_DEFAULT: u64 = 2 << 30;

/// At so much of the quota a warning is logged, early enough to act on.
pub const QUOTA_WARN_PERCENT: u64 = 80;

/// Below so much of the quota the alarm ends by itself. A tenth of room, so that it does not come and go with every write.
pub const QUOTA_CLEAR_PERCENT: u64 = 90;
const _: () = assert!(QUOTA_WARN_PERCENT < QUOTA_CLEAR_PERCENT && QUOTA_CLEAR_PERCENT < 100);

/// The reserve of the file system where none is given is 5 % of it, within these. The log fills its next segment (32 MiB)
/// ahead and the engine writes up to one of its own (32 MiB) while it moves rows, and a member that cannot do so stops: both must
/// fit twice. More than 256 MiB would only be idle.
pub const DISK_RESERVE_BYTES_MIN: u64 = 128 << 20;
pub const DISK_RESERVE_BYTES_MAX: u64 = 256 << 20;

/// Free bytes a new data directory needs: the log's first segment and the one filled ahead. With less: the start is refused.
pub const DISK_START_BYTES_MIN: u64 = 66 << 20;

/// Free bytes a member with a log needs to start: the segment filled ahead, if it was not yet. With less: refused likewise.
pub const DISK_RESTART_BYTES_MIN: u64 = 34 << 20;

/// How often the quota and the file system are looked at. At the measured 100 MB/s of writes that is 50 MB, well within the
/// least reserve.
pub const SPACE_INTERVAL: Duration = Duration::from_millis(500);

/// Leases after which a leader that hears nothing of a member takes the alarm about its disk away: what is not there cannot run
/// into the end of its disk. One that comes back raises it again.
pub const SPACE_LOST_LEASES: u32 = 10;

/// How long one look waits for its alarm to be replicated before it looks again.
pub const SPACE_PROPOSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// The members' states are compared this often at least, and after each compaction: one small entry. Ten seconds less than a
/// minute, so that a difference is found within a minute even where a member that was behind has to be asked again.
pub const INTEGRITY_INTERVAL: Duration = Duration::from_secs(50);
/// Between two comparisons, so that whoever compacts in a loop does not have the log filled with marks; and between two looks of
/// a member that does not lead.
pub const INTEGRITY_PAUSE: Duration = Duration::from_secs(1);
/// Hashes of marks that a member keeps, 16 bytes each: more than a minute of them at one per second. A member that is asked
/// for an older one says so, and is left out of that comparison.
pub const INTEGRITY_MARKS_KEPT: usize = 64;
/// How long one member is waited for when it is asked; one that does not answer is asked again every [`INTEGRITY_RETRY`].
pub const INTEGRITY_ASK_TIMEOUT: Duration = Duration::from_secs(1);
pub const INTEGRITY_RETRY: Duration = Duration::from_millis(500);
/// How long members that are away or behind are asked again. Beyond: the comparison ends without them, until the next mark.
pub const INTEGRITY_PATIENCE: Duration = Duration::from_secs(8);
/// How long a mark or an alarm is waited for, and how often an alarm is tried. A leader that is itself the one that differs
/// tries once before it fences itself: so long it may still answer.
pub const INTEGRITY_PROPOSAL_TIMEOUT: Duration = Duration::from_secs(2);
pub const INTEGRITY_ALARM_ATTEMPTS: u32 = 3;
const _: () = assert!(
    INTEGRITY_INTERVAL.as_secs()
        + INTEGRITY_PATIENCE.as_secs()
        + INTEGRITY_PROPOSAL_TIMEOUT.as_secs()
        <= 60
);
/// How long a fenced member waits for its disk to mark the directory. Beyond: it ends without the mark, and says so.
pub const REFETCH_MARK_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the leader looks whether all members can work in a newer version, until they do.
pub const VERSION_LOOK_INTERVAL: Duration = Duration::from_millis(50);
pub const VERSION_PROPOSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait for a change of leadership before looking again; only a safety net, changes wake the queue.
pub const LEADER_POLL: Duration = Duration::from_millis(50);

/// Between two tries to publish what a member is: whatever answers at once is not asked without pause.
pub const PUBLISH_PAUSE: Duration = Duration::from_millis(200);
/// How often the leader looks whether Raft's membership is the wanted one.
pub const MEMBERSHIP_INTERVAL: Duration = Duration::from_millis(50);
/// A removed member lives on for so long: what it was asked to do, its own removal above all, is answered ([`MEMBERSHIP_INTERVAL`]
/// until that is noticed). etcd waits for a second.
pub const REMOVED_LINGERS: Duration = Duration::from_millis(250);
/// How long one step of it may take; then the next look decides anew.
pub const MEMBERSHIP_STEP_MAX: Duration = Duration::from_secs(5);
/// A learner that lacks no more entries than this becomes a voter: fewer than are on their way at any moment under load.
pub const PROMOTE_LAG_ENTRIES: u64 = 20;
/// How long one member is asked by one that joins, and how often all of them are.
pub const JOIN_ASK_MAX: Duration = Duration::from_secs(2);
pub const JOIN_ROUNDS: usize = 10;
/// How often what was applied is moved to the engine: each batch costs one fdatasync beside the log's, and a start carries
/// out again what came after the last one.
pub const PERSIST_INTERVAL: Duration = Duration::from_millis(100);
/// Bytes of rows at which a batch is begun before its time: some milliseconds to encode and write.
pub const BATCH_BYTES: u64 = 4 << 20;
/// Bytes of rows that the engine does not have yet. When reached: applying waits, and with it the clients' answers, until
/// the persister has caught up.
pub const OVERLAY_BYTES_MAX: u64 = 64 << 20;
/// Keys of a checkpoint's chunk: about a quarter of a millisecond under the state's lock, and some 64 KiB in one write.
pub const CHECKPOINT_KEYS: usize = 1_024;
/// Keys the cache's hand passes under one write lock when the persister trims it, about half a millisecond, and how often in
/// a row. What is still too much goes the next time.
pub const TRIM_KEYS: usize = 4_096;
pub const TRIM_TURNS: usize = 64;
/// What a range does while it holds the state: keys looked at (a million took 310 ms, in which nothing was applied and the leader
/// sent no heartbeat), and rows read from the engine (about 3 us each), which are kept in memory. More are looked at in several
/// holds, and read without.
pub const RANGE_AT_ONCE: AtOnce = AtOnce {
    keys: 4_096,
    reads: 64,
};
/// Rows that a large range reads before it gives way to others on its thread: a millisecond.
pub const RANGE_TURN_ROWS: usize = 256;
/// Times a range whose rows were compacted away while they were read is tried again before it reads under the lock.
pub const RANGE_ATTEMPTS: usize = 3;
/// How long a stop waits for the last batch. Beyond: the next start carries out from the log what it did not take.
pub const SHUTDOWN_PERSIST_MAX: Duration = Duration::from_secs(10);

/// How often the leader looks whether a compaction has versions to take away, and, while it has and nobody writes, how long it
/// waits between the empty entries it proposes for it: at 1,024 keys an entry, up to 200,000 keys a second.
pub const SWEEP_LOOK_INTERVAL: Duration = Duration::from_millis(200);
pub const SWEEP_IDLE_INTERVAL: Duration = Duration::from_millis(5);

/// Housekeeping (a step of relocation, a piece of a checkpoint) is followed by a pause of so many times what it took, at most
/// [`HOUSE_PAUSE_MAX`]: whoever writes meets a busy disk or thread in one of seven moments, and then for about a millisecond.
pub const HOUSE_PAUSE_FACTOR: u32 = 6;
pub const HOUSE_PAUSE_MAX: Duration = Duration::from_millis(20);
/// How often it is looked whether anybody still reads the state that was there before another member's. Ranges are done with it
/// in milliseconds; an image that is being sent may take minutes, and its space comes back so much later.
pub const LEFT_ROWS_POLL: Duration = Duration::from_millis(100);
/// How often it is looked whether a state that was received is of use still.
pub const STAGED_LOOK: Duration = Duration::from_secs(10);
/// Files that take more than so many times the live bytes: space is given back without pauses.
pub const HOUSE_HURRY_FACTOR: u64 = 3;

/// Bytes of another member's state committed at a time while it is received: two or three milliseconds to write and sync, in
/// which the log's fdatasync may have to wait, and what a transfer that is interrupted receives twice.
pub const STAGE_BATCH_BYTES: usize = 1 << 20;

/// Commands with numbers whose outcomes a member remembers: all that seven members may have under way (8 entries of 512 commands each), twice.
/// Usually each entry says how far its sender has come, and almost nothing is kept. When full: the oldest are forgotten, and whoever
/// asks for one is told that its outcome is not known.
pub const LEDGER_COMMANDS_MAX: usize = 65_536;
const _: () = assert!(LEDGER_COMMANDS_MAX >= 2 * 7 * ENTRIES_IN_FLIGHT_MAX * ENTRY_COMMANDS_MAX);
/// Bytes of those outcomes, and of the largest one that is kept: rows that were read or deleted hang on them. When full: likewise.
pub const LEDGER_BYTES_MAX: usize = 16 << 20;
pub const LEDGER_OUTCOME_BYTES_MAX: usize = 64 << 10;
/// Commands of one sender that were refused at a later attempt than their first and are remembered for the rest of the term: all
/// that it can have under way. When full: the lowest numbers are taken for given up.
pub const LEDGER_REFUSED_MAX: usize = ENTRIES_IN_FLIGHT_MAX * ENTRY_COMMANDS_MAX;
/// Starts of members' processes whose numbers are told apart: nine members, and the last starts of each. When full: the one that
/// was not heard for the longest time is forgotten.
pub const LEDGER_SENDERS_MAX: usize = 64;

/// How long a command waits before it is sent again, or looked up, when nothing else wakes the queue: a leader's first entry is committed
/// in some milliseconds.
pub const RESEND_PAUSE: Duration = Duration::from_millis(10);
/// And when the leader's queue was full.
pub const BUSY_PAUSE: Duration = Duration::from_millis(50);
pub const OWN_TERM_POLL: Duration = Duration::from_millis(1);

/// How long a stop waits for what is under way to be answered, after leadership was handed over. Beyond: its outcome is told as unknown.
pub const SHUTDOWN_DRAIN_MAX: Duration = Duration::from_secs(1);
pub const SHUTDOWN_DRAIN_POLL: Duration = Duration::from_millis(2);

/// How often a member looks whether the other members, or where they are, have changed since it last kept that in a file. Without
/// the newest change a start that needs them finds them through the others.
pub const PEERS_INTERVAL: Duration = Duration::from_secs(1);

/// Longest election timeout taken, as etcd's: a cluster that is without a leader for longer looks dead to its clients.
pub const ELECTION_MAX: Duration = Duration::from_secs(50);

/// How auto compaction by time looks, as etcd's: ten times a retention, of which at most an hour counts, and compacts at every tenth
/// look. A sample of each look is kept for as long as history is: 8 bytes, a tenth of an hour at least from one to the next when
/// much is kept (a year: 88k).
pub const AUTO_COMPACTION_LOOKS: u32 = 10;
pub const AUTO_COMPACTION_PERIOD_MAX: Duration = Duration::from_secs(3600);
/// The least time between two looks, so that a retention of nanoseconds does not keep a core busy.
pub const AUTO_COMPACTION_LOOK_MIN: Duration = Duration::from_millis(10);
/// Between two looks of auto compaction by revisions, as etcd's.
pub const AUTO_COMPACTION_REVISION_INTERVAL: Duration = Duration::from_secs(300);
