//! Which rows are in memory: all that are not persisted yet, and of the others the recently used, up to a budget (CLOCK:
//! a hand goes round the keys; a row that was read since its last visit stays).
//! Promise: a row leaves memory only when the archive has it; the budget is passed by no more than what is not persisted
//! plus a sixteenth.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::index::{Index, Version};
use crate::types::{KeyValue, RowId};

#[derive(Debug)]
pub struct Cache {
    budget: u64,
    /// Bytes of the rows in memory, those not persisted included.
    held: AtomicU64,
    /// The key the hand stands at; `None`: before the first.
    hand: Option<Bytes>,
    /// Keys that the hand has passed since it last found something to let go of, or since more may go.
    in_vain: usize,
    /// The last row that might go then.
    archived: RowId,
}

/// A resident row's allocation: the row's struct with its counts, the value's buffer and that one's own head.
fn cost(kv: &KeyValue) -> u64 {
    const HEAD: u64 = 16 + size_of::<KeyValue>() as u64 + 64;
    HEAD + kv.value.len() as u64
}

impl Cache {
    pub fn new(budget: u64) -> Self {
        Cache {
            budget,
            held: AtomicU64::new(0),
            hand: None,
            in_vain: 0,
            archived: RowId::default(),
        }
    }
    pub fn set_budget(&mut self, bytes: u64) {
        self.budget = bytes;
    }
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
    /// Keeps a row that was just written: it is not persisted, so there is no choice.
    pub fn keep(&self, version: &Version, row: Arc<KeyValue>) {
        let cost = cost(&row);
        if version.keep(row) {
            self.held.fetch_add(cost, Ordering::Relaxed);
        }
    }
    /// Keeps a row that was read from the archive if there is room; the hand makes room later.
    pub fn offer(&self, version: &Version, row: &Arc<KeyValue>) {
        if self.held() < self.budget + self.budget / 16 {
            self.keep(version, row.clone());
        }
    }
    /// A row left memory together with its version.
    pub fn forget(&self, mut version: Version) {
        if let Some(row) = version.take() {
            self.held.fetch_sub(cost(&row), Ordering::Relaxed);
        }
    }
    pub fn is_over(&self) -> bool {
        self.held() > self.budget
    }
    /// Moves the hand over at most `keys` keys, while the budget is passed; only rows up to `archived` may go.
    pub fn turn(&mut self, index: &mut Index, archived: RowId, keys: usize) {
        if self.archived < archived {
            self.archived = archived;
            self.in_vain = 0;
        }
        let mut left = keys;
        // Twice round, for the first time only takes the marks of use off. What is left then is not persisted, and every
        // entry would look through thousands of keys for nothing until it is.
        while self.is_over() && left > 0 && self.in_vain <= 2 * index.keys.len() {
            let from = match &self.hand {
                Some(key) => Bound::Excluded(key.clone()),
                None => Bound::Unbounded,
            };
            let mut last = None;
            for (key, history) in index.keys.range_mut::<Bytes, _>((from, Bound::Unbounded)) {
                self.in_vain += 1;
                for version in history.versions.iter_mut().filter(|v| v.id <= archived) {
                    if let Some(row) = version.pass() {
                        self.held.fetch_sub(cost(&row), Ordering::Relaxed);
                        self.in_vain = 0;
                    }
                }
                left -= 1;
                last = Some(key);
                if left == 0 || self.held.load(Ordering::Relaxed) <= self.budget {
                    break;
                }
            }
            // Round the end: from the first key on.
            let ended = last.is_none();
            self.hand = last.cloned();
            if ended && index.keys.is_empty() {
                return;
            }
            if ended {
                left -= 1;
            }
        }
    }
}
