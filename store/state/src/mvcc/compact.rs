//! Compaction: forgets what no read at or after a revision can see.
//! Promise: of each key the newest version at or before the revision stays, unless it is a tombstone older than it (one
//! exactly at it stays, so that a watch from there sees the delete). Older revisions are unreadable at once; the rows go in
//! slices, one with every entry, so that no compaction holds the state (and with it the whole member) for long. The cost
//! follows what was written since the last compaction, not the number of keys.

use bytes::Bytes;

use super::index::RowId;
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
        self.sweep = Some(self.sweep.map_or(from, |unfinished| unfinished.min(from)));
        self.compacted = Some(upto);
        Ok(())
    }

    /// Looks at the next `rows` rows that the compaction may have made superfluous. Part of applying an entry: which rows are
    /// gone must follow from the log alone.
    pub fn sweep(&mut self, rows: usize) {
        let (Some(from), Some(upto)) = (self.sweep, self.compacted) else {
            return;
        };
        let beyond = RowId::first_of(Revision(upto.0 + 1));
        let slice: Vec<(RowId, Bytes)> = self
            .rows
            .range(from..beyond)
            .take(rows)
            .map(|(id, row)| (*id, row.kv.key.clone()))
            .collect();
        for (id, key) in &slice {
            self.forget(*id, key, upto);
        }
        self.sweep = slice
            .last()
            .filter(|_| slice.len() == rows)
            .map(|(last, _)| RowId {
                sub: last.sub.saturating_add(1),
                ..*last
            });
    }

    /// Shortens the history of the row's key, and takes the row away if it is not in it (any more), and the older ones that
    /// were: they are not looked at again. Newer ones are, each in its turn.
    fn forget(&mut self, id: RowId, key: &Bytes, upto: Revision) {
        let mut gone = Vec::new();
        let mut stays = false;
        if let Some(history) = self.index.keys.get_mut(key) {
            if let Some(newest) = history.at(upto) {
                let version = history.versions[newest];
                let keep_from = newest + usize::from(version.tombstone && version.id.main < upto);
                let older = history.versions[..keep_from].iter().map(|v| v.id);
                gone.extend(older.take_while(|older| *older < id));
                history.versions.drain(..keep_from);
            }
            stays = history.versions.binary_search_by_key(&id, |v| v.id).is_ok();
            if history.versions.is_empty() {
                self.index.keys.remove(key);
            }
        }
        if !stays {
            gone.push(id);
        }
        for id in gone {
            self.remove_row(id);
        }
    }
}
