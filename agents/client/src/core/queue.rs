//! A work queue of keys. Promise: a key waits at most once, is never worked on by two at a time, and a change that comes while it is
//! worked on is not lost; failing keys come back later and later.
//! Bounded by the number of distinct keys, that is of objects. Not here: what a key means, clocks, waiting.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::backoff::delay;
use crate::limits::{RETRY_DELAY_MAX, RETRY_DELAY_MIN};

#[derive(Debug)]
pub struct Queue<K> {
    ready: VecDeque<K>,
    /// Invariant: exactly the keys of `ready`, plus those in work that must come back at once.
    dirty: BTreeSet<K>,
    in_work: BTreeSet<K>,
    /// Invariant: `due` and `due_of` hold the same keys at the same times.
    due: BTreeSet<(Duration, K)>,
    due_of: BTreeMap<K, Duration>,
    failures: BTreeMap<K, u32>,
}

impl<K: Ord + Clone> Default for Queue<K> {
    fn default() -> Queue<K> {
        Queue {
            ready: VecDeque::new(),
            dirty: BTreeSet::new(),
            in_work: BTreeSet::new(),
            due: BTreeSet::new(),
            due_of: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone> Queue<K> {
    /// Something changed: the key is to be looked at. Overrides a delay.
    pub fn add(&mut self, key: K) {
        self.undue(&key);
        if self.dirty.insert(key.clone()) && !self.in_work.contains(&key) {
            self.ready.push_back(key);
        }
    }

    /// The key is to be looked at when `at` has come; the earlier of two times counts.
    pub fn add_at(&mut self, key: K, at: Duration) {
        if self.dirty.contains(&key) {
            return; // sooner than any delay
        }
        if self.due_of.get(&key).is_some_and(|due| *due <= at) {
            return;
        }
        self.undue(&key);
        self.due.insert((at, key.clone()));
        self.due_of.insert(key, at);
    }

    /// The next key to work on; it stays in work until `done`.
    pub fn take(&mut self, now: Duration) -> Option<K> {
        while let Some((at, key)) = self.due.first().cloned() {
            if at > now {
                break;
            }
            self.add(key);
        }
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.in_work.insert(key.clone());
        Some(key)
    }

    /// When the next delayed key is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Work on the key ended well.
    pub fn done(&mut self, key: &K) {
        self.failures.remove(key);
        self.end_work(key);
    }

    /// Work on the key failed: it comes back after a delay that doubles with each failure in a row.
    pub fn failed(&mut self, key: &K, now: Duration) {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        let wait = delay(RETRY_DELAY_MIN, RETRY_DELAY_MAX, *failures);
        *failures = failures.saturating_add(1);
        self.end_work(key);
        self.add_at(key.clone(), now + wait);
    }

    fn end_work(&mut self, key: &K) {
        self.in_work.remove(key);
        if self.dirty.contains(key) {
            self.ready.push_back(key.clone());
        }
    }

    fn undue(&mut self, key: &K) {
        if let Some(at) = self.due_of.remove(key) {
            self.due.remove(&(at, key.clone()));
        }
    }

    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.in_work.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_key_waits_once_and_comes_back_when_it_changed_during_work() {
        let mut queue = Queue::default();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.take(ms(0)), Some("a"));
        queue.add("a");
        assert_eq!(queue.take(ms(0)), Some("b"));
        assert_eq!(queue.take(ms(0)), None, "a is in work");
        queue.done(&"a");
        assert_eq!(queue.take(ms(0)), Some("a"));
        queue.done(&"a");
        queue.done(&"b");
        assert!(queue.take(ms(0)).is_none() && queue.is_idle());
    }

    #[test]
    fn failures_double_the_delay_and_success_forgets_them() {
        let mut queue = Queue::default();
        queue.add("a");
        for wait in [5, 10, 20] {
            assert_eq!(queue.take(ms(1_000_000)), Some("a"));
            queue.failed(&"a", ms(0));
            assert_eq!(queue.next_due(), Some(ms(wait)));
        }
        queue.take(ms(1_000_000));
        queue.done(&"a");
        queue.add("a");
        queue.take(ms(0));
        queue.failed(&"a", ms(0));
        assert_eq!(queue.next_due(), Some(ms(5)));
    }

    #[test]
    fn the_earlier_of_two_delays_counts_and_a_change_overrides_both() {
        let mut queue = Queue::default();
        queue.add_at("a", ms(50));
        queue.add_at("a", ms(20));
        queue.add_at("a", ms(90));
        assert_eq!(queue.take(ms(19)), None);
        assert_eq!(queue.next_due(), Some(ms(20)));
        queue.add("a");
        assert_eq!(queue.take(ms(0)), Some("a"));
        assert_eq!(queue.next_due(), None);
    }

    proptest! {
        // No key is ever in work twice, and every key added is taken afterwards.
        #[test]
        fn nothing_is_lost_or_doubled(steps in proptest::collection::vec((0u8..5, 0u8..4), 1..200)) {
            let mut queue = Queue::default();
            let mut in_work = BTreeSet::new();
            let mut owed: BTreeSet<u8> = BTreeSet::new();
            for (at, (action, key)) in steps.into_iter().enumerate() {
                let now = ms(at as u64);
                match action {
                    0 => { queue.add(key); owed.insert(key); }
                    1 => { queue.add_at(key, now + ms(u64::from(key))); owed.insert(key); }
                    2 => if let Some(key) = queue.take(now) {
                        prop_assert!(in_work.insert(key), "key {} taken twice", key);
                        owed.remove(&key);
                    },
                    3 => if in_work.remove(&key) { queue.done(&key); },
                    _ => if in_work.remove(&key) { queue.failed(&key, now); owed.insert(key); },
                }
            }
            for key in std::mem::take(&mut in_work) { queue.done(&key); }
            while let Some(key) = queue.take(ms(10_000_000)) {
                owed.remove(&key);
                queue.done(&key);
            }
            prop_assert!(owed.is_empty(), "lost {:?}", owed);
        }
    }
}
