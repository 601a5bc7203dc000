//! One member of the store: boot and recovery order, the proposal queue, read index, leases' expiry, watch streams.
//! Everything in front of it (etcd's gRPC, the Kubernetes gateway) holds a [`Store`].
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use barque_store_env::{Env, Instant};
use barque_store_state::*;
use barque_store_watch::{CreateError, Delivery, WatchId, WatchSpec};

/// A voting member of the static cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: MemberId,
    pub name: String,
    /// `http(s)://host:port`, the first is used.
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /// etcd's `--initial-cluster-token`.
    pub cluster_token: String,
    /// `host:port` to listen on for peers; not used by a single member.
    pub listen_peer: String,
    pub advertise_client_urls: Vec<String>,
    /// Name -> peer URLs of all members, this one included (`--initial-cluster`).
    pub initial_cluster: BTreeMap<String, Vec<String>>,
    /// etcd's flags; see design "Elections" for how they map to openraft's settings.
    pub heartbeat: Duration,
    pub election: Duration,
    /// `--watch-progress-notify-interval`.
    pub progress_interval: Duration,
    pub guards: barque_store_consensus::Guards,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    #[error("etcdserver: no leader")]
    NoLeader,
    #[error("etcdserver: request timed out")]
    Timeout,
    /// A log id was assigned but the outcome is not known.
    #[error("etcdserver: leader changed")]
    LeaderChanged,
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    #[error("etcdserver: server stopped")]
    Stopped,
}

/// What `Status` and `/health` report.
#[derive(Clone, Debug)]
pub struct Status {
    pub member: MemberId,
    pub cluster_id: u64,
    pub leader: Option<MemberId>,
    pub term: u64,
    pub raft_index: u64,
    pub applied_index: u64,
    pub revision: Revision,
    /// Bytes of the data directory's log, and of live keys and values.
    pub db_size: u64,
    pub db_size_in_use: u64,
    /// Until when this member may act as the leader without asking (guard 4); `None` when it is not the leader.
    pub leads_until: Option<Instant>,
}

/// Handle of a running member. Cheap to clone; usable from any thread or runtime.
#[derive(Clone)]
pub struct Store<E: Env> {
    _env: std::marker::PhantomData<E>,
}

impl<E: Env> Store<E> {
    /// Opens the data directory, recovers, joins its peers. Returns when the member takes part; it may not have a leader yet.
    pub async fn start(_config: Config, _disk: E::Disk, _net: E::Net) -> Result<Self, StartError> {
        todo!()
    }
    /// Has one command carried out through the log (on whichever member leads) and returns its outcome. Waits, up to `deadline`,
    /// for a leader; never carried out twice.
    pub async fn propose(
        &self,
        _command: Command,
        _deadline: Instant,
    ) -> Result<Outcome, ProposeError> {
        todo!()
    }
    /// The hot path: many proposals at once; completions come back in batches on `sink` from the store's thread.
    pub fn submit(&self, _proposals: Vec<Proposal>, _sink: std::sync::Arc<dyn CompletionSink>) {
        todo!()
    }
    /// Waits until this member has applied everything committed before the call (linearizable reads: call this, then [`Store::range`]).
    pub async fn read_index(&self, _deadline: Instant) -> Result<(), ProposeError> {
        todo!()
    }
    /// Reads at once from this member's state. Returns the store's current revision (the header's) and the result.
    pub fn range(&self, _range: &Range) -> (Revision, Result<RangeResult, Refusal>) {
        todo!()
    }
    pub fn revision(&self) -> Revision {
        todo!()
    }
    pub fn compact_revision(&self) -> Revision {
        todo!()
    }
    /// (revision used, compacted revision, hash) as etcd's HashKV; `None`: at the current revision.
    pub fn hash_kv(
        &self,
        _revision: Option<Revision>,
    ) -> Result<(Revision, Revision, u32), Refusal> {
        todo!()
    }
    /// Remaining and granted TTL in seconds and, when asked, the attached keys; `None`: no such lease. Call [`Store::read_index`] first.
    pub fn lease_ttl(&self, _id: LeaseId, _keys: bool) -> Option<LeaseInfo> {
        todo!()
    }
    pub fn leases(&self) -> Vec<LeaseId> {
        todo!()
    }
    /// Coalesced with others into at most one entry per 5 ms; `None`: no such lease.
    pub async fn lease_keep_alive(
        &self,
        _id: LeaseId,
        _deadline: Instant,
    ) -> Result<(Revision, Option<u64>), ProposeError> {
        todo!()
    }
    pub fn watch_stream(&self) -> WatchStream<E> {
        todo!()
    }
    pub fn status(&self) -> Status {
        todo!()
    }
    pub fn members(&self) -> Vec<Member> {
        todo!()
    }
    /// Resolves when the member can no longer trust its disk or state; the process must exit non-zero then.
    pub async fn failed(&self) -> String {
        todo!()
    }
    /// Hands leadership over where it can, then stops.
    pub async fn shutdown(&self) {
        todo!()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    pub ttl_s: i64,
    pub granted_ttl_s: u64,
    pub keys: Vec<bytes::Bytes>,
}

pub struct Proposal {
    /// Given back with the completion.
    pub token: u64,
    pub command: Command,
    pub deadline: Instant,
}
pub struct Completion {
    pub token: u64,
    pub result: Result<Outcome, ProposeError>,
}
/// Takes completed proposals. Called on the store's thread, a batch at a time; must not block.
pub trait CompletionSink: Send + Sync + 'static {
    fn complete(&self, batch: Vec<Completion>);
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Config(String),
    #[error("data directory {dir}: {reason}")]
    DataDir { dir: PathBuf, reason: String },
    #[error("cannot listen for peers on {addr}: {cause}")]
    Listen { addr: String, cause: std::io::Error },
    #[error("{0}")]
    Other(String),
}

/// One client's stream of watches. Dropping it ends them.
pub struct WatchStream<E: Env> {
    _env: std::marker::PhantomData<E>,
}
impl<E: Env> WatchStream<E> {
    /// `id`: chosen by the client, or the next free one. The `Created` delivery comes through `next`.
    pub fn create(
        &mut self,
        _id: Option<WatchId>,
        _spec: WatchSpec,
    ) -> Result<WatchId, CreateError> {
        todo!()
    }
    /// Unknown ids are ignored, as in etcd.
    pub fn cancel(&mut self, _id: WatchId) {
        todo!()
    }
    /// etcd's WatchProgressRequest: answered once every watch of the stream is synced.
    pub fn request_progress(&mut self) {
        todo!()
    }
    /// The next deliveries, in order, at least one. Cancel-safe.
    pub async fn next(&mut self) -> Vec<Delivery> {
        todo!()
    }
}
