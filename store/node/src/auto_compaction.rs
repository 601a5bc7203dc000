//! etcd's auto compaction: after which rule history goes by itself, and the task that follows it.
//! Promise: what a rule keeps is never compacted by it, and only the leader compacts. As in etcd every member watches the
//! revision, so that a new leader goes on where the old one was instead of waiting a whole retention again.
//! Not here: the flags' texts (the program), taking the versions away (`state`, `sweep`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use barque_store_env::{Env, Instant};
use barque_store_state::{Command, Refusal, Revision};
use tracing::{info, warn};

use crate::Shared;
use crate::limits::*;

/// Which history goes by itself (etcd's `--auto-compaction-mode` and `--auto-compaction-retention`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// What is older than this: compacted as often, but at least every hour; first when a member has been up for so long.
    Periodic(Duration),
    /// What is more than so many revisions behind the newest one: looked at every 5 minutes.
    Revision(u64),
}

/// When to look, and what to compact to then.
#[derive(Debug)]
struct Schedule {
    rule: AutoCompaction,
    /// Mode periodic. Invariant: the revisions of the last looks, oldest first, at most [`Schedule::samples_max`].
    samples: VecDeque<Revision>,
    /// Mode periodic: the last compaction, or the start, and how long after it the next one is due.
    last: Instant,
    pause: Duration,
    /// Mode revision: what was compacted to.
    compacted: Option<Revision>,
}

impl Schedule {
    /// Begins at `now`, with this as the newest revision.
    fn new(rule: AutoCompaction, now: Instant, revision: Revision) -> Self {
        Schedule {
            rule,
            samples: VecDeque::from([revision]),
            last: now,
            pause: match rule {
                AutoCompaction::Periodic(retention) => retention,
                AutoCompaction::Revision(_) => Duration::ZERO,
            },
            compacted: None,
        }
    }

    /// From one look to the next; a compaction that failed is tried again at the next.
    fn interval(&self) -> Duration {
        match self.rule {
            AutoCompaction::Periodic(retention) => (retention.min(AUTO_COMPACTION_PERIOD_MAX)
                / AUTO_COMPACTION_LOOKS)
                .max(AUTO_COMPACTION_LOOK_MIN),
            AutoCompaction::Revision(_) => AUTO_COMPACTION_REVISION_INTERVAL,
        }
    }

    fn samples_max(&self) -> usize {
        match self.rule {
            AutoCompaction::Periodic(retention) => {
                let looks = retention.as_nanos() / self.interval().as_nanos();
                usize::try_from(looks).unwrap_or(usize::MAX - 1) + 1
            }
            AutoCompaction::Revision(_) => 0,
        }
    }

    /// One look. `newest` is the newest revision that this member knows. A revision to compact to, if it is time and this member
    /// leads; then [`Schedule::done`] follows.
    fn look(&mut self, now: Instant, newest: Revision, leads: bool) -> Option<Revision> {
        let target = match self.rule {
            AutoCompaction::Periodic(_) => {
                let due = now.saturating_since(self.last) >= self.pause;
                self.samples.front().copied().filter(|_| due)
            }
            AutoCompaction::Revision(kept) => Some(Revision(newest.0.saturating_sub(kept)))
                .filter(|target| target.0 > 0 && Some(*target) != self.compacted),
        };
        self.samples.push_back(newest);
        while self.samples.len() > self.samples_max() {
            self.samples.pop_front();
        }
        target.filter(|_| leads)
    }

    /// It was compacted to there, by this or by somebody else before.
    fn done(&mut self, now: Instant, target: Revision) {
        if let AutoCompaction::Periodic(retention) = self.rule {
            self.last = now;
            self.pause = retention.min(AUTO_COMPACTION_PERIOD_MAX);
        }
        self.compacted = Some(target);
    }
}

/// Compacts by the rule, whenever this member leads.
pub(crate) async fn follow<E: Env>(shared: Arc<Shared<E>>, rule: AutoCompaction) {
    let mut schedule = Schedule::new(rule, E::now(), shared.machine.glance.revision());
    loop {
        E::sleep(schedule.interval()).await;
        let now = E::now();
        let newest = shared.machine.glance.revision();
        let Some(revision) = schedule.look(now, newest, shared.leads(now)) else {
            continue;
        };
        info!(revision = revision.0, ?rule, "starting auto compaction");
        let command = Command::Compact { revision };
        let outcome = shared.propose(command, now + shared.request_timeout).await;
        let failure = match outcome.map(|outcome| outcome.result) {
            // Who compacted further before did this one's work.
            Ok(Ok(_) | Err(Refusal::Compacted)) => {
                schedule.done(E::now(), revision);
                info!(revision = revision.0, ?rule, "completed auto compaction");
                continue;
            }
            Ok(Err(refusal)) => refusal.to_string(),
            Err(error) => error.to_string(),
        };
        warn!(
            revision = revision.0,
            ?rule,
            retry_in = ?schedule.interval(),
            error = failure,
            "failed auto compaction"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    /// A member's looks, each an interval after the one before. The newest revision is 1 at its start and one more at each look.
    struct Run {
        schedule: Schedule,
        now: Instant,
        newest: Revision,
    }

    impl Run {
        fn new(rule: AutoCompaction) -> Self {
            let (now, newest) = (Instant(5), Revision(1));
            Run {
                schedule: Schedule::new(rule, now, newest),
                now,
                newest,
            }
        }
        fn look(&mut self, leads: bool) -> Option<u64> {
            self.now = self.now + self.schedule.interval();
            self.newest.0 += 1;
            let target = self.schedule.look(self.now, self.newest, leads);
            target.map(|revision| revision.0)
        }
        /// Leads for so many looks, all compactions succeed: which look compacted to what.
        fn lead(&mut self, looks: usize) -> Vec<(usize, u64)> {
            let mut seen = Vec::new();
            for look in 1..=looks {
                if let Some(target) = self.look(true) {
                    self.schedule.done(self.now, Revision(target));
                    seen.push((look, target));
                }
            }
            seen
        }
    }

    #[test]
    fn periodic_up_to_an_hour_compacts_once_a_retention() {
        for retention in [HOUR, 59 * MINUTE, Duration::from_secs(5)] {
            let mut run = Run::new(AutoCompaction::Periodic(retention));
            assert_eq!(run.schedule.interval(), retention / 10);
            // Revision n + 1 came with look n. Later ones are a look older than the retention, as etcd's.
            assert_eq!(run.lead(40), [(10, 1), (20, 10), (30, 20), (40, 30)]);
            assert_eq!(run.schedule.samples.len(), 11);
        }
    }

    #[test]
    fn periodic_beyond_an_hour_waits_once_and_then_compacts_hourly() {
        let mut run = Run::new(AutoCompaction::Periodic(24 * HOUR));
        assert_eq!(run.schedule.interval(), 6 * MINUTE);
        assert_eq!(run.lead(270), [(240, 1), (250, 10), (260, 20), (270, 30)]);
        assert_eq!(run.schedule.samples.len(), 241);
    }

    #[test]
    fn who_does_not_lead_watches_and_acts_at_its_first_look_as_a_leader() {
        let mut run = Run::new(AutoCompaction::Periodic(HOUR));
        for _ in 0..33 {
            assert_eq!(run.look(false), None);
        }
        assert_eq!(run.lead(11), [(1, 24), (11, 34)]);
    }

    #[test]
    fn a_periodic_compaction_that_failed_is_tried_at_the_next_look_with_what_is_old_then() {
        let mut run = Run::new(AutoCompaction::Periodic(HOUR));
        assert!(run.lead(9).is_empty());
        assert_eq!(run.look(true), Some(1));
        assert_eq!(run.look(true), Some(1));
        assert_eq!(run.look(true), Some(2));
        assert_eq!(run.lead(1), [(1, 3)]);
        assert_eq!(run.lead(10), [(10, 13)]);
    }

    #[test]
    fn very_short_retentions_do_not_spin() {
        let run = Run::new(AutoCompaction::Periodic(Duration::from_nanos(1)));
        assert_eq!(run.schedule.interval(), AUTO_COMPACTION_LOOK_MIN);
        assert_eq!(run.schedule.samples_max(), 1);
    }

    #[test]
    fn revision_keeps_so_many_and_says_nothing_where_there_is_nothing_new() {
        let mut run = Run::new(AutoCompaction::Revision(10));
        assert_eq!(run.schedule.interval(), 5 * MINUTE);
        // Look n finds revision n + 1.
        assert_eq!(run.lead(11), [(10, 1), (11, 2)]);
        run.newest.0 -= 1;
        assert_eq!(run.look(true), None);
        run.newest.0 += 500;
        assert_eq!(run.look(false), None);
        // One that failed.
        assert_eq!(run.look(true), Some(504));
        assert_eq!(run.lead(1), [(1, 505)]);
        assert_eq!(run.schedule.samples.len(), 0);
        let mut all = Run::new(AutoCompaction::Revision(u64::MAX));
        assert!(all.lead(5).is_empty());
    }
}
