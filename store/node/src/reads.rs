//! Read index, in rounds: everybody who asks while a round is on its way shares the next one.
//! Promise: a reader is answered only by a round that began after it asked, so its read sees every write that was
//! acknowledged before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use barque_store_consensus::Consensus;
use barque_store_env::{Env, Instant};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::ProposeError;
use crate::limits::{READ_INDEX_SLOW, READERS_MAX};

struct Reader {
    deadline: Instant,
    reply: oneshot::Sender<Result<(), ProposeError>>,
}

#[derive(Default)]
struct Waiting {
    readers: Vec<Reader>,
    closed: bool,
}

#[derive(Default)]
pub(crate) struct Readers {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    slow: AtomicU64,
    failed: AtomicU64,
}

impl Readers {
    /// Joins the next round.
    pub(crate) async fn wait<E: Env>(&self, deadline: Instant) -> Result<(), ProposeError> {
        let (reply, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.closed {
                return Err(ProposeError::Stopped);
            }
            if waiting.readers.len() >= READERS_MAX {
                return Err(ProposeError::TooManyRequests);
            }
            waiting.readers.push(Reader { deadline, reply });
        }
        self.arrived.notify_one();
        match E::timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ProposeError::Stopped),
            Err(_) => Err(ProposeError::Timeout),
        }
    }

    /// Rounds that took longer than [`READ_INDEX_SLOW`], and those that failed.
    pub(crate) fn rounds(&self) -> (u64, u64) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (of(&self.slow), of(&self.failed))
    }

    /// Nobody runs rounds any more: whoever waits, or comes, is told so at once.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        // Their receivers see the end of the senders.
        waiting.readers.clear();
    }

    /// The one task that runs the rounds.
    pub(crate) async fn run<E: Env>(self: Arc<Self>, consensus: Consensus<E>) {
        loop {
            let readers = std::mem::take(&mut self.waiting.lock().readers);
            if readers.is_empty() {
                self.arrived.notified().await;
                continue;
            }
            let deadline = readers.iter().map(|r| r.deadline).max().expect("not empty");
            let begun = E::now();
            let result = consensus.read_index(deadline).await;
            if E::now().saturating_since(begun) > READ_INDEX_SLOW {
                self.slow.fetch_add(1, Ordering::Relaxed);
            }
            if result.is_err() {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
            for reader in readers {
                let answer = match &result {
                    Ok(_) => Ok(()),
                    Err(failure) => Err(read_error(failure)),
                };
                // A reader that is gone has stopped waiting.
                drop(reader.reply.send(answer));
            }
        }
    }
}

/// A read changes nothing: an unknown outcome is simply no answer in time.
fn read_error(failure: &barque_store_consensus::ProposeError) -> ProposeError {
    use barque_store_consensus::ProposeError as Failure;
    match failure {
        Failure::NotLeader { .. } => ProposeError::NoLeader,
        Failure::Unknown | Failure::Forgotten | Failure::Timeout => ProposeError::Timeout,
        Failure::Busy => ProposeError::TooManyRequests,
        Failure::Stopped => ProposeError::Stopped,
    }
}
