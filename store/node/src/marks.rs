//! The hashes this member had at the last marks, for whoever compares them; and the way in which it learns that it is the one
//! that differs.
//! Promise: a hash is the state's right after the entry with the mark, on every member alike.
//! Not here: who compares, and what follows (`integrity`).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use barque_store_env::{Env, Instant, watch};
use barque_store_state::*;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::limits::INTEGRITY_MARKS_KEPT;

/// Why a member serves nothing any more, and what is wrong with its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fenced {
    /// It is not a majority's. The whole text for whoever runs it.
    Differs(String),
    /// It cannot be read. Which file and offset.
    Damaged(String),
}

struct Kept {
    /// Oldest first, at most [`INTEGRITY_MARKS_KEPT`].
    hashes: VecDeque<(LogIndex, u64)>,
    /// When the last mark was applied here; at first, when this member was started.
    last_at: Instant,
}

pub(crate) struct Marks {
    kept: Mutex<Kept>,
    /// A compaction was applied, and no mark after it.
    compacted: AtomicBool,
    wanted: Notify,
    fenced: watch::Sender<Option<Fenced>>,
    planted: AtomicBool,
}

impl Marks {
    pub(crate) fn new(now: Instant) -> Self {
        Marks {
            kept: Mutex::new(Kept {
                hashes: VecDeque::with_capacity(INTEGRITY_MARKS_KEPT),
                last_at: now,
            }),
            compacted: AtomicBool::new(false),
            wanted: Notify::new(),
            fenced: watch::channel(None).0,
            planted: AtomicBool::new(false),
        }
    }

    /// After each entry, under the state's lock and before it is known to be applied.
    pub(crate) fn applied<E: Env>(&self, index: LogIndex, applied: &Applied, state: &State) {
        let answers = || {
            applied
                .outcomes
                .iter()
                .filter_map(|o| o.result.as_ref().ok())
        };
        if answers().any(|answer| matches!(answer, Answer::Compacted)) {
            self.compacted.store(true, Ordering::Relaxed);
            self.wanted.notify_one();
        }
        if answers().any(|answer| matches!(answer, Answer::Marked)) {
            let mut kept = self.kept.lock();
            if kept.hashes.len() == INTEGRITY_MARKS_KEPT {
                kept.hashes.pop_front();
            }
            kept.hashes.push_back((index, state.whole_hash()));
            kept.last_at = E::now();
        }
    }

    pub(crate) fn hash(&self, index: LogIndex) -> Option<u64> {
        let kept = self.kept.lock();
        let found = kept.hashes.iter().rev().find(|(at, _)| *at == index);
        found.map(|(_, hash)| *hash)
    }
    pub(crate) fn newest(&self) -> Option<(LogIndex, u64)> {
        self.kept.lock().hashes.back().copied()
    }
    pub(crate) fn last_at(&self) -> Instant {
        self.kept.lock().last_at
    }

    /// Whether a compaction waits for its mark.
    pub(crate) fn is_wanted(&self) -> bool {
        self.compacted.load(Ordering::Relaxed)
    }
    pub(crate) fn taken(&self) {
        self.compacted.store(false, Ordering::Relaxed);
    }
    /// Waits until a compaction wants a mark; may also return for an earlier one.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    pub(crate) fn fence(&self, why: Fenced) {
        self.fenced.send(Some(why));
    }
    /// Why this member is fenced, if it is.
    pub(crate) fn fence_now(&self) -> Option<Fenced> {
        self.fenced.subscribe().get()
    }
    /// Resolves with the reason when this member was fenced.
    pub(crate) async fn fenced(&self) -> Fenced {
        self.fenced.until(Option::clone).await
    }

    /// The next put applied here is carried out wrongly. For the simulator's runs that prove what marks are for.
    pub(crate) fn plant(&self) {
        self.planted.store(true, Ordering::Relaxed);
    }
    /// The entry with the planted fault, where one waits and the entry has a put.
    pub(crate) fn faulty(&self, entry: &Entry) -> Option<Entry> {
        if !self.planted.load(Ordering::Relaxed) {
            return None;
        }
        let mut faulty = entry.clone();
        let put = faulty
            .commands
            .iter_mut()
            .find_map(|command| match command {
                Command::Put(put) => Some(put),
                _ => None,
            })?;
        put.value = [&put.value[..], b"\x01"].concat().into();
        self.planted.store(false, Ordering::Relaxed);
        Some(faulty)
    }
}
