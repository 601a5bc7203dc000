//! Raft's membership follows the one that is wanted (guards 7 and 12): one loop on the leader, one step at a time. And which
//! changes of the wanted one are safe now: etcd's `--strict-reconfig-check`.
//! Promise: a step never takes away the majority that is there; a member votes only once it has caught up, so that adding one
//! never weakens the quorum. A member that was removed ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use barque_store_consensus::{Consensus, Guards, Membership, Peer, Progress, Step};
use barque_store_env::{Env, Instant};
use barque_store_state::{
    Command, LogIndex, MemberChange, MemberId, MemberInfo, PublishedMember, Refusal, WantedMember,
};

use crate::flags::peer_address;
use crate::limits::*;
use crate::{Shared, machine::Machine};

/// What the next step is decided on.
struct Sight<'a> {
    me: MemberId,
    now: Instant,
    lease: Duration,
    wanted: &'a BTreeMap<MemberId, WantedMember>,
    published: &'a BTreeMap<MemberId, PublishedMember>,
    actual: &'a Membership,
    last_log: u64,
    guards: Guards,
    progress: &'a dyn Fn(MemberId) -> Option<Progress>,
}

#[derive(Debug, PartialEq, Eq)]
enum Move {
    Step(Step),
    /// This member is to go: somebody else takes it out.
    HandOver,
}

impl Sight<'_> {
    fn is_live(&self, id: MemberId) -> bool {
        let acked = (self.progress)(id).and_then(|p| p.acked);
        id == self.me || acked.is_some_and(|at| self.now.saturating_since(at) < self.lease)
    }
    fn has_caught_up(&self, id: MemberId) -> bool {
        if !self.guards.caught_up {
            return true;
        }
        let matched = (self.progress)(id).map_or(LogIndex(0), |p| p.matched);
        self.is_live(id) && matched.0 + PROMOTE_LAG_ENTRIES >= self.last_log && matched.0 > 0
    }
    /// Whether so many of these are there that they can commit.
    fn is_majority_live(&self, voters: &BTreeSet<MemberId>) -> bool {
        if !self.guards.live_majority {
            return true;
        }
        let live = voters.iter().filter(|id| self.is_live(**id)).count();
        live > voters.len() / 2
    }

    fn next(&self) -> Option<Move> {
        let actual = self.actual;
        // A removed leader still takes proposals for a moment; its changes would trip over openraft's own checks.
        if !actual.settled || !actual.nodes.contains_key(&self.me) {
            return None;
        }
        if actual.joint {
            // The entry that ends the change would take this leader out: a last voter elects itself at once, within its lease.
            if !self.wanted.is_empty() && !self.wanted.contains_key(&self.me) {
                return Some(Move::HandOver);
            }
            return self.guards.flatten.then_some(Move::Step(Step::Flatten));
        }
        if self.wanted.is_empty() {
            return None;
        }
        self.removal()
            .or_else(|| self.promotion())
            .or_else(|| self.addition())
            .or_else(|| self.address())
    }

    fn removal(&self) -> Option<Move> {
        let actual = self.actual;
        let mut unwanted = actual
            .nodes
            .keys()
            .filter(|id| !self.wanted.contains_key(id));
        if let Some(learner) = unwanted.clone().find(|id| !actual.voters.contains(id)) {
            return Some(Move::Step(Step::Remove(*learner)));
        }
        let leaving = unwanted.find(|id| {
            let rest: BTreeSet<MemberId> =
                actual.voters.iter().copied().filter(|v| v != *id).collect();
            !rest.is_empty()
                && self.is_majority_live(&rest)
                && self.is_majority_live(&actual.voters)
        })?;
        Some(match *leaving == self.me {
            true => Move::HandOver,
            false => Move::Step(Step::Remove(*leaving)),
        })
    }

    fn promotion(&self) -> Option<Move> {
        let ready = |(id, member): &(&MemberId, &WantedMember)| {
            let known = self
                .published
                .get(id)
                .is_some_and(|told| told.incarnation != 0);
            let learns = self.actual.nodes.contains_key(id) && !self.actual.voters.contains(id);
            // Its directory must be known before its votes count (guard 5).
            !member.learner && learns && known && self.has_caught_up(**id)
        };
        let (id, _) = self.wanted.iter().find(ready)?;
        Some(Move::Step(Step::Promote(*id)))
    }

    fn addition(&self) -> Option<Move> {
        let missing = |(id, _): &(&MemberId, &WantedMember)| !self.actual.nodes.contains_key(id);
        let (id, member) = self.wanted.iter().find(missing)?;
        Some(Move::Step(Step::Add(*id, peer(&member.peer_urls)?)))
    }

    fn address(&self) -> Option<Move> {
        self.wanted.iter().find_map(|(id, member)| {
            let (now, wanted) = (self.actual.nodes.get(id)?, peer(&member.peer_urls)?);
            (*now != wanted).then_some(Move::Step(Step::Readdress(*id, wanted)))
        })
    }
}

/// Where a member with these peer URLs is; `None`: the first one names no host and port, which was refused when it was told.
pub(crate) fn peer(urls: &[String]) -> Option<Peer> {
    let addr = peer_address("peer URL", urls.first()?).ok()?;
    Some(Peer { addr })
}

/// The loop. Founders: the members the flags named, told once by the first leader of a new cluster.
pub(crate) async fn follow<E: Env>(shared: Arc<Shared<E>>, founders: Vec<MemberInfo>) {
    loop {
        E::sleep(MEMBERSHIP_INTERVAL).await;
        let now = E::now();
        let view = shared.consensus.view();
        // Its own term must have come through: until then it may not know the newest committed membership.
        if !shared.leads(now) || shared.machine.applied_term() != view.term {
            continue;
        }
        let untold = shared.machine.state.read().cluster().wanted().is_empty();
        if untold && !founders.is_empty() {
            let members = founders.clone();
            let found = Command::Members(MemberChange::Found { members });
            // Whatever became of it, the next round looks again.
            drop(shared.propose(found, now + shared.request_timeout).await);
            continue;
        }
        let actual = shared.consensus.membership();
        let next = {
            let state = shared.machine.state.read();
            Sight {
                me: shared.member,
                now,
                lease: shared.consensus.lease(),
                wanted: state.cluster().wanted(),
                published: state.published(),
                actual: &actual,
                last_log: view.last_log,
                guards: shared.consensus.guards(),
                progress: &|id| shared.consensus.progress(id),
            }
            .next()
        };
        match next {
            None => {}
            Some(Move::HandOver) => {
                tracing::info!(
                    "this member is to leave the cluster: handing leadership over first"
                );
                let by = now + shared.consensus.lease() * 2;
                shared.consensus.transfer_away(by).await;
            }
            Some(Move::Step(step)) => {
                tracing::info!(?step, "changing the membership");
                let changed = shared
                    .consensus
                    .change(step, actual.at, MEMBERSHIP_STEP_MAX);
                if let Err(e) = changed.await {
                    tracing::warn!("the membership was not changed (will be tried again): {e}");
                }
            }
        }
    }
}

/// Why a change of the wanted members is not safe now; asked by the leader before it proposes it. The rules are etcd's
/// (etcdserver/server.go, mayAddMember and mayRemoveMember).
pub(crate) fn refusal<E: Env>(
    machine: &Machine<E>,
    consensus: &Consensus<E>,
    change: &MemberChange,
    strict: bool,
    election: Duration,
) -> Option<Refusal> {
    let now = E::now();
    let me = machine.member;
    let heard_within = |id: MemberId, time: Duration| {
        let acked = consensus.progress(id).and_then(|p| p.acked);
        id == me || acked.is_some_and(|at| now.saturating_since(at) < time)
    };
    let live = |id: MemberId| heard_within(id, election);
    let actual = consensus.membership();
    let state = machine.state.read();
    let wanted = state.cluster().wanted();
    let published = state.published();
    if wanted.is_empty() && !matches!(change, MemberChange::Found { .. }) {
        // The first leader has not told the first members yet.
        return Some(Refusal::Unhealthy);
    }
    // One after another: until a removal is carried out, its quorum is not the one that the rules below count with.
    let leaving = actual.voters.iter().any(|id| !wanted.contains_key(id));
    let half_way = actual.joint || !actual.settled;
    // But a removal may wait for a member that is lost, by the loop's own measure: then that one's removal is what frees it.
    let lost = |id: MemberId| !heard_within(id, consensus.lease());
    let frees = matches!(change, MemberChange::Remove { id } if !half_way && lost(*id));
    let unsettled = (leaving && !frees) || half_way;
    if strict && unsettled && !matches!(change, MemberChange::Found { .. }) {
        return Some(Refusal::Unhealthy);
    }
    let voters = || wanted.iter().filter(|(_, m)| !m.learner).map(|(id, _)| *id);
    let started = |id: MemberId| published.contains_key(&id);
    match change {
        MemberChange::Add { learner, .. } if strict => {
            let (count, up) = (
                voters().count() + 1,
                voters().filter(|id| started(*id)).count(),
            );
            // As etcd: a single member may always be given a second one.
            let enough = up > count / 2 || (up == 1 && count == 2);
            if !*learner && !enough {
                return Some(Refusal::NotEnoughStarted);
            }
            (!voters().all(live)).then_some(Refusal::Unhealthy)
        }
        MemberChange::Remove { id } if strict => {
            let member = wanted.get(id)?;
            if member.learner {
                return None;
            }
            let rest = || voters().filter(|other| other != id);
            let up = rest().filter(|other| started(*other)).count();
            if up < rest().count() / 2 + 1 {
                return Some(Refusal::NotEnoughStarted);
            }
            // One that is down is in nobody's way.
            if !live(*id) {
                return None;
            }
            let all = voters().count();
            let active = voters().filter(|id| live(*id)).count();
            (active.saturating_sub(1) < 1 + (all - 1) / 2).then_some(Refusal::Unhealthy)
        }
        MemberChange::Promote { id } => {
            if !wanted.get(id)?.learner {
                return None;
            }
            let progress = consensus.progress(*id);
            let matched = progress.map_or(0, |p| p.matched.0);
            let last = consensus.view().last_log;
            // etcd's readyPercentThreshold.
            let ready = live(*id) && started(*id) && matched * 10 >= last * 9;
            (!ready).then_some(Refusal::LearnerNotReady)
        }
        MemberChange::Found { .. }
        | MemberChange::Add { .. }
        | MemberChange::Remove { .. }
        | MemberChange::Update { .. }
        | MemberChange::Only { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_millis(500);

    struct Scene {
        wanted: BTreeMap<MemberId, WantedMember>,
        actual: Membership,
        live: BTreeSet<u64>,
        lag: BTreeMap<u64, u64>,
    }

    impl Scene {
        /// Member 1 leads `voters`; `wanted` are wanted as voters; all are there and have caught up.
        fn new(voters: &[u64], wanted: &[u64]) -> Scene {
            let member = |id: &u64| WantedMember {
                name: String::new(),
                peer_urls: vec![format!("http://m{id}:1")],
                learner: false,
                added: LogIndex(1),
            };
            let node = |id: &u64| {
                (
                    MemberId(*id),
                    Peer {
                        addr: format!("m{id}:1"),
                    },
                )
            };
            Scene {
                wanted: wanted
                    .iter()
                    .map(|id| (MemberId(*id), member(id)))
                    .collect(),
                actual: Membership {
                    voters: voters.iter().map(|id| MemberId(*id)).collect(),
                    nodes: voters.iter().map(node).collect(),
                    joint: false,
                    settled: true,
                    at: (1, 1),
                },
                live: (1..9).collect(),
                lag: BTreeMap::new(),
            }
        }
        fn next(&self) -> Option<Move> {
            let now = Instant(10_000_000_000);
            let told = PublishedMember {
                incarnation: 7,
                ..PublishedMember::default()
            };
            let published = self.wanted.keys().map(|id| (*id, told.clone())).collect();
            let progress = |id: MemberId| {
                Some(Progress {
                    matched: LogIndex(1000 - self.lag.get(&id.0).copied().unwrap_or(0)),
                    acked: self.live.contains(&id.0).then_some(now),
                })
            };
            let sight = Sight {
                me: MemberId(1),
                now,
                lease: LEASE,
                wanted: &self.wanted,
                published: &published,
                actual: &self.actual,
                last_log: 1000,
                guards: Guards::default(),
                progress: &progress,
            };
            sight.next()
        }
        fn learner(&mut self, id: u64) {
            let node = Peer {
                addr: format!("m{id}:1"),
            };
            self.actual.nodes.insert(MemberId(id), node);
        }
    }

    fn step(step: Step) -> Option<Move> {
        Some(Move::Step(step))
    }

    #[test]
    fn a_member_is_added_as_a_learner_and_promoted_when_it_has_caught_up() {
        let mut scene = Scene::new(&[1], &[1, 2]);
        let peer = Peer {
            addr: "m2:1".into(),
        };
        assert_eq!(scene.next(), step(Step::Add(MemberId(2), peer)));
        scene.learner(2);
        scene.lag.insert(2, 500);
        assert_eq!(scene.next(), None, "it lags");
        scene.lag.clear();
        scene.live.remove(&2);
        assert_eq!(scene.next(), None, "it is not there");
        scene.live.insert(2);
        assert_eq!(scene.next(), step(Step::Promote(MemberId(2))));
        scene.wanted.get_mut(&MemberId(2)).expect("wanted").learner = true;
        assert_eq!(scene.next(), None, "wanted as a learner");
    }

    #[test]
    fn a_half_done_change_is_ended_first_and_an_unsettled_one_waited_for() {
        let mut scene = Scene::new(&[1, 2, 3], &[1, 2]);
        scene.actual.joint = true;
        assert_eq!(scene.next(), step(Step::Flatten));
        scene.actual.settled = false;
        assert_eq!(scene.next(), None);
        // Seed 1179: the last voter of two took over within the lease of the leader that had just ended its own removal.
        let mut scene = Scene::new(&[1, 2], &[2]);
        scene.actual.joint = true;
        assert_eq!(scene.next(), Some(Move::HandOver));
    }

    #[test]
    fn a_removal_leaves_a_live_majority_and_never_takes_the_leader_itself() {
        let mut scene = Scene::new(&[1, 2, 3], &[1, 2]);
        scene.live.remove(&3);
        assert_eq!(scene.next(), step(Step::Remove(MemberId(3))));
        scene.live.remove(&2);
        assert_eq!(scene.next(), None, "nobody could commit it");
        let scene = Scene::new(&[1, 2, 3], &[2, 3]);
        assert_eq!(scene.next(), Some(Move::HandOver));
        let mut scene = Scene::new(&[1, 2, 3, 4], &[1, 2, 3, 5]);
        scene.live.remove(&4);
        scene.learner(5);
        assert_eq!(scene.next(), step(Step::Remove(MemberId(4))));
    }

    /// Else four members of which one is dead and to be replaced would never become three.
    #[test]
    fn a_promotion_is_reachable_while_a_removal_waits() {
        let mut scene = Scene::new(&[1, 2], &[1, 3]);
        scene.live.remove(&2);
        scene.learner(3);
        assert_eq!(scene.next(), step(Step::Promote(MemberId(3))));
    }

    #[test]
    fn a_new_address_is_followed() {
        let mut scene = Scene::new(&[1, 2], &[1, 2]);
        let urls = &mut scene
            .wanted
            .get_mut(&MemberId(2))
            .expect("wanted")
            .peer_urls;
        *urls = vec!["http://elsewhere:2".into()];
        let peer = Peer {
            addr: "elsewhere:2".into(),
        };
        assert_eq!(scene.next(), step(Step::Readdress(MemberId(2), peer)));
    }
}
