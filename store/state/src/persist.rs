//! What is to be persisted, and the state put together again from it.
//! Promise: a batch carries everything that entries up to its `applied` changed and no earlier batch carried, so that the
//! batches so far are the state at the last one's `applied`; a restored state is that state, or is refused.
//! Not here: where batches go and when (`store/engine`, `store/node`).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::alarms::{Alarm, AlarmCause, AlarmKind, Alarms};
use crate::archive::Archive;
use crate::cluster::{Cluster, WantedMember};
use crate::lease::Lessor;
use crate::mvcc::{Expected, Pass, Rows, Store, Sweep};
use crate::state::State;
use crate::version::ClusterVersion;
use crate::{row, types::*};

const CORE: &str = "state/core";
const LEASE: &str = "state/lease/";
const MEMBER: &str = "state/member/";
const CLUSTER: &str = "state/cluster";

/// One step of the persisted state. Atomic: all of it, or none.
#[derive(Debug)]
pub struct Batch {
    /// The entry up to which it is the state.
    pub applied: LogIndex,
    /// Rows that compaction took away; some were perhaps never given to an engine.
    pub freed: Vec<RowId>,
    /// Named values to set, or to remove.
    pub meta: Vec<(String, Option<Bytes>)>,
    rows: Arc<Rows>,
}

impl Batch {
    /// The new rows, ascending, as they are to be kept.
    pub fn rows(&self) -> impl Iterator<Item = (RowId, Bytes)> {
        self.rows.iter().map(|(id, kv)| (*id, row::encode(kv)))
    }
    pub fn row_count(&self) -> usize {
        self.rows.len()
    }
}

#[derive(Clone, PartialEq, Message)]
struct Core {
    #[prost(uint64, tag = "1")]
    applied: u64,
    #[prost(uint64, tag = "2")]
    time: u64,
    #[prost(uint64, tag = "3")]
    revision: u64,
    #[prost(uint64, optional, tag = "4")]
    compacted: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    sweep_finished: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    pass_upto: Option<u64>,
    #[prost(bytes = "bytes", optional, tag = "7")]
    pass_last: Option<Bytes>,
    #[prost(fixed64, tag = "8")]
    rows_digest: u64,
    #[prost(uint64, tag = "9")]
    rows_bytes: u64,
    #[prost(uint64, tag = "10")]
    last_row_main: u64,
    #[prost(uint32, tag = "11")]
    last_row_sub: u32,
    /// `State::whole_hash`: what the restored state must have.
    #[prost(fixed64, tag = "12")]
    whole_hash: u64,
    #[prost(message, repeated, tag = "13")]
    alarms: Vec<AlarmUp>,
    #[prost(uint32, tag = "40")]
    cluster_major: u32,
    #[prost(uint32, tag = "41")]
    cluster_minor: u32,
}

#[derive(Clone, PartialEq, Message)]
struct AlarmUp {
    /// 1 NOSPACE, 2 CORRUPT.
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(fixed64, tag = "2")]
    member: u64,
    /// 1 operator, 2 quota, 3 disk, 4 fenced, 5 undecided.
    #[prost(uint32, tag = "3")]
    cause: u32,
}

const KINDS: [AlarmKind; 2] = [AlarmKind::NoSpace, AlarmKind::Corrupt];
const CAUSES: [AlarmCause; 5] = [
    AlarmCause::Operator,
    AlarmCause::Quota,
    AlarmCause::Disk,
    AlarmCause::Fenced,
    AlarmCause::Undecided,
];

/// The number of one of `all`, from 1 on.
fn number<T: PartialEq>(all: &[T], one: &T) -> u32 {
    all.iter()
        .zip(1..)
        .find(|(t, _)| *t == one)
        .map_or(0, |(_, n)| n)
}

impl AlarmUp {
    fn of(alarm: &Alarm) -> Self {
        AlarmUp {
            kind: number(&KINDS, &alarm.kind),
            member: alarm.member.0,
            cause: number(&CAUSES, &alarm.cause),
        }
    }
    fn alarm(&self) -> Option<Alarm> {
        let place = |n: u32| usize::try_from(n.checked_sub(1)?).ok();
        Some(Alarm {
            kind: *KINDS.get(place(self.kind)?)?,
            member: MemberId(self.member),
            cause: *CAUSES.get(place(self.cause)?)?,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct Lease {
    #[prost(uint64, tag = "1")]
    ttl_s: u64,
    #[prost(uint64, tag = "2")]
    deadline: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Member {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, repeated, tag = "2")]
    client_urls: Vec<String>,
    #[prost(fixed64, tag = "3")]
    incarnation: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ClusterRecord {
    #[prost(message, repeated, tag = "1")]
    wanted: Vec<WantedRecord>,
    #[prost(fixed64, repeated, tag = "2")]
    removed: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct WantedRecord {
    #[prost(fixed64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, repeated, tag = "3")]
    peer_urls: Vec<String>,
    #[prost(bool, tag = "4")]
    learner: bool,
    #[prost(uint64, tag = "5")]
    added: u64,
}

impl ClusterRecord {
    fn of(cluster: &Cluster) -> Self {
        let wanted = cluster.wanted().iter().map(|(id, member)| WantedRecord {
            id: id.0,
            name: member.name.clone(),
            peer_urls: member.peer_urls.clone(),
            learner: member.learner,
            added: member.added.0,
        });
        ClusterRecord {
            wanted: wanted.collect(),
            removed: cluster.removed().iter().map(|id| id.0).collect(),
        }
    }
    fn cluster(self) -> Cluster {
        let wanted = self.wanted.into_iter().map(|member| {
            let wanted = WantedMember {
                name: member.name,
                peer_urls: member.peer_urls,
                learner: member.learner,
                added: LogIndex(member.added),
            };
            (MemberId(member.id), wanted)
        });
        Cluster::restore(
            wanted.collect(),
            self.removed.into_iter().map(MemberId).collect(),
        )
    }
}

fn encoded(message: &impl Message) -> Option<Bytes> {
    Some(message.encode_to_vec().into())
}

impl State {
    /// Bytes of rows that no batch was begun for.
    pub fn unpersisted_bytes(&self) -> u64 {
        self.store.recent_bytes()
    }

    /// Takes what has changed since the last batch. [`State::batch_done`] before the next one.
    pub fn begin_batch(&mut self) -> Batch {
        let rows = self.store.begin_batch();
        let mut meta = vec![(CORE.to_owned(), encoded(&self.core(self.store.last_row())))];
        for id in std::mem::take(&mut self.lessor.changed) {
            let name = format!("{LEASE}{:016x}", id.0);
            let lease = self.lessor.get(id).map(|lease| Lease {
                ttl_s: lease.ttl_s,
                deadline: lease.deadline.0,
            });
            meta.push((name, lease.as_ref().and_then(encoded)));
        }
        for id in std::mem::take(&mut self.dirty_members) {
            let name = format!("{MEMBER}{:016x}", id.0);
            let member = self.published.get(&id).map(|member| Member {
                name: member.name.clone(),
                client_urls: member.client_urls.clone(),
                incarnation: member.incarnation,
            });
            meta.push((name, member.as_ref().and_then(encoded)));
        }
        if std::mem::take(&mut self.dirty_cluster) {
            let record = ClusterRecord::of(&self.cluster);
            meta.push((CLUSTER.to_owned(), encoded(&record)));
        }
        Batch {
            applied: self.applied,
            freed: self.store.take_freed(),
            meta,
            rows,
        }
    }

    /// The batch begun last is durable: its rows may leave memory.
    pub fn batch_done(&mut self) {
        self.store.batch_done();
    }

    fn core(&self, last_row: RowId) -> Core {
        let store = &self.store;
        let pass = store.sweep.running.as_ref();
        Core {
            applied: self.applied.0,
            time: self.time.0,
            revision: store.revision().0,
            compacted: store.compacted().map(|r| r.0),
            sweep_finished: store.sweep.finished.map(|r| r.0),
            pass_upto: pass.map(|pass| pass.upto.0),
            pass_last: pass.and_then(|pass| pass.last.clone()),
            rows_digest: store.digest.value(),
            rows_bytes: store.bytes(),
            last_row_main: last_row.main.0,
            last_row_sub: last_row.sub,
            whole_hash: self.whole_hash(),
            alarms: self.alarms.iter().map(|a| AlarmUp::of(&a)).collect(),
            cluster_major: self.version.major,
            cluster_minor: self.version.minor,
        }
    }

    /// A piece of the key index for a checkpoint: of the next `keys` keys after `after`, with the last one's key; `None`
    /// when there are no more. A batch that covers everything applied by the last piece has to be durable before the
    /// checkpoint counts.
    pub fn index_chunk(&self, after: Option<&Bytes>, keys: usize) -> Option<(Bytes, Bytes)> {
        self.store.index_chunk(after, keys)
    }

    /// Lets rows leave memory until the cache keeps to its budget, looking at no more than so many keys.
    pub fn trim_cache(&mut self, keys: usize) {
        self.store.trim_cache(keys);
    }
    pub fn is_over_budget(&self) -> bool {
        self.store.cache_is_over()
    }
    /// Bytes of persisted values kept in memory for reading.
    pub fn set_cache_budget(&mut self, bytes: u64) {
        self.store.set_cache_budget(bytes);
    }
    /// Bytes of rows in memory, those not persisted included.
    pub fn cached_bytes(&self) -> u64 {
        self.store.cached_bytes()
    }
    /// Where persisted rows are read from.
    pub fn set_archive(&mut self, archive: Arc<dyn Archive>) {
        self.store.archive = Some(archive);
    }
    pub fn archive(&self) -> Option<&Arc<dyn Archive>> {
        self.store.archive.as_ref()
    }
}

/// A state that is being put together from what was persisted: first the checkpoint's chunks, then rows and frees.
#[derive(Debug, Default)]
pub struct Restoring(crate::mvcc::Restoring);

impl Restoring {
    pub fn index_chunk(&mut self, chunk: &Bytes) -> Result<(), String> {
        self.0.chunk(chunk)
    }
    pub fn row(&mut self, id: RowId, bytes: &Bytes) -> Result<(), String> {
        self.0.row(id, bytes)
    }
    pub fn freed(&mut self, id: RowId) {
        self.0.freed(id);
    }
    /// `meta`: every named value there is; those that are not the state's are left alone. A new, empty state where nothing
    /// was persisted yet.
    pub fn finish(
        self,
        meta: &BTreeMap<String, Bytes>,
        archive: Arc<dyn Archive>,
    ) -> Result<State, String> {
        let Some(core) = meta.get(CORE) else {
            let mut state = State::new();
            state.set_archive(archive);
            return Ok(state);
        };
        let damaged = |name: &str| format!("the persisted {name:?} cannot be read");
        let core = Core::decode(core.clone()).map_err(|_| damaged(CORE))?;
        let mut lessor = Lessor::default();
        for (name, value) in named(meta, LEASE) {
            let lease = Lease::decode(value.clone()).map_err(|_| damaged(name))?;
            let id = id_of(name, LEASE).ok_or_else(|| damaged(name))?;
            let id = LeaseId(id.cast_signed());
            lessor.restore(id, lease.ttl_s, ClusterTime(lease.deadline));
        }
        let mut published = BTreeMap::new();
        for (name, value) in named(meta, MEMBER) {
            let member = Member::decode(value.clone()).map_err(|_| damaged(name))?;
            let id = id_of(name, MEMBER).ok_or_else(|| damaged(name))?;
            let told = crate::PublishedMember {
                name: member.name,
                client_urls: member.client_urls,
                incarnation: member.incarnation,
            };
            published.insert(MemberId(id), told);
        }
        let mut alarms = Alarms::default();
        for up in &core.alarms {
            alarms.raise(up.alarm().ok_or_else(|| damaged(CORE))?);
        }
        let cluster = match meta.get(CLUSTER) {
            Some(record) => ClusterRecord::decode(record.clone())
                .map_err(|_| damaged(CLUSTER))?
                .cluster(),
            None => Cluster::default(),
        };
        let expected = expected(&core);
        let store: Store = self
            .0
            .finish(expected, archive, |lease, key| lessor.attach(lease, key))?;
        let state = State {
            applied: LogIndex(core.applied),
            time: ClusterTime(core.time),
            store,
            lessor,
            published,
            dirty_members: Default::default(),
            cluster,
            dirty_cluster: false,
            alarms,
            version: ClusterVersion {
                major: core.cluster_major,
                minor: core.cluster_minor,
            },
        };
        if state.whole_hash() != core.whole_hash {
            return Err("the restored state is not the one that was persisted".to_owned());
        }
        Ok(state)
    }
}

fn expected(core: &Core) -> Expected {
    Expected {
        revision: Revision(core.revision),
        compacted: core.compacted.map(Revision),
        sweep: Sweep {
            finished: core.sweep_finished.map(Revision),
            running: core.pass_upto.map(|upto| Pass {
                upto: Revision(upto),
                last: core.pass_last.clone(),
            }),
        },
        digest: core.rows_digest,
        bytes: core.rows_bytes,
        last_row: RowId {
            main: Revision(core.last_row_main),
            sub: core.last_row_sub,
        },
    }
}

fn named<'a>(
    meta: &'a BTreeMap<String, Bytes>,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a str, &'a Bytes)> {
    meta.range(prefix.to_owned()..)
        .map(|(name, value)| (name.as_str(), value))
        .take_while(move |(name, _)| name.starts_with(prefix))
}

fn id_of(name: &str, prefix: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix(prefix)?, 16).ok()
}
