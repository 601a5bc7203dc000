//! Commands that other members send here, because this one leads.
//! Promise: each is answered once; what is lost on its way is never said to be unproposed.
//! Not here: how they travel (`consensus`), what becomes of them (`queue`, `worker`).

use std::sync::Arc;

use barque_store_consensus::{self as consensus, Numbering, Run};
use barque_store_env::Instant;
use barque_store_state::*;
use tokio::sync::oneshot;

use crate::queue::{Asker, Number, Queue, Reply, Waiting};

/// Commands of other members enter the same queue as our own clients'.
pub(crate) struct FromPeers {
    pub(crate) queue: Arc<Queue>,
}

impl consensus::Forwarded for FromPeers {
    fn propose(
        &self,
        commands: Vec<Command>,
        numbering: Option<Numbering>,
        deadline: Instant,
    ) -> consensus::Forwarding {
        let mut answers = Vec::with_capacity(commands.len());
        let mut numbers = numbering.map(numbers).into_iter().flatten();
        self.queue.push(commands.into_iter().map(|command| {
            let (reply, answer) = oneshot::channel();
            answers.push(answer);
            Waiting {
                command,
                deadline,
                reply: Reply::Peer(reply),
                number: numbers.next(),
            }
        }));
        Box::pin(async move {
            let mut results = Vec::with_capacity(answers.len());
            for answer in answers {
                // Dropped unanswered: it may have been proposed before. "Stopped" would have it tried again.
                results.push(
                    answer
                        .await
                        .unwrap_or(Err(consensus::ProposeError::Unknown)),
                );
            }
            results
        })
    }
}

/// The number of each command, in order.
fn numbers(numbering: Numbering) -> impl Iterator<Item = Number> {
    let asker = Asker {
        member: numbering.member,
        boot: numbering.boot,
        open: numbering.open,
        term: numbering.term,
    };
    let of_run = move |run: Run| {
        (0..u64::from(run.count)).map(move |at| Number {
            number: run.first.saturating_add(at),
            from: Some(asker),
            since: run.since,
            again: run.again,
        })
    };
    numbering.runs.into_iter().flat_map(of_run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::QUEUE_COMMANDS_MAX;
    use crate::space::Gate;
    use barque_store_consensus::Forwarded;

    /// The forwarding member tries a command again that its leader did not propose.
    #[tokio::test]
    async fn a_forwarded_command_lost_on_its_way_is_never_said_to_be_unproposed() {
        let queue = Arc::new(Queue::new(Arc::new(Gate::new(None))));
        let peers = FromPeers {
            queue: queue.clone(),
        };
        let command = Command::LeaseRevoke { id: LeaseId(1) };
        let forward = || peers.propose(vec![command.clone()], None, Instant(u64::MAX));
        let lost = forward();
        drop(queue.take());
        assert_eq!(lost.await, [Err(consensus::ProposeError::Unknown)]);
        let waiting = forward();
        queue.close();
        assert_eq!(waiting.await, [Err(consensus::ProposeError::Stopped)]);
    }

    /// While nothing was taken, each connection that broke left its commands behind, and they came again over the next one: the
    /// leader's own clients were told "too many requests".
    #[tokio::test]
    async fn commands_whose_connection_has_ended_do_not_fill_the_queue() {
        let queue = Arc::new(Queue::new(Arc::new(Gate::new(None))));
        let peers = FromPeers {
            queue: queue.clone(),
        };
        let forward = |count: usize| {
            let command = Command::LeaseRevoke { id: LeaseId(1) };
            peers.propose(vec![command; count], None, Instant(u64::MAX))
        };
        drop(forward(QUEUE_COMMANDS_MAX));
        assert_eq!(queue.len(), QUEUE_COMMANDS_MAX);
        let waiting = forward(1);
        assert_eq!(queue.len(), 1);
        drop(forward(1));
        assert_eq!(queue.take().len(), 1);
        assert!(queue.is_empty());
        drop(waiting);
    }

    /// A leader that had not applied all of the terms before its own looked at no deadline.
    #[tokio::test]
    async fn a_deadline_is_kept_while_nothing_can_be_taken() {
        let queue = Queue::new(Arc::new(Gate::new(None)));
        let waits = |deadline| {
            let (reply, answer) = oneshot::channel();
            queue.push([Waiting {
                command: Command::LeaseRevoke { id: LeaseId(1) },
                deadline: Instant(deadline),
                reply: Reply::One(reply),
                number: None,
            }]);
            answer
        };
        let (soon, later) = (waits(5), waits(50));
        queue.expire_late(Instant(4));
        assert_eq!(queue.len(), 2);
        queue.expire_late(Instant(5));
        let told = soon.await.expect("answered");
        assert!(matches!(told, Err(crate::ProposeError::Timeout)));
        assert_eq!(queue.len(), 1);
        drop(later);
    }
}
