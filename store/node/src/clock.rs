//! Cluster time, as the leader stamps it and as every member estimates it. Pure; instants are given.
//! Promise: stamps never go back within a term, and a new leader continues from the last applied stamp, so that time
//! without a leader does not count and no lease expires early.

use barque_store_env::Instant;
use barque_store_state::ClusterTime;

/// The leader's clock of one term.
#[derive(Debug, Default)]
pub struct LeaderClock {
    term: u64,
    /// Where it started, and when.
    base: Option<(ClusterTime, Instant)>,
    /// The newest stamp of this term. Those of earlier terms do not count: the entries they went into may never have been
    /// committed, and leases granted since would end early by as much.
    last: ClusterTime,
}

impl LeaderClock {
    /// The stamp for an entry proposed now in `term`; `applied` is the newest stamp this member has applied.
    pub fn stamp(&mut self, term: u64, applied: ClusterTime, now: Instant) -> ClusterTime {
        if self.term < term {
            *self = LeaderClock {
                term,
                ..LeaderClock::default()
            };
        }
        let running = self.base.map(|(base, since)| {
            let elapsed =
                u64::try_from(now.saturating_since(since).as_millis()).unwrap_or(u64::MAX);
            ClusterTime(base.0.saturating_add(elapsed))
        });
        let stamp = match running {
            Some(running) if running >= applied => running,
            // The first of the term; or entries of earlier terms were applied only now, and time goes on from theirs
            // (else it would stand still until this clock had caught up with them).
            _ => {
                self.base = Some((applied, now));
                applied
            }
        };
        self.last = self.last.max(stamp);
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
    fn stamps_of_a_term_do_not_go_back_and_time_does_not_stand_still() {
        let mut clock = LeaderClock::default();
        let now = Instant(0);
        let at = |ms| now + Duration::from_millis(ms);
        assert_eq!(clock.stamp(1, ClusterTime(100), at(900)), ClusterTime(100));
        assert_eq!(
            clock.stamp(1, ClusterTime(100), at(1900)),
            ClusterTime(1100)
        );
        // Elected again before an entry of an earlier term, stamped an hour later, was applied here.
        assert_eq!(clock.stamp(2, ClusterTime(100), at(2000)), ClusterTime(100));
        let hour = 3_600_000;
        assert_eq!(
            clock.stamp(2, ClusterTime(hour), at(2010)),
            ClusterTime(hour)
        );
        assert_eq!(
            clock.stamp(2, ClusterTime(hour), at(2510)),
            ClusterTime(hour + 500)
        );
        // Somebody who read the term before the election.
        assert_eq!(
            clock.stamp(1, ClusterTime(hour), at(2510)),
            ClusterTime(hour + 500)
        );
    }

    /// A leader that was cut off stamps entries that nobody commits; when it leads again, that time has not passed for
    /// the leases another leader granted meanwhile.
    #[test]
    fn stamps_that_were_never_committed_end_no_lease_early() {
        let mut clock = LeaderClock::default();
        let idle = Instant(0) + Duration::from_secs(3600);
        assert_eq!(
            clock.stamp(1, ClusterTime(500), Instant(0)),
            ClusterTime(500)
        );
        assert_eq!(
            clock.stamp(1, ClusterTime(500), idle),
            ClusterTime(3_600_500)
        );
        assert_eq!(clock.stamp(3, ClusterTime(900), idle), ClusterTime(900));
    }
}
