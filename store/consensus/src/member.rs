//! One running member: start and stop, proposals, the view of leadership, hand-over.
//! Not here: read indexes (`reads`), the guards' arithmetic (`guard`), bytes on the wire (`transport`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use barque_store_env::{Env, Instant, Listener, Net, watch};
use barque_store_state::{Entry, LogIndex, MemberId, Outcome};
use barque_store_wal::Wal;
use futures::future::{Either, select};
use openraft::errors::{ClientWriteError, InitializeError, LinearizableReadError, RaftError};
use openraft::{LinearizerOption, RaftMetrics, ServerState};
use openraft_rt::WatchReceiver;
use tokio::sync::oneshot;

use crate::admission::Admission;
use crate::directories::{self, Directories};
use crate::disk::Failed;
use crate::guard::{self, Timing, VoteGuard};
use crate::log_store::{self, LogStore};
use crate::machine::{self, Applier, Persisted};
use crate::pins::Pins;
use crate::purge::{Cut, Purger};
use crate::runtime_watch as raft_watch;
use crate::tasks::Tasks;
use crate::transport::heard::Heard;
use crate::transport::image::Receiving;
use crate::transport::network::Factory;
use crate::transport::seats::Seats;
use crate::transport::serve::{self, Served};
use crate::transport::{Identity, Links, Patience};
use crate::types::{CommittedLeaderId, Data, Reply, Types, log_index, outer, outer_of};
use crate::{
    Config, Forwarded, Guards, Machine, Mark, Peer, ProposeError, StartError, View, limits,
};

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
    /// As in [`Config`].
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

fn other(e: impl ToString) -> StartError {
    StartError::Other(e.to_string())
}

impl<E: Env> Inner<E> {
    pub async fn start(
        config: Config,
        disk: E::Disk,
        net: E::Net,
        machine: Arc<dyn Machine>,
        forwarded: Arc<dyn Forwarded>,
    ) -> Result<Arc<Self>, StartError> {
        let settings = guard::settings(&config)?;
        if config.founds && !config.peers.contains_key(&config.member) {
            return Err(other(format!(
                "member {:x} is not among the cluster's members",
                config.member.0
            )));
        }
        let timing = Timing::new(&config);
        // The port before the log: a second process on one machine should hear of it first.
        let listener = net.listen(&config.listen).await;
        let listener = listener.map_err(|cause| StartError::Listen {
            addr: config.listen.clone(),
            cause,
        })?;
        let log = |e: &dyn std::fmt::Display| StartError::Log(e.to_string());
        let (wal, recovered) = Wal::<E>::open(disk, &config.dir, config.log)
            .await
            .map_err(|e| log(&e))?;
        let store = LogStore::new(wal.clone(), recovered, config.guards).map_err(|e| log(&e))?;
        let failed_log = store.failed();
        let restored = match &config.restored {
            Some(mark) => machine::stored(mark).map_err(|e| log(&e))?,
            None => None,
        };
        machine::join(
            &store,
            restored.as_ref().map(|(last, _)| *last),
            config.installed,
        )
        .await
        .map_err(|unjoined| match unjoined {
            machine::Unjoined::Behind(gap) => StartError::Behind(gap.to_string()),
            machine::Unjoined::Other(why) => StartError::Log(why),
        })?;
        let persisted = Persisted::default();
        if let Some(restored) = &restored {
            persisted.set(restored.clone());
        }
        let pins = Arc::new(Pins::new(machine.clone(), config.guards.image_pinned));
        let cut = Arc::new(Cut::default());
        let (voted, new) = (store.has_voted(), store.is_empty() && !store.has_voted());
        let me = config.member.0;
        let others = store.names_other_voters(me)
            || restored
                .as_ref()
                .is_some_and(|(_, membership)| membership.voter_ids().any(|id| id != me));
        let vote_guard = VoteGuard::new(&config, &timing, E::now(), voted, others);

        let tasks = Tasks::new();
        let identity = Identity {
            cluster_id: config.cluster_id,
            member: config.member,
            incarnation: config.incarnation,
        };
        let directories = Arc::new(Directories::new(&config, machine.clone()));
        let patience = Patience {
            connect: timing.lease,
            answer: timing.election,
            guards: config.guards,
        };
        let links = Arc::new(Links::new(
            net,
            identity.clone(),
            directories.clone(),
            patience,
            tasks.clone(),
        ));
        for (id, peer) in config.peers.iter().filter(|(id, _)| **id != config.member) {
            links.to(*id, &peer.addr);
        }

        let (applied_tx, applied) = watch::channel(0);
        let applier = Applier::new(
            machine.clone(),
            applied_tx,
            restored,
            persisted.clone(),
            pins.clone(),
            store.clone(),
        );
        let mut settings = settings;
        settings.enable_elect = vote_guard.until.is_none();
        let raft = Raft::<E>::new(
            config.member.0,
            Arc::new(settings),
            Factory(links.clone(), cut.clone()),
            store.clone(),
            applier,
        )
        .await
        .map_err(|e| log(&e))?;
        pins.open();

        let heard = Arc::new(Heard::new(timing.election));
        let (changes, _) = watch::channel(View::default());
        let (failure, _) = watch::channel(None);
        let inner = Arc::new(Inner {
            me: config.member,
            timing,
            metrics: raft.metrics(),
            raft: raft.clone(),
            wal,
            failed_log,
            applied,
            links,
            addresses: config.addresses.clone(),
            address_of: config.address_of,
            heard: heard.clone(),
            guard: vote_guard,
            admission: Admission::new(match config.guards.admission {
                true => limits::UNCOMMITTED_BYTES_MAX,
                false => usize::MAX,
            }),
            directories: directories.clone(),
            given_away: AtomicU64::new(0),
            guards: config.guards,
            persisted,
            persisted_upto: watch::channel(None).0,
            changes,
            failure,
            stopping: AtomicBool::new(false),
            tasks: tasks.clone(),
        });

        tracing::info!(addr = listener.local_addr(), "listening for peers");
        let served = Arc::new(Served {
            me: identity,
            machine: machine.clone(),
            raft: raft.clone(),
            guard: vote_guard,
            directories: directories.clone(),
            links: inner.links.clone(),
            heard,
            lease: timing.lease,
            forwarded,
            complaints: serve::Complaints::default(),
            seats: Seats::default(),
            receiving: Receiving::new(machine.clone(), config.images),
            pins: pins.clone(),
            log: store.clone(),
        });
        tasks.spawn(
            "peer listener",
            serve::accept(listener, served, tasks.clone()),
        );
        if let Some(until) = vote_guard.until {
            let raft = raft.clone();
            tasks.spawn("vote guard", async move {
                E::sleep_until(until).await;
                raft.runtime_config().elect(true);
            });
        }
        let purger = Purger {
            raft,
            log: store,
            pins,
            machine,
            rules: config.images,
            cut,
            persisted: inner.persisted_upto.subscribe(),
        };
        tasks.spawn("log purge", purger.run());
        tasks.spawn("leadership", inner.clone().watch_leadership());
        tasks.spawn("membership", inner.clone().follow_membership());
        tasks.spawn("without leader", inner.clone().ask_without_leader());
        tasks.spawn("wal failure", inner.clone().watch_wal());
        if config.guards.hung_disk {
            tasks.spawn("disk", inner.clone().watch_disk());
        }
        tasks.spawn("wiped", inner.clone().watch_directory(directories));
        if new && config.founds {
            inner.initialize(&config).await?;
        }
        Ok(inner)
    }

    /// The first membership of a static cluster. Every member would write the same entry at index 1; the one with the
    /// smallest id does it at once, and the others only if they hear nothing, so that they do not split the first vote.
    async fn initialize(self: &Arc<Self>, config: &Config) -> Result<(), StartError> {
        let members: BTreeMap<u64, Peer> = config
            .peers
            .iter()
            .map(|(id, peer)| (id.0, peer.clone()))
            .collect();
        let rank = members.keys().take_while(|id| **id != self.me.0).count();
        let raft = self.raft.clone();
        let initialize = async move {
            match raft.initialize(members).await {
                // A leader was faster: the entry is already here.
                Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
                Err(e) => Err(other(e)),
            }
        };
        if rank == 0 {
            return initialize.await;
        }
        let rank = u32::try_from(rank).unwrap_or(u32::MAX);
        let wait = self.timing.election + self.timing.lease * rank;
        self.tasks.spawn("initialize", async move {
            E::sleep(wait).await;
            if let Err(e) = initialize.await {
                tracing::error!("cannot initialize the cluster: {e}");
            }
        });
        Ok(())
    }

    // ---- proposals

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

    // ---- the view

    fn leads_until(&self, metrics: &RaftMetrics<Types<E>>, now: Instant) -> Option<Instant> {
        // openraft keeps the lease of a leader that is handing over; its voters no longer do.
        if self.given_away.load(Ordering::Acquire) == metrics.current_term
            && metrics.current_term != 0
        {
            return None;
        }
        guard::leads_until::<E>(metrics, &self.timing, now)
    }

    fn leader(
        &self,
        metrics: &RaftMetrics<Types<E>>,
        leads_until: Option<Instant>,
        now: Instant,
    ) -> Option<MemberId> {
        let leader = metrics.current_leader?;
        // openraft names the last leader for ever; etcd's members name none once they have lost it.
        let lost = |since: Instant| now.saturating_since(since) > self.timing.election;
        if leader == self.me.0 {
            let acked = metrics.last_quorum_acked.as_ref().map(|t| t.into_inner().0);
            let gone = leads_until.is_none() && acked.is_some_and(lost);
            (metrics.state == ServerState::Leader && !gone).then_some(self.me)
        } else {
            (!self.heard.is_lost(now)).then_some(MemberId(leader))
        }
    }

    pub fn view(&self) -> View {
        let now = E::now();
        let metrics = self.metrics.borrow_watched();
        let leads_until = self.leads_until(&metrics, now);
        View {
            leader: self.leader(&metrics, leads_until, now),
            term: metrics.current_term,
            last_log: metrics.last_log_index.map_or(0, outer),
            committed: outer_of(metrics.local_committed.as_ref()),
            applied: self.applied.get(),
            leads_until,
        }
    }

    pub fn changes(&self) -> watch::Receiver<View> {
        self.changes.subscribe()
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

    /// Tells `changes` what is new, until Raft stops; a stop nobody asked for is a failure.
    async fn watch_leadership(self: Arc<Self>) {
        let mut server = self.raft.server_metrics();
        // A lease begins and ends without a change of state; between, it is only prolonged.
        let idle = self.timing.heartbeat / 2;
        let eager = (self.timing.heartbeat / 16).max(Duration::from_millis(1));
        loop {
            let view = self.view();
            let leading = |v: &View| (v.leader, v.term, v.leads_until.is_some());
            self.changes.send_if_modified(|old| {
                let new = leading(old) != leading(&view);
                *old = view;
                new
            });
            let elected = view.leader == Some(self.me) && view.leads_until.is_none();
            let pause = E::sleep(if elected { eager } else { idle });
            let changed = Box::pin(server.changed());
            // A new leader's first append is heard only once it is answered, and Raft tells of the leader before that.
            let heard = Box::pin(self.heard.again());
            let other = select(pause, heard);
            if let Either::Left((Err(_), _)) = select(changed, other).await {
                break;
            }
        }
        if !self.stopping() {
            let cause = match self.raft.with_raft_state(|_| ()).await {
                Ok(()) => "Raft stopped".to_string(),
                Err(fatal) => format!("Raft stopped: {fatal}"),
            };
            self.fail(cause);
        }
    }

    /// Guard 5. Raft ends here and not when the process does: until then it would still count as a voter.
    async fn watch_directory(self: Arc<Self>, directories: Arc<Directories>) {
        directories.wiped().await;
        self.fail(directories::wiped(self.me));
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

    // ---- stop

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

/// What is left of a deadline, as it travels; `None` when nothing is.
pub fn left_ms(deadline: Instant, now: Instant) -> Option<u64> {
    let left = deadline.saturating_since(now);
    (left > Duration::ZERO).then(|| u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1))
}

/// A read index of this member, which must lead. Concurrent calls share openraft's heartbeat rounds.
pub async fn leader_read_index<E: Env>(
    raft: &Raft<E>,
    wait: Duration,
) -> Result<LogIndex, ProposeError> {
    let option = LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(wait);
    match raft.get_read_log_id(option).await {
        Ok((read, _)) => Ok(log_index(read.log_id())),
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
            Err(ProposeError::NotLeader {
                leader: to.leader_id.map(MemberId),
            })
        }
        Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
            Err(ProposeError::NotLeader { leader: None })
        }
        Err(RaftError::Fatal(_)) => Err(ProposeError::Stopped),
    }
}
