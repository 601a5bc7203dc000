//! Linearizable reads on any member: a read index from the leader, then a wait until this member has applied it.
//! Promise: the index covers every write acknowledged before the call; while there is no leader the call waits, up to
//! its deadline.

use std::pin::pin;
use std::time::Duration;

use barque_store_env::{Env, Instant};
use barque_store_state::{LogIndex, MemberId};
use futures::future::{Either, select, select_ok};
use openraft::LinearizerOption;
use openraft::errors::{LinearizableReadError, RaftError};

use crate::ProposeError;
use crate::member::{Inner, Raft};
use crate::transport::frame::Kind;
use crate::transport::wire::{ErrorBody, ReadIndexBody, ReadIndexReplyBody};
use crate::types::log_index;

impl<E: Env> Inner<E> {
    pub async fn read_index(&self, deadline: Instant) -> Result<LogIndex, ProposeError> {
        let mut changes = self.changes();
        loop {
            if self.stopping() {
                return Err(ProposeError::Stopped);
            }
            let now = E::now();
            let Some(left) = left_ms(deadline, now) else {
                return Err(ProposeError::Timeout);
            };
            // One attempt is answered within a lease or not at all.
            let wait = Duration::from_millis(left).min(self.timing.lease);
            let view = self.view();
            let attempt = match view.leader {
                None => {
                    let asked = pin!(self.ask_everybody(wait));
                    let known = pin!(changes.changed());
                    match select(asked, known).await {
                        Either::Left((answer, _)) => answer,
                        Either::Right(_) => continue,
                    }
                }
                Some(leader) if leader == self.me => leader_read_index(&self.raft, wait).await,
                Some(leader) => self.ask_read_index(leader, wait).await,
            };
            match attempt {
                Ok(index) => {
                    if let Some(applied) = self.applied_in(index, view.term, deadline).await {
                        return applied.map(|()| index);
                    }
                }
                Err(ProposeError::Stopped) => return Err(ProposeError::Stopped),
                // A read changes nothing: whatever went wrong, it may be asked again.
                Err(_) => {
                    let pause = E::sleep_until(deadline.min(E::now() + self.timing.heartbeat / 4));
                    let changed = Box::pin(changes.changed());
                    if let Either::Left((Err(_), pause)) = select(changed, pause).await {
                        pause.await;
                    }
                }
            }
        }
    }

    /// Whoever leads knows that it does: a member that was just started need not wait until it hears of it.
    async fn ask_everybody(&self, wait: Duration) -> Result<LogIndex, ProposeError> {
        let asked: Vec<_> = self
            .links
            .all()
            .into_iter()
            .map(|(member, _)| Box::pin(self.ask_read_index(member, wait)))
            .collect();
        if asked.is_empty() {
            return Err(ProposeError::NotLeader { leader: None });
        }
        let (index, _) = select_ok(asked).await?;
        Ok(index)
    }

    async fn ask_read_index(
        &self,
        leader: MemberId,
        wait: Duration,
    ) -> Result<LogIndex, ProposeError> {
        let nobody = ProposeError::NotLeader { leader: None };
        let link = self.links.get(leader).ok_or(nobody.clone())?;
        let body = ReadIndexBody {
            timeout_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        };
        let answer = link
            .requests
            .call(Kind::ReadIndex, body, E::now() + wait)
            .await
            .map_err(|_| nobody.clone())?;
        match answer.kind {
            Kind::ReadIndexReply => {
                let reply: ReadIndexReplyBody = answer.parse().map_err(|_| nobody)?;
                Ok(LogIndex(reply.index))
            }
            Kind::Error => Err(answer
                .parse::<ErrorBody>()
                .map_or(nobody, |e| e.propose_error())),
            _ => Err(nobody),
        }
    }

    /// Waits until the entry that a leader of this term named is applied; `None`: a leader of a later term has come. It may have
    /// come without that entry, which never will then, and is to be asked.
    pub(crate) async fn applied_in(
        &self,
        index: LogIndex,
        term: u64,
        deadline: Instant,
    ) -> Option<Result<(), ProposeError>> {
        let applied = pin!(self.wait_applied(index, deadline));
        let superseded = pin!(self.superseded(term));
        match select(applied, superseded).await {
            Either::Left((applied, _)) => Some(applied),
            Either::Right(_) => None,
        }
    }

    async fn wait_applied(&self, index: LogIndex, deadline: Instant) -> Result<(), ProposeError> {
        if self.applied.get() >= index.0 {
            return Ok(());
        }
        let mut applied = self.applied.clone();
        let reached = async {
            while applied.get() < index.0 {
                if applied.changed().await.is_err() {
                    return Err(ProposeError::Stopped);
                }
            }
            Ok(())
        };
        match E::timeout_at(deadline, reached).await {
            Ok(result) => result,
            Err(_) => Err(ProposeError::Timeout),
        }
    }
}

/// What is left of a deadline, as it travels; `None` when nothing is.
pub fn left_ms(deadline: Instant, now: Instant) -> Option<u64> {
    let left = deadline.saturating_since(now);
    (left > Duration::ZERO).then(|| u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1))
}

/// A read index of this member, which must lead. Concurrent calls share openraft's heartbeat rounds.
pub async fn leader_read_index<E: Env>(
    raft: &Raft<E>,
    wait: Duration,
) -> Result<LogIndex, ProposeError> {
    let option = LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(wait);
    match raft.get_read_log_id(option).await {
        Ok((read, _)) => Ok(log_index(read.log_id())),
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
            Err(ProposeError::NotLeader {
                leader: to.leader_id.map(MemberId),
            })
        }
        Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
            Err(ProposeError::NotLeader { leader: None })
        }
        Err(RaftError::Fatal(_)) => Err(ProposeError::Stopped),
    }
}
