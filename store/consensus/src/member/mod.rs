//! One running member: proposals, what it tells of its log and its state, failure and stop.
//! Not here: how it is put together (`start`), who leads (`leadership`), read indexes (`reads`), the guards' arithmetic (`guard`),
//! bytes on the wire (`transport`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use barque_store_env::{Env, watch};
use barque_store_state::{Entry, MemberId, Outcome};
use barque_store_wal::Wal;
use openraft::errors::ClientWriteError;
use openraft::{RaftMetrics, ServerState};
use openraft_rt::WatchReceiver;
use tokio::sync::oneshot;

use crate::admission::Admission;
use crate::directories::{self, Directories};
use crate::disk::Failed;
use crate::guard::{Timing, VoteGuard};
use crate::log_store;
use crate::machine::{self, Applier, Persisted};
use crate::runtime_watch as raft_watch;
use crate::tasks::Tasks;
use crate::transport::Links;
use crate::transport::heard::Heard;
use crate::types::{CommittedLeaderId, Data, Reply, Types};
use crate::{Guards, Mark, ProposeError, View, limits};

mod leadership;
mod start;

pub type Raft<E> = openraft::Raft<Types<E>, Applier<E>>;

pub struct Inner<E: Env> {
    pub(crate) me: MemberId,
    pub(crate) timing: Timing,
    pub(crate) raft: Raft<E>,
    pub(crate) metrics: raft_watch::Receiver<RaftMetrics<Types<E>>>,
    pub(crate) wal: Wal<E>,
    pub(crate) failed_log: Arc<Failed<E>>,
    pub(crate) applied: watch::Receiver<u64>,
    pub(crate) links: Arc<Links<E>>,
    /// As in [`crate::Config`].
    pub(crate) addresses: BTreeSet<String>,
    pub(crate) address_of: fn(&[String]) -> Option<String>,
    heard: Arc<Heard>,
    guard: VoteGuard,
    admission: Arc<Admission>,
    directories: Arc<Directories>,
    /// The term whose leadership this member has given away; 0 for none.
    pub(crate) given_away: AtomicU64,
    pub(crate) guards: Guards,
    persisted: Persisted,
    persisted_upto: watch::Sender<Option<u64>>,
    pub(crate) changes: watch::Sender<View>,
    failure: watch::Sender<Option<String>>,
    stopping: AtomicBool,
    tasks: Tasks<E>,
}

impl<E: Env> Inner<E> {
    pub async fn propose(
        &self,
        entry: Entry,
        term: Option<u64>,
    ) -> Result<Vec<Outcome>, ProposeError> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(ProposeError::Stopped);
        }
        // Before the admission: a leader that was deposed holds bytes of entries nobody answers any more.
        {
            let metrics = self.metrics.borrow_watched();
            if metrics.state != ServerState::Leader {
                let leader = metrics.current_leader.map(MemberId);
                return Err(ProposeError::NotLeader {
                    leader: leader.filter(|id| *id != self.me),
                });
            }
        }
        let data = Data::propose(entry);
        let bytes = data.record().len();
        if bytes > limits::ENTRY_BYTES_MAX || self.wal.pending_bytes() > limits::UNWRITTEN_BYTES_MAX
        {
            return Err(ProposeError::Busy);
        }
        let held = self.admission.admit(bytes).ok_or(ProposeError::Busy)?;
        let (tx, rx) = oneshot::channel();
        let mut write = self.raft.write(data).responder(Reply::new(tx, held));
        if let Some(term) = term.filter(|_| self.guards.own_term) {
            // Looked at by Raft's core right before it appends: nothing comes between.
            write = write.with_leader(CommittedLeaderId::new(term));
        }
        write.await.map_err(|_| ProposeError::Stopped)?;
        match rx.await {
            Ok(Ok(written)) => Ok(written.data),
            // No log id was assigned.
            Ok(Err(ClientWriteError::ForwardToLeader(to))) => Err(ProposeError::NotLeader {
                leader: to.leader_id.map(MemberId).filter(|id| *id != self.me),
            }),
            // It had a log id; another leader may have committed it all the same.
            Ok(Err(_)) | Err(_) => Err(ProposeError::Unknown),
        }
    }

    pub fn guarded(&self) -> bool {
        self.guard.refuses(E::now(), false)
    }
    pub async fn log_barrier(&self) -> Result<(), String> {
        if !self.guards.log_before_rows {
            return Ok(());
        }
        log_store::barrier(&self.wal).await
    }

    /// Does not wait for Raft: its core may be waiting for the state machine, and that one for whoever persists.
    pub fn persisted(&self, mark: &Mark) {
        // A mark of this member's own making that does not parse would be found at the next start, before it serves.
        if let Ok(Some(stored)) = machine::stored(mark) {
            let upto = stored.0.index;
            self.persisted.set(stored);
            self.persisted_upto.send(Some(upto));
        }
    }

    pub fn log_bytes(&self) -> u64 {
        self.wal.bytes_on_disk()
    }
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Guard 5. Raft ends here and not when the process does: until then it would still count as a voter.
    async fn watch_directory(self: Arc<Self>, directories: Arc<Directories>, advice: String) {
        directories.wiped().await;
        self.fail(directories::wiped(self.me, &advice));
        let _ = self.raft.shutdown().await;
    }

    pub(crate) fn fail(&self, cause: String) {
        tracing::error!("this member must stop: {cause}");
        // The first cause explains the rest.
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert(cause);
            first
        });
    }

    pub async fn failed(&self) -> String {
        self.failure.until(Option::clone).await
    }
    pub async fn removed(&self) {
        self.directories.removed().await;
    }

    pub async fn shutdown(&self) {
        if self.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        self.tasks.stop();
        if let Err(e) = self.raft.shutdown().await {
            tracing::debug!("Raft was stopped: {e}");
        }
        self.wal.close().await;
    }
}
