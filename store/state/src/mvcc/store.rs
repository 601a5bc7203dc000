//! The rows, and the two ways they change: an operation adds one, compaction takes some away.
//! Promise: index, rows, byte count and digest always tell the same story.
//! Not here: the meaning of requests (`txn`, `range`), leases.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::index::{Index, RowId, Version};
use crate::digest::{self, Digest};
use crate::limits::ROW_OVERHEAD_BYTES;
use crate::types::{Event, EventKind, KeyValue, LeaseId, Revision};

#[derive(Clone, Debug)]
pub struct Row {
    /// A tombstone has version 0 and carries key and mod_revision only.
    pub kv: Arc<KeyValue>,
    digest: u64,
}
impl Row {
    pub fn is_tombstone(&self) -> bool {
        self.kv.version == 0
    }
}

#[derive(Clone, Debug)]
pub struct Store {
    pub(super) index: Index,
    pub(super) rows: BTreeMap<RowId, Row>,
    /// The newest finished revision.
    pub(super) revision: Revision,
    /// `None` until the first compaction (etcd's -1: even revision 0 may be compacted once).
    pub(super) compacted: Option<Revision>,
    /// Rows from here to the compaction are still to be looked at; those among them that nothing points to any more are
    /// counted until they go.
    pub(super) sweep: Option<RowId>,
    bytes: u64,
    digest: Digest,
}

fn row_bytes(kv: &KeyValue) -> u64 {
    (kv.key.len() + kv.value.len()) as u64 + ROW_OVERHEAD_BYTES
}

impl Store {
    pub fn new() -> Self {
        Store {
            index: Index::default(),
            rows: BTreeMap::new(),
            revision: Revision(1),
            compacted: None,
            sweep: None,
            bytes: 0,
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
    pub fn digest(&self) -> u64 {
        digest::words(&[
            self.digest.value(),
            self.revision.0,
            self.compacted.map_or(0, |revision| revision.0 + 1),
        ])
    }
    /// The newest state of a key, an unfinished transaction's own writes included.
    pub fn latest(&self, key: &[u8]) -> Option<&Arc<KeyValue>> {
        self.index.keys.get(key)?.latest.as_ref()
    }

    /// Adds a row that sets `key`. The returned event's `prev` is the state before the whole revision.
    pub(super) fn put(&mut self, id: RowId, key: &Bytes, value: Bytes, lease: LeaseId) -> Event {
        // Keys are shared by all rows and the index; copied once, because the request's buffer is far larger than the key.
        let (key, known) = match self.index.keys.get_key_value(key) {
            Some((own, history)) => (own.clone(), history.latest.as_ref()),
            None => (Bytes::copy_from_slice(key), None),
        };
        let kv = Arc::new(KeyValue {
            key: key.clone(),
            value,
            create_revision: known.map_or(id.main, |kv| kv.create_revision),
            mod_revision: id.main,
            version: known.map_or(1, |kv| kv.version + 1),
            lease,
        });
        self.add_row(id, kv, EventKind::Put)
    }

    /// Adds a tombstone for a key that is alive.
    pub(super) fn delete(&mut self, id: RowId, key: &Bytes) -> Event {
        let kv = Arc::new(KeyValue {
            key: key.clone(),
            mod_revision: id.main,
            ..KeyValue::default()
        });
        self.add_row(id, kv, EventKind::Delete)
    }

    fn add_row(&mut self, id: RowId, kv: Arc<KeyValue>, kind: EventKind) -> Event {
        let history = self.index.keys.entry(kv.key.clone()).or_default();
        let tombstone = kind == EventKind::Delete;
        let prev = match history.versions.last() {
            // Written before in this very revision: what stood before the revision is further back.
            Some(last) if last.id.main == id.main => history
                .alive_at(Revision(id.main.0 - 1))
                .and_then(|before| self.rows.get(&before.id))
                .map(|row| row.kv.clone()),
            _ => history.latest.clone(),
        };
        history.versions.push(Version { id, tombstone });
        history.latest = (!tombstone).then(|| kv.clone());
        let digest = digest::row(id.main.0, id.sub, &kv);
        self.digest.add(digest);
        self.bytes += row_bytes(&kv);
        let row = Row {
            kv: kv.clone(),
            digest,
        };
        self.rows.insert(id, row);
        Event { kind, kv, prev }
    }

    /// Takes a row away. The caller has taken it out of the index.
    pub(super) fn remove_row(&mut self, id: RowId) {
        if let Some(row) = self.rows.remove(&id) {
            self.digest.remove(row.digest);
            self.bytes -= row_bytes(&row.kv);
        }
    }

    /// What `key` was just before `main`, where compaction has left it.
    pub(super) fn before(&self, key: &[u8], main: Revision) -> Option<Arc<KeyValue>> {
        let history = self.index.keys.get(key)?;
        let version = history.alive_at(Revision(main.0.checked_sub(1)?))?;
        self.rows.get(&version.id).map(|row| row.kv.clone())
    }

    /// Every invariant between index, rows and sums; and (key, lease) of what is alive, for the lessor's check.
    #[cfg(test)]
    pub fn verify(&self) -> std::collections::BTreeSet<(Bytes, LeaseId)> {
        let mut versions = 0;
        let mut attached = std::collections::BTreeSet::new();
        for (key, history) in &self.index.keys {
            assert!(
                !history.versions.is_empty(),
                "a key without versions stayed"
            );
            versions += history.versions.len();
            for pair in history.versions.windows(2) {
                assert!(pair[0].id < pair[1].id, "versions out of order");
            }
            for version in &history.versions {
                let row = &self.rows[&version.id];
                assert_eq!(row.kv.key, key, "a version points at another key's row");
                assert_eq!(row.is_tombstone(), version.tombstone, "tombstone mismatch");
            }
            let last = &self.rows[&history.versions.last().unwrap().id];
            match &history.latest {
                Some(latest) => assert!(
                    Arc::ptr_eq(latest, &last.kv),
                    "latest is not the last version"
                ),
                None => assert!(last.is_tombstone(), "latest lost"),
            }
            if let Some(kv) = &history.latest
                && kv.lease != LeaseId::NONE
            {
                attached.insert((key.clone(), kv.lease));
            }
        }
        assert!(
            versions == self.rows.len() || versions < self.rows.len() && self.sweep.is_some(),
            "a row nobody points at"
        );
        let mut digest = Digest::default();
        for (id, row) in &self.rows {
            assert!(id.main <= self.revision, "a row of an unfinished revision");
            digest.add(digest::row(id.main.0, id.sub, &row.kv));
        }
        assert_eq!(digest, self.digest, "the rows' digest drifted");
        let bytes: u64 = self.rows.values().map(|row| row_bytes(&row.kv)).sum();
        assert_eq!(bytes, self.bytes, "the byte count drifted");
        attached
    }
}
