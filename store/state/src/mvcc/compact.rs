//! Compaction: forgets what no read at or after a revision can see.
//! Promise: of each key the newest version at or before the revision stays, unless it is a tombstone older than it (one
//! exactly at it stays, so that a watch from there sees the delete). The cost follows what was written since the last
//! compaction, not the number of keys.

use bytes::Bytes;

use super::index::{KeyHistory, RowId};
use super::store::Store;
use crate::command::Refusal;
use crate::types::Revision;

impl Store {
    pub fn compact(&mut self, upto: Revision) -> Result<(), Refusal> {
        if self.compacted.is_some_and(|compacted| upto <= compacted) {
            return Err(Refusal::Compacted);
        }
        if upto > self.revision {
            return Err(Refusal::FutureRevision);
        }
        // Every version that goes now is followed by one written since, or is a tombstone that was kept at the last
        // compaction's very revision: so only keys with rows from there on are looked at.
        let from = RowId::first_of(self.compacted.unwrap_or_default());
        let beyond = RowId::first_of(Revision(upto.0 + 1));
        let mut keys: Vec<Bytes> = self
            .rows
            .range(from..beyond)
            .map(|(_, row)| row.kv.key.clone())
            .collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            let Some(history) = self.index.keys.get_mut(&key) else {
                continue;
            };
            let gone = forget(history, upto);
            if history.versions.is_empty() {
                self.index.keys.remove(&key);
            }
            for id in gone {
                self.remove_row(id);
            }
        }
        self.compacted = Some(upto);
        Ok(())
    }
}

/// Shortens the history and says which rows went.
fn forget(history: &mut KeyHistory, upto: Revision) -> Vec<RowId> {
    let Some(newest) = history.at(upto) else {
        return Vec::new();
    };
    let version = history.versions[newest];
    let keep_from = if version.tombstone && version.id.main < upto {
        newest + 1
    } else {
        newest
    };
    history.versions.drain(..keep_from).map(|v| v.id).collect()
}
