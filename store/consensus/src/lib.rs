//! The only crate that names openraft: type config, log storage over the wal, peer transport (PROTOCOL.md), and the
//! guards of DECISIONS.md. Promise: what `propose` answered with an outcome is on a majority's disks; `NotLeader` means
//! no log index was ever assigned; `View::leads_until` never overlaps between two members.
//! Not here: what a command means (`store/state`), which commands share an entry and when to try again (`store/node`).
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use barque_store_env::{Env, Instant};
use barque_store_state::{ClusterVersion, Command, Entry, LogIndex, MemberId, MemberInfo, Outcome};
use bytes::Bytes;

mod admission;
mod alone;
mod directories;
mod disk;
mod figures;
mod forward;
mod guard;
mod handover;
mod image;
mod integrity;
mod leaders;
pub mod limits;
mod log_store;
mod machine;
mod member;
mod members;
mod pins;
mod purge;
mod reads;
mod record;
mod refetch;
mod runtime;
mod runtime_watch;
mod tasks;
#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests look at real files and find free ports"
)]
mod tests;
mod transport;
mod types;

pub use forward::{Numbering, Run};
pub use image::{Image, ImageRules, Offer, Piece, Pinned, Staged, Staging, Working};
pub use integrity::{Ability, Fence, HashAt};
pub use members::{ChangeError, Membership, Progress, Step};
pub use refetch::{Refetch, RefetchError};
pub use transport::join::{JoinError, Known};
pub use transport::traffic::PeerTraffic;

/// Asks the member at `addr` (`host:port`) who is in its cluster.
pub async fn ask_members<E: Env>(
    net: &E::Net,
    addr: &str,
    timeout: Duration,
) -> Result<Known, JoinError> {
    transport::join::ask::<E>(net, addr, timeout).await
}

/// Takes a whole state from another member while this one does not run; what is to be installed. Tries until there is one: nobody
/// may be there now. See [`Refetch`].
pub async fn refetch<E: Env>(
    config: &Refetch,
    disk: E::Disk,
    net: &E::Net,
    stage: &(dyn Fn(Offer) -> Working<'static, Box<dyn Staging>> + Send + Sync),
) -> Result<Box<dyn Staged>, RefetchError> {
    refetch::run::<E>(config, disk, net, stage).await
}

/// Which of the safety guards are on. All are, except in the simulator's runs that prove what each is for
/// (`tests/sim/GUARDS.md`): no flag and no file switches one off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guards {
    /// Guard 1: a restarted leader does not resume its term.
    pub no_leader_restore: bool,
    /// Guard 2: after a start, 1.2 x lease without granting a vote or campaigning.
    pub vote_after_lease: bool,
    /// Guard 3: whoever lost its leader asks whether it could win before it raises the term.
    pub pre_vote: bool,
    /// Guard 3: a leader that no quorum answers looks for another one.
    pub quorum_loss_probe: bool,
    /// Guard 4: leadership is the quorum's acknowledgement and not the server's state.
    pub leads_by_acks: bool,
    /// Guard 4: openraft never takes an answer for that to a later request.
    pub answers_in_order: bool,
    /// Guard 5: a member whose data directory is not the one the cluster knows is not talked to.
    pub identity: bool,
    /// Guard 6: a request is taken before its connection can fail, because openraft sleeps its backoff there.
    pub input_first: bool,
    /// Guard 6: what sends requests ends with what reads their answers, and takes nothing more from openraft.
    pub pump_tied: bool,
    /// Guard 6: a read of entries that were purged is empty and no error, which would end the leader.
    pub purged_reads_empty: bool,
    /// Guard 7: a change of the voters that its leader left half-way is ended by the next one.
    pub flatten: bool,
    /// Guard 7: a learner votes only once it has caught up.
    pub caught_up: bool,
    /// Guard 8: what is proposed and not answered is bounded in bytes.
    pub admission: bool,
    /// Guard 8: entries are sent in chunks that a frame holds.
    pub small_chunks: bool,
    /// Guard 8: a leader whose disk hangs hands leadership over, and ends.
    pub hung_disk: bool,
    /// Guard 10: nothing is persisted before this member's own log has it on disk.
    pub log_before_rows: bool,
    /// Guard 10: a state is installed when everything the log did before is on disk.
    pub install_barrier: bool,
    /// Guard 11: the state that is being sent stays the same, and the log behind it stays, until it was sent.
    pub image_pinned: bool,
    /// Guard 11: a transfer of a state goes on where it was.
    pub image_resumed: bool,
    /// Guard 11: a follower that is too slow for the log is cut off, and sent the state.
    pub slow_cut: bool,
    /// Guard 12: a voter is removed only when the others can do without it.
    pub live_majority: bool,
    /// Guard 12: leadership is given only to a voter that was heard from within a heartbeat.
    pub heard_successor: bool,
    /// Guard 13: a command that is sent again is looked up before it is proposed.
    pub resend_once: bool,
    /// Guard 13: a command is proposed only in the term it was sent in.
    pub own_term: bool,
}
impl Default for Guards {
    fn default() -> Self {
        Guards {
            no_leader_restore: true,
            vote_after_lease: true,
            pre_vote: true,
            quorum_loss_probe: true,
            leads_by_acks: true,
            answers_in_order: true,
            identity: true,
            input_first: true,
            pump_tied: true,
            purged_reads_empty: true,
            flatten: true,
            caught_up: true,
            admission: true,
            small_chunks: true,
            hung_disk: true,
            log_before_rows: true,
            install_barrier: true,
            image_pinned: true,
            image_resumed: true,
            slow_cut: true,
            live_majority: true,
            heard_successor: true,
            resend_once: true,
            own_term: true,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// `host:port`.
    pub addr: String,
}

#[derive(Clone, Debug)]
pub struct Config {
    pub member: MemberId,
    pub cluster_id: u64,
    /// Of the data directory: drawn when it was made, the same for as long as it is there. Never 0.
    pub incarnation: u64,
    /// Directory of the log; created when missing.
    pub dir: PathBuf,
    pub listen: String,
    /// Where the members are, as far as is known at the start: the first voters of a new cluster (this one included), or
    /// those that a joining or restarted member knows.
    pub peers: BTreeMap<MemberId, Peer>,
    /// `host:port` where members may be, whoever they are now. Asked while neither `peers` nor a membership names anybody.
    pub addresses: BTreeSet<String>,
    /// `host:port` of a member with these peer URLs.
    pub address_of: fn(&[String]) -> Option<String>,
    /// What is to be done when the cluster knows this member with another directory.
    pub if_wiped: String,
    /// The cluster's majority is lost for good: this member goes on as its only one, with these peer URLs where the cluster does not
    /// know it (`alone`).
    pub alone: Option<Vec<String>>,
    /// With an empty log, `peers` found the cluster. False: the cluster is there, and its leader will tell this member.
    pub founds: bool,
    pub heartbeat: Duration,
    pub election: Duration,
    pub guards: Guards,
    /// The newest cluster version this program says it can work in.
    pub newest: ClusterVersion,
    pub log: barque_store_wal::Options,
    /// Up to where the machine's state was restored from disk; `None`: it is empty, and the log is carried out from its
    /// beginning.
    pub restored: Option<Mark>,
    /// That state is another member's, as it was installed, and nothing was carried out on top of it: the log may end before
    /// it.
    pub installed: bool,
    pub images: ImageRules,
}

/// How far a state goes in the log: what Raft needs to know to go on behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub index: LogIndex,
    pub term: u64,
    /// The membership in force there, as [`Machine::membership`] was told it; empty when it never was.
    pub membership: Bytes,
}

/// What consensus drives. Called on one task, in log order.
pub trait Machine: Send + Sync + 'static {
    /// Applies the committed entry at `index`; one outcome per command. Membership and empty entries come as `None`.
    /// An error says why this member's state can no longer be trusted; it stops the member.
    fn apply(
        &self,
        index: LogIndex,
        term: u64,
        entry: Option<&Entry>,
    ) -> Result<Vec<Outcome>, String>;
    /// The entry applied next brings this membership in; to be kept for the [`Mark`] and given back unread.
    fn membership(&self, _membership: Bytes) {}
    /// Whether so much of the state waits to be persisted that applying has to wait too.
    fn is_busy(&self) -> bool {
        false
    }
    /// The incarnation each member is known to vote with, as far as it has been applied here. Asked at each handshake,
    /// on other tasks than `apply`.
    fn incarnations(&self) -> BTreeMap<MemberId, u64> {
        BTreeMap::new()
    }
    /// Whether the member was removed from the cluster, as far as that has been applied here. Asked at each handshake.
    fn is_removed(&self, _member: MemberId) -> bool {
        false
    }
    /// The members that are wanted, for somebody who is to join.
    fn members(&self) -> Vec<MemberInfo> {
        Vec::new()
    }
    /// Pins the persisted state, to be sent to another member; `None`: nothing was persisted yet.
    fn pin(&self) -> Result<Option<Pinned>, String> {
        Ok(None)
    }
    /// Begins to receive a state, or goes on with the one that was begun for an equal offer. At most one at a time.
    fn stage(&self, _offer: Offer) -> Working<'static, Box<dyn Staging>> {
        Box::pin(async { Err("this member takes no states of others".to_owned()) })
    }
    /// Bytes of the live state: how much log is worth keeping.
    fn live_bytes(&self) -> u64 {
        0
    }
    /// A pinned state turned out to be damaged: the member must stop.
    fn damaged(&self, _reason: &str) {}
    /// The hash of the whole state at an entry, where one was kept. Asked by peers, on other tasks than `apply`.
    fn hash_at(&self, _index: LogIndex) -> HashAt {
        HashAt::Forgotten
    }
    /// A peer says that this member's state is not what a majority has. True: it is as the peer says, and this member
    /// serves nothing from now on.
    fn fence(&self, _fence: Fence) -> bool {
        false
    }
    /// The leader sends entries that this member's program cannot read: it must stop, and be upgraded.
    fn unfit(&self, _reason: &str) {}
}

/// What became of each forwarded command, in order.
pub type Forwarding = Pin<Box<dyn Future<Output = Vec<Result<Outcome, ProposeError>>> + Send>>;

/// Takes commands that a follower forwarded to this member; answers each in order.
pub trait Forwarded: Send + Sync + 'static {
    /// `numbering` covers all commands, in order; without one, they are of a member whose program does not number them.
    fn propose(
        &self,
        commands: Vec<Command>,
        numbering: Option<Numbering>,
        deadline: Instant,
    ) -> Forwarding;
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Not proposed anywhere: this member does not lead (the hint may help). Safe to try again.
    #[error("not the leader")]
    NotLeader { leader: Option<MemberId> },
    /// A log id may have been assigned; whether it is carried out is not known. Only a command with a number may be tried
    /// again, under that number.
    #[error("the outcome is not known")]
    Unknown,
    /// The same, and nobody can tell any more: never try again.
    #[error("the outcome is not known any more")]
    Forgotten,
    /// Not proposed: the deadline passed first.
    #[error("deadline passed")]
    Timeout,
    /// Not proposed: too much is waiting.
    #[error("too many requests")]
    Busy,
    #[error("stopped")]
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    #[error("not the leader")]
    NotLeader,
    /// No voter, or not heard from within a heartbeat. Nothing was begun.
    #[error("no voter that could take leadership now")]
    NotReady,
    /// Begun, and not done in time.
    #[error("leadership was not taken in time")]
    Timeout,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen for peers on {addr}: {cause}")]
    Listen { addr: String, cause: std::io::Error },
    #[error("log: {0}")]
    Log(String),
    /// Why it does not go on as the only member of its cluster ([`Config::alone`]). Nothing was changed.
    #[error("{0}")]
    Alone(String),
    /// The restored state lacks entries that the log has given up: it has lost something, or is an old one.
    #[error("{0}")]
    Behind(String),
    #[error("{0}")]
    Other(String),
}

/// What this member knows of leadership and progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub leader: Option<MemberId>,
    pub term: u64,
    pub last_log: u64,
    pub committed: u64,
    pub applied: u64,
    /// Guard 4: until when this member may act as the leader; `None` when it is not leading.
    pub leads_until: Option<Instant>,
}

/// Handle of a running Raft member. Cheap to clone. Dropping it does not stop the member: [`Consensus::shutdown`] does.
pub struct Consensus<E: Env> {
    inner: Arc<member::Inner<E>>,
}
impl<E: Env> Clone for Consensus<E> {
    fn clone(&self) -> Self {
        Consensus {
            inner: self.inner.clone(),
        }
    }
}

impl<E: Env> Consensus<E> {
    /// Recovers the log, applies what is known to be committed, listens, and starts Raft; a new directory initializes the static cluster.
    pub async fn start(
        config: Config,
        disk: E::Disk,
        net: E::Net,
        machine: Arc<dyn Machine>,
        forwarded: Arc<dyn Forwarded>,
    ) -> Result<Self, StartError> {
        let inner = member::Inner::start(config, disk, net, machine, forwarded).await?;
        Ok(Consensus { inner })
    }
    /// Proposes one entry on this member, which must lead. Many may be in flight; they commit in the order of the calls' first poll.
    pub async fn propose(&self, entry: Entry) -> Result<Vec<Outcome>, ProposeError> {
        self.inner.propose(entry, None).await
    }
    /// The same, but only in this term (guard 13): in any other it is answered with `NotLeader`.
    pub async fn propose_in(&self, term: u64, entry: Entry) -> Result<Vec<Outcome>, ProposeError> {
        self.inner.propose(entry, Some(term)).await
    }
    /// Sends commands to `leader` over the peer transport; it answers through its `Forwarded`. Where they have numbers (which
    /// then cover all of them, in order), `Unknown` says that a command may be sent again.
    pub async fn forward(
        &self,
        leader: MemberId,
        commands: Vec<Command>,
        numbering: Option<Numbering>,
        deadline: Instant,
    ) -> Vec<Result<Outcome, ProposeError>> {
        self.inner
            .forward(leader, commands, numbering, deadline)
            .await
    }
    /// Whether no other member is in the newest membership.
    pub fn is_alone(&self) -> bool {
        self.inner.is_alone()
    }
    /// A read index (on the leader, or asked of it), waited for until applied here. Concurrent calls share rounds.
    pub async fn read_index(&self, deadline: Instant) -> Result<LogIndex, ProposeError> {
        self.inner.read_index(deadline).await
    }
    /// The current view, computed at the call.
    pub fn view(&self) -> View {
        self.inner.view()
    }
    /// How long a follower waits for a leader it has heard from.
    pub fn lease(&self) -> Duration {
        self.inner.timing.lease
    }
    /// Woken at each change of leader, term or leadership.
    pub fn changes(&self) -> barque_store_env::watch::Receiver<View> {
        self.inner.changes()
    }
    pub fn guards(&self) -> Guards {
        self.inner.guards
    }
    /// Whether the vote guard of a restarted member is still on (guard 2). A member is ready for the next one's restart
    /// only when it is off.
    pub fn guarded(&self) -> bool {
        self.inner.guarded()
    }
    /// The newest membership in this member's log.
    pub fn membership(&self) -> Membership {
        self.inner.membership()
    }
    /// How far another member is; `None` unless this one leads and replicates to it.
    pub fn progress(&self, of: MemberId) -> Option<Progress> {
        self.inner.progress(of)
    }
    /// Changes the membership that `at` names ([`Membership::at`]) by one step, and waits until it is committed.
    pub async fn change(
        &self,
        step: Step,
        at: (u64, u64),
        wait: Duration,
    ) -> Result<(), ChangeError> {
        self.inner.change(step, at, wait).await
    }
    /// Waits until everything that was appended to the log so far is durable (guard 10: nothing is persisted before it).
    pub async fn log_barrier(&self) -> Result<(), String> {
        self.inner.log_barrier().await
    }
    /// The state is durable up to `mark`: the log up to there is given up, less a reserve for members that are behind.
    pub fn persisted(&self, mark: &Mark) {
        self.inner.persisted(mark);
    }
    /// All other members, and what the program of each is able to do; `None` where it was never reached.
    pub fn abilities(&self) -> BTreeMap<MemberId, Option<Ability>> {
        self.inner.abilities()
    }
    /// Another member's hash of its whole state at an entry; `None` when it does not answer.
    pub async fn ask_hash(
        &self,
        member: MemberId,
        index: LogIndex,
        deadline: Instant,
    ) -> Option<HashAt> {
        self.inner.ask_hash(member, index, deadline).await
    }
    /// Tells another member to fence itself; true when it does.
    pub async fn fence(&self, member: MemberId, fence: Fence, deadline: Instant) -> bool {
        self.inner.fence(member, fence, deadline).await
    }
    /// Bytes of the log on disk.
    pub fn log_bytes(&self) -> u64 {
        self.inner.log_bytes()
    }
    /// Resolves with the reason when the member must stop (disk error, fatal Raft error, a wiped directory).
    pub async fn failed(&self) -> String {
        self.inner.failed().await
    }
    /// Resolves when a peer has said that this member was removed from the cluster.
    pub async fn removed(&self) {
        self.inner.removed().await
    }
    /// Hands leadership to `to`, which must be a voter that was heard from within a heartbeat, and waits for its election.
    pub async fn transfer_to(&self, to: MemberId, deadline: Instant) -> Result<(), TransferError> {
        self.inner.transfer_to(to, deadline).await
    }
    /// Hands leadership to another up-to-date voter heard from within a heartbeat, if this member leads.
    /// A leader that began this never leads again in this process unless it is elected anew.
    pub async fn transfer_away(&self, deadline: Instant) {
        self.inner.transfer_away(deadline).await
    }
    /// Stops Raft, closes the peers' connections and the log. What was proposed and not answered stays unknown.
    pub async fn shutdown(&self) {
        self.inner.shutdown().await
    }
}
