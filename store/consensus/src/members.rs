//! Raft's own membership, seen and changed: the steps that `store/node` takes towards the members that are wanted (guards 7
//! and 12). Promise: one step at a time, only on the membership it was decided on, and only by a leader that is one.
//! Not here: which step is next (`store/node`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use barque_store_env::{Env, Instant};
use barque_store_state::{LogIndex, MemberId};
use openraft::raft::Precondition;
use openraft::{ChangeMembers, ServerState};
use openraft_rt::WatchReceiver;

use crate::Peer;
use crate::member::Inner;
use crate::transport::wire::Lane;
use crate::types::{LogId, outer, outer_of};

/// The membership that counts on this member: the newest in its log, committed or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Of both halves, when it is joint.
    pub voters: BTreeSet<MemberId>,
    /// Voters and learners.
    pub nodes: BTreeMap<MemberId, Peer>,
    /// Half-way between two sets of voters.
    pub joint: bool,
    /// Committed.
    pub settled: bool,
    /// The entry that brought it in, for [`crate::Consensus::change`].
    pub at: (u64, u64),
}

impl Membership {
    /// Whether it is known, committed, and does without the member. (A member that has just started knows none yet.)
    pub fn is_without(&self, member: MemberId) -> bool {
        self.settled && !self.nodes.is_empty() && !self.nodes.contains_key(&member)
    }
}

/// How far another member is, as the leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The last entry that both have.
    pub matched: LogIndex,
    /// When the leader sent what the member answered last; `None`: it has not answered yet.
    pub acked: Option<Instant>,
}

/// One change of Raft's membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Leaves a joint membership.
    Flatten,
    /// As a learner.
    Add(MemberId, Peer),
    /// A learner becomes a voter.
    Promote(MemberId),
    /// A voter or a learner goes.
    Remove(MemberId),
    /// The same member, reached elsewhere.
    Readdress(MemberId, Peer),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("the membership changed meanwhile, or this member does not lead: {0}")]
    Refused(String),
    #[error("not committed within {0:?}")]
    Timeout(Duration),
}

impl<E: Env> Inner<E> {
    pub fn membership(&self) -> Membership {
        let metrics = self.metrics.borrow_watched();
        let effective = &metrics.membership_config;
        let nodes = effective
            .nodes()
            .map(|(id, node)| (MemberId(*id), node.clone()));
        Membership {
            voters: effective.voter_ids().map(MemberId).collect(),
            nodes: nodes.collect(),
            joint: effective.membership().get_joint_config().len() > 1,
            settled: effective.log_id() == metrics.committed_membership_config.log_id(),
            at: (
                effective
                    .log_id()
                    .as_ref()
                    .map_or(0, |id| id.leader_id.term),
                outer_of(effective.log_id().as_ref()),
            ),
        }
    }

    /// `None` unless this member leads and replicates to that one.
    pub fn progress(&self, of: MemberId) -> Option<Progress> {
        let metrics = self.metrics.borrow_watched();
        if metrics.state != ServerState::Leader {
            return None;
        }
        if of == self.me {
            return Some(Progress {
                matched: LogIndex(metrics.last_log_index.map_or(0, outer)),
                acked: Some(E::now()),
            });
        }
        let acked = metrics.heartbeat.as_ref()?.get(&of.0)?;
        let matched = metrics.replication.as_ref()?.get(&of.0)?;
        Some(Progress {
            matched: LogIndex(outer_of(matched.as_ref())),
            acked: acked.map(|at| at.into_inner().0),
        })
    }

    /// Takes one step from the membership that `at` names. A removal or promotion ends with a membership that is not joint,
    /// unless leadership is lost half-way; the next leader flattens it then.
    pub async fn change(
        &self,
        step: Step,
        at: (u64, u64),
        wait: Duration,
    ) -> Result<(), ChangeError> {
        let one = |id: MemberId| BTreeSet::from([id.0]);
        let changes = match &step {
            Step::Flatten => ChangeMembers::AddVoterIds(BTreeSet::new()),
            Step::Add(id, peer) => ChangeMembers::AddNodes(BTreeMap::from([(id.0, peer.clone())])),
            Step::Promote(id) => ChangeMembers::AddVoterIds(one(*id)),
            Step::Remove(id) if self.membership().voters.contains(id) => {
                ChangeMembers::RemoveVoters(one(*id))
            }
            Step::Remove(id) => ChangeMembers::RemoveNodes(one(*id)),
            Step::Readdress(id, peer) => {
                ChangeMembers::SetNodes(BTreeMap::from([(id.0, peer.clone())]))
            }
        };
        let last: Option<LogId> = crate::types::inner(at.1).map(|i| crate::types::log_id(at.0, i));
        let precondition = Precondition::LastMembershipLogId {
            last_membership_log_id: last,
        };
        let changed = self
            .raft
            .change_membership_if(changes, false, [precondition]);
        match E::timeout(wait, changed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(ChangeError::Refused(e.to_string())),
            Err(_) => Err(ChangeError::Timeout(wait)),
        }
    }

    /// Keeps the ways to the others as the membership names them.
    pub(crate) async fn follow_membership(self: std::sync::Arc<Self>) {
        // These do not change with every entry.
        let mut metrics = self.raft.server_metrics();
        let mut known = Membership::default();
        loop {
            let now = self.membership();
            if now.at != known.at {
                let others = now.nodes.iter().filter(|(id, _)| **id != self.me);
                let others: BTreeMap<_, _> = others.map(|(id, p)| (*id, p.addr.clone())).collect();
                if !others.is_empty() || now.nodes.contains_key(&self.me) {
                    self.links.follow(&others);
                }
                known = now;
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// A member that hears from no leader asks the others whether it still is one: they say so when it connects. Voters hear
    /// it when they campaign, but nobody speaks with a learner that was removed while it was away.
    pub(crate) async fn ask_without_leader(self: std::sync::Arc<Self>) {
        while !self.stopping() {
            E::sleep(self.timing.election).await;
            if self.view().leader.is_some() {
                continue;
            }
            if self.links.all().is_empty() && self.membership().nodes.is_empty() {
                self.find_others().await;
            }
            for (_, link) in self.links.all() {
                let asked = link.peer.connect(Lane::Requests);
                // What it answers is for others to act on (`Directories`); one that is away says nothing.
                let _ = E::timeout(self.timing.election, asked).await;
            }
        }
    }

    /// Makes ways to the members that somebody at one of the known addresses tells of. A member that was removed before it had a
    /// state or a membership knows of nobody, and would ask nobody.
    async fn find_others(&self) {
        for addr in &self.addresses {
            let told = self
                .links
                .told_at(addr, self.timing.election, self.address_of)
                .await;
            // A membership that came meanwhile is what counts, and has its ways (`follow_membership`).
            if !self.membership().nodes.is_empty() {
                return;
            }
            for (id, addr) in &told {
                self.links.to(*id, addr);
            }
            if !told.is_empty() {
                return;
            }
        }
    }
}
