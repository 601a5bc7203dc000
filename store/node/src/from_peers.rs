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
}
