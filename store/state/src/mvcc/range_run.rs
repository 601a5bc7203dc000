//! A range over many keys, answered piece by piece: the state is held for some keys at a time, and rows are read without it.
//! Promise: the answer is the one of a single revision, the newest when it was begun, whatever is written meanwhile.
//! Not here: what the answer consists of, and the way of few keys (`range`).

use std::sync::Arc;

use bytes::Bytes;

use super::range::{About, Entry, Plan, within_created, within_modified};
use super::store::{Store, resolve};
use crate::archive::{Archive, Unreadable};
use crate::command::{Range, RangeResult, Refusal, SortTarget};
use crate::types::{KeyValue, Revision, RowId};

pub struct RangeRun {
    range: Range,
    plan: Plan,
    at: Revision,
    /// The store's, when it was begun.
    newest: Revision,
    /// The last key that was looked at.
    behind: Option<Bytes>,
    count: u64,
    found: Vec<Seen>,
    /// Of `found`, those whose rows were looked at in this phase.
    done: usize,
    /// Filtered, sorted and cut off; whether anything was beyond the limit.
    more: Option<bool>,
}

/// A key's state at the revision; what the index did not know is read from its row.
struct Seen {
    key: Bytes,
    id: RowId,
    digest: u64,
    about: Option<About>,
    row: Option<Arc<KeyValue>>,
}

impl Seen {
    fn read(&mut self, archive: &dyn Archive) -> Result<bool, Unreadable> {
        if self.row.is_none() {
            let Some(bytes) = archive.read(self.id)? else {
                return Ok(false);
            };
            let row = resolve(&self.key, self.id, self.digest, &bytes)?;
            self.about.get_or_insert(About::of(&row));
            self.row = Some(row);
        }
        Ok(true)
    }
}

impl Entry for Seen {
    fn modified(&self) -> Revision {
        self.id.main
    }
    fn created(&self) -> Revision {
        self.about
            .map_or(Revision(0), |about| about.create_revision)
    }
    fn versions(&self) -> u64 {
        self.about.map_or(0, |about| about.versions)
    }
    fn value(&self) -> Option<&Bytes> {
        self.row.as_ref().map(|row| &row.value)
    }
}

/// How reading the rows went on.
#[derive(Debug, PartialEq, Eq)]
pub enum Reading {
    Unfinished,
    Done(RangeResult),
    /// A row went meanwhile (a compaction): the range must be begun anew.
    Gone,
}

impl RangeRun {
    fn begin(range: &Range, at: Revision, newest: Revision) -> Self {
        RangeRun {
            range: range.clone(),
            plan: Plan::of(range),
            at,
            newest,
            behind: None,
            count: 0,
            found: Vec::new(),
            done: 0,
            more: None,
        }
    }

    /// The store's revision when it was begun.
    pub fn revision(&self) -> Revision {
        self.newest
    }

    /// Reads at most so many rows, after [`crate::State::range_on`] has said that every key was looked at.
    pub fn read_on(&mut self, archive: &dyn Archive, rows: usize) -> Result<Reading, Unreadable> {
        let mut left = rows;
        let more = match self.more {
            Some(more) => more,
            None => {
                let r = &self.range;
                let by_create = r.min_create_revision != 0 || r.max_create_revision != 0;
                let by_about =
                    by_create || matches!(r.sort_target, SortTarget::Version | SortTarget::Create);
                let by_value = r.sort_target == SortTarget::Value;
                let needed = |seen: &Seen| by_value || by_about && seen.about.is_none();
                if let Some(not_yet) =
                    read(&mut self.found, &mut self.done, archive, &mut left, needed)?
                {
                    return Ok(not_yet);
                }
                if by_create {
                    let r = &self.range;
                    self.found.retain(|seen| within_created(r, seen.created()));
                }
                self.done = 0;
                *self
                    .more
                    .insert(self.plan.cut(&self.range, &mut self.found))
            }
        };
        let keys_only = self.range.keys_only;
        let needed = |seen: &Seen| !keys_only || seen.about.is_none();
        if let Some(not_yet) = read(&mut self.found, &mut self.done, archive, &mut left, needed)? {
            return Ok(not_yet);
        }
        let line = |seen: Seen| match (keys_only, seen.about, seen.row) {
            (true, Some(about), _) => Arc::new(about.without_value(seen.key, seen.id)),
            (_, _, Some(row)) => row,
            (_, _, None) => unreachable!("every row that is needed was read"),
        };
        Ok(Reading::Done(RangeResult {
            kvs: std::mem::take(&mut self.found)
                .into_iter()
                .map(line)
                .collect(),
            more,
            count: self.count,
        }))
    }
}

/// Reads the rows that are needed, from `done` on; `None`: all of them are there.
fn read(
    found: &mut [Seen],
    done: &mut usize,
    archive: &dyn Archive,
    left: &mut usize,
    needed: impl Fn(&Seen) -> bool,
) -> Result<Option<Reading>, Unreadable> {
    for seen in &mut found[*done..] {
        if needed(seen) && seen.row.is_none() {
            if *left == 0 {
                return Ok(Some(Reading::Unfinished));
            }
            *left -= 1;
            if !seen.read(archive)? {
                return Ok(Some(Reading::Gone));
            }
        }
        *done += 1;
    }
    Ok(None)
}

impl Store {
    pub fn range_begin(&self, range: &Range) -> Result<RangeRun, Refusal> {
        self.readable(range.revision, self.revision)?;
        let at = range.revision.filter(|at| !at.names_the_newest());
        let newest = self.revision;
        Ok(RangeRun::begin(range, at.unwrap_or(newest), newest))
    }

    /// Looks at so many keys more; true, when there are no more.
    pub fn range_on(&self, run: &mut RangeRun, keys: usize) -> Result<bool, Refusal> {
        if self.readable(Some(run.at), self.revision).is_err() {
            let anew = self.range_begin(&run.range)?;
            *run = anew;
        }
        let behind = run.behind.take();
        let mut scan = self.index.scan_behind(&run.range.range, behind.as_ref());
        let mut last = None;
        for (key, history) in scan.by_ref().take(keys) {
            last = Some(key);
            let Some(version) = history.alive_at(run.at) else {
                continue;
            };
            run.count += 1;
            if run.found.len() == run.plan.fetch || !within_modified(&run.range, version.id.main) {
                continue;
            }
            let about = history.about(version);
            let bare = run.range.keys_only && about.is_some();
            let row = (!bare).then(|| version.resident().cloned()).flatten();
            run.found.push(Seen {
                key: key.clone(),
                id: version.id,
                digest: version.digest,
                about: about.or_else(|| row.as_deref().map(About::of)),
                row,
            });
        }
        let ended = scan.next().is_none();
        run.behind = last.cloned().or(behind);
        Ok(ended)
    }
}
