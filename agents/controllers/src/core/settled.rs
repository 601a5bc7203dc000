//! Whether an informer's copy shows what was written already. This is what keeps a stale copy from creating or deleting twice.
//! Promise: after a write at revision R, nothing is decided for the item until the copy has reached R; what was deleted outright must be
//! gone from it. Exact, because revisions order everything; no counting of events.
//! Not here: copies, clocks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use barque_agents_client::ResourceId;

use crate::limits::SETTLE_MAX;

/// What one item still waits to see.
#[derive(Debug, Default)]
pub struct Expected {
    revisions: BTreeMap<ResourceId, i64>,
    gone: BTreeSet<String>,
    since: Duration,
}

/// All items that wait. Invariant: no empty entries.
#[derive(Debug)]
pub struct Settled<K> {
    waiting: BTreeMap<K, Expected>,
}

impl<K: Ord + Clone> Default for Settled<K> {
    fn default() -> Settled<K> {
        Settled {
            waiting: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone> Settled<K> {
    /// A write on the item's behalf made this revision.
    pub fn wrote(&mut self, item: &K, resource: ResourceId, revision: i64, now: Duration) {
        let expected = self.waiting.entry(item.clone()).or_default();
        let known = expected.revisions.entry(resource).or_insert(revision);
        *known = revision.max(*known);
        expected.since = now;
    }

    /// An object was deleted at once, without a revision being told.
    pub fn removed(&mut self, item: &K, uid: &str, now: Duration) {
        let expected = self.waiting.entry(item.clone()).or_default();
        expected.gone.insert(uid.to_owned());
        expected.since = now;
    }

    /// Whether the copy shows everything written for the item.
    pub fn is_settled(
        &mut self,
        item: &K,
        revision_of: impl Fn(ResourceId) -> Option<i64>,
        is_there: impl Fn(&str) -> bool,
        now: Duration,
    ) -> bool {
        let Some(expected) = self.waiting.get_mut(item) else {
            return true;
        };
        // A resource without a copy has nothing to wait for.
        expected.revisions.retain(|resource, revision| {
            revision_of(*resource).is_some_and(|reached| reached < *revision)
        });
        expected.gone.retain(|uid| is_there(uid));
        let settled = expected.revisions.is_empty() && expected.gone.is_empty();
        let given_up = now.saturating_sub(expected.since) >= SETTLE_MAX;
        if settled || given_up {
            self.waiting.remove(item);
        }
        settled || given_up
    }

    /// The item is gone.
    pub fn forget(&mut self, item: &K) {
        self.waiting.remove(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barque_agents_client::resources::PODS;

    #[test]
    fn an_item_waits_for_its_writes_and_deletions_but_not_for_ever() {
        let mut settled: Settled<&str> = Settled::default();
        let now = Duration::from_secs(1);
        settled.wrote(&"web", PODS, 7, now);
        settled.wrote(&"web", PODS, 5, now);
        settled.removed(&"web", "u1", now);
        let mut at = |revision: i64, there: bool, now: Duration| {
            settled.is_settled(&"web", |_| Some(revision), |_| there, now)
        };
        assert!(!at(6, false, now));
        assert!(at(7, false, now));
        settled.removed(&"web", "u1", now);
        let mut at = |revision: i64, there: bool, now: Duration| {
            settled.is_settled(&"web", |_| Some(revision), |_| there, now)
        };
        assert!(!at(9, true, now));
        assert!(at(9, true, now + SETTLE_MAX));
        assert!(at(0, true, now), "nothing is waited for any more");
    }
}
