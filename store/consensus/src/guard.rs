//! The guards of DECISIONS.md that are settings and clocks: how etcd's two flags become openraft's settings (guards 1
//! and 3), when a member that was just started may vote (guard 2), and until when a leader may act as one (guard 4).

use std::time::Duration;

use barque_store_env::Instant;
use openraft::{RaftMetrics, ServerState, SnapshotPolicy};

use crate::limits;
use crate::transport::network;
use crate::types::Types;
use crate::{Config, StartError};
use barque_store_env::Env;

/// What follows from the election flag.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub heartbeat: Duration,
    pub election: Duration,
    /// A follower refuses votes for this long after it heard its leader; openraft's `election_timeout_max`.
    pub lease: Duration,
    /// Off only to show what guard 4 is for.
    pub leads_by_acks: bool,
}

impl Timing {
    pub fn new(config: &Config) -> Self {
        Timing {
            heartbeat: config.heartbeat,
            election: config.election,
            lease: config.election / 2,
            leads_by_acks: config.guards.leads_by_acks,
        }
    }
    /// Guard 2. A fifth more than the lease covers the rates of two clocks.
    pub fn vote_guard(&self) -> Duration {
        self.lease * 6 / 5
    }
    /// Guard 4. What is kept of the lease for clock rates and for acting on its end.
    pub fn margin(&self) -> Duration {
        self.lease / 10
    }
}

pub fn settings(config: &Config) -> Result<openraft::Config, StartError> {
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let heartbeat = millis(config.heartbeat);
    let max = millis(config.election / 2);
    let mut settings = openraft::Config {
        cluster_name: format!("{:x}", config.cluster_id),
        heartbeat_interval: heartbeat,
        election_timeout_min: millis(config.election / 4),
        election_timeout_max: max,
        quorum_loss_probe_interval: config
            .guards
            .quorum_loss_probe
            .then_some(2 * max + heartbeat),
        enable_pre_vote: Some(config.guards.pre_vote),
        // Guard 1: with the default a leader that lost its unsynced tail resumes its term and gives out log ids twice.
        enable_leader_restore: Some(!config.guards.no_leader_restore),
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX >> 1,
        max_payload_entries: limits::APPEND_ENTRIES_MAX,
        api_batch_linger_ms: 0,
        allow_log_reversion: None,
        ..openraft::Config::default()
    };
    network::backoff(&mut settings, config.heartbeat);
    settings.validate().map_err(|e| {
        StartError::Other(format!(
            "heartbeat {:?} and election timeout {:?} do not go together (the election timeout must be more than four heartbeats): {e}",
            config.heartbeat, config.election
        ))
    })
}

/// Guard 2: a member that was started forgot which leader it had promised to wait for. Until that promise has run out
/// it neither votes nor campaigns; a hand-over is exempt, because that leader gave its lease up itself.
#[derive(Clone, Copy, Debug)]
pub struct VoteGuard {
    pub until: Option<Instant>,
}

impl VoteGuard {
    /// `voted`: the log holds a vote; without one no leader was ever promised anything. `others`: there are other voters, or
    /// may be.
    pub fn new(config: &Config, timing: &Timing, now: Instant, voted: bool, others: bool) -> Self {
        let needed = config.guards.vote_after_lease && voted && others;
        VoteGuard {
            until: needed.then(|| now + timing.vote_guard()),
        }
    }
    pub fn refuses(&self, now: Instant, leadership_transfer: bool) -> bool {
        !leadership_transfer && self.until.is_some_and(|until| now < until)
    }
}

/// Guard 4: never the server state alone.
pub fn leads_until<E: Env>(
    metrics: &RaftMetrics<Types<E>>,
    timing: &Timing,
    now: Instant,
) -> Option<Instant> {
    if metrics.state != ServerState::Leader || metrics.current_leader != Some(metrics.id) {
        return None;
    }
    // openraft records no acknowledgement for a single voter: nobody else can be elected.
    let alone = |m: &openraft::StoredMembership<_, u64, _>| m.voter_ids().eq([metrics.id]);
    if alone(&metrics.membership_config) && alone(&metrics.committed_membership_config) {
        return Some(now + timing.lease);
    }
    if !timing.leads_by_acks {
        return Some(now + timing.lease);
    }
    let acked = metrics.last_quorum_acked.as_ref()?;
    let until = acked.into_inner().0 + (timing.lease - timing.margin());
    (now < until).then_some(until)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Guards, Peer};
    use barque_store_env::real::RealEnv;
    use barque_store_state::{ClusterVersion, MemberId};
    use openraft::metrics::SerdeInstant;
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use crate::runtime::Moment;
    use crate::types::{Membership, log_id};

    fn config(heartbeat: u64, election: u64, members: u64) -> Config {
        Config {
            member: MemberId(1),
            cluster_id: 1,
            incarnation: 1,
            dir: "unused".into(),
            listen: String::new(),
            peers: (1..=members)
                .map(|id| {
                    (
                        MemberId(id),
                        Peer {
                            addr: String::new(),
                        },
                    )
                })
                .collect(),
            addresses: BTreeSet::new(),
            address_of: |_| None,
            if_wiped: String::new(),
            alone: None,
            founds: true,
            heartbeat: Duration::from_millis(heartbeat),
            election: Duration::from_millis(election),
            guards: Guards::default(),
            log: Default::default(),
            restored: None,
            installed: false,
            images: Default::default(),
            newest: ClusterVersion::NEWEST,
        }
    }

    #[test]
    fn the_flags_of_the_table_are_accepted() {
        for (heartbeat, election) in [
            (10, 100),
            (20, 200),
            (100, 1000),
            (500, 5000),
            (10_000, 50_000),
        ] {
            let s = settings(&config(heartbeat, election, 3)).expect("a pair of the table");
            assert_eq!(s.election_timeout_max, election / 2);
            assert_eq!(s.election_timeout_min, election / 4);
            assert_eq!(s.quorum_loss_probe_interval, Some(election + heartbeat));
            assert_eq!(s.enable_leader_restore, Some(false));
            assert_eq!(s.enable_pre_vote, Some(true));
        }
        assert!(settings(&config(100, 400, 3)).is_err());
    }

    #[test]
    fn a_started_member_keeps_its_promise_and_hand_overs_pass() {
        let three = config(100, 1000, 3);
        let timing = Timing::new(&three);
        let start = Instant(1_000_000_000);
        let guard = VoteGuard::new(&three, &timing, start, true, true);
        let late = start + Duration::from_millis(599);
        assert!(guard.refuses(late, false));
        assert!(!guard.refuses(late, true));
        assert!(!guard.refuses(start + Duration::from_millis(600), false));
        assert!(!VoteGuard::new(&three, &timing, start, false, true).refuses(start, false));
        assert!(!VoteGuard::new(&three, &timing, start, true, false).refuses(start, false));
        let mut off = three;
        off.guards.vote_after_lease = false;
        assert!(!VoteGuard::new(&off, &timing, start, true, true).refuses(start, false));
    }

    #[test]
    fn leadership_is_the_quorums_acknowledgement_not_the_state() {
        let timing = Timing::new(&config(100, 1000, 3));
        let at = |ms: u64| Instant(ms * 1_000_000);
        let mut m = RaftMetrics::<Types<RealEnv>>::new_initial(1);
        assert_eq!(leads_until(&m, &timing, at(0)), None, "a follower");
        m.state = ServerState::Leader;
        m.current_leader = Some(1);
        assert_eq!(
            leads_until(&m, &timing, at(0)),
            None,
            "no acknowledgement yet"
        );
        m.last_quorum_acked = Some(SerdeInstant::new(Moment::at(at(1000))));
        assert_eq!(leads_until(&m, &timing, at(1449)), Some(at(1450)));
        assert_eq!(
            leads_until(&m, &timing, at(1450)),
            None,
            "the lease has run out"
        );
        let alone = Membership::new(
            vec![BTreeSet::from([1])],
            BTreeMap::from([(1, Peer::default())]),
        )
        .expect("a voter with a node");
        let alone = Arc::new(openraft::StoredMembership::new(Some(log_id(1, 0)), alone));
        m.membership_config = alone.clone();
        assert_eq!(
            leads_until(&m, &timing, at(9000)),
            None,
            "alone is not enough until it is committed"
        );
        m.committed_membership_config = alone;
        assert_eq!(leads_until(&m, &timing, at(9000)), Some(at(9500)));
    }
}
