//! The work queue with a clock and waiting workers around `core::queue`.
//! Promise: a worker that was given a key owes its outcome; dropping the work without one counts as a failure.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::core::queue::Queue;

/// How work on a key ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Well, but look again after this time (or at a change before).
    After(Duration),
    /// Badly: try again, later and later.
    Failed,
}

struct Shared<K> {
    queue: Mutex<Queue<K>>,
    changed: Notify,
    origin: Instant,
}

/// Clones share one queue.
pub struct WorkQueue<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> WorkQueue<K> {
        WorkQueue {
            shared: self.shared.clone(),
        }
    }
}

impl<K: Ord + Clone> Default for WorkQueue<K> {
    fn default() -> WorkQueue<K> {
        WorkQueue {
            shared: Arc::new(Shared {
                queue: Mutex::new(Queue::default()),
                changed: Notify::new(),
                origin: Instant::now(),
            }),
        }
    }
}

/// One key in work.
pub struct Work<K: Ord + Clone> {
    pub key: K,
    queue: WorkQueue<K>,
    finished: bool,
}

impl<K: Ord + Clone> Work<K> {
    pub fn finish(mut self, outcome: Outcome) {
        self.finished = true;
        let now = self.queue.now();
        let mut queue = self.queue.lock();
        match outcome {
            Outcome::Done => queue.done(&self.key),
            Outcome::After(delay) => {
                queue.done(&self.key);
                queue.add_at(self.key.clone(), now + delay);
            }
            Outcome::Failed => queue.failed(&self.key, now),
        }
        drop(queue);
        self.queue.shared.changed.notify_one();
    }
}

impl<K: Ord + Clone> Drop for Work<K> {
    fn drop(&mut self) {
        if !self.finished {
            let now = self.queue.now();
            self.queue.lock().failed(&self.key, now);
            self.queue.shared.changed.notify_one();
        }
    }
}

impl<K: Ord + Clone> WorkQueue<K> {
    pub fn add(&self, key: K) {
        self.lock().add(key);
        self.shared.changed.notify_one();
    }

    pub fn add_after(&self, key: K, delay: Duration) {
        let at = self.now() + delay;
        self.lock().add_at(key, at);
        self.shared.changed.notify_one();
    }

    /// Waits for the next key.
    pub async fn next(&self) -> Work<K> {
        loop {
            let changed = self.shared.changed.notified();
            let (taken, due, more) = {
                let now = self.now();
                let mut queue = self.lock();
                let taken = queue.take(now);
                (taken, queue.next_due(), queue.has_ready())
            };
            if more {
                // Several keys may have come with one wake-up: pass it on.
                self.shared.changed.notify_one();
            }
            if let Some(key) = taken {
                return Work {
                    key,
                    queue: self.clone(),
                    finished: false,
                };
            }
            match due {
                Some(at) => {
                    tokio::select! {
                        () = changed => {}
                        () = sleep_until(self.shared.origin + at) => {}
                    }
                }
                None => changed.await,
            }
        }
    }

    fn now(&self) -> Duration {
        self.shared.origin.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Queue<K>> {
        self.shared
            .queue
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn workers_wait_for_changes_and_for_delays() {
        let queue: WorkQueue<u32> = WorkQueue::default();
        queue.add_after(7, Duration::from_secs(3));
        let begun = Instant::now();
        let work = queue.next().await;
        assert_eq!((work.key, begun.elapsed().as_secs()), (7, 3));
        work.finish(Outcome::After(Duration::from_secs(2)));
        let work = queue.next().await;
        assert_eq!(begun.elapsed().as_secs(), 5);
        drop(work);
        let work = queue.next().await;
        assert_eq!(work.key, 7, "abandoned work comes back");
        work.finish(Outcome::Done);
    }

    #[tokio::test(start_paused = true)]
    async fn several_workers_share_a_burst() {
        let queue: WorkQueue<u32> = WorkQueue::default();
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move {
                    let work = queue.next().await;
                    let key = work.key;
                    work.finish(Outcome::Done);
                    key
                })
            })
            .collect();
        tokio::task::yield_now().await;
        for key in 0..4 {
            queue.add(key);
        }
        let mut taken = vec![];
        for worker in workers {
            taken.push(worker.await.unwrap());
        }
        taken.sort_unstable();
        assert_eq!(taken, [0, 1, 2, 3]);
    }
}
