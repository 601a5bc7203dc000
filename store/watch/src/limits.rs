//! Every bound of the hub, with its reason and what happens at it.

/// The bounds of one hub. Tests make them small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Watches of all streams together, half a kilobyte each. Large clusters have some ten thousand. When full: a creation is
    /// refused, with the reason.
    pub watches: usize,
    /// Live events waiting on one stream for its client to read. About a second of a busy store; events are shared with
    /// the rows, so what this bounds is mostly old values kept alive. When full: the watcher the event is for falls back
    /// to catching up from history, and is live again when it has read everything.
    pub stream_events: usize,
    /// The same in bytes of keys and values. A single larger revision is still taken while nothing else waits.
    pub stream_bytes: usize,
    /// Live events waiting on all streams together, some 100 bytes each beside the rows they share: 100 MB. A single
    /// connection may hold tens of thousands of streams; this is what they, and all connections, can cost. When full: as
    /// for one stream, for every watcher whose stream has anything unread; who keeps up is not touched.
    pub all_events: usize,
    /// The same in bytes of keys and values. What streams share is counted for each of them, so less is really held.
    /// Encodings live while queued events do, in at most two shapes: no more than twice this again.
    pub all_bytes: usize,
    /// Events handed out by one turn, after which it ends (at a whole revision): what a stream holds outside the hub
    /// while it is being sent. The rest waits for the next turn.
    pub poll_events: usize,
    /// The same in bytes. Near gRPC's usual message size, so that a batch is a message or two.
    pub poll_bytes: usize,
    /// Revisions looked at by one read of history (etcd's batch): how long a read holds the state, about a millisecond.
    /// The watcher goes to the end of its stream's line and goes on when its turn comes.
    pub catch_up_revisions: usize,
    /// Reads of history per turn, so that one that finds nothing lets other tasks of its core run.
    pub catch_up_reads: usize,
    /// Answers to requests (created, cancelled) waiting on one stream. When full: [`crate::Hub::congested`] tells the
    /// front to stop reading requests from that client.
    pub stream_answers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            watches: 1_000_000,
            stream_events: 8_192,
            stream_bytes: 8 << 20,
            all_events: 1 << 20,
            all_bytes: 512 << 20,
            poll_events: 1_024,
            poll_bytes: 2 << 20,
            catch_up_revisions: 1_000,
            catch_up_reads: 4,
            stream_answers: 1_024,
        }
    }
}
