//! The whole replicated state, and every way to read it. [`State::apply`] (in `apply`) is the only way to change it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::alarms::Alarms;
use crate::archive::ReadError;
use crate::cluster::Cluster;
use crate::lease::Lessor;
use crate::mvcc::{self, AtOnce, Changes, HashKv, HashRun, Outline, RangeRun, Store};
use crate::version::ClusterVersion;
use crate::{check, command::*, digest, types::*};

pub struct State {
    pub(crate) applied: LogIndex,
    pub(crate) time: ClusterTime,
    pub(crate) store: Store,
    pub(crate) lessor: Lessor,
    pub(crate) published: BTreeMap<MemberId, PublishedMember>,
    /// Published since the last batch was begun.
    pub(crate) dirty_members: BTreeSet<MemberId>,
    pub(crate) cluster: Cluster,
    /// Changed since the last batch was begun.
    pub(crate) dirty_cluster: bool,
    pub(crate) alarms: Alarms,
    pub(crate) version: ClusterVersion,
}

/// What one entry did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// One per command, in order.
    pub outcomes: Vec<Outcome>,
    /// Each revision that changed something, in order.
    pub events: Vec<RevisionEvents>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    pub granted_ttl_s: u64,
    pub deadline: ClusterTime,
    /// Sorted.
    pub keys: Vec<Bytes>,
}

impl Default for State {
    fn default() -> Self {
        State::new()
    }
}

impl State {
    /// An empty store, at revision 1.
    pub fn new() -> Self {
        State {
            applied: LogIndex(0),
            time: ClusterTime(0),
            store: Store::new(),
            lessor: Lessor::default(),
            published: BTreeMap::new(),
            dirty_members: BTreeSet::new(),
            cluster: Cluster::default(),
            dirty_cluster: false,
            alarms: Alarms::default(),
            version: ClusterVersion::default(),
        }
    }

    /// What is to be refused before it is proposed.
    pub fn check(command: &Command) -> Result<(), Refusal> {
        check::command(command)
    }
    pub fn check_range(range: &Range) -> Result<(), Refusal> {
        check::range(range)
    }
    pub fn check_txn(txn: &Txn) -> Result<(), Refusal> {
        check::txn(txn)
    }

    /// Index of the last entry applied or skipped.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }
    pub fn revision(&self) -> Revision {
        self.store.revision()
    }
    /// 0 until the first compaction.
    pub fn compact_revision(&self) -> Revision {
        self.store.compacted().unwrap_or_default()
    }
    /// Whether a compaction still has versions to take away: some go with every entry.
    pub fn is_sweeping(&self) -> bool {
        self.store.is_sweeping()
    }
    /// The stamp of the newest entry.
    pub fn time(&self) -> ClusterTime {
        self.time
    }

    pub fn range(&self, range: &Range) -> Result<RangeResult, ReadError> {
        check::range(range)?;
        self.store.range(range, self.store.revision())
    }
    /// As [`State::range`], but only so much at once: [`Outline::read`] reads the rest of the rows. `None`: it is for
    /// [`State::range_begin`].
    pub fn outline(&self, range: &Range, at_once: AtOnce) -> Result<Option<Outline>, ReadError> {
        check::range(range)?;
        self.store.outline(range, self.store.revision(), at_once)
    }
    /// The same in pieces: begun here, gone on with by [`State::range_on`] until it has looked at every key, and by
    /// [`RangeRun::read_on`] until it gives the answer.
    pub fn range_begin(&self, range: &Range) -> Result<RangeRun, ReadError> {
        check::range(range)?;
        Ok(self.store.range_begin(range)?)
    }
    /// True: every key was looked at. What is written between two calls is beyond the revision; a compaction of it begins anew, or
    /// is refused where the revision was asked for.
    pub fn range_on(&self, run: &mut RangeRun, keys: usize) -> Result<bool, ReadError> {
        Ok(self.store.range_on(run, keys)?)
    }
    /// Answers a transaction that [`Txn::is_read_only`]; panics on another.
    pub fn read_txn(&self, txn: &Txn) -> Result<TxnResult, ReadError> {
        mvcc::read_txn(&self.store, txn)
    }
    /// etcd's HashKV, of the newest revision or of the one asked for. Reads every row.
    pub fn hash_kv(&self, at: Option<Revision>) -> Result<HashKv, ReadError> {
        self.store.hash_kv(at)
    }
    /// The same in pieces: begun here, gone on with by [`State::hash_on`] until it gives the hash.
    pub fn hash_begin(&self, at: Option<Revision>) -> Result<HashRun, Refusal> {
        self.store.hash_begin(at)
    }
    pub fn hash_on(&self, run: &mut HashRun, rows: usize) -> Result<Option<HashKv>, ReadError> {
        self.store.hash_on(run, rows)
    }
    /// The events in `range` from revision `from` on. Looks at about `max_revisions` revisions at most, whole ones always;
    /// `next` says where to go on, and is beyond [`State::revision`] at the end. A `from` below the compaction is refused.
    pub fn changes(
        &self,
        range: &KeyRange,
        from: Revision,
        max_revisions: usize,
    ) -> Result<Changes, ReadError> {
        self.store.changes(range, from, max_revisions)
    }

    pub fn lease(&self, id: LeaseId) -> Option<LeaseView> {
        self.lessor.get(id).map(|lease| LeaseView {
            granted_ttl_s: lease.ttl_s,
            deadline: lease.deadline,
            keys: lease.keys.iter().cloned().collect(),
        })
    }
    /// The soonest to end first.
    pub fn leases(&self) -> Vec<LeaseId> {
        self.lessor.ids()
    }
    /// The first `limit` leases due at `now`, with the deadlines seen, soonest first. The leader proposes their expiry.
    pub fn due(&self, now: ClusterTime, limit: usize) -> Vec<(LeaseId, ClusterTime)> {
        self.lessor.due(now, limit)
    }
    pub fn next_deadline(&self) -> Option<ClusterTime> {
        self.lessor.next_deadline()
    }

    /// What each member has told of itself.
    pub fn published(&self) -> &BTreeMap<MemberId, PublishedMember> {
        &self.published
    }

    /// Who is to be in the cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }
    /// The members as clients are told of them, by id.
    pub fn members(&self) -> Vec<MemberInfo> {
        self.cluster.list(&self.published)
    }

    /// Keys that are alive.
    pub fn keys(&self) -> u64 {
        self.store.alive_keys()
    }
    /// The alarms that are up, and with them what is refused.
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// What every member is able to do; `None` until it was decided.
    pub fn cluster_version(&self) -> Option<ClusterVersion> {
        (self.version != ClusterVersion::default()).then_some(self.version)
    }

    /// Bytes of all rows held (history that is not compacted included), with etcd's overhead per row.
    pub fn live_bytes(&self) -> u64 {
        self.store.bytes()
    }
    /// Equal on members that hold the same rows, leases, revision, compaction, time, members, alarms and cluster version.
    /// Costs next to nothing: rows and leases are summed up with every change.
    /// What a later version adds to it counts only once there is something: the hashes of older members, and those in older
    /// data directories, stay comparable.
    pub fn whole_hash(&self) -> u64 {
        let mut members = Vec::new();
        for (id, member) in &self.published {
            members.extend([id.0, member.incarnation]);
            for text in std::iter::once(&member.name).chain(&member.client_urls) {
                members.push(digest::text(text));
            }
        }
        let mut whole = vec![
            self.store.digest(),
            self.lessor.digest(),
            self.time.0,
            digest::words(&members),
            self.alarms.digest(),
        ];
        if self.cluster != Cluster::default() {
            whole.push(self.cluster.digest());
        }
        if let Some(version) = self.cluster_version() {
            whole.extend([u64::from(version.major), u64::from(version.minor)]);
        }
        digest::words(&whole)
    }
}
