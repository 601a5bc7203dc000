//! History for watchers: the events of past revisions, rebuilt from rows.
//! Promise: whole revisions, in order, nothing skipped between `from` and `next`; a bounded amount of work per call.

use std::sync::Arc;

use super::index::RowId;
use super::store::{Row, Store};
use crate::command::Refusal;
use crate::limits::{CHANGES_BYTES_MAX, CHANGES_ROWS_MAX};
use crate::types::{Event, EventKind, KeyRange, KeyValue, Revision, RevisionEvents};

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
    fn push(&mut self, row: &Row, prev: Option<Arc<KeyValue>>) {
        let kind = if row.is_tombstone() {
            EventKind::Delete
        } else {
            EventKind::Put
        };
        self.bytes += row.kv.key.len() + row.kv.value.len();
        self.bytes += prev.as_ref().map_or(0, |prev| prev.value.len());
        self.events.push(Event {
            kind,
            kv: row.kv.clone(),
            prev,
        });
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
    ) -> Result<Changes, Refusal> {
        if self.compacted.is_some_and(|compacted| from < compacted) {
            return Err(Refusal::Compacted);
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
            let versions = self.index.keys.get(&range.key).map_or(&[][..], |history| {
                let start = history.versions.partition_point(|v| v.id.main < from);
                &history.versions[start..]
            });
            for version in versions {
                if !gather.admit(version.id.main) {
                    return Ok(gather.finish(version.id.main));
                }
                let prev = self.before(&range.key, version.id.main);
                gather.push(&self.rows[&version.id], prev);
            }
            return Ok(gather.finish(end));
        }
        for (id, row) in self.rows.range(RowId::first_of(from)..) {
            if !gather.admit(id.main) {
                return Ok(gather.finish(id.main));
            }
            if range.contains(&row.kv.key) {
                gather.push(row, self.before(&row.kv.key, id.main));
            }
        }
        Ok(gather.finish(end))
    }
}
