//! Who is in the cluster, as a [`Store`]'s users see and change it, and who leads it.
//! Not here: how Raft's own membership follows (`membership`), what a change does (`state`).

use std::pin::pin;

use barque_store_consensus::Membership;
use barque_store_env::{Env, Instant};
use barque_store_state::{Answer, Command, MemberChange, MemberId, MemberInfo, Refusal};

use crate::limits::{MEMBERSHIP_INTERVAL, REMOVED_LINGERS};
use crate::{ProposeError, Store, TransferError, ids};

impl<E: Env> Store<E> {
    /// The members that are wanted, by id, with what they have published of themselves.
    pub fn members(&self) -> Vec<MemberInfo> {
        self.shared.machine.members()
    }

    /// Raft's own membership, the newest in this member's log: it follows the wanted one in steps.
    pub fn membership(&self) -> Membership {
        self.shared.consensus.membership()
    }

    /// Whether this member is in the cluster as a learner.
    pub fn is_learner(&self) -> bool {
        self.shared.machine.is_learner()
    }

    /// Adds a member that will be found at these URLs; returns its id and all members. It need not run yet: the cluster's
    /// quorum counts it once it has caught up.
    pub async fn member_add(
        &self,
        peer_urls: Vec<String>,
        learner: bool,
        deadline: Instant,
    ) -> Result<Result<(MemberId, Vec<MemberInfo>), Refusal>, ProposeError> {
        let id = ids::added_member_id(&peer_urls, &self.shared.cluster_token, E::random());
        let change = MemberChange::Add {
            id,
            peer_urls,
            learner,
        };
        let members = self.member_change(change, deadline).await?;
        Ok(members.map(|members| (id, members)))
    }

    /// Changes who is to be in the cluster; returns all members after it. Answers once the wish is committed; Raft's own
    /// membership follows it in steps. A removal is waited for, because whoever asked for it may take the machine away: one that
    /// must wait (its vote is needed until others are back) ends as [`ProposeError::Timeout`] and is carried out later.
    pub async fn member_change(
        &self,
        change: MemberChange,
        deadline: Instant,
    ) -> Result<Result<Vec<MemberInfo>, Refusal>, ProposeError> {
        let leaving = match &change {
            MemberChange::Remove { id } => Some(*id),
            _ => None,
        };
        let outcome = self.propose(Command::Members(change), deadline).await?;
        Ok(match outcome.result {
            Ok(Answer::Members(members)) => {
                if let Some(id) = leaving {
                    self.until_gone(id, deadline).await?;
                }
                Ok(members)
            }
            Ok(other) => unreachable!("a change of members is answered by members, not {other:?}"),
            Err(refusal) => Err(refusal),
        })
    }

    /// Waits until Raft does without the member, as far as is known here.
    async fn until_gone(&self, id: MemberId, deadline: Instant) -> Result<(), ProposeError> {
        let gone = async {
            match id == self.shared.member {
                true => self.or_told(self.gone(id)).await,
                false => self.gone(id).await,
            }
        };
        let gone = E::timeout_at(deadline, gone).await;
        gone.map_err(|_| ProposeError::Timeout)
    }

    async fn gone(&self, id: MemberId) {
        while !self.membership().is_without(id) {
            E::sleep(MEMBERSHIP_INTERVAL).await;
        }
    }

    /// Waits for that, or until a peer says that this member was removed: the entry that takes it out may never reach it.
    async fn or_told(&self, out: impl Future<Output = ()>) {
        let (out, told) = (pin!(out), pin!(self.shared.consensus.removed()));
        futures::future::select(out, told).await;
    }

    /// Hands leadership to `to`; this member must lead.
    pub async fn move_leader(&self, to: MemberId, deadline: Instant) -> Result<(), TransferError> {
        self.shared.consensus.transfer_to(to, deadline).await
    }

    /// Hands leadership to another voter, if this member leads and there is one that can take it by `deadline`.
    pub async fn hand_over(&self, deadline: Instant) {
        self.shared.consensus.transfer_away(deadline).await;
    }

    /// Resolves once this member was removed from the cluster, Raft does without it, and whoever asked it for that has had
    /// the time to be answered; it should be shut down then. (Before, its vote may be needed to carry the removal out.)
    pub async fn removed(&self) {
        let out = async {
            self.shared.machine.removed().await;
            self.gone(self.shared.member).await;
        };
        self.or_told(out).await;
        E::sleep(REMOVED_LINGERS).await;
    }
}
