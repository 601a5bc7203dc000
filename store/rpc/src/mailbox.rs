//! One core's mailbox: other threads put batches in, the core takes everything at once.
//! Promise: at most one wake per batch, none while the core has not looked yet; order of batches is kept.
//! Why not a channel: a wake per message costs more than the message's whole HTTP/2 work.
//! Bound: none of its own. What arrives was asked for by the receiver (completions), whose own bound holds.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use futures::task::AtomicWaker;

#[derive(Debug)]
struct Shared<T> {
    waiting: Mutex<Vec<T>>,
    receiver: AtomicWaker,
}

#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);
#[derive(Debug)]
pub struct Receiver<T>(Arc<Shared<T>>);

pub fn mailbox<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        waiting: Mutex::new(Vec::new()),
        receiver: AtomicWaker::new(),
    });
    (Sender(shared.clone()), Receiver(shared))
}

impl<T> Sender<T> {
    pub fn send(&self, batch: Vec<T>) {
        if batch.is_empty() {
            return;
        }
        let was_empty = {
            let mut waiting = self
                .0
                .waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let was_empty = waiting.is_empty();
            if was_empty {
                *waiting = batch;
            } else {
                waiting.extend(batch);
            }
            was_empty
        };
        if was_empty {
            self.0.receiver.wake();
        }
    }
}

impl<T> Receiver<T> {
    /// Everything that waits, at least one. Cancel-safe.
    pub async fn next(&mut self) -> Vec<T> {
        poll_fn(|cx| {
            // Registered before looking: a batch that arrives in between wakes us again.
            self.0.receiver.register(cx.waker());
            let mut waiting = self
                .0
                .waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if waiting.is_empty() {
                Poll::Pending
            } else {
                Poll::Ready(std::mem::take(&mut *waiting))
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn batches_from_other_threads_arrive_in_order() {
        let (sender, mut receiver) = mailbox();
        let feeder = std::thread::spawn(move || {
            for i in 0..100u32 {
                sender.send(vec![i * 2, i * 2 + 1]);
            }
        });
        let mut got = Vec::new();
        while got.len() < 200 {
            got.extend(receiver.next().await);
        }
        feeder.join().unwrap();
        assert_eq!(got, (0..200).collect::<Vec<_>>());
    }
}
