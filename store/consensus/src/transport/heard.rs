//! When this member last heard its leader, and whether that is too long ago.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use barque_store_env::Instant;
use tokio::sync::Notify;

/// When the leader was last heard, whatever it said.
#[derive(Debug)]
pub struct Heard {
    last: AtomicU64,
    /// After so long without a word it counts as lost.
    patience: Duration,
    again: Notify,
}
impl Heard {
    pub fn new(patience: Duration) -> Self {
        Heard {
            last: AtomicU64::new(0),
            patience,
            again: Notify::new(),
        }
    }
    pub fn now(&self, now: Instant) {
        let before = Instant(self.last.fetch_max(now.0, Ordering::Relaxed));
        if now.saturating_since(before) > self.patience {
            self.again.notify_one();
        }
    }
    pub fn last(&self) -> Instant {
        Instant(self.last.load(Ordering::Relaxed))
    }
    pub fn is_lost(&self, now: Instant) -> bool {
        now.saturating_since(self.last()) > self.patience
    }
    /// Resolves when a leader is heard after none was for that long. For one that waits.
    pub async fn again(&self) {
        self.again.notified().await;
    }
}
