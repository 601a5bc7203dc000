//! Every bound of the hub, with its reason and what happens at it.

/// The bounds of one hub. Tests make them small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Live events waiting on one stream for its client to read. About a second of a busy store; events are shared with
    /// the rows, so what this bounds is mostly old values kept alive. When full: the watcher the event is for falls back
    /// to catching up from history, and is live again when it has read everything.
    pub stream_events: usize,
    /// The same in bytes of keys and values. A single larger revision is still taken while nothing else waits.
    pub stream_bytes: usize,
    /// Events handed out by one poll, after which it ends (at a whole revision): what a stream holds outside the hub
    /// while it is being sent. The rest waits for the next poll.
    pub poll_events: usize,
    /// The same in bytes. Near gRPC's usual message size, so that a batch is a message or two.
    pub poll_bytes: usize,
    /// Revisions looked at by one read of history (etcd's batch). With `catch_up_reads` it bounds how long a poll holds the
    /// hub and the state, to a few milliseconds. The watcher goes to the end of its stream's line and goes on next time.
    pub catch_up_revisions: usize,
    /// Reads of history per poll.
    pub catch_up_reads: usize,
    /// Answers to requests (created, cancelled) waiting on one stream. When full: [`crate::Hub::congested`] tells the
    /// front to stop reading requests from that client.
    pub stream_answers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            stream_events: 8_192,
            stream_bytes: 8 << 20,
            poll_events: 1_024,
            poll_bytes: 2 << 20,
            catch_up_revisions: 1_000,
            catch_up_reads: 4,
            stream_answers: 1_024,
        }
    }
}
