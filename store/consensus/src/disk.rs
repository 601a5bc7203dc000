//! A leader whose disk fails or hangs (guard 8): the others commit without it, so nothing but this would ever end its
//! leadership. It hands over while its log is still in memory, and ends.
//! Promise: a failed append is told to Raft only after leadership was handed over, or could not be.

use std::sync::Arc;

use barque_store_env::{Env, Instant};
use openraft::storage::IOFlushed;
use parking_lot::Mutex;

use crate::limits::{DISK_HANG_ELECTIONS, HAND_OVER_LEASES};
use crate::member::Inner;
use crate::types::Types;

/// What of the log failed and Raft has not been told: it would stop at once, leadership and all.
pub struct Failed<E: Env> {
    held: Mutex<Held<E>>,
}

struct Held<E: Env> {
    /// Nothing is held back any more.
    released: bool,
    /// No more than Raft appends while leadership is handed over, which the bound on unanswered proposals bounds too.
    callbacks: Vec<(IOFlushed<Types<E>>, std::io::Error)>,
}

impl<E: Env> Default for Failed<E> {
    fn default() -> Self {
        Failed {
            held: Mutex::new(Held {
                released: false,
                callbacks: Vec::new(),
            }),
        }
    }
}

impl<E: Env> Failed<E> {
    pub fn hold(&self, callback: IOFlushed<Types<E>>, error: std::io::Error) {
        let mut held = self.held.lock();
        if !held.released {
            held.callbacks.push((callback, error));
            return;
        }
        drop(held);
        callback.io_completed(Err(error));
    }
    fn release(&self) {
        let callbacks = {
            let mut held = self.held.lock();
            held.released = true;
            std::mem::take(&mut held.callbacks)
        };
        for (callback, error) in callbacks {
            callback.io_completed(Err(error));
        }
    }
}

impl<E: Env> Inner<E> {
    fn hand_over_by(&self) -> Instant {
        E::now() + self.timing.lease * HAND_OVER_LEASES
    }

    pub(crate) async fn watch_wal(self: Arc<Self>) {
        let cause = self.wal.failed().await;
        if !self.stopping() {
            self.transfer_away(self.hand_over_by()).await;
            self.failed_log.release();
            self.fail(format!("the log: {cause}"));
        }
    }

    /// Until the disk hangs while this member leads others.
    pub(crate) async fn watch_disk(self: Arc<Self>) {
        let limit = self.timing.election * DISK_HANG_ELECTIONS;
        loop {
            E::sleep(self.timing.election / 4).await;
            let hangs = |since: Instant| E::now().saturating_since(since) > limit;
            // Who does not lead has no successors. Where a leader has none, it is better than nobody.
            if !self.wal.writing_since().is_some_and(hangs) || self.successors(E::now()).is_empty()
            {
                continue;
            }
            tracing::error!(
                "the disk hangs: the log has been written to for over {limit:?}; handing leadership over"
            );
            // Its outcome is not asked for: Raft's core may hang on the same disk, to store the vote that deposes it.
            self.transfer_away(self.hand_over_by()).await;
            self.fail(format!(
                "the disk hangs: a write to the log has taken over {limit:?}; leadership was handed over. Look at the disk, then \
                 start this member again"
            ));
            return;
        }
    }
}
