//! Handing leadership over: at a stop, when asked to, and before a member that cannot go on ends (guard 12).
//! Promise: only to another voter that was heard from within a heartbeat; whoever acts on the lease has stopped before the
//! voters forget it. openraft does not resume a leadership that it gave away.

use std::sync::atomic::Ordering;

use barque_store_env::{Env, Instant};
use barque_store_state::MemberId;
use openraft::ServerState;
use openraft_rt::WatchReceiver;

use crate::TransferError;
use crate::member::Inner;

impl<E: Env> Inner<E> {
    /// Voters but this one that acknowledged something within the last heartbeat; the one with the most log first.
    pub(crate) fn successors(&self, now: Instant) -> Vec<u64> {
        let metrics = self.metrics.borrow_watched();
        let (Some(heartbeat), Some(replication)) = (&metrics.heartbeat, &metrics.replication)
        else {
            return Vec::new();
        };
        let heard = |id: &u64| {
            if !self.guards.heard_successor {
                return true;
            }
            let acked = heartbeat.get(id).copied().flatten();
            acked.is_some_and(|at| now.saturating_since(at.into_inner().0) < self.timing.heartbeat)
        };
        let voters = metrics.membership_config.voter_ids();
        let mut able: Vec<u64> = voters.filter(|id| *id != self.me.0 && heard(id)).collect();
        able.sort_by_key(|id| std::cmp::Reverse(replication.get(id).copied().flatten()));
        able
    }

    fn is_leader(&self) -> bool {
        self.metrics.borrow_watched().state == ServerState::Leader
    }

    /// Whether this member leads, and there are others to lead.
    pub(crate) fn leads_others(&self) -> bool {
        self.is_leader() && self.other_voters() > 0
    }

    fn other_voters(&self) -> usize {
        let metrics = self.metrics.borrow_watched();
        let voters = metrics.membership_config.voter_ids();
        voters.filter(|id| *id != self.me.0).count()
    }

    pub async fn transfer_away(&self, deadline: Instant) {
        while self.leads_others() && E::now() < deadline {
            let Some(to) = self.successors(E::now()).first().copied() else {
                // Everybody's last acknowledgement is older than a heartbeat by chance, or nobody is there.
                E::sleep(self.timing.heartbeat / 8).await;
                continue;
            };
            // The outcome does not matter: it is given away either way.
            let _ = self.hand_over(to, deadline).await;
            return;
        }
    }

    pub async fn transfer_to(&self, to: MemberId, deadline: Instant) -> Result<(), TransferError> {
        loop {
            if !self.is_leader() {
                return Err(TransferError::NotLeader);
            }
            if self.successors(E::now()).contains(&to.0) {
                return self.hand_over(to.0, deadline).await;
            }
            let voters = self.membership().voters;
            if !voters.contains(&to) || E::now() >= deadline {
                return Err(TransferError::NotReady);
            }
            E::sleep(self.timing.heartbeat / 8).await;
        }
    }

    async fn hand_over(&self, to: u64, deadline: Instant) -> Result<(), TransferError> {
        let term = self.metrics.borrow_watched().current_term;
        // Whoever acts on the lease must stop before the voters forget it.
        self.given_away.store(term, Ordering::Release);
        self.changes.send_if_modified(|view| {
            view.leads_until = None;
            true
        });
        tracing::info!(term, to = %MemberId(to), "handing leadership over");
        if self.raft.trigger().transfer_leader(to).await.is_err() {
            return Err(TransferError::NotLeader);
        }
        let mut metrics = self.metrics.clone();
        let done = async {
            while metrics.borrow_watched().current_term == term {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        E::timeout_at(deadline, done)
            .await
            .map_err(|_| TransferError::Timeout)
    }
}
