//! What the records mean: folds them, oldest first, into what the log holds.
//! Promise: the entries are contiguous and follow the purged index, or there is an error.
//! Not here: bytes and files.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{Record, Recovered, RecoveredEntry};

/// The part of the state that each new segment repeats, so that older segments can be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    pub vote: Option<Bytes>,
    pub committed: Option<(u64, u64)>,
    pub purged: Option<(u64, u64)>,
}

impl Meta {
    pub fn note(&mut self, record: &Record) {
        match record {
            Record::Vote(vote) => self.vote = Some(vote.clone()),
            Record::Committed { index, term } => self.committed = Some((*index, *term)),
            Record::Purge { index, term } => self.purged = Some((*index, *term)),
            Record::Entry { .. } | Record::TruncateAfter { .. } => {}
        }
    }

    pub fn records(&self) -> Vec<Record> {
        let vote = self.vote.clone().map(Record::Vote);
        let purge = self
            .purged
            .map(|(index, term)| Record::Purge { index, term });
        let committed = self
            .committed
            .map(|(index, term)| Record::Committed { index, term });
        [vote, purge, committed].into_iter().flatten().collect()
    }
}

#[derive(Debug, Default)]
pub struct Replay {
    pub meta: Meta,
    entries: VecDeque<RecoveredEntry>,
}

impl Replay {
    pub fn apply(&mut self, record: Record) -> Result<(), String> {
        self.meta.note(&record);
        match record {
            Record::Entry {
                index,
                term,
                payload,
            } => {
                // No check against `purged` here: the oldest segment kept may begin with entries purged later.
                if let Some(last) = self.entries.back()
                    && index != last.index + 1
                {
                    return Err(format!("entry {index} follows entry {}", last.index));
                }
                self.entries.push_back(RecoveredEntry {
                    index,
                    term,
                    payload,
                });
            }
            Record::TruncateAfter { index } => {
                let keep = self.entries.partition_point(|entry| entry.index <= index);
                self.entries.truncate(keep);
            }
            Record::Purge { index, .. } => self.drop_upto(index),
            Record::Vote(_) | Record::Committed { .. } => {}
        }
        Ok(())
    }

    pub fn finish(mut self) -> Result<Recovered, String> {
        if let Some((purged, _)) = self.meta.purged {
            self.drop_upto(purged);
        }
        if let Some(first) = self.entries.front() {
            let expected = match self.meta.purged {
                Some((purged, _)) => first.index == purged + 1,
                // A log begins with index 0 or 1, as its owner counts.
                None => first.index <= 1,
            };
            if !expected {
                let purged = self
                    .meta
                    .purged
                    .map_or("nothing".into(), |(index, _)| index.to_string());
                return Err(format!(
                    "the entries begin with {}, but {purged} was purged",
                    first.index
                ));
            }
        }
        Ok(Recovered {
            vote: self.meta.vote,
            committed: self.meta.committed,
            purged: self.meta.purged,
            entries: self.entries.into(),
        })
    }

    fn drop_upto(&mut self, index: u64) {
        let gone = self.entries.partition_point(|entry| entry.index <= index);
        self.entries.drain(..gone);
    }
}
