//! Cluster time, as the leader stamps it and as every member estimates it. Pure; instants are given.
//! Promise: stamps never go back within a term, and a new leader continues from the last applied stamp, so that time
//! without a leader does not count and no lease expires early.

use barque_store_env::Instant;
use barque_store_state::ClusterTime;

/// The leader's clock: one base per term.
#[derive(Debug, Default)]
pub struct LeaderClock {
    term: u64,
    base: Option<(ClusterTime, Instant)>,
    last: ClusterTime,
}

impl LeaderClock {
    /// The stamp for an entry proposed now in `term`; `applied` is the newest stamp this member has applied.
    pub fn stamp(&mut self, term: u64, applied: ClusterTime, now: Instant) -> ClusterTime {
        if self.term != term || self.base.is_none() {
            self.term = term;
            self.base = Some((applied, now));
        }
        let (base, since) = self.base.expect("set just above");
        let elapsed = u64::try_from(now.saturating_since(since).as_millis()).unwrap_or(u64::MAX);
        self.last = ClusterTime(base.0.saturating_add(elapsed))
            .max(self.last)
            .max(applied);
        self.last
    }
}

/// Any member's estimate of cluster time: the newest applied stamp, carried on by its own clock.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    pub stamp: ClusterTime,
    pub applied_at: Instant,
}

impl Estimate {
    pub fn at(&self, now: Instant) -> ClusterTime {
        let elapsed =
            u64::try_from(now.saturating_since(self.applied_at).as_millis()).unwrap_or(u64::MAX);
        ClusterTime(self.stamp.0.saturating_add(elapsed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_new_leader_continues_from_the_applied_stamp() {
        let mut clock = LeaderClock::default();
        let start = Instant(7_000_000_000);
        assert_eq!(clock.stamp(1, ClusterTime(500), start), ClusterTime(500));
        assert_eq!(
            clock.stamp(1, ClusterTime(500), start + Duration::from_millis(40)),
            ClusterTime(540)
        );
        // An hour without leading does not count.
        let later = start + Duration::from_secs(3600);
        assert_eq!(clock.stamp(2, ClusterTime(600), later), ClusterTime(600));
    }

    #[test]
    fn stamps_do_not_go_back_when_this_member_is_behind_in_applying() {
        let mut clock = LeaderClock::default();
        let now = Instant(0);
        assert_eq!(
            clock.stamp(1, ClusterTime(100), now + Duration::from_millis(900)),
            ClusterTime(100)
        );
        assert_eq!(
            clock.stamp(1, ClusterTime(100), now + Duration::from_millis(1900)),
            ClusterTime(1100)
        );
        assert_eq!(
            clock.stamp(2, ClusterTime(100), now + Duration::from_millis(2000)),
            ClusterTime(1100)
        );
    }
}
