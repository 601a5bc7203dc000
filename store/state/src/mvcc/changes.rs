//! History for watchers: the events of past revisions, rebuilt from rows.
//! Promise: whole revisions, in order, nothing skipped between `from` and `next`; a bounded amount of work per call.

use std::sync::Arc;

use super::store::{Store, is_tombstone};
use crate::archive::ReadError;
use crate::command::Refusal;
use crate::limits::{CHANGES_BYTES_MAX, CHANGES_ROWS_MAX, CHANGES_SLICE_ROWS};
use crate::types::{Event, EventKind, KeyRange, KeyValue, Revision, RevisionEvents, RowId};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Only revisions with events in the range asked for.
    pub revisions: Vec<RevisionEvents>,
    /// The first revision not looked at; the store's next one when history was read to its end.
    pub next: Revision,
}

/// Gathers rows into revisions until a bound is reached.
struct Gather {
    revisions: Vec<RevisionEvents>,
    current: Revision,
    events: Vec<Event>,
    /// Revisions and rows looked at, and bytes gathered, matching or not.
    looked_at: usize,
    rows: usize,
    bytes: usize,
    max_revisions: usize,
}

impl Gather {
    /// Prepares for a row of revision `main`. False: full, and `main` was not begun.
    fn admit(&mut self, main: Revision) -> bool {
        if main != self.current {
            self.close();
            if self.looked_at >= self.max_revisions
                || self.rows >= CHANGES_ROWS_MAX
                || self.bytes >= CHANGES_BYTES_MAX
            {
                return false;
            }
            self.current = main;
            self.looked_at += 1;
        }
        self.rows += 1;
        true
    }
    fn push(&mut self, kv: Arc<KeyValue>, prev: Option<Arc<KeyValue>>) {
        let kind = if is_tombstone(&kv) {
            EventKind::Delete
        } else {
            EventKind::Put
        };
        self.bytes += kv.key.len() + kv.value.len();
        self.bytes += prev.as_ref().map_or(0, |prev| prev.value.len());
        self.events.push(Event { kind, kv, prev });
    }
    fn close(&mut self) {
        if !self.events.is_empty() {
            self.revisions.push(RevisionEvents {
                revision: self.current,
                events: std::mem::take(&mut self.events).into(),
            });
        }
    }
    fn finish(mut self, next: Revision) -> Changes {
        self.close();
        Changes {
            revisions: self.revisions,
            next,
        }
    }
}

impl Store {
    pub fn changes(
        &self,
        range: &KeyRange,
        from: Revision,
        max_revisions: usize,
    ) -> Result<Changes, ReadError> {
        if self.compacted.is_some_and(|compacted| from < compacted) {
            return Err(Refusal::Compacted.into());
        }
        let mut gather = Gather {
            revisions: Vec::new(),
            current: Revision(0),
            events: Vec::new(),
            looked_at: 0,
            rows: 0,
            bytes: 0,
            // None at all would never come to an end.
            max_revisions: max_revisions.max(1),
        };
        let end = from.max(Revision(self.revision.0 + 1));
        if range.is_point() {
            // One key's history is short, whatever else was written.
            let Some((key, history)) = self.index.keys.get_key_value(&range.key) else {
                return Ok(gather.finish(end));
            };
            let start = history.versions.partition_point(|v| v.id.main < from);
            for version in &history.versions[start..] {
                if !gather.admit(version.id.main) {
                    return Ok(gather.finish(version.id.main));
                }
                let prev = self.before(key, version.id.main)?;
                gather.push(self.row(key, version)?, prev);
            }
            return Ok(gather.finish(end));
        }
        let mut next = RowId::first_of(from);
        loop {
            let rows = self.scan(next, CHANGES_SLICE_ROWS, CHANGES_BYTES_MAX)?;
            let Some((last, _)) = rows.last() else {
                return Ok(gather.finish(end));
            };
            next = last.next();
            for (id, row) in rows {
                if !gather.admit(id.main) {
                    return Ok(gather.finish(id.main));
                }
                if range.contains(&row.key) && self.holds(id, &row) {
                    let prev = self.before(&row.key, id.main)?;
                    gather.push(row, prev);
                }
            }
        }
    }

    /// Whether compaction has left the row: one that it took may still be found in the archive.
    fn holds(&self, id: RowId, row: &KeyValue) -> bool {
        self.compacted.is_none_or(|compacted| id.main > compacted)
            || self
                .index
                .keys
                .get(&row.key)
                .is_some_and(|history| history.holds(id))
    }
}
