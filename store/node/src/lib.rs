//! One member of the store: boot and recovery order, the proposal queue, read index, leases' expiry, watch streams.
//! Everything in front of it (etcd's gRPC, the Kubernetes gateway) holds a [`Store`].
//! Promise: an answer that left here is decided by the log; a read index waits for everything acknowledged before it.
//! Not here: wire formats (`server`), Raft (`consensus`), what commands mean (`state`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use barque_store_consensus::Consensus;
use barque_store_env::{Disk, Env, Instant, Task, others_first};
use barque_store_state::limits::HASH_ROWS;
use barque_store_state::*;
use futures::future::Either;
use tokio::sync::oneshot;

mod anew;
mod auto_compaction;
mod boot;
mod clearing;
mod clock;
mod course;
mod figures;
mod flags;
mod from_peers;
mod glance;
mod identity;
pub mod ids;
mod integrity;
mod join;
mod leases;
mod ledger;
pub mod limits;
mod lock;
mod machine;
mod marks;
mod members;
mod membership;
mod peers;
mod persister;
mod pieces;
mod places;
mod progress;
mod queue;
mod ranges;
mod reads;
mod refetch;
mod slip;
mod space;
mod staging;
mod sweep;
mod trouble;
mod verdict;
mod versions;
mod watches;
mod worker;

pub use auto_compaction::AutoCompaction;
pub use barque_store_consensus::{ImageRules, Membership, PeerTraffic, TransferError};
pub use figures::Figures;
pub use ranges::{Answered, LargeRange};
pub use space::SpaceRules;
pub use versions::Program;
pub use watches::WatchStream;

use limits::{SHUTDOWN_DRAIN_MAX, SHUTDOWN_DRAIN_POLL, SHUTDOWN_PERSIST_MAX};
use machine::Machine;
use queue::{Queue, Reply, Waiting};

#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /// etcd's `--initial-cluster-token`.
    pub cluster_token: String,
    /// `host:port` to listen on for peers.
    pub listen_peer: String,
    pub advertise_client_urls: Vec<String>,
    /// Name -> peer URLs of all members, this one included (`--initial-cluster`).
    /// Only of use to a member without a data directory.
    pub initial_cluster: BTreeMap<String, Vec<String>>,
    /// `--initial-advertise-peer-urls`, which must be what `initial_cluster` has for this member; empty: not compared.
    /// Only of use to a member without a data directory.
    pub advertise_peer_urls: Vec<String>,
    /// `--initial-cluster-state existing`: the cluster is there, and this member was added to it.
    pub joins: bool,
    /// `--force-new-cluster`: the cluster's majority is lost for good, and goes on as this member alone. Changes nothing where
    /// this is the only member already.
    pub force_new_cluster: bool,
    /// `--strict-reconfig-check`
    pub strict_reconfig: bool,
    /// etcd's flags; see design "Elections" for how they map to openraft's settings.
    pub heartbeat: Duration,
    pub election: Duration,
    /// `--watch-progress-notify-interval`.
    pub progress_interval: Duration,
    /// `--auto-compaction-mode` and `--auto-compaction-retention`; `None`: off.
    pub auto_compaction: Option<AutoCompaction>,
    pub space: SpaceRules,
    pub guards: barque_store_consensus::Guards,
    /// `--storage-engine`
    pub engine: barque_store_engine::Kind,
    /// `--value-cache-bytes`: persisted values kept in memory for reading.
    pub value_cache_bytes: u64,
    /// How much log is kept, and how states travel between members. The default is for everybody but tests.
    pub images: ImageRules,
    pub sizes: Sizes,
    pub program: Program,
}

impl Default for Config {
    /// etcd's defaults, but for the names and places that each member has of its own.
    fn default() -> Self {
        Config {
            name: "default".to_owned(),
            data_dir: PathBuf::from("default.etcd"),
            cluster_token: "etcd-cluster".to_owned(),
            listen_peer: "localhost:2380".to_owned(),
            advertise_client_urls: Vec::new(),
            initial_cluster: BTreeMap::new(),
            advertise_peer_urls: Vec::new(),
            joins: false,
            force_new_cluster: false,
            strict_reconfig: true,
            heartbeat: Duration::from_millis(100),
            election: Duration::from_secs(1),
            progress_interval: Duration::from_secs(600),
            auto_compaction: None,
            space: SpaceRules::default(),
            guards: barque_store_consensus::Guards::default(),
            engine: barque_store_engine::Kind::default(),
            value_cache_bytes: barque_store_state::limits::VALUE_CACHE_BYTES,
            images: ImageRules::default(),
            sizes: Sizes::default(),
            program: Program::default(),
        }
    }
}

/// Sizes that only tests change, so that what happens once in gigabytes happens within seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub log: barque_store_wal::Options,
    pub engine: barque_store_engine::Options,
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
    /// Bytes of the rows' files. Not of the log: it grows and shrinks by a rule of its own, and nothing in it is what the quota counts.
    pub db_size: u64,
    /// Live bytes: keys and values, history that was not compacted among them. What the quota counts.
    pub db_size_in_use: u64,
    /// Bytes of the log's segments, the one filled ahead included.
    pub log_bytes: u64,
    /// `None`: no quota.
    pub quota_bytes: Option<u64>,
    /// This member's file system is below its reserve: growth is refused.
    pub disk_low: bool,
    /// Until when this member may act as the leader without asking (guard 4); `None` when it is not the leader.
    pub leads_until: Option<Instant>,
    /// What every member is able to do; `None` until the first leader has found out.
    pub cluster_version: Option<ClusterVersion>,
}

pub(crate) struct Shared<E: Env> {
    pub(crate) member: MemberId,
    pub(crate) cluster_id: u64,
    pub(crate) cluster_token: String,
    /// etcd's: 5 s + 2 x election timeout.
    pub(crate) request_timeout: Duration,
    pub(crate) machine: Arc<Machine<E>>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) readers: Arc<reads::Readers>,
    pub(crate) keep_alives: leases::KeepAlives,
    pub(crate) consensus: Consensus<E>,
    pub(crate) program: Program,
    renewed: bool,
    tasks: parking_lot::Mutex<Vec<Task<()>>>,
    persister: parking_lot::Mutex<Option<Task<()>>>,
    /// The directory's lock, until the member has stopped.
    held: parking_lot::Mutex<Option<<E::Disk as Disk>::Lock>>,
}

impl<E: Env> Shared<E> {
    /// Whether this member may act as the leader at `now` (guard 4).
    pub(crate) fn leads(&self, now: Instant) -> bool {
        self.consensus
            .view()
            .leads_until
            .is_some_and(|until| now < until)
    }

    /// Queues one command; the future is its outcome, and does not borrow.
    pub(crate) fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> impl Future<Output = Result<Outcome, ProposeError>> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        self.queue.push([Waiting {
            command,
            deadline,
            reply: Reply::One(reply),
            number: None,
        }]);
        async move {
            match E::timeout_at(deadline, answer).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(ProposeError::Stopped),
                Err(_) => Err(ProposeError::Timeout),
            }
        }
    }
}

/// Handle of a running member. Cheap to clone; usable from any thread or runtime.
#[derive(Clone)]
pub struct Store<E: Env> {
    pub(crate) shared: Arc<Shared<E>>,
}

impl<E: Env> Store<E> {
    /// Opens the data directory, recovers, joins its peers. Returns when the member takes part; it may not have a leader yet.
    pub async fn start(config: Config, disk: E::Disk, net: E::Net) -> Result<Self, StartError> {
        boot::start(config, disk, net).await
    }

    /// Has one command carried out through the log (on whichever member leads) and returns its outcome. Waits, up to `deadline`,
    /// for a leader; never carried out twice.
    pub async fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<Outcome, ProposeError> {
        self.shared.propose(command, deadline).await
    }

    /// The hot path: many proposals at once; completions come back in batches on `sink` from the store's thread (those that
    /// find the queue full come back at once, on the caller's).
    pub fn submit(&self, proposals: Vec<Proposal>, sink: Arc<dyn CompletionSink>) {
        self.shared.queue.push(proposals.into_iter().map(
            |Proposal {
                 token,
                 command,
                 deadline,
             }| Waiting {
                command,
                deadline,
                reply: Reply::Sink {
                    token,
                    sink: sink.clone(),
                },
                number: None,
            },
        ));
    }

    /// Waits until this member has applied everything committed before the call (linearizable reads: call this, then [`Store::range`]).
    pub async fn read_index(&self, deadline: Instant) -> Result<(), ProposeError> {
        self.shared.readers.wait::<E>(deadline).await
    }

    /// Answers a transaction that only reads ([`Txn::is_read_only`]) at once from this member's state, as [`Store::range`].
    pub fn read_txn(&self, txn: &Txn) -> (Revision, Result<TxnResult, Refusal>) {
        let machine = &self.shared.machine;
        let (revision, result) = {
            let state = machine.state.read();
            (state.revision(), machine.answer(state.read_txn(txn)))
        };
        if let Ok(result) = &result {
            machine.counters.read_txn(txn, result);
        }
        (revision, result)
    }

    pub fn revision(&self) -> Revision {
        self.shared.machine.glance.revision()
    }

    pub fn compact_revision(&self) -> Revision {
        self.shared.machine.state.read().compact_revision()
    }

    /// As etcd's HashKV; `None`: at the current revision. Keeps the thread until every row is read: see [`Store::hash_kv_in_turns`].
    pub fn hash_kv(&self, revision: Option<Revision>) -> Result<HashKv, Refusal> {
        let mut run = self.hash_begin(revision)?;
        loop {
            if let Some(hash) = self.hash_on(&mut run)? {
                return Ok(hash);
            }
        }
    }

    /// The same, and lets the thread's other tasks run after each piece of some milliseconds.
    pub async fn hash_kv_in_turns(&self, revision: Option<Revision>) -> Result<HashKv, Refusal> {
        let mut run = self.hash_begin(revision)?;
        loop {
            if let Some(hash) = self.hash_on(&mut run)? {
                return Ok(hash);
            }
            others_first().await;
        }
    }

    fn hash_begin(&self, revision: Option<Revision>) -> Result<HashRun, Refusal> {
        self.shared.machine.state.read().hash_begin(revision)
    }

    /// One piece. The state is given back after it: an entry to be applied, and all of Raft behind it, must not wait for every row.
    fn hash_on(&self, run: &mut HashRun) -> Result<Option<HashKv>, Refusal> {
        let machine = &self.shared.machine;
        machine.answer(machine.state.read().hash_on(run, HASH_ROWS))
    }

    /// Whether it serves nothing any more: its data is damaged, or it could not be written. It ends soon.
    pub fn is_fenced(&self) -> bool {
        self.shared.machine.is_fenced()
    }

    /// A hash over everything replicated, equal between members at equal [`Store::applied`].
    pub fn whole_hash(&self) -> (LogIndex, u64) {
        let state = self.shared.machine.state.read();
        (state.applied(), state.whole_hash())
    }

    /// Remaining and granted TTL in seconds and, when asked, the attached keys; `None`: no such lease. Call [`Store::read_index`] first.
    pub fn lease_ttl(&self, id: LeaseId, keys: bool) -> Option<LeaseInfo> {
        let now = self.shared.machine.cluster_time(E::now());
        let state = self.shared.machine.state.read();
        let lease = state.lease(id)?;
        let remaining_ms = lease.deadline.0.saturating_sub(now.0);
        Some(LeaseInfo {
            ttl_s: i64::try_from(remaining_ms / 1000).unwrap_or(i64::MAX),
            granted_ttl_s: lease.granted_ttl_s,
            keys: if keys { lease.keys.clone() } else { Vec::new() },
        })
    }

    pub fn leases(&self) -> Vec<LeaseId> {
        self.shared.machine.state.read().leases()
    }

    /// Coalesced with others into at most one entry per 5 ms; `None`: no such lease.
    pub async fn lease_keep_alive(
        &self,
        id: LeaseId,
        deadline: Instant,
    ) -> Result<(Revision, Option<u64>), ProposeError> {
        self.shared.keep_alives.renew::<E>(id, deadline).await
    }

    pub fn watch_stream(&self) -> WatchStream<E> {
        WatchStream::open(self.shared.machine.clone())
    }

    /// This member's id and the cluster's.
    pub fn ids(&self) -> (MemberId, u64) {
        (self.shared.member, self.shared.cluster_id)
    }
    /// Of Raft, as of now.
    pub fn term(&self) -> u64 {
        self.shared.consensus.view().term
    }
    pub fn leader(&self) -> Option<MemberId> {
        self.shared.consensus.view().leader
    }

    /// Waits for nobody: any path may ask at any time.
    pub fn status(&self) -> Status {
        let view = self.shared.consensus.view();
        let glance = &self.shared.machine.glance;
        Status {
            member: self.shared.member,
            cluster_id: self.shared.cluster_id,
            leader: view.leader,
            term: view.term,
            raft_index: view.last_log,
            applied_index: view.applied,
            revision: glance.revision(),
            db_size: self.shared.machine.space().disk_bytes,
            db_size_in_use: glance.live_bytes(),
            log_bytes: self.shared.consensus.log_bytes(),
            quota_bytes: self.shared.machine.gate.quota_bytes,
            disk_low: self.shared.machine.gate.disk_low(),
            leads_until: view.leads_until,
            cluster_version: glance.version(),
        }
    }

    /// Whether this start took the state anew from another member, because the persisted one was damaged or differed.
    pub fn is_renewed(&self) -> bool {
        self.shared.renewed
    }

    /// The alarms that are up, by kind, then member.
    pub fn alarms(&self) -> Vec<Alarm> {
        self.shared.machine.state.read().alarms().iter().collect()
    }

    /// Resolves when the member can no longer trust its disk or state; the process must exit non-zero then.
    pub async fn failed(&self) -> String {
        let (machine, consensus) = (&self.shared.machine, &self.shared.consensus);
        let (damage, stop) = (pin!(machine.failure()), pin!(consensus.failed()));
        match futures::future::select(damage, stop).await {
            Either::Left((reason, _)) => reason,
            // Raft of a fenced member stops by itself; the reason is what it was fenced for.
            Either::Right((_, damage)) if machine.is_fenced() => damage.await,
            Either::Right((reason, _)) => reason,
        }
    }

    /// Makes this member carry out the next put wrongly. For the simulator's runs that prove that such a member is found.
    pub fn plant_fault(&self) {
        self.shared.machine.marks.plant();
    }

    /// Hands leadership over where it can, answers what waits, then stops.
    pub async fn shutdown(&self) {
        self.hand_over(E::now() + Duration::from_secs(1)).await;
        let queue = &self.shared.queue;
        // Whoever leads now decides what is under way here, other members' commands too; it is answered once it was.
        queue.drain();
        let enough = E::now() + SHUTDOWN_DRAIN_MAX;
        while !queue.is_drained() && E::now() < enough {
            E::sleep(SHUTDOWN_DRAIN_POLL).await;
        }
        queue.close();
        let tasks = std::mem::take(&mut *self.shared.tasks.lock());
        tasks.iter().for_each(Task::abort);
        self.shared.readers.close();
        self.shared.keep_alives.close();
        // While the log still runs: the last batch waits for it.
        self.shared.machine.close();
        let persister = self.shared.persister.lock().take();
        if let Some(persister) = persister {
            // A persister that was killed has nothing to wait for.
            let _ = E::timeout(SHUTDOWN_PERSIST_MAX, persister).await;
        }
        self.shared.consensus.shutdown().await;
        drop(self.shared.held.lock().take());
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
    /// The member was removed from the cluster, and heard it before it ran. As [`Store::removed`]: no failure, and starting it again
    /// is of no use.
    #[error("{0}")]
    Removed(String),
    #[error("{0}")]
    Other(String),
}
