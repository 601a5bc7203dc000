//! Compaction: forgets what no read at or after a revision can see.
//! Promise: of each key the newest version at or before the revision stays, unless it is a tombstone older than it (one
//! exactly at it stays, so that a watch from there sees the delete). Older revisions are unreadable at once; the versions
//! go in slices, one with every entry, so that no compaction holds the state (and with it the whole member) for long.

use std::ops::Bound;

use bytes::Bytes;

use super::store::Store;
use crate::command::Refusal;
use crate::digest;
use crate::limits::SWEEP_VERSION_WORK;
use crate::types::Revision;

/// How far the keys were looked at. One pass goes over all keys in their order; a compaction that comes meanwhile waits for
/// the next pass (were it to begin anew, compactions that come fast enough would never let a pass reach the last keys).
/// Replicated state: which versions are gone must follow from the log alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// The compaction whose pass was finished last.
    pub finished: Option<Revision>,
    pub running: Option<Pass>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    pub upto: Revision,
    /// The last key looked at.
    pub last: Option<Bytes>,
}

impl Sweep {
    pub fn digest(&self) -> u64 {
        let number = |revision: Option<Revision>| revision.map_or(0, |r| r.0 + 1);
        let last = self.running.as_ref().and_then(|pass| pass.last.as_ref());
        digest::words(&[
            number(self.finished),
            number(self.running.as_ref().map(|pass| pass.upto)),
            last.map_or(0, |key| digest::bytes(key)),
        ])
    }
}

impl Store {
    pub fn compact(&mut self, upto: Revision) -> Result<(), Refusal> {
        if self.compacted.is_some_and(|compacted| upto <= compacted) {
            return Err(Refusal::Compacted);
        }
        if upto > self.revision {
            return Err(Refusal::FutureRevision);
        }
        self.compacted = Some(upto);
        Ok(())
    }

    /// Looks at the next keys for versions that a compaction made superfluous, until `work` is done: a key is one, a version
    /// that goes is [`SWEEP_VERSION_WORK`]. Part of applying an entry.
    pub fn sweep(&mut self, work: usize) {
        if self.sweep.finished == self.compacted {
            return;
        }
        let Some(compacted) = self.compacted else {
            return;
        };
        let pass = self.sweep.running.take().unwrap_or(Pass {
            upto: compacted,
            last: None,
        });
        let from = match &pass.last {
            Some(last) => Bound::Excluded(last.clone()),
            None => Bound::Unbounded,
        };
        let mut gone = Vec::new();
        let mut empty = Vec::new();
        let mut left = work;
        let mut last = None;
        let mut ended = true;
        let slice = self
            .index
            .keys
            .range_mut::<Bytes, _>((from, Bound::Unbounded));
        for (key, history) in slice {
            if left == 0 {
                ended = false;
                break;
            }
            left -= 1;
            last = Some(key);
            let Some(newest) = history.at(pass.upto) else {
                continue;
            };
            let version = &history.versions[newest];
            let keep_from = newest + usize::from(version.tombstone && version.id.main < pass.upto);
            left = left.saturating_sub(keep_from * SWEEP_VERSION_WORK);
            gone.extend(
                history
                    .versions
                    .drain(..keep_from)
                    .map(|v| (key.clone(), v)),
            );
            if history.versions.is_empty() {
                empty.push(key.clone());
            }
        }
        match ended {
            true => self.sweep.finished = Some(pass.upto),
            false => {
                self.sweep.running = Some(Pass {
                    upto: pass.upto,
                    last: last.cloned().or(pass.last),
                });
            }
        }
        for key in empty {
            self.index.keys.remove(&key);
        }
        for (key, version) in gone {
            self.forget(&key, version);
        }
    }

    /// Whether a pass is under way or due.
    pub fn is_sweeping(&self) -> bool {
        self.sweep.finished != self.compacted
    }
}
