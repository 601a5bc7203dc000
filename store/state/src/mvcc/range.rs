//! Answers range reads, at the newest revision without touching history.
//! Promise: etcd's order of work: fetch, filter, sort, cut off, strip values; `count` is exact whatever was cut off. Values
//! are read last, and only those that the answer carries (or its order follows from).

use std::sync::Arc;

use bytes::Bytes;

use super::index::{KeyHistory, Version};
use super::store::{Store, resolve};
use crate::archive::{Archive, ReadError, Unreadable};
use crate::command::{Range, RangeResult, Refusal, SortOrder, SortTarget};
use crate::types::{KeyValue, LeaseId, Revision, RowId};

/// A range's answer whose rows were not all read yet: the rest can be read without the state's lock.
pub struct Outline {
    lines: Vec<Line>,
    more: bool,
    count: u64,
}

enum Line {
    Ready(Arc<KeyValue>),
    ToRead { key: Bytes, id: RowId, digest: u64 },
}

impl Outline {
    /// Reads what is missing. `None`: a row went meanwhile (a compaction); ask the state again.
    pub fn read(self, archive: &dyn Archive) -> Result<Option<RangeResult>, Unreadable> {
        let mut kvs = Vec::with_capacity(self.lines.len());
        for line in self.lines {
            kvs.push(match line {
                Line::Ready(kv) => kv,
                Line::ToRead { key, id, digest } => match archive.read(id)? {
                    Some(bytes) => resolve(&key, id, digest, &bytes)?,
                    None => return Ok(None),
                },
            });
        }
        Ok(Some(RangeResult {
            kvs,
            more: self.more,
            count: self.count,
        }))
    }

    /// The answer, if nothing is missing.
    pub fn ready(self) -> Result<RangeResult, Self> {
        if self
            .lines
            .iter()
            .any(|line| matches!(line, Line::ToRead { .. }))
        {
            return Err(self);
        }
        let ready = |line| match line {
            Line::Ready(kv) => Some(kv),
            Line::ToRead { .. } => None,
        };
        Ok(RangeResult {
            kvs: self.lines.into_iter().filter_map(ready).collect(),
            more: self.more,
            count: self.count,
        })
    }
}

/// A key's state at the revision asked for; its row as far as it was needed yet.
struct Found<'a> {
    key: &'a Bytes,
    version: &'a Version,
    create_revision: Revision,
    versions: u64,
    lease: LeaseId,
    row: Option<Arc<KeyValue>>,
}

impl Store {
    /// Whether a read at `at` can be answered when the newest revision is `newest`.
    pub fn readable(&self, at: Option<Revision>, newest: Revision) -> Result<(), Refusal> {
        match at {
            None => Ok(()),
            Some(at) if at.names_the_newest() => Ok(()),
            Some(at) if at > newest => Err(Refusal::FutureRevision),
            Some(at) if self.compacted.is_some_and(|compacted| at < compacted) => {
                Err(Refusal::Compacted)
            }
            Some(_) => Ok(()),
        }
    }

    /// The same for a range in a transaction, where etcd takes a negative revision for one before its compaction mark,
    /// which stands at -1 until the first compaction.
    pub fn readable_in_txn(&self, at: Option<Revision>) -> Result<(), Refusal> {
        let asked = at.unwrap_or_default().0.cast_signed();
        let first = self
            .compacted
            .map_or(-1, |compacted| compacted.0.cast_signed());
        if asked < 0 && asked < first {
            return Err(Refusal::Compacted);
        }
        self.readable(at, self.revision)
    }

    /// `newest`: the store's revision, or the one a transaction with changes is about to become.
    pub fn range(&self, r: &Range, newest: Revision) -> Result<RangeResult, ReadError> {
        match self.outline(r, newest, usize::MAX)?.ready() {
            Ok(result) => Ok(result),
            Err(_) => unreachable!("every row was to be read at once"),
        }
    }

    /// As [`Store::range`], but reads at most `reads` rows from the archive; the rest is left to read.
    pub fn outline(
        &self,
        r: &Range,
        newest: Revision,
        mut reads: usize,
    ) -> Result<Outline, ReadError> {
        self.readable(r.revision, newest)?;
        let at = r
            .revision
            .filter(|at| !at.names_the_newest() && *at != newest);
        let filtered = r.min_mod_revision != 0
            || r.max_mod_revision != 0
            || r.min_create_revision != 0
            || r.max_create_revision != 0;
        // Order None with another target than Key still fetches only the first keys and sorts those. That is etcd's way.
        let in_key_order = r.sort_order == SortOrder::None
            || (r.sort_target == SortTarget::Key && r.sort_order == SortOrder::Ascend);
        let limit = usize::try_from(r.limit).unwrap_or(usize::MAX);
        let fetch = match limit {
            _ if r.count_only => 0,
            0 => usize::MAX,
            _ if !in_key_order || filtered => usize::MAX,
            limit => limit.saturating_add(1),
        };
        let mut count = 0;
        let mut found: Vec<Found<'_>> = Vec::new();
        for (key, history) in self.index.scan(&r.range) {
            let version = match at {
                None => history.alive(),
                Some(at) => history.alive_at(at),
            };
            if let Some(version) = version {
                count += 1;
                if found.len() < fetch {
                    found.push(self.found(key, history, version)?);
                }
            }
        }
        if filtered {
            let within = |revision: Revision, min: u64, max: u64| {
                revision.0 >= min && (max == 0 || revision.0 <= max)
            };
            found.retain(|f| {
                within(f.version.id.main, r.min_mod_revision, r.max_mod_revision)
                    && within(
                        f.create_revision,
                        r.min_create_revision,
                        r.max_create_revision,
                    )
            });
        }
        if r.sort_target == SortTarget::Value {
            for f in &mut found {
                f.row = Some(self.row(f.key, f.version)?);
            }
        }
        sort(&mut found, r.sort_target, r.sort_order);
        let more = limit > 0 && found.len() > limit;
        if more {
            found.truncate(limit);
        }
        let mut lines = Vec::with_capacity(found.len());
        for f in found {
            lines.push(self.line(f, r.keys_only, &mut reads)?);
        }
        Ok(Outline { lines, more, count })
    }

    fn found<'a>(
        &self,
        key: &'a Bytes,
        history: &'a KeyHistory,
        version: &'a Version,
    ) -> Result<Found<'a>, Unreadable> {
        let newest = history.versions.last().is_some_and(|v| v.id == version.id);
        // Of older versions the index knows no more than their place.
        let row = match newest {
            true => None,
            false => Some(self.row(key, version)?),
        };
        let (create_revision, versions, lease) = match &row {
            Some(row) => (row.create_revision, row.version, row.lease),
            None => (history.create_revision, history.version, history.lease),
        };
        Ok(Found {
            key,
            version,
            create_revision,
            versions,
            lease,
            row,
        })
    }

    fn line(&self, f: Found<'_>, keys_only: bool, reads: &mut usize) -> Result<Line, Unreadable> {
        if keys_only {
            return Ok(Line::Ready(Arc::new(KeyValue {
                key: f.key.clone(),
                value: Bytes::new(),
                create_revision: f.create_revision,
                mod_revision: f.version.id.main,
                version: f.versions,
                lease: f.lease,
            })));
        }
        if let Some(row) = f.row {
            return Ok(Line::Ready(row));
        }
        if let Some(row) = f.version.resident() {
            return Ok(Line::Ready(row.clone()));
        }
        if *reads == 0 {
            return Ok(Line::ToRead {
                key: f.key.clone(),
                id: f.version.id,
                digest: f.version.digest,
            });
        }
        *reads -= 1;
        self.row(f.key, f.version).map(Line::Ready)
    }
}

/// `found` comes in key order. Ties stay in key order, in both directions: etcd's sort promises nothing for them, and does
/// this for short lists.
fn sort(found: &mut [Found<'_>], target: SortTarget, order: SortOrder) {
    let descending = order == SortOrder::Descend;
    let by = |found: &mut [Found<'_>], key: fn(&Found<'_>) -> u64| {
        found.sort_by(|a, b| {
            let (a, b) = (key(a), key(b));
            if descending { b.cmp(&a) } else { a.cmp(&b) }
        });
    };
    match target {
        SortTarget::Key if descending => found.reverse(),
        SortTarget::Key => {}
        SortTarget::Version => by(found, |f| f.versions),
        SortTarget::Create => by(found, |f| f.create_revision.0),
        SortTarget::Mod => by(found, |f| f.version.id.main.0),
        SortTarget::Value => {
            let value = |f: &Found<'_>| f.row.as_ref().map(|row| row.value.clone());
            found.sort_by(|a, b| {
                let (a, b) = (value(a), value(b));
                if descending { b.cmp(&a) } else { a.cmp(&b) }
            });
        }
    }
}
