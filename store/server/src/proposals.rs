//! One core's proposals: gathered while the core works through what arrived, handed to the store together; completions come
//! back in batches and are answered here. Promise: one wake each way per batch, not per request (measured 6-14 us each).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use barque_store_env::{Env, Instant};
use barque_store_node::{Completion, CompletionSink, Proposal, ProposeError, Store};
use barque_store_rpc::mailbox::{Receiver, Sender, mailbox};
use barque_store_rpc::{Code, Reply, Status};
use barque_store_state::Command;
use tokio::sync::Notify;

use crate::core::header_of;
use crate::encode;
use crate::limits::PROPOSALS_PER_CORE_MAX;
use crate::status::{not_proposed, refused};

struct Mailbox(Sender<Completion>);
impl CompletionSink for Mailbox {
    fn complete(&self, batch: Vec<Completion>) {
        self.0.send(batch);
    }
}

/// Replies by token; tokens of answered ones are used again.
#[derive(Debug, Default)]
struct Waiting {
    replies: Vec<Option<Reply>>,
    /// Invariant: exactly the indices of `replies` that hold none.
    free: Vec<usize>,
}

impl Waiting {
    fn len(&self) -> usize {
        self.replies.len() - self.free.len()
    }
    fn insert(&mut self, reply: Reply) -> u64 {
        let index = self.free.pop().unwrap_or(self.replies.len());
        if index == self.replies.len() {
            self.replies.push(Some(reply));
        } else {
            self.replies[index] = Some(reply);
        }
        index as u64
    }
    fn take(&mut self, token: u64) -> Option<Reply> {
        let index = usize::try_from(token).ok()?;
        let reply = self.replies.get_mut(index)?.take()?;
        self.free.push(index);
        Some(reply)
    }
}

pub(crate) struct Proposals<E: Env> {
    store: Store<E>,
    timeout: Duration,
    gathered: RefCell<Vec<Proposal>>,
    waiting: RefCell<Waiting>,
    /// Tells the hand-over task that something was gathered.
    arrived: Notify,
}

impl<E: Env> Proposals<E> {
    pub fn start(store: Store<E>, timeout: Duration) -> Rc<Self> {
        let proposals = Rc::new(Proposals {
            store,
            timeout,
            gathered: RefCell::default(),
            waiting: RefCell::default(),
            arrived: Notify::new(),
        });
        let (sender, receiver) = mailbox();
        barque_store_rpc::spawn_local(proposals.clone().hand_over(Arc::new(Mailbox(sender))));
        barque_store_rpc::spawn_local(proposals.clone().answer(receiver));
        proposals
    }

    /// Has `command` carried out; `reply` gets the outcome.
    pub fn propose(&self, command: Command, reply: Reply) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= PROPOSALS_PER_CORE_MAX {
            return reply.err(not_proposed(&ProposeError::TooManyRequests));
        }
        let token = waiting.insert(reply);
        let mut gathered = self.gathered.borrow_mut();
        if gathered.is_empty() {
            self.arrived.notify_one();
        }
        gathered.push(Proposal {
            token,
            command,
            // Set when the batch leaves.
            deadline: Instant(0),
        });
    }

    /// Runs after the tasks that are ready now, so that whatever they gather leaves together.
    async fn hand_over(self: Rc<Self>, sink: Arc<Mailbox>) {
        loop {
            self.arrived.notified().await;
            let mut batch = self.gathered.take();
            let deadline = E::now() + self.timeout;
            for proposal in &mut batch {
                proposal.deadline = deadline;
            }
            self.store.submit(batch, sink.clone());
        }
    }

    async fn answer(self: Rc<Self>, mut completions: Receiver<Completion>) {
        loop {
            let batch = completions.next().await;
            let header = header_of(&self.store);
            for completion in batch {
                let reply = self.waiting.borrow_mut().take(completion.token);
                let Some(reply) = reply else {
                    debug_assert!(false, "a completion for nobody");
                    continue;
                };
                reply.done(match completion.result {
                    Err(error) => Err(not_proposed(&error)),
                    Ok(outcome) => match outcome.result {
                        Err(refusal) => Err(refused(&refusal)),
                        Ok(answer) => encode::answer(&header.at(outcome.revision), &answer)
                            .ok_or_else(|| {
                                Status::new(Code::Internal, "an answer of another kind")
                            }),
                    },
                });
            }
        }
    }
}
