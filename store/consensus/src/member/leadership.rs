//! Who leads, as far as this member can tell, and telling it to whoever waits.
//! Promise: it names itself as the one that may act only while a quorum's acknowledgement covers that (guard 4).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use barque_store_env::{Env, Instant, watch};
use barque_store_state::MemberId;
use futures::future::{Either, select};
use openraft::{RaftMetrics, ServerState};
use openraft_rt::WatchReceiver;

use super::Inner;
use crate::leaders::Leaders;
use crate::types::{Types, outer, outer_of};
use crate::{View, guard};

impl<E: Env> Inner<E> {
    fn leads_until(&self, metrics: &RaftMetrics<Types<E>>, now: Instant) -> Option<Instant> {
        // openraft keeps the lease of a leader that is handing over; its voters no longer do.
        if self.given_away.load(Ordering::Acquire) == metrics.current_term
            && metrics.current_term != 0
        {
            return None;
        }
        guard::leads_until::<E>(metrics, &self.timing, now)
    }

    fn leader(
        &self,
        metrics: &RaftMetrics<Types<E>>,
        leads_until: Option<Instant>,
        now: Instant,
    ) -> Option<MemberId> {
        let leader = metrics.current_leader?;
        // openraft names the last leader for ever; etcd's members name none once they have lost it.
        let lost = |since: Instant| now.saturating_since(since) > self.timing.election;
        if leader == self.me.0 {
            let acked = metrics.last_quorum_acked.as_ref().map(|t| t.into_inner().0);
            let gone = leads_until.is_none() && acked.is_some_and(lost);
            (metrics.state == ServerState::Leader && !gone).then_some(self.me)
        } else {
            (!self.heard.is_lost(now)).then_some(MemberId(leader))
        }
    }

    pub fn view(&self) -> View {
        let now = E::now();
        let metrics = self.metrics.borrow_watched();
        let leads_until = self.leads_until(&metrics, now);
        View {
            leader: self.leader(&metrics, leads_until, now),
            term: metrics.current_term,
            last_log: metrics.last_log_index.map_or(0, outer),
            committed: outer_of(metrics.local_committed.as_ref()),
            applied: self.applied.get(),
            leads_until,
        }
    }

    pub fn changes(&self) -> watch::Receiver<View> {
        self.changes.subscribe()
    }

    /// Tells `changes` what is new, until Raft stops; a stop nobody asked for is a failure.
    pub(super) async fn watch_leadership(self: Arc<Self>) {
        let mut server = self.raft.server_metrics();
        // A lease begins and ends without a change of state; between, it is only prolonged.
        let idle = self.timing.heartbeat / 2;
        let eager = (self.timing.heartbeat / 16).max(Duration::from_millis(1));
        let mut leaders = Leaders::default();
        loop {
            let view = self.view();
            leaders.look(&view);
            let leading = |v: &View| (v.leader, v.term, v.leads_until.is_some());
            self.changes.send_if_modified(|old| {
                let new = leading(old) != leading(&view);
                *old = view;
                new
            });
            let elected = view.leader == Some(self.me) && view.leads_until.is_none();
            let pause = E::sleep(if elected { eager } else { idle });
            let changed = Box::pin(server.changed());
            // A new leader's first append is heard only once it is answered, and Raft tells of the leader before that.
            let heard = Box::pin(self.heard.again());
            let other = select(pause, heard);
            if let Either::Left((Err(_), _)) = select(changed, other).await {
                break;
            }
        }
        if !self.stopping() {
            let cause = match self.raft.with_raft_state(|_| ()).await {
                Ok(()) => "Raft stopped".to_string(),
                Err(fatal) => format!("Raft stopped: {fatal}"),
            };
            self.fail(cause);
        }
    }
}
