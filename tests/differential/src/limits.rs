//! Every bound of a run, with its reason and what happens when it is reached.
use std::time::Duration;

/// From the start of a process to its first linearizable read; an election and a loaded machine included. Beyond: the run fails.
pub const READY: Duration = Duration::from_secs(30);

/// Between two looks at whether a process serves.
pub const READY_RETRY: Duration = Duration::from_millis(50);

/// One call, answer included. Both servers give up after 5 s and two elections. Beyond: "no answer", which is compared too.
pub const CALL: Duration = Duration::from_secs(20);

/// How long the two sides' watch answers may take to become equal; etcd's replay runs every 100 ms. Beyond: a difference.
pub const SETTLE: Duration = Duration::from_secs(4);

/// Between two looks at the watch answers.
pub const SETTLE_POLL: Duration = Duration::from_millis(5);

/// How long a watch that starts in the past is given before the next write: two and a half of etcd's replay rounds, so that
/// its answer does not mix with live events. Too short shows as a difference in batches, never hides one.
pub const REPLAY: Duration = Duration::from_millis(250);

/// Client streams held open at a time.
pub const STREAMS: usize = 3;

/// Fresh pairs of servers that one shrinking may start; each replays a prefix. Reached: what is left is printed.
pub const SHRINK_ATTEMPTS: usize = 40;

/// Fields of one difference that are printed. More: their number is told.
pub const FIELDS_PRINTED: usize = 12;

/// Bytes of a key or value that are printed; longer ones are shown by length and checksum.
pub const BYTES_PRINTED: usize = 48;

/// The largest request both sides carry out (etcd's default).
pub const REQUEST_MAX: usize = 3 << 19;

/// What etcd counts into a request beside its message: the message's head and a header with a random id, which takes 9 or 10
/// bytes. So the bound itself moves by one byte from one etcd to the next, and nothing exactly there is asked.
pub const ENVELOPE_MAX: usize = 18;
