//! Who leads, decided from a Lease object as this candidate sees it. Owns the candidate's memory: when it last saw the lease
//! change, when it last renewed it.
//! Promise: a candidate takes the lease over only after it has itself seen it unchanged for the lease's whole duration (nobody's clock but
//! its own is believed), and a leader stops believing in itself `renew_deadline` after the start of its last successful renewal, which is
//! before anybody may take over.
//! Not here: reading and writing the lease (with its resourceVersion, so that two takers cannot both succeed).

use std::time::Duration;

use thiserror::Error;

/// The three times of an election, as Kubernetes names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Others wait this long after the last renewal they saw before they take over.
    pub lease_duration: Duration,
    /// The leader gives up when it could not renew for this long.
    pub renew_deadline: Duration,
    /// Time between tries.
    pub retry_period: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "leader election: lease-duration {lease:?} must be longer than renew-deadline {renew:?}, and that longer than 1.2 times retry-period {retry:?}"
)]
pub struct BadSettings {
    lease: Duration,
    renew: Duration,
    retry: Duration,
}

impl Settings {
    pub fn check(&self) -> Result<(), BadSettings> {
        let sound = self.lease_duration > self.renew_deadline
            && self.renew_deadline > self.retry_period.mul_f64(1.2)
            && self.retry_period > Duration::ZERO;
        if sound {
            return Ok(());
        }
        Err(BadSettings {
            lease: self.lease_duration,
            renew: self.renew_deadline,
            retry: self.retry_period,
        })
    }
}

/// A Lease object as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    /// Any renewal changes it.
    pub resource_version: String,
    /// Empty: released.
    pub holder: String,
    pub duration: Duration,
    pub transitions: i32,
}

/// What to do about the lease now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// There is no lease: create it in this candidate's name.
    Create,
    /// It is free or its holder is gone: put this candidate's name in, as this many-th holder.
    Take { transitions: i32 },
    /// It is this candidate's: renew it.
    Renew,
    /// Somebody else holds it.
    Wait,
}

/// One candidate.
#[derive(Debug)]
pub struct Candidate {
    identity: String,
    settings: Settings,
    seen: Option<(LeaseView, Duration)>,
    /// Start of the last renewal that succeeded, while leading.
    renewed: Option<Duration>,
}

impl Candidate {
    pub fn new(identity: &str, settings: Settings) -> Candidate {
        Candidate {
            identity: identity.to_owned(),
            settings,
            seen: None,
            renewed: None,
        }
    }

    /// Decides on the lease as just read.
    pub fn decide(&mut self, view: Option<&LeaseView>, now: Duration) -> Decision {
        let Some(view) = view else {
            self.seen = None;
            return Decision::Create;
        };
        let since = match &self.seen {
            Some((seen, since)) if seen.resource_version == view.resource_version => *since,
            _ => now,
        };
        self.seen = Some((view.clone(), since));
        if view.holder == self.identity {
            return Decision::Renew;
        }
        // The holder's own duration counts: it may run with other settings than this candidate.
        if view.holder.is_empty() || now >= since + view.duration {
            return Decision::Take {
                transitions: view.transitions.saturating_add(1),
            };
        }
        Decision::Wait
    }

    /// The lease was written in this candidate's name by a request that was begun at `begun`.
    pub fn holds(&mut self, begun: Duration) {
        self.renewed = Some(begun);
    }

    /// The lease was seen in, or lost to, another name.
    pub fn holds_not(&mut self) {
        self.renewed = None;
    }

    /// Until when this candidate may act as the leader without another renewal.
    pub fn leads_until(&self) -> Option<Duration> {
        self.renewed
            .map(|begun| begun + self.settings.renew_deadline)
    }

    pub fn is_leader(&self, now: Duration) -> bool {
        self.leads_until().is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }
    fn lease(version: u64, holder: &str) -> LeaseView {
        LeaseView {
            resource_version: version.to_string(),
            holder: holder.to_owned(),
            duration: secs(15),
            transitions: 3,
        }
    }

    #[test]
    fn decisions() {
        let mut me = Candidate::new("me", Settings::default());
        assert_eq!(me.decide(None, secs(0)), Decision::Create);
        assert_eq!(
            me.decide(Some(&lease(1, "")), secs(0)),
            Decision::Take { transitions: 4 }
        );
        assert_eq!(me.decide(Some(&lease(2, "me")), secs(0)), Decision::Renew);
        assert_eq!(
            me.decide(Some(&lease(3, "other")), secs(10)),
            Decision::Wait
        );
        assert_eq!(
            me.decide(Some(&lease(4, "other")), secs(20)),
            Decision::Wait,
            "renewed"
        );
        assert_eq!(
            me.decide(Some(&lease(4, "other")), secs(34)),
            Decision::Wait
        );
        assert_eq!(
            me.decide(Some(&lease(4, "other")), secs(35)),
            Decision::Take { transitions: 4 }
        );
    }

    #[test]
    fn a_leader_stops_before_another_may_take_over() {
        let mut me = Candidate::new("me", Settings::default());
        me.holds(secs(100));
        assert!(me.is_leader(secs(109)) && !me.is_leader(secs(110)));
        me.holds_not();
        assert!(!me.is_leader(secs(100)));
    }

    #[test]
    fn settings_that_could_make_two_leaders_are_refused() {
        assert!(Settings::default().check().is_ok());
        let bad = Settings {
            renew_deadline: secs(15),
            ..Settings::default()
        };
        assert!(bad.check().is_err());
        let bad = Settings {
            retry_period: secs(9),
            ..Settings::default()
        };
        assert!(bad.check().is_err());
    }

    proptest! {
        // Candidates that see the lease late, lose answers and pause at any time never lead at one instant.
        #[test]
        fn never_two_leaders(steps in proptest::collection::vec((0usize..3, 0u64..4_000, 0u8..5), 1..400)) {
            let settings = Settings::default();
            let mut candidates: Vec<Candidate> =
                (0..3).map(|id| Candidate::new(&id.to_string(), settings)).collect();
            // What each candidate last read, and when: its write lands later, guarded by the version it read.
            let mut reads: Vec<Option<(Option<LeaseView>, Duration)>> = vec![None, None, None];
            let mut stored: Option<LeaseView> = None;
            let mut version = 0;
            let mut now = Duration::ZERO;
            for (id, pass, what) in steps {
                now += Duration::from_millis(pass);
                if what == 0 {
                    reads[id] = Some((stored.clone(), now));
                } else if let Some((view, begun)) = reads[id].take() {
                    let decision = candidates[id].decide(view.as_ref(), begun);
                    if decision == Decision::Wait {
                        candidates[id].holds_not();
                        continue;
                    }
                    let read = view.as_ref().map(|view| view.resource_version.clone());
                    if read != stored.as_ref().map(|lease| lease.resource_version.clone()) {
                        continue; // conflict
                    }
                    version += 1;
                    stored = Some(lease(version, &id.to_string()));
                    if what > 1 {
                        candidates[id].holds(begun); // else the answer was lost
                    }
                }
                let leaders = candidates.iter().filter(|candidate| candidate.is_leader(now)).count();
                prop_assert!(leaders <= 1, "{} leaders at {:?}", leaders, now);
            }
        }
    }
}
