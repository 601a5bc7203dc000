//! Which events are worth writing: repeats are counted in the first one, floods are cut.
//! Owns the memory of recent events, bounded in entries. Not here: writing them, names and clocks (given).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::limits::{EVENT_BURST_PER_OBJECT, EVENT_REFILL, EVENTS_REMEMBERED_MAX};

/// What makes two events the same event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sameness {
    pub uid: String,
    pub event_type: &'static str,
    pub reason: String,
    pub message: String,
}

/// What to do with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// New: write it under the name given.
    Create,
    /// Seen before: set the count on the event of this name.
    Count { name: String, count: i32 },
    /// The object has used up its share.
    Drop,
}

#[derive(Debug)]
struct Seen {
    name: String,
    count: i32,
    last: Duration,
}

#[derive(Debug)]
struct Budget {
    left: u32,
    refilled: Duration,
}

#[derive(Debug, Default)]
pub struct Correlator {
    seen: BTreeMap<Sameness, Seen>,
    budgets: BTreeMap<String, Budget>,
}

impl Correlator {
    /// Judges one event. `name` is the name it would be written under.
    pub fn observe(&mut self, event: &Sameness, name: &str, now: Duration) -> Verdict {
        if !self.spend(&event.uid, now) {
            return Verdict::Drop;
        }
        if let Some(seen) = self.seen.get_mut(event) {
            seen.count = seen.count.saturating_add(1);
            seen.last = now;
            return Verdict::Count {
                name: seen.name.clone(),
                count: seen.count,
            };
        }
        if self.seen.len() >= EVENTS_REMEMBERED_MAX {
            let oldest = self
                .seen
                .iter()
                .min_by_key(|(_, seen)| seen.last)
                .map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.seen.remove(&oldest);
            }
        }
        let seen = Seen {
            name: name.to_owned(),
            count: 1,
            last: now,
        };
        self.seen.insert(event.clone(), seen);
        Verdict::Create
    }

    /// The event of that sameness is not in the store (it expired): the next one is new.
    pub fn forget(&mut self, event: &Sameness) {
        self.seen.remove(event);
    }

    fn spend(&mut self, uid: &str, now: Duration) -> bool {
        if self.budgets.len() >= EVENTS_REMEMBERED_MAX && !self.budgets.contains_key(uid) {
            // A budget that was not touched for a refill period is (nearly) full again: nothing is lost by forgetting the oldest.
            let oldest = self
                .budgets
                .iter()
                .min_by_key(|(_, b)| b.refilled)
                .map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.budgets.remove(&oldest);
            }
        }
        let budget = self.budgets.entry(uid.to_owned()).or_insert(Budget {
            left: EVENT_BURST_PER_OBJECT,
            refilled: now,
        });
        let periods = now.saturating_sub(budget.refilled).as_secs() / EVENT_REFILL.as_secs();
        if periods > 0 {
            let earned = u32::try_from(periods).unwrap_or(u32::MAX);
            budget.left = budget
                .left
                .saturating_add(earned)
                .min(EVENT_BURST_PER_OBJECT);
            budget.refilled = now;
        }
        if budget.left == 0 {
            return false;
        }
        budget.left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(uid: &str, reason: &str) -> Sameness {
        Sameness {
            uid: uid.to_owned(),
            event_type: "Normal",
            reason: reason.to_owned(),
            message: "text".to_owned(),
        }
    }

    #[test]
    fn repeats_are_counted_in_the_first() {
        let mut correlator = Correlator::default();
        let now = Duration::ZERO;
        assert_eq!(
            correlator.observe(&event("a", "Started"), "a.1", now),
            Verdict::Create
        );
        let counted = Verdict::Count {
            name: "a.1".to_owned(),
            count: 2,
        };
        assert_eq!(
            correlator.observe(&event("a", "Started"), "a.2", now),
            counted
        );
        assert_eq!(
            correlator.observe(&event("a", "Killing"), "a.3", now),
            Verdict::Create
        );
        correlator.forget(&event("a", "Started"));
        assert_eq!(
            correlator.observe(&event("a", "Started"), "a.4", now),
            Verdict::Create
        );
    }

    #[test]
    fn one_object_cannot_flood_but_earns_again() {
        let mut correlator = Correlator::default();
        let mut written = 0;
        for round in 0..100 {
            let verdict = correlator.observe(&event("a", &round.to_string()), "n", Duration::ZERO);
            written += u32::from(verdict != Verdict::Drop);
        }
        assert_eq!(written, EVENT_BURST_PER_OBJECT);
        assert_eq!(
            correlator.observe(&event("b", "x"), "n", Duration::ZERO),
            Verdict::Create
        );
        assert_eq!(
            correlator.observe(&event("a", "x"), "n", EVENT_REFILL),
            Verdict::Create
        );
        assert_eq!(
            correlator.observe(&event("a", "y"), "n", EVENT_REFILL),
            Verdict::Drop
        );
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut correlator = Correlator::default();
        for round in 0..EVENTS_REMEMBERED_MAX * 2 {
            correlator.observe(
                &event(&round.to_string(), "x"),
                "n",
                Duration::from_secs(round as u64),
            );
        }
        assert_eq!(correlator.seen.len(), EVENTS_REMEMBERED_MAX);
        assert_eq!(correlator.budgets.len(), EVENTS_REMEMBERED_MAX);
    }
}
