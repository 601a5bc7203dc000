//! A store that is obviously right and slow: one list of everything ever written, every question answered by reading all
//! of it, every transaction tried on a copy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::*;

#[derive(Clone, Debug)]
struct Written {
    main: u64,
    sub: u64,
    key: Bytes,
    /// `None`: deleted.
    kv: Option<KeyValue>,
}

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub revision: u64,
    pub compacted: Option<u64>,
    pub time: u64,
    log: Vec<Written>,
    /// Id → TTL in seconds, deadline.
    pub leases: BTreeMap<i64, (u64, u64)>,
}

impl Model {
    pub fn new() -> Self {
        Model {
            revision: 1,
            ..Model::default()
        }
    }

    fn alive(&self, key: &[u8], at: u64) -> Option<&KeyValue> {
        let last = self.log.iter().rfind(|w| w.key == key && w.main <= at);
        last.and_then(|w| w.kv.as_ref())
    }
    fn all_alive(&self, range: &KeyRange, at: u64) -> Vec<KeyValue> {
        let keys: BTreeSet<&Bytes> = self.log.iter().map(|w| &w.key).collect();
        let inside = keys.into_iter().filter(|key| range.contains(key));
        inside
            .filter_map(|key| self.alive(key, at))
            .cloned()
            .collect()
    }
    pub fn attached(&self, lease: i64) -> Vec<Bytes> {
        let all = self.all_alive(&KeyRange::prefix(b""), u64::MAX);
        let its = all.into_iter().filter(|kv| kv.lease.0 == lease);
        its.map(|kv| kv.key).collect()
    }

    fn readable(&self, at: Option<Revision>, newest: u64) -> Result<(), Refusal> {
        match at.map_or(0, |at| at.0) {
            0 => Ok(()),
            at if at > newest => Err(Refusal::FutureRevision),
            at if self.compacted.is_some_and(|c| at < c) => Err(Refusal::Compacted),
            _ => Ok(()),
        }
    }

    pub fn range(&self, r: &Range) -> Result<RangeResult, Refusal> {
        self.readable(r.revision, self.revision)?;
        let at = match r.revision.map_or(0, |at| at.0) {
            0 => u64::MAX,
            at => at,
        };
        let mut kvs = self.all_alive(&r.range, at);
        let count = kvs.len() as u64;
        if r.count_only {
            kvs.clear();
        }
        let bounds = [
            r.min_mod_revision,
            r.max_mod_revision,
            r.min_create_revision,
            r.max_create_revision,
        ];
        let limit = r.limit as usize;
        if r.sort_order == SortOrder::None && bounds == [0; 4] && limit > 0 {
            kvs.truncate(limit + 1);
        }
        kvs.retain(|kv| {
            let (modified, created) = (kv.mod_revision.0, kv.create_revision.0);
            modified >= r.min_mod_revision
                && (r.max_mod_revision == 0 || modified <= r.max_mod_revision)
                && created >= r.min_create_revision
                && (r.max_create_revision == 0 || created <= r.max_create_revision)
        });
        // Insertion sort, stable both ways.
        let before = |a: &KeyValue, b: &KeyValue| match r.sort_target {
            SortTarget::Key => a.key < b.key,
            SortTarget::Version => a.version < b.version,
            SortTarget::Create => a.create_revision < b.create_revision,
            SortTarget::Mod => a.mod_revision < b.mod_revision,
            SortTarget::Value => a.value < b.value,
        };
        let mut sorted: Vec<KeyValue> = Vec::new();
        for kv in kvs {
            let mut place = sorted.len();
            while place > 0
                && match r.sort_order {
                    SortOrder::Descend => before(&sorted[place - 1], &kv),
                    _ => before(&kv, &sorted[place - 1]),
                }
            {
                place -= 1;
            }
            sorted.insert(place, kv);
        }
        let more = limit > 0 && sorted.len() > limit;
        if more {
            sorted.truncate(limit);
        }
        if r.keys_only {
            sorted.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        Ok(RangeResult {
            kvs: sorted.into_iter().map(Arc::new).collect(),
            more,
            count,
        })
    }

    fn next_sub(&self, main: u64) -> u64 {
        self.log.iter().filter(|w| w.main == main).count() as u64
    }
    fn put(&mut self, main: u64, put: &Put) -> Result<Option<Arc<KeyValue>>, Refusal> {
        let prev = self.alive(&put.key, u64::MAX).cloned();
        if (put.ignore_value || put.ignore_lease) && prev.is_none() {
            return Err(Refusal::KeyNotFound);
        }
        if put.lease.0 != 0 && !self.leases.contains_key(&put.lease.0) {
            return Err(Refusal::LeaseNotFound);
        }
        let mut kv = KeyValue {
            key: put.key.clone(),
            value: put.value.clone(),
            create_revision: Revision(main),
            mod_revision: Revision(main),
            version: 1,
            lease: put.lease,
        };
        if let Some(prev) = &prev {
            kv.create_revision = prev.create_revision;
            kv.version = prev.version + 1;
            if put.ignore_value {
                kv.value = prev.value.clone();
            }
            if put.ignore_lease {
                kv.lease = prev.lease;
            }
        }
        let sub = self.next_sub(main);
        self.log.push(Written {
            main,
            sub,
            key: put.key.clone(),
            kv: Some(kv),
        });
        Ok(prev.filter(|_| put.prev_kv).map(Arc::new))
    }
    fn delete(&mut self, main: u64, range: &KeyRange) -> Vec<Arc<KeyValue>> {
        let doomed = self.all_alive(range, u64::MAX);
        for kv in &doomed {
            let sub = self.next_sub(main);
            self.log.push(Written {
                main,
                sub,
                key: kv.key.clone(),
                kv: None,
            });
        }
        doomed.into_iter().map(Arc::new).collect()
    }

    fn holds(&self, c: &Compare) -> bool {
        let is = |ordering: std::cmp::Ordering| match c.result {
            CompareResult::Equal => ordering.is_eq(),
            CompareResult::NotEqual => !ordering.is_eq(),
            CompareResult::Greater => ordering.is_gt(),
            CompareResult::Less => ordering.is_lt(),
            CompareResult::Unknown => true,
        };
        let one = |kv: &KeyValue| match &c.target {
            CompareTarget::Version(n) => is((kv.version as i64).cmp(n)),
            CompareTarget::Create(n) => is((kv.create_revision.0 as i64).cmp(n)),
            CompareTarget::Mod(n) => is((kv.mod_revision.0 as i64).cmp(n)),
            CompareTarget::Value(v) => is(kv.value.cmp(v)),
            CompareTarget::Lease(n) => is(kv.lease.0.cmp(n)),
        };
        let kvs = self.all_alive(&c.range, u64::MAX);
        if kvs.is_empty() {
            return !matches!(c.target, CompareTarget::Value(_)) && one(&KeyValue::default());
        }
        kvs.iter().all(one)
    }
    /// `self` is carried forward; `before` stays what the transaction found.
    /// A range that cannot be read is noted: any put that is refused comes first, wherever it stands.
    fn run(
        &mut self,
        before: &Model,
        main: u64,
        txn: &Txn,
        unreadable: &mut Option<Refusal>,
    ) -> Result<TxnResult, Refusal> {
        let succeeded = txn.compare.iter().all(|c| before.holds(c));
        let mut results = Vec::new();
        for op in if succeeded {
            &txn.success
        } else {
            &txn.failure
        } {
            results.push(match op {
                TxnOp::Range(range) => {
                    if let Err(refusal) = before.readable(range.revision, before.revision) {
                        unreadable.get_or_insert(refusal);
                    }
                    OpResult::Range(self.range(range).unwrap_or_default())
                }
                TxnOp::Put(put) => OpResult::Put {
                    prev: self.put(main, put)?,
                },
                TxnOp::DeleteRange(d) => {
                    let prev = self.delete(main, &d.range);
                    OpResult::DeleteRange {
                        deleted: prev.len() as u64,
                        prev: if d.prev_kv { prev } else { vec![] },
                    }
                }
                TxnOp::Txn(inner) => OpResult::Txn(self.run(before, main, inner, unreadable)?),
            });
        }
        Ok(TxnResult {
            succeeded,
            results,
            revision: Revision(0),
        })
    }

    pub fn apply(&mut self, time: u64, command: &Command) -> Outcome {
        self.time = self.time.max(time);
        let mut next = self.clone();
        let result = next.command(command);
        if result.is_ok() {
            if next.next_sub(self.revision + 1) > 0 {
                next.revision = self.revision + 1;
            }
            *self = next;
        }
        let revision = Revision(self.revision);
        let result = result.map(|answer| match answer {
            Answer::Txn(txn) => Answer::Txn(TxnResult { revision, ..txn }),
            other => other,
        });
        Outcome { revision, result }
    }
    fn command(&mut self, command: &Command) -> Result<Answer, Refusal> {
        let main = self.revision + 1;
        match command {
            Command::Put(put) => {
                // A lone put asks for the lease first.
                if put.lease.0 != 0 && !self.leases.contains_key(&put.lease.0) {
                    return Err(Refusal::LeaseNotFound);
                }
                let prev = self.put(main, put)?;
                Ok(Answer::Put { prev })
            }
            Command::DeleteRange(d) => {
                let prev = self.delete(main, &d.range);
                Ok(Answer::DeleteRange {
                    deleted: prev.len() as u64,
                    prev: if d.prev_kv { prev } else { vec![] },
                })
            }
            Command::Txn(txn) => {
                let before = self.clone();
                let mut unreadable = None;
                let result = self.run(&before, main, txn, &mut unreadable)?;
                unreadable.map_or(Ok(Answer::Txn(result)), Err)
            }
            Command::Compact { revision } => {
                if self.compacted.is_some_and(|c| revision.0 <= c) {
                    return Err(Refusal::Compacted);
                }
                if revision.0 > self.revision {
                    return Err(Refusal::FutureRevision);
                }
                self.compacted = Some(revision.0);
                Ok(Answer::Compacted)
            }
            Command::LeaseGrant { id, ttl_s } => {
                if self.leases.contains_key(&id.0) {
                    return Err(Refusal::LeaseExists);
                }
                self.leases.insert(id.0, (*ttl_s, self.time + ttl_s * 1000));
                Ok(Answer::LeaseGranted {
                    id: *id,
                    ttl_s: *ttl_s,
                })
            }
            Command::LeaseRevoke { id } => {
                self.end(main, id.0).ok_or(Refusal::LeaseNotFound)?;
                Ok(Answer::LeaseRevoked)
            }
            Command::LeaseKeepAlive { ids } => {
                let mut ttls_s = Vec::new();
                for id in ids {
                    let lease = self.leases.get_mut(&id.0);
                    ttls_s.push(lease.map(|(ttl_s, deadline)| {
                        *deadline = self.time + *ttl_s * 1000;
                        *ttl_s
                    }));
                }
                Ok(Answer::LeaseRenewed { ttls_s })
            }
            Command::LeaseExpire { id, deadline_seen } => {
                let lease = self.leases.get(&id.0);
                let over = lease.is_some_and(|(_, d)| *d <= deadline_seen.0 && *d <= self.time);
                let removed = over && self.end(main, id.0).is_some();
                Ok(Answer::LeaseExpired { removed })
            }
            Command::MemberPublish { .. } => Ok(Answer::Published),
            Command::AlarmRaise(_)
            | Command::AlarmClear { .. }
            | Command::Members(_)
            | Command::IntegrityMark
            | Command::ClusterVersionSet(_) => {
                unreachable!(
                    "the generator makes none: `alarms`, `cluster` and `version` test them"
                )
            }
        }
    }
    fn end(&mut self, main: u64, id: i64) -> Option<()> {
        self.leases.remove(&id)?;
        for key in self.attached(id) {
            self.delete(main, &KeyRange::point(key));
        }
        Some(())
    }

    /// Every event from `from` on in `range`, revision by revision.
    pub fn changes(&self, range: &KeyRange, from: u64) -> Result<Vec<RevisionEvents>, Refusal> {
        if self.compacted.is_some_and(|c| from < c) {
            return Err(Refusal::Compacted);
        }
        let mut found = Vec::new();
        for main in from..=self.revision {
            let mut events = Vec::new();
            for w in self.log.iter().filter(|w| w.main == main) {
                // Of the compaction's own revision only the last row of a key is left.
                let outdated = self.compacted == Some(main)
                    && self
                        .log
                        .iter()
                        .any(|o| o.main == main && o.key == w.key && o.sub > w.sub);
                if outdated || !range.contains(&w.key) {
                    continue;
                }
                let tombstone = KeyValue {
                    key: w.key.clone(),
                    mod_revision: Revision(main),
                    ..KeyValue::default()
                };
                let prev = (self.compacted.unwrap_or(0) < main)
                    .then(|| self.alive(&w.key, main - 1))
                    .flatten();
                events.push(Event {
                    kind: if w.kv.is_some() {
                        EventKind::Put
                    } else {
                        EventKind::Delete
                    },
                    kv: Arc::new(w.kv.clone().unwrap_or(tombstone)),
                    prev: prev.cloned().map(Arc::new),
                });
            }
            if !events.is_empty() {
                found.push(RevisionEvents {
                    revision: Revision(main),
                    events: events.into(),
                });
            }
        }
        Ok(found)
    }

    /// Bytes of the rows a store must hold, and no others.
    pub fn held_bytes(&self) -> u64 {
        let held = self.log.iter().filter(|w| {
            let c = self.compacted.unwrap_or(0);
            let newest = self.log.iter().rfind(|o| o.key == w.key && o.main <= c);
            let is_newest = newest.is_some_and(|o| (o.main, o.sub) == (w.main, w.sub));
            w.main > c || is_newest && (w.kv.is_some() || w.main == c)
        });
        let bytes = |w: &Written| w.key.len() + w.kv.as_ref().map_or(0, |kv| kv.value.len());
        held.map(|w| bytes(w) as u64 + limits::ROW_OVERHEAD_BYTES)
            .sum()
    }

    /// etcd's HashKV over rows spelt out one by one, marshalled by prost.
    pub fn hash_kv(&self, at: u64) -> Result<u32, Refusal> {
        self.readable(Some(Revision(at)), self.revision)?;
        let mut all = b"key".to_vec();
        for w in self.log.iter().filter(|w| w.main <= at) {
            if let Some(c) = self.compacted
                && w.main <= c
            {
                let newest = |upto| {
                    let newest = self.log.iter().rfind(|o| o.key == w.key && o.main <= upto);
                    newest.is_some_and(|o| (o.main, o.sub) == (w.main, w.sub))
                };
                // What compaction left, and of that what one at `at` would leave, if that is anything.
                let nothing_alive = self.all_alive(&KeyRange::prefix(b""), at).is_empty();
                let counts = newest(c) && (newest(at) || nothing_alive);
                if !counts || w.kv.is_none() {
                    continue;
                }
            }
            all.extend(w.main.to_be_bytes());
            all.push(b'_');
            all.extend(w.sub.to_be_bytes());
            let mut marshalled = MvccKeyValue {
                key: w.key.to_vec(),
                ..MvccKeyValue::default()
            };
            match &w.kv {
                None => all.push(b't'),
                Some(kv) => {
                    marshalled.create_revision = kv.create_revision.0 as i64;
                    marshalled.mod_revision = kv.mod_revision.0 as i64;
                    marshalled.version = kv.version as i64;
                    marshalled.value = kv.value.to_vec();
                    marshalled.lease = kv.lease.0;
                }
            }
            all.extend(prost::Message::encode_to_vec(&marshalled));
        }
        Ok(crc32c::crc32c(&all))
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct MvccKeyValue {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(int64, tag = "2")]
    create_revision: i64,
    #[prost(int64, tag = "3")]
    mod_revision: i64,
    #[prost(int64, tag = "4")]
    version: i64,
    #[prost(bytes = "vec", tag = "5")]
    value: Vec<u8>,
    #[prost(int64, tag = "6")]
    lease: i64,
}
