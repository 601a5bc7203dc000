//! openraft's log storage over the wal. Every entry that is not purged is in memory, sharing its bytes with what was read
//! or received; the disk is read once, at the start.
//! Promise: a vote is durable when `save_vote` returns; an entry is readable when `append` returns and reported as
//! flushed only by the wal, in order; the committed mark never becomes durable before what it covers, because all of
//! them are records of one ordered log.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use barque_store_env::Env;
use barque_store_wal::{Record, Recovered, Wal};
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::{LogState, OptionalSend};
use parking_lot::Mutex;

use crate::disk::Failed;
use crate::record::{self, RecordError};
use crate::types::{
    LogEntry, LogId, Membership, Payload, Types, Vote, inner, log_id, outer, outer_of,
};
use crate::{Guards, limits};

/// Invariant: `entries` are contiguous, and the first follows `purged` when there is one.
#[derive(Default)]
struct Log {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: VecDeque<LogEntry>,
    /// Of the records of `entries`.
    bytes: u64,
}

impl Log {
    fn push_back(&mut self, entry: LogEntry) {
        self.bytes += record::len(&entry.payload) as u64;
        self.entries.push_back(entry);
    }
    fn pop_back(&mut self) {
        let gone = self.entries.pop_back();
        self.bytes -= gone.map_or(0, |e| record::len(&e.payload) as u64);
    }
    fn pop_front(&mut self) {
        let gone = self.entries.pop_front();
        self.bytes -= gone.map_or(0, |e| record::len(&e.payload) as u64);
    }
    fn purge(&mut self, upto: LogId) {
        while self.first().is_some_and(|first| first <= upto.index) {
            self.pop_front();
        }
        self.purged = self.purged.max(Some(upto));
    }
    fn first(&self) -> Option<u64> {
        self.entries.front().map(|e| e.log_id.index)
    }
    fn last_log_id(&self) -> Option<LogId> {
        self.entries.back().map(|e| e.log_id).or(self.purged)
    }
    /// The entries of `[start, end)` that are here.
    fn range(&self, start: u64, end: u64) -> impl Iterator<Item = &LogEntry> {
        let first = self.first().unwrap_or(0);
        let len = self.entries.len();
        let from = usize::try_from(start.saturating_sub(first)).map_or(len, |i| i.min(len));
        let to = usize::try_from(end.saturating_sub(first)).map_or(len, |i| i.min(len));
        self.entries.range(from..to.max(from))
    }
}

/// Handle of the log; clones share it.
pub struct LogStore<E: Env> {
    log: Arc<Mutex<Log>>,
    wal: Wal<E>,
    failed: Arc<Failed<E>>,
    pub guards: Guards,
}

impl<E: Env> Clone for LogStore<E> {
    fn clone(&self) -> Self {
        LogStore {
            log: self.log.clone(),
            wal: self.wal.clone(),
            failed: self.failed.clone(),
            guards: self.guards,
        }
    }
}

impl<E: Env> LogStore<E> {
    pub fn new(wal: Wal<E>, recovered: Recovered, guards: Guards) -> Result<Self, RecordError> {
        let mark = |mark: Option<(u64, u64)>| {
            mark.and_then(|(index, term)| Some(log_id(term, inner(index)?)))
        };
        let mut log = Log {
            vote: recovered.vote.map(record::parse_vote).transpose()?,
            committed: mark(recovered.committed),
            purged: mark(recovered.purged),
            entries: VecDeque::with_capacity(recovered.entries.len()),
            bytes: 0,
        };
        for e in recovered.entries {
            let index = inner(e.index).ok_or(RecordError::UnknownKind)?;
            log.push_back(LogEntry {
                log_id: log_id(e.term, index),
                payload: record::parse(e.payload)?,
            });
        }
        Ok(LogStore {
            log: Arc::new(Mutex::new(log)),
            wal,
            failed: Arc::default(),
            guards,
        })
    }
    /// Whether this log goes on where a state that has everything up to `restored` ends. The error tells a log that ends
    /// before it by [`Gap::is_behind`].
    pub fn fits(&self, restored: Option<LogId>) -> Result<(), Gap> {
        let log = self.log.lock();
        let begins = log.purged.map_or(0, |id| outer(id.index));
        let ends = outer_of(log.last_log_id().as_ref());
        let applied = outer_of(restored.as_ref());
        match begins <= applied && applied <= ends {
            true => Ok(()),
            false => Err(Gap {
                applied,
                begins,
                ends,
            }),
        }
    }
    /// Where failed appends wait before Raft hears of them.
    pub fn failed(&self) -> Arc<Failed<E>> {
        self.failed.clone()
    }
    /// Whether a membership in this log has other voters than `me`.
    pub fn names_other_voters(&self, me: u64) -> bool {
        let log = self.log.lock();
        log.entries.iter().any(|entry| match &entry.payload {
            Payload::Membership(m) => m.voter_ids().any(|id| id != me),
            Payload::Blank | Payload::Normal(_) => false,
        })
    }
    /// The newest membership in this log, committed or not.
    pub fn membership(&self) -> Option<Membership> {
        let log = self.log.lock();
        log.entries
            .iter()
            .rev()
            .find_map(|entry| match &entry.payload {
                Payload::Membership(m) => Some(m.clone()),
                Payload::Blank | Payload::Normal(_) => None,
            })
    }
    /// Appends entries of a term of their own, in which `me` votes for itself, and takes the whole log as committed: for a member
    /// that has nobody to agree with. Durable when it returns.
    pub async fn append_alone(
        &self,
        me: u64,
        payloads: impl IntoIterator<Item = Payload>,
    ) -> Result<(), String> {
        let mut records = Vec::new();
        {
            let mut log = self.log.lock();
            let last = log.last_log_id();
            let voted = log.vote.map_or(0, |vote| vote.leader_id.term);
            let term = 1 + last.map_or(voted, |id| voted.max(id.leader_id.term));
            let vote = Vote::new(term, me);
            log.vote = Some(vote);
            records.push(Record::Vote(record::vote(&vote)));
            let mut index = last.map_or(0, |id| id.index + 1);
            for payload in payloads {
                let log_id = log_id(term, index);
                records.push(Record::Entry {
                    index: outer(index),
                    term,
                    payload: record::of(&payload),
                });
                log.push_back(LogEntry { log_id, payload });
                log.committed = Some(log_id);
                index += 1;
            }
            records.push(Record::Committed {
                // `index` is the next one, as openraft counts.
                index,
                term,
            });
        }
        let number = self.wal.append(records);
        self.wal.durable(number).await.map_err(|e| e.to_string())
    }
    /// The last entry, not above `limit` and in openraft's count, that can go with at least `keep` bytes of entries left;
    /// `None` when none can.
    pub fn purgeable(&self, limit: u64, keep: u64) -> Option<u64> {
        let log = self.log.lock();
        let mut left = log.bytes;
        let mut last = None;
        for entry in &log.entries {
            left -= record::len(&entry.payload) as u64;
            if left < keep || entry.log_id.index > limit {
                break;
            }
            last = Some(entry.log_id.index);
        }
        last
    }
    /// The last entry that was given up, in openraft's count.
    pub fn purged(&self) -> Option<u64> {
        self.log.lock().purged.map(|id| id.index)
    }
    /// The term of the entry, where it is here.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        let log = self.log.lock();
        let entry = log.range(index, index + 1).next()?;
        Some(entry.log_id.leader_id.term)
    }
    /// Goes on behind `state`, which was installed and has everything the log holds and more: a crash came between the
    /// installation and the purge that follows it. (openraft does it by itself, unless the log ends with entries of a later
    /// term that were never committed.)
    pub async fn begin_behind(&self, state: LogId) -> Result<(), String> {
        self.log.lock().purge(state);
        let number = self.wal.append(vec![Record::Purge {
            index: outer(state.index),
            term: state.leader_id.term,
        }]);
        self.wal.durable(number).await.map_err(|e| e.to_string())
    }
    /// Where the members of the memberships in this log are, `me` left out.
    pub fn addresses(&self, me: u64) -> BTreeSet<String> {
        let log = self.log.lock();
        let memberships = log.entries.iter().filter_map(|entry| match &entry.payload {
            Payload::Membership(m) => Some(m),
            Payload::Blank | Payload::Normal(_) => None,
        });
        memberships
            .flat_map(|m| m.nodes())
            .filter(|(id, _)| **id != me)
            .map(|(_, node)| node.addr.clone())
            .collect()
    }
    /// A state that has everything up to `state` is about to become this member's: entries of another term at its place, and
    /// all behind them, were never committed and go, durably. The rest of the log agrees with the state and stays. An error:
    /// what this log has given up or knows to be committed is not what is in that state.
    pub async fn give_way(&self, state: LogId) -> Result<(), String> {
        let differs = |id: &LogId| id.index == state.index && id.leader_id != state.leader_id;
        {
            let mut log = self.log.lock();
            let here = log.range(state.index, state.index + 1).next();
            let conflict = here.is_some_and(|entry| differs(&entry.log_id));
            let committed = log.committed.is_some_and(|id| id.index >= state.index);
            if log.purged.as_ref().is_some_and(differs) || conflict && committed {
                return Err(format!(
                    "the state received ends with entry {} of term {}, where this member's log has another one that was \
                     committed: the two are not of one cluster",
                    outer(state.index),
                    state.leader_id.term
                ));
            }
            if !conflict {
                return Ok(());
            }
            while log
                .entries
                .back()
                .is_some_and(|e| e.log_id.index >= state.index)
            {
                log.pop_back();
            }
        }
        // The entries before it, as the rest of the store counts.
        let last = state.index;
        self.wal.append(vec![Record::TruncateAfter { index: last }]);
        self.barrier().await
    }
    pub async fn barrier(&self) -> Result<(), String> {
        barrier(&self.wal).await
    }
    pub fn has_voted(&self) -> bool {
        self.log.lock().vote.is_some()
    }
    pub fn is_empty(&self) -> bool {
        self.log.lock().last_log_id().is_none()
    }
}

/// Waits until everything that was appended to the log so far is durable.
pub async fn barrier<E: Env>(wal: &Wal<E>) -> Result<(), String> {
    let everything = wal.append(Vec::new());
    wal.durable(everything).await.map_err(|e| e.to_string())
}

/// Log and persisted state do not belong together: entries between them are missing.
#[derive(Debug, thiserror::Error)]
#[error(
    "the persisted state goes up to entry {applied}, but the log has the entries after {begins} up to {ends}: one of the two \
     is older than the other or was removed; put both back from the same backup"
)]
pub struct Gap {
    applied: u64,
    begins: u64,
    ends: u64,
}

impl Gap {
    /// The log holds nothing that the state does not have.
    pub fn is_behind(&self) -> bool {
        self.ends < self.applied
    }
    /// The log has given up entries that the state does not have.
    pub fn is_ahead(&self) -> bool {
        self.applied < self.begins
    }
}

fn bounds<R: RangeBounds<u64>>(range: &R) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(i) => *i,
        Bound::Excluded(i) => i + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(i) => i + 1,
        Bound::Excluded(i) => *i,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl<E: Env> RaftLogReader<Types<E>> for LogStore<E> {
    async fn try_get_log_entries<R>(&mut self, range: R) -> Result<Vec<LogEntry>, io::Error>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        Ok(self.log.lock().range(start, end).cloned().collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.log.lock().vote)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<LogEntry>, io::Error> {
        let log = self.log.lock();
        // Below the first entry: empty, which openraft takes for a heartbeat. An error would stop a leader, a later
        // start would leave a hole in the follower (guard 6).
        if log.first().is_none_or(|first| start < first) {
            return match self.guards.purged_reads_empty {
                true => Ok(Vec::new()),
                false => Err(io::Error::other(format!("entry {start} was purged"))),
            };
        }
        let chunk = match self.guards.small_chunks {
            true => limits::READ_CHUNK_BYTES,
            false => usize::MAX,
        };
        let mut bytes = 0;
        let mut out = Vec::new();
        for entry in log.range(start, end) {
            bytes += record::len(&entry.payload);
            if bytes > chunk && !out.is_empty() {
                break;
            }
            out.push(entry.clone());
        }
        Ok(out)
    }
}

impl<E: Env> RaftLogStorage<Types<E>> for LogStore<E> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types<E>>, io::Error> {
        let log = self.log.lock();
        Ok(LogState {
            last_purged_log_id: log.purged,
            last_log_id: log.last_log_id(),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let number = self.wal.append(vec![Record::Vote(record::vote(vote))]);
        self.wal.durable(number).await.map_err(io::Error::other)?;
        self.log.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(id) = committed else { return Ok(()) };
        self.log.lock().committed = committed;
        // Nobody waits for it: a start that finds an older mark relearns the newer one from its peers.
        self.wal.append(vec![Record::Committed {
            index: outer(id.index),
            term: id.leader_id.term,
        }]);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.log.lock().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<Types<E>>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        {
            let mut log = self.log.lock();
            for entry in entries {
                let index = entry.log_id.index;
                if let Some(last) = log.entries.back() {
                    assert_eq!(
                        last.log_id.index + 1,
                        index,
                        "an append left a hole in the log"
                    );
                }
                records.push(Record::Entry {
                    index: outer(index),
                    term: entry.log_id.leader_id.term,
                    payload: record::of(&entry.payload),
                });
                log.push_back(entry);
            }
        }
        let failed = self.failed.clone();
        self.wal.append_then(
            records,
            Box::new(move |result| match result {
                Ok(()) => callback.io_completed(Ok(())),
                Err(error) => failed.hold(callback, io::Error::other(error)),
            }),
        );
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let mut log = self.log.lock();
        while log
            .entries
            .back()
            .is_some_and(|e| last.is_none_or(|last| e.log_id.index > last.index))
        {
            log.pop_back();
        }
        drop(log);
        self.wal.append(vec![Record::TruncateAfter {
            index: last.map_or(0, |id| outer(id.index)),
        }]);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.log.lock().purge(upto);
        self.wal.append(vec![Record::Purge {
            index: outer(upto.index),
            term: upto.leader_id.term,
        }]);
        Ok(())
    }
}
