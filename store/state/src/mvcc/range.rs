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

    /// Rows that are missing.
    pub fn to_read(&self) -> usize {
        let missing = |line: &&Line| matches!(line, Line::ToRead { .. });
        self.lines.iter().filter(missing).count()
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
    about: About,
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
        match self.outline(r, newest, AtOnce::ALL)?.map(Outline::ready) {
            Some(Ok(result)) => Ok(result),
            Some(Err(_)) | None => unreachable!("every key and row was to be read at once"),
        }
    }

    /// As [`Store::range`], but only so much of it; rows beyond are left to read. `None`: there are more keys than that, or older
    /// rows that are needed to know which ones are meant ([`super::RangeRun`] goes on piece by piece).
    pub fn outline(
        &self,
        r: &Range,
        newest: Revision,
        at_once: AtOnce,
    ) -> Result<Option<Outline>, ReadError> {
        let AtOnce { keys, mut reads } = at_once;
        self.readable(r.revision, newest)?;
        let at = r
            .revision
            .filter(|at| !at.names_the_newest() && *at != newest);
        let plan = Plan::of(r);
        let fetch = plan.fetch;
        let mut count = 0;
        let mut found: Vec<Found<'_>> = Vec::new();
        for (looked, (key, history)) in self.index.scan(&r.range).enumerate() {
            if looked == keys {
                return Ok(None);
            }
            let version = match at {
                None => history.alive(),
                Some(at) => history.alive_at(at),
            };
            if let Some(version) = version {
                count += 1;
                if found.len() < fetch {
                    match self.found(key, history, version, &mut reads)? {
                        Some(one) => found.push(one),
                        None => return Ok(None),
                    }
                }
            }
        }
        if plan.filtered {
            found.retain(|f| within_modified(r, f.modified()) && within_created(r, f.created()));
        }
        if r.sort_target == SortTarget::Value {
            for f in &mut found {
                match self.row_of(f.key, f.version, &mut reads)? {
                    Some(row) => f.row = Some(row),
                    None => return Ok(None),
                }
            }
        }
        let more = plan.cut(r, &mut found);
        let mut lines = Vec::with_capacity(found.len());
        for f in found {
            lines.push(self.line(f, r.keys_only, &mut reads)?);
        }
        Ok(Some(Outline { lines, more, count }))
    }

    /// `None`: the row that tells about it is one more than may be read.
    fn found<'a>(
        &self,
        key: &'a Bytes,
        history: &'a KeyHistory,
        version: &'a Version,
        reads: &mut usize,
    ) -> Result<Option<Found<'a>>, Unreadable> {
        // Of older versions the index knows no more than their place.
        let (row, about) = match history.about(version) {
            Some(about) => (None, about),
            None => match self.row_of(key, version, reads)? {
                Some(row) => (Some(row.clone()), About::of(&row)),
                None => return Ok(None),
            },
        };
        Ok(Some(Found {
            key,
            version,
            about,
            row,
        }))
    }

    /// The row, if it is in memory or may be read.
    fn row_of(
        &self,
        key: &Bytes,
        version: &Version,
        reads: &mut usize,
    ) -> Result<Option<Arc<KeyValue>>, Unreadable> {
        if let Some(row) = version.resident() {
            return Ok(Some(row.clone()));
        }
        if *reads == 0 {
            return Ok(None);
        }
        *reads -= 1;
        self.row(key, version).map(Some)
    }

    fn line(&self, f: Found<'_>, keys_only: bool, reads: &mut usize) -> Result<Line, Unreadable> {
        if keys_only {
            let bare = f.about.without_value(f.key.clone(), f.version.id);
            return Ok(Line::Ready(Arc::new(bare)));
        }
        if let Some(row) = f.row {
            return Ok(Line::Ready(row));
        }
        Ok(match self.row_of(f.key, f.version, reads)? {
            Some(row) => Line::Ready(row),
            None => Line::ToRead {
                key: f.key.clone(),
                id: f.version.id,
                digest: f.version.digest,
            },
        })
    }
}

/// How much of a range is read while the state is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtOnce {
    /// Keys that are looked at, alive or not.
    pub keys: usize,
    /// Rows that are not in memory.
    pub reads: usize,
}

impl AtOnce {
    pub const ALL: AtOnce = AtOnce {
        keys: usize::MAX,
        reads: usize::MAX,
    };
}

/// What is known of a version beside its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct About {
    pub create_revision: Revision,
    pub versions: u64,
    pub lease: LeaseId,
}

impl About {
    pub fn of(row: &KeyValue) -> Self {
        About {
            create_revision: row.create_revision,
            versions: row.version,
            lease: row.lease,
        }
    }
    pub fn without_value(&self, key: Bytes, id: RowId) -> KeyValue {
        KeyValue {
            key,
            value: Bytes::new(),
            create_revision: self.create_revision,
            mod_revision: id.main,
            version: self.versions,
            lease: self.lease,
        }
    }
}

impl KeyHistory {
    /// What the index knows of the version: of the newest everything.
    pub(super) fn about(&self, version: &Version) -> Option<About> {
        let newest = self.versions.last().is_some_and(|v| v.id == version.id);
        newest.then_some(About {
            create_revision: self.create_revision,
            versions: self.version,
            lease: self.lease,
        })
    }
}

/// What a range's answer is filtered and sorted by.
pub(super) trait Entry {
    fn modified(&self) -> Revision;
    fn created(&self) -> Revision;
    fn versions(&self) -> u64;
    fn value(&self) -> Option<&Bytes>;
}

impl Entry for Found<'_> {
    fn modified(&self) -> Revision {
        self.version.id.main
    }
    fn created(&self) -> Revision {
        self.about.create_revision
    }
    fn versions(&self) -> u64 {
        self.about.versions
    }
    fn value(&self) -> Option<&Bytes> {
        self.row.as_ref().map(|row| &row.value)
    }
}

fn within(revision: Revision, min: u64, max: u64) -> bool {
    revision.0 >= min && (max == 0 || revision.0 <= max)
}
pub(super) fn within_modified(r: &Range, modified: Revision) -> bool {
    within(modified, r.min_mod_revision, r.max_mod_revision)
}
pub(super) fn within_created(r: &Range, created: Revision) -> bool {
    within(created, r.min_create_revision, r.max_create_revision)
}

/// What follows from a range for how it is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub filtered: bool,
    /// Living keys that are looked at closer; all are counted.
    pub fetch: usize,
    /// Keys of the answer; 0: all.
    limit: usize,
}

impl Plan {
    pub fn of(r: &Range) -> Self {
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
        Plan {
            filtered,
            fetch,
            limit,
        }
    }

    /// Sorts what was found and filtered, and cuts off what is beyond the limit; whether there was anything.
    pub fn cut<F: Entry>(&self, r: &Range, found: &mut Vec<F>) -> bool {
        sort(found, r.sort_target, r.sort_order);
        let more = self.limit > 0 && found.len() > self.limit;
        if more {
            found.truncate(self.limit);
        }
        more
    }
}

/// `found` comes in key order. Ties stay in key order, in both directions: etcd's sort promises nothing for them, and does
/// this for short lists.
fn sort<F: Entry>(found: &mut [F], target: SortTarget, order: SortOrder) {
    fn by<F, K: Ord>(found: &mut [F], descending: bool, key: impl Fn(&F) -> K) {
        found.sort_by(|a, b| {
            let (a, b) = (key(a), key(b));
            if descending { b.cmp(&a) } else { a.cmp(&b) }
        });
    }
    let descending = order == SortOrder::Descend;
    match target {
        SortTarget::Key if descending => found.reverse(),
        SortTarget::Key => {}
        SortTarget::Version => by(found, descending, F::versions),
        SortTarget::Create => by(found, descending, F::created),
        SortTarget::Mod => by(found, descending, F::modified),
        SortTarget::Value => by(found, descending, |f| f.value().cloned()),
    }
}
