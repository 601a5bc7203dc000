//! The rows, and the two ways they change: an operation adds one, compaction takes some away.
//! Promise: index, rows, byte count and digest always tell the same story; a row is in memory until it is persisted.
//! Not here: the meaning of requests (`txn`, `range`), leases.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::cache::Cache;
use super::compact::Sweep;
use super::index::{Index, KeyHistory, Version};
use crate::archive::{Archive, Unreadable};
use crate::digest::{self, Digest};
use crate::limits::{ROW_OVERHEAD_BYTES, VALUE_CACHE_BYTES};
use crate::row;
use crate::types::{Event, EventKind, KeyValue, LeaseId, Previous, Revision, RowId};

/// Rows in revision order. A tombstone has version 0 and carries key and mod_revision only.
pub type Rows = BTreeMap<RowId, Arc<KeyValue>>;

pub struct Store {
    pub(crate) index: Index,
    /// Written since the last batch was begun.
    pub(super) recent: Rows,
    /// Of the batch that is on its way to the archive; rows freed meanwhile are still among them.
    pub(super) leaving: Arc<Rows>,
    /// The newest row the archive has.
    pub(super) archived: RowId,
    pub(crate) archive: Option<Arc<dyn Archive>>,
    /// Taken away since the last batch was begun.
    pub(super) freed: Vec<RowId>,
    pub(super) cache: Cache,
    /// The newest finished revision.
    pub(super) revision: Revision,
    /// `None` until the first compaction (etcd's -1: even revision 0 may be compacted once).
    pub(super) compacted: Option<Revision>,
    pub(crate) sweep: Sweep,
    /// Bytes of `recent`, as the archive would store them.
    pub(super) recent_bytes: u64,
    pub(super) bytes: u64,
    /// Keys that are alive.
    pub(super) alive_keys: u64,
    pub(crate) digest: Digest,
}

fn row_bytes(key: &[u8], value_len: u32) -> u64 {
    key.len() as u64 + u64::from(value_len) + ROW_OVERHEAD_BYTES
}

/// Key, value and the struct around them: what a row that is not persisted holds of memory.
fn held_bytes(kv: &KeyValue) -> u64 {
    (kv.key.len() + kv.value.len()) as u64 + ROW_OVERHEAD_BYTES
}

pub fn is_tombstone(kv: &KeyValue) -> bool {
    kv.version == 0
}

/// The index's entry for a row.
pub fn version_of(id: RowId, kv: &KeyValue) -> Version {
    let value_len = u32::try_from(kv.value.len()).expect("values are bounded by the request size");
    let digest = digest::row(id.main.0, id.sub, kv);
    Version::new(id, digest, value_len, is_tombstone(kv))
}

impl Store {
    pub fn new() -> Self {
        Store {
            index: Index::default(),
            recent: Rows::new(),
            leaving: Arc::new(Rows::new()),
            archived: RowId::default(),
            archive: None,
            freed: Vec::new(),
            cache: Cache::new(VALUE_CACHE_BYTES),
            revision: Revision(1),
            compacted: None,
            sweep: Sweep::default(),
            recent_bytes: 0,
            bytes: 0,
            alive_keys: 0,
            digest: Digest::default(),
        }
    }
    pub fn revision(&self) -> Revision {
        self.revision
    }
    pub fn compacted(&self) -> Option<Revision> {
        self.compacted
    }
    /// Keys, values and overhead of every row held, history included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
    pub fn alive_keys(&self) -> u64 {
        self.alive_keys
    }
    pub fn cached_bytes(&self) -> u64 {
        self.cache.held()
    }
    pub fn recent_bytes(&self) -> u64 {
        self.recent_bytes
    }
    pub fn digest(&self) -> u64 {
        digest::words(&[
            self.digest.value(),
            self.revision.0,
            self.compacted.map_or(0, |revision| revision.0 + 1),
            self.sweep.digest(),
        ])
    }

    /// What is known of a key that is alive, an unfinished transaction's own writes included.
    pub fn alive(&self, key: &[u8]) -> Option<(&Bytes, &KeyHistory)> {
        let (key, history) = self.index.keys.get_key_value(key)?;
        history.alive().map(|_| (key, history))
    }

    /// A version's row, from memory or from the archive.
    pub fn row(&self, key: &Bytes, version: &Version) -> Result<Arc<KeyValue>, Unreadable> {
        if let Some(row) = version.resident() {
            return Ok(row.clone());
        }
        let row = self.fetch(key, version)?;
        self.cache.offer(version, &row);
        Ok(row)
    }

    fn fetch(&self, key: &Bytes, version: &Version) -> Result<Arc<KeyValue>, Unreadable> {
        let id = version.id;
        let Some(archive) = &self.archive else {
            return Err(Unreadable::row(
                id,
                "is not in memory, and nothing was persisted",
            ));
        };
        let bytes = archive
            .read(id)?
            .ok_or_else(|| Unreadable::row(id, "is missing from the engine"))?;
        resolve(key, id, version.digest, &bytes)
    }

    /// Adds a row that sets `key`. The returned event's `prev` is the state before the whole revision.
    pub(super) fn put(
        &mut self,
        id: RowId,
        key: &Bytes,
        value: Bytes,
        lease: LeaseId,
        previous: Previous,
    ) -> Result<Event, Unreadable> {
        // Keys are shared by all rows and the index; copied once, because the request's buffer is far larger than the key.
        let (key, known, prev) = match self.index.keys.get_key_value(key) {
            Some((own, history)) => (
                own.clone(),
                history
                    .alive()
                    .map(|_| (history.create_revision, history.version)),
                self.replaced(own, history, id, previous)?,
            ),
            None => (Bytes::copy_from_slice(key), None, None),
        };
        let kv = Arc::new(KeyValue {
            key,
            value,
            create_revision: known.map_or(id.main, |(create, _)| create),
            mod_revision: id.main,
            version: known.map_or(1, |(_, version)| version + 1),
            lease,
        });
        self.add_row(id, &kv);
        Ok(Event {
            kind: EventKind::Put,
            kv,
            prev,
        })
    }

    /// Adds a tombstone for a key that is alive.
    pub(super) fn delete(
        &mut self,
        id: RowId,
        key: &Bytes,
        previous: Previous,
    ) -> Result<Event, Unreadable> {
        let prev = match self.index.keys.get_key_value(key) {
            Some((own, history)) => self.replaced(own, history, id, previous)?,
            None => None,
        };
        let kv = Arc::new(KeyValue {
            key: key.clone(),
            mod_revision: id.main,
            ..KeyValue::default()
        });
        self.add_row(id, &kv);
        Ok(Event {
            kind: EventKind::Delete,
            kv,
            prev,
        })
    }

    /// What the row `id` comes after: the key's state before the revision. Left out where it would have to be read and
    /// nobody wants it.
    fn replaced(
        &self,
        key: &Bytes,
        history: &KeyHistory,
        id: RowId,
        previous: Previous,
    ) -> Result<Option<Arc<KeyValue>>, Unreadable> {
        let version = match history.versions.last() {
            // Written before in this very revision: what stood before the revision is further back.
            Some(last) if last.id.main == id.main => history.alive_at(Revision(id.main.0 - 1)),
            _ => history.alive(),
        };
        match (version, previous) {
            (None, _) => Ok(None),
            (Some(version), Previous::Told) => self.row(key, version).map(Some),
            (Some(version), Previous::LeftOut) => Ok(version.resident().cloned()),
        }
    }

    fn add_row(&mut self, id: RowId, kv: &Arc<KeyValue>) {
        let version = version_of(id, kv);
        self.digest.add(version.digest);
        self.bytes += row_bytes(&kv.key, version.value_len);
        self.cache.keep(&version, kv.clone());
        match version.tombstone {
            true => self.alive_keys -= 1,
            // The first of a generation.
            false => self.alive_keys += u64::from(kv.version == 1),
        }
        let history = self.index.keys.entry(kv.key.clone()).or_default();
        history.describe(kv);
        history.versions.push(version);
        self.recent_bytes += held_bytes(kv);
        self.recent.insert(id, kv.clone());
    }

    /// A version that was taken out of the index goes altogether.
    pub(super) fn forget(&mut self, key: &[u8], version: Version) {
        let id = version.id;
        self.digest.remove(version.digest);
        self.bytes -= row_bytes(key, version.value_len);
        self.cache.forget(version);
        if let Some(row) = self.recent.remove(&id) {
            self.recent_bytes -= held_bytes(&row);
        }
        // Told even when the row was never persisted: a checkpoint made meanwhile may have seen it.
        self.freed.push(id);
    }

    /// Takes the rows written since the last batch; they stay readable here until [`Store::batch_done`].
    pub fn begin_batch(&mut self) -> Arc<Rows> {
        assert!(
            self.leaving.is_empty(),
            "a batch was begun before the last one was done"
        );
        self.leaving = Arc::new(std::mem::take(&mut self.recent));
        self.recent_bytes = 0;
        self.leaving.clone()
    }
    pub fn take_freed(&mut self) -> Vec<RowId> {
        std::mem::take(&mut self.freed)
    }
    /// The batch begun last is durable.
    pub fn batch_done(&mut self) {
        self.archived = self.last_row();
        self.leaving = Arc::new(Rows::new());
    }
    /// The newest row that was ever part of a batch.
    pub fn last_row(&self) -> RowId {
        let last = self.leaving.last_key_value();
        last.map_or(self.archived, |(id, _)| *id)
    }
    pub fn trim_cache(&mut self, keys: usize) {
        self.cache.turn(&mut self.index, self.archived, keys);
    }
    pub fn cache_is_over(&self) -> bool {
        self.cache.is_over()
    }
    pub fn set_cache_budget(&mut self, bytes: u64) {
        self.cache.set_budget(bytes);
    }

    /// What `key` was just before `main`, where compaction has left it.
    pub(super) fn before(
        &self,
        key: &[u8],
        main: Revision,
    ) -> Result<Option<Arc<KeyValue>>, Unreadable> {
        let Some(before) = main.0.checked_sub(1) else {
            return Ok(None);
        };
        let found = self.index.keys.get_key_value(key);
        match found.and_then(|(key, history)| Some((key, history.alive_at(Revision(before))?))) {
            Some((key, version)) => self.row(key, version).map(Some),
            None => Ok(None),
        }
    }

    /// The next rows from `from` on in order, those included that compaction has taken and the archive still has. None at
    /// all: there are no more.
    pub(super) fn scan(
        &self,
        from: RowId,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<(RowId, Arc<KeyValue>)>, Unreadable> {
        if from <= self.archived
            && let Some(archive) = &self.archive
        {
            let mut rows = Vec::new();
            for (id, bytes) in archive.scan(from, max_rows, max_bytes)? {
                // A batch may be in the archive just before it is known to be.
                if id > self.archived {
                    break;
                }
                let row = row::decode(id.main, &bytes)
                    .ok_or_else(|| Unreadable::row(id, "is no row as the state writes it"))?;
                rows.push((id, Arc::new(row)));
            }
            if !rows.is_empty() {
                return Ok(rows);
            }
        }
        let mut bytes = 0;
        let newer = self.leaving.range(from..).chain(self.recent.range(from..));
        let rows = newer.take(max_rows).take_while(|(_, row)| {
            let fits = bytes < max_bytes;
            bytes += row.key.len() + row.value.len();
            fits
        });
        Ok(rows.map(|(id, row)| (*id, row.clone())).collect())
    }
}

#[cfg(test)]
impl Store {
    /// Every invariant between index, rows and sums; and (key, lease) of what is alive, for the lessor's check.
    pub fn verify(&self) -> std::collections::BTreeSet<(Bytes, LeaseId)> {
        let mut attached = std::collections::BTreeSet::new();
        let (mut digest, mut bytes, mut unpersisted) = (Digest::default(), 0, 0);
        let alive = self.index.keys.values().filter(|h| h.alive().is_some());
        assert_eq!(
            alive.count() as u64,
            self.alive_keys,
            "the count of keys drifted"
        );
        for (key, history) in &self.index.keys {
            assert!(
                !history.versions.is_empty(),
                "a key without versions stayed"
            );
            for pair in history.versions.windows(2) {
                assert!(pair[0].id < pair[1].id, "versions out of order");
            }
            for version in &history.versions {
                assert!(
                    version.id.main <= self.revision,
                    "a row of an unfinished revision"
                );
                let row = self.row(key, version).expect("a row cannot be read");
                assert_eq!(row.key, key, "a version points at another key's row");
                assert_eq!(is_tombstone(&row), version.tombstone, "tombstone mismatch");
                digest.add(digest::row(version.id.main.0, version.id.sub, &row));
                bytes += row_bytes(key, version.value_len);
                unpersisted += usize::from(self.recent.contains_key(&version.id));
            }
            if let Some(version) = history.alive() {
                let row = self.row(key, version).expect("a row cannot be read");
                assert_eq!(
                    (row.create_revision, row.version, row.lease),
                    (history.create_revision, history.version, history.lease),
                    "the index describes another row than the newest"
                );
                if row.lease != LeaseId::NONE {
                    attached.insert((key.clone(), row.lease));
                }
            }
        }
        assert_eq!(unpersisted, self.recent.len(), "a row nobody points at");
        assert_eq!(digest, self.digest, "the rows' digest drifted");
        assert_eq!(bytes, self.bytes, "the byte count drifted");
        let held: u64 = self.recent.values().map(|row| held_bytes(row)).sum();
        assert_eq!(
            held, self.recent_bytes,
            "the count of unpersisted bytes drifted"
        );
        attached
    }
}

/// The row that was read for a version of `key`: it must be the one the index means.
pub fn resolve(
    key: &Bytes,
    id: RowId,
    digest: u64,
    bytes: &Bytes,
) -> Result<Arc<KeyValue>, Unreadable> {
    let row = row::decode(id.main, bytes)
        .filter(|row| row.key == key && digest::row(id.main.0, id.sub, row) == digest)
        .ok_or_else(|| Unreadable::row(id, "is not the one the index means"))?;
    Ok(Arc::new(KeyValue {
        key: key.clone(),
        ..row
    }))
}
