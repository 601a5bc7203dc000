//! The leader's part in leases: coalescing renewals, finding what is due, and keeping cluster time in the log.
//! Promise: nothing expires unless this member leads by guard 4 at the moment it proposes; the state machine still lets any
//! newer renewal win.

use std::collections::BTreeMap;
use std::sync::Arc;

use barque_store_env::Env;
use barque_store_state::*;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use barque_store_env::Instant;

use crate::limits::*;
use crate::queue::{Reply, Waiting};
use crate::{ProposeError, Shared};

type Renewed = Result<(Revision, Option<u64>), ProposeError>;

/// Who waits for one lease, and until when.
type Waiters = Vec<(Instant, oneshot::Sender<Renewed>)>;

#[derive(Default)]
struct WaitingRenewals {
    by_lease: BTreeMap<LeaseId, Waiters>,
    closed: bool,
}

#[derive(Default)]
pub(crate) struct KeepAlives {
    waiting: Mutex<WaitingRenewals>,
    arrived: Notify,
}

impl KeepAlives {
    pub(crate) async fn renew<E: Env>(&self, id: LeaseId, deadline: Instant) -> Renewed {
        let (reply, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.closed {
                return Err(ProposeError::Stopped);
            }
            let waiting = &mut waiting.by_lease;
            if waiting.len() >= KEEP_ALIVES_MAX && !waiting.contains_key(&id) {
                return Err(ProposeError::TooManyRequests);
            }
            waiting.entry(id).or_default().push((deadline, reply));
        }
        self.arrived.notify_one();
        match E::timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ProposeError::Stopped),
            Err(_) => Err(ProposeError::Timeout),
        }
    }

    /// Nobody coalesces any more: whoever waits, or comes, is told so at once.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        // Their receivers see the end of the senders.
        waiting.by_lease.clear();
    }
}

/// Turns all renewals of the last [`KEEP_ALIVE_LINGER`] into one entry, again and again.
pub(crate) async fn coalesce<E: Env>(shared: Arc<Shared<E>>) {
    loop {
        shared.keep_alives.arrived.notified().await;
        E::sleep(KEEP_ALIVE_LINGER).await;
        let waiting = std::mem::take(&mut shared.keep_alives.waiting.lock().by_lease);
        if waiting.is_empty() {
            continue;
        }
        let deadline = waiting
            .values()
            .flatten()
            .map(|(d, _)| *d)
            .max()
            .expect("each id has a waiter");
        let ids: Vec<LeaseId> = waiting.keys().copied().collect();
        let result = shared.propose(Command::LeaseKeepAlive { ids }, deadline);
        // The next entry must not wait for this one's commit.
        E::spawn("keep-alive", async move {
            let result = result.await;
            let answers: Vec<Renewed> = match result {
                Ok(Outcome {
                    revision,
                    result: Ok(Answer::LeaseRenewed { ttls_s }),
                }) => ttls_s.into_iter().map(|ttl| Ok((revision, ttl))).collect(),
                Ok(other) => unreachable!("a renewal is answered by a renewal, not {other:?}"),
                Err(error) => vec![Err(error); waiting.len()],
            };
            for (waiters, answer) in waiting.into_values().zip(answers) {
                for (_, reply) in waiters {
                    drop(reply.send(answer.clone()));
                }
            }
        });
    }
}

/// Proposes the expiry of due leases while this member leads, and stamps cluster time into a quiet log.
pub(crate) async fn expire<E: Env>(shared: Arc<Shared<E>>) {
    let mut stamped_at = E::now();
    loop {
        E::sleep(EXPIRY_INTERVAL).await;
        let now = E::now();
        if !shared.leads(now) {
            stamped_at = now;
            continue;
        }
        let cluster_now = shared.machine.stamp(shared.consensus.view().term, now);
        let (due, any) = {
            let state = shared.machine.state.read();
            (
                state.due(cluster_now, EXPIRY_BATCH),
                state.next_deadline().is_some(),
            )
        };
        let deadline = now + shared.request_timeout;
        let commands: Vec<Command> =
            if due.is_empty() && any && now.saturating_since(stamped_at) >= TIME_STAMP_INTERVAL {
                // Renews nothing; its entry carries the time.
                vec![Command::LeaseKeepAlive { ids: Vec::new() }]
            } else {
                due.into_iter()
                    .map(|(id, deadline_seen)| Command::LeaseExpire { id, deadline_seen })
                    .collect()
            };
        if commands.is_empty() {
            continue;
        }
        stamped_at = now;
        let mut answers = Vec::with_capacity(commands.len());
        shared.queue.push(commands.into_iter().map(|command| {
            let (reply, answer) = oneshot::channel();
            answers.push(answer);
            Waiting {
                command,
                deadline,
                reply: Reply::One(reply),
                number: None,
            }
        }));
        for answer in answers {
            // Whatever became of it, the next round looks at the state again.
            drop(answer.await);
        }
    }
}
