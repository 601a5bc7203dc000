//! The closed list of commands and their answers. An entry of the Raft log carries one [`Entry`]: the leader's
//! cluster time and the commands of many clients, applied in order. `wire.rs` encodes it (protobuf inside a
//! `{format, min_reader}` header).

use std::collections::BTreeSet;

use crate::alarms::{Alarm, AlarmCause, AlarmKind};
use crate::read_since::TooOld;
use crate::types::*;
use crate::version::ClusterVersion;
use bytes::Bytes;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    #[default]
    Key,
    Version,
    Create,
    Mod,
    Value,
}
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    #[default]
    None,
    Ascend,
    Descend,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    pub range: KeyRange,
    /// 0: no limit.
    pub limit: u64,
    /// `None`: the newest. In a transaction a client's negative number stands here as it came (two's complement): it means
    /// the newest too, but may be refused as compacted.
    pub revision: Option<Revision>,
    pub sort_target: SortTarget,
    pub sort_order: SortOrder,
    pub keys_only: bool,
    pub count_only: bool,
    /// 0: no bound (etcd's rule for all four).
    pub min_mod_revision: u64,
    pub max_mod_revision: u64,
    pub min_create_revision: u64,
    pub max_create_revision: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    pub key: Bytes,
    pub value: Bytes,
    pub lease: LeaseId,
    pub prev_kv: bool,
    pub ignore_value: bool,
    pub ignore_lease: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteRange {
    pub range: KeyRange,
    pub prev_kv: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareResult {
    Equal,
    Greater,
    Less,
    NotEqual,
    /// A value this binary does not know: always true, as in etcd.
    Unknown,
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    Version(i64),
    Create(i64),
    Mod(i64),
    Value(Bytes),
    Lease(i64),
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    pub range: KeyRange,
    pub result: CompareResult,
    pub target: CompareTarget,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOp {
    Range(Range),
    Put(Put),
    DeleteRange(DeleteRange),
    Txn(Txn),
}
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub success: Vec<TxnOp>,
    pub failure: Vec<TxnOp>,
}

/// One thing a client (or the leader on its own account) wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Put(Put),
    DeleteRange(DeleteRange),
    Txn(Txn),
    Compact {
        revision: Revision,
    },
    /// `id` is never 0 here: the server has chosen one.
    LeaseGrant {
        id: LeaseId,
        ttl_s: u64,
    },
    LeaseRevoke {
        id: LeaseId,
    },
    /// Coalesced renewals; answers one remaining TTL per id, in order.
    LeaseKeepAlive {
        ids: Vec<LeaseId>,
    },
    /// The leader found the lease due. Loses to any renewal that moved its deadline past `deadline_seen`.
    LeaseExpire {
        id: LeaseId,
        deadline_seen: ClusterTime,
    },
    /// A member tells its name and client URLs; kept in the replicated state and given by `State::published() ->
    /// &BTreeMap<MemberId, PublishedMember>`. Changes no revision.
    MemberPublish {
        member: MemberId,
        name: String,
        client_urls: Vec<String>,
        /// Of its data directory; 0 when it is not told. The first one told stands: a later publish with another one
        /// changes nothing.
        incarnation: u64,
    },
    /// Answers with all members as they then are.
    Members(MemberChange),
    /// Answers with the alarm as it then stands, also when it was up already (as etcd).
    AlarmRaise(Alarm),
    /// Answers with the alarm when one was taken back. `only`: not unless it was raised for that reason.
    AlarmClear {
        kind: AlarmKind,
        member: MemberId,
        only: Option<AlarmCause>,
    },
    /// Changes nothing. The members' whole states are compared as they are after the entry that carries it.
    IntegrityMark,
    /// Every member can work in this version. Answers with the version as it then stands: it is never lowered.
    ClusterVersionSet(ClusterVersion),
}

/// A change of who is to be in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// The members a new cluster begins with. Changes nothing when there are any.
    Found {
        members: Vec<MemberInfo>,
    },
    /// The id is new: the server has derived it from the URLs and the time, as etcd.
    Add {
        id: MemberId,
        peer_urls: Vec<String>,
        learner: bool,
    },
    Remove {
        id: MemberId,
    },
    Update {
        id: MemberId,
        peer_urls: Vec<String>,
    },
    /// Makes a learner a voter.
    Promote {
        id: MemberId,
    },
    /// The cluster has lost its majority for good and goes on as this one member, a voter (etcd's `--force-new-cluster`). Never
    /// proposed: the member writes it into its own log before it runs.
    Only {
        id: MemberId,
        /// Where the member does not stand among those that are wanted.
        peer_urls: Vec<String>,
        /// Raft's members that go; so do all that are wanted.
        others: BTreeSet<MemberId>,
    },
}

/// A member as clients are told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberInfo {
    pub id: MemberId,
    /// Empty until the member was started.
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    pub learner: bool,
}

/// What one Raft entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Stamped by the leader, never before the last applied stamp.
    pub time: ClusterTime,
    pub commands: Vec<Command>,
    /// Who asked for which of them. Says nothing about what they do, and changes no state: members remember it for a while,
    /// so that a command that is sent again is found (`store/node`). Commands of no origin are possible.
    pub origins: Vec<Origin>,
}

/// A run of an entry's commands that came through one member, and the numbers that member gave them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Place of the run's first command in the entry.
    pub at: u32,
    pub count: u32,
    pub member: MemberId,
    /// Drawn at each start of that member's process: numbers of different starts have nothing in common.
    pub boot: u64,
    /// Number of the first command; the others follow it by one each.
    pub first: u64,
    /// The member asks for no number below this one any more.
    pub open: u64,
}

impl Origin {
    /// The number after the run's last.
    pub fn end(&self) -> u64 {
        self.first.saturating_add(u64::from(self.count))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResult {
    pub kvs: Vec<std::sync::Arc<KeyValue>>,
    pub more: bool,
    /// All keys in range at the revision, ignoring limit and filters.
    pub count: u64,
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    Range(RangeResult),
    Put {
        prev: Option<std::sync::Arc<KeyValue>>,
    },
    DeleteRange {
        deleted: u64,
        prev: Vec<std::sync::Arc<KeyValue>>,
    },
    Txn(TxnResult),
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnResult {
    pub succeeded: bool,
    pub results: Vec<OpResult>,
    /// The revision an etcd nested response header carries.
    pub revision: Revision,
}

/// The answer to one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Put {
        prev: Option<std::sync::Arc<KeyValue>>,
    },
    DeleteRange {
        deleted: u64,
        prev: Vec<std::sync::Arc<KeyValue>>,
    },
    Txn(TxnResult),
    Compacted,
    LeaseGranted {
        id: LeaseId,
        ttl_s: u64,
    },
    LeaseRevoked,
    /// `None` where the lease does not exist (any more).
    LeaseRenewed {
        ttls_s: Vec<Option<u64>>,
    },
    LeaseExpired {
        removed: bool,
    },
    Published,
    /// All members after the change.
    Members(Vec<MemberInfo>),
    /// The alarms that were touched, as they stand or stood.
    Alarms(Vec<Alarm>),
    Marked,
    ClusterVersion(ClusterVersion),
}

/// What applying one command gave: the store's revision after it (the response header's), and the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub revision: Revision,
    pub result: Result<Answer, Refusal>,
}

/// Answers every member derives alike from the same entry or read. Safe to send to the client; the texts are etcd's,
/// because clients match them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    #[error("etcdserver: key not found")]
    KeyNotFound,
    #[error("etcdserver: value is provided")]
    ValueProvided,
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    #[error("etcdserver: member not found")]
    MemberNotFound,
    #[error("etcdserver: member ID already exist")]
    MemberExists,
    #[error("etcdserver: Peer URLs already exists")]
    PeerUrlsExist,
    #[error("etcdserver: can only promote a learner member")]
    NotLearner,
    #[error("etcdserver: can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    #[error("etcdserver: too many learner members in cluster")]
    TooManyLearners,
    #[error("etcdserver: re-configuration failed due to not enough started members")]
    NotEnoughStarted,
    #[error("etcdserver: unhealthy cluster")]
    Unhealthy,
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// The leader does not propose what a member's program cannot read. (Never in an outcome of the log.)
    #[error("etcdserver: {0}")]
    TooOld(TooOld),
    /// An alarm says that the members' data differ.
    #[error("etcdserver: corrupt cluster")]
    Corrupt,
    /// This member is fenced and about to end; other members go on. (Never in an outcome of the log.)
    #[error("etcdserver: server stopped")]
    Stopped,
}

/// What a member has told of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishedMember {
    pub name: String,
    pub client_urls: Vec<String>,
    /// Of the data directory it votes with; 0 when it has not told it.
    pub incarnation: u64,
}
