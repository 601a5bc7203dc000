//! Gives up the part of the log that nobody needs any more: what the engine has, less a reserve for followers that are
//! a little behind, and nothing that a member which is being sent the state will need next (guard 11).
//! Promise: the log never grows beyond the reserve and a hard bound, whatever followers do: one that is further behind
//! has its append stream ended, so that openraft lets go of the log and sends it the state.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use barque_store_env::{Env, watch};

use openraft_rt::WatchReceiver;

use crate::log_store::LogStore;
use crate::member::Raft;
use crate::pins::Pins;
use crate::types::Types;
use crate::{ImageRules, Machine, limits};

/// Entries below it (in openraft's count) are wanted by nobody who is sent the log.
#[derive(Debug, Default)]
pub struct Cut(AtomicU64);

impl Cut {
    /// Whether a follower whose log matches up to `index` is too far behind to be sent the log.
    pub fn leaves_behind(&self, index: u64) -> bool {
        index < self.0.load(Ordering::Relaxed)
    }
    fn set(&self, index: Option<u64>) {
        self.0.store(index.unwrap_or(0), Ordering::Relaxed);
    }
}

pub struct Purger<E: Env> {
    pub raft: Raft<E>,
    pub log: LogStore<E>,
    pub pins: Arc<Pins<E>>,
    pub machine: Arc<dyn Machine>,
    pub rules: ImageRules,
    pub cut: Arc<Cut>,
    /// The last entry that the engine has.
    pub persisted: watch::Receiver<Option<u64>>,
}

impl<E: Env> Purger<E> {
    pub async fn run(mut self) {
        loop {
            // Otherwise it looks now and then all the same: pins end with time, followers fall behind, and openraft puts off
            // what it is just sending.
            let persisted = E::timeout(limits::PURGE_LOOK, self.persisted.changed());
            if let Ok(Err(_)) = persisted.await {
                return;
            }
            let upto = self.persisted.get_and_update();
            let Some(upto) = upto.and_then(|persisted| self.wanted(persisted)) else {
                continue;
            };
            if Some(upto) <= self.log.purged() {
                continue;
            }
            // Openraft purges what a snapshot covers, and ours is how far the engine is.
            if !self.covered(upto).await || self.raft.trigger().purge_log(upto).await.is_err() {
                // Raft has stopped, which is told elsewhere.
                return;
            }
        }
    }

    /// Has openraft ask again how far the engine is, when it does not know yet that `upto` is there, and waits until it
    /// does: it would purge up to what it knew before, and nothing more. `false` when it has stopped.
    async fn covered(&self, upto: u64) -> bool {
        let mut metrics = self.raft.metrics();
        let knows = |metrics: &openraft::RaftMetrics<Types<E>>| {
            metrics.snapshot.as_ref().map(|id| id.index) >= Some(upto)
        };
        if knows(&metrics.borrow_watched()) {
            return true;
        }
        if self.raft.trigger().snapshot().await.is_err() {
            return false;
        }
        let told = async {
            while !knows(&metrics.borrow_watched()) {
                metrics.changed().await?;
            }
            Ok::<_, openraft_rt::RecvError>(())
        };
        // Too late is no matter: what it knows by then is purged, and the rest when this looks again.
        !matches!(E::timeout(limits::PURGE_LOOK, told).await, Ok(Err(_)))
    }

    /// Nobody else needs this member's log. Whoever is added later is sent the state.
    fn is_alone(&self) -> bool {
        let metrics = self.raft.metrics();
        metrics.borrow_watched().membership_config.nodes().count() < 2
    }

    /// Up to where the log may go, in openraft's count.
    fn wanted(&self, persisted: u64) -> Option<u64> {
        let floor = self.pins.floor();
        if self.is_alone() {
            return Some(persisted);
        }
        let reserve = (self.machine.live_bytes() / 4)
            .max(self.rules.log_kept_min)
            .min(self.rules.log_kept_max);
        let hard = reserve.saturating_add(self.rules.log_kept_hard);
        let at_least = self.log.purgeable(persisted, hard);
        if self.log.guards.slow_cut {
            self.cut.set(at_least);
        }
        let limit = floor.map_or(persisted, |floor| floor.min(persisted));
        // Longer than the hard bound even for one who is being sent the state: it will need a newer one.
        self.log.purgeable(limit, reserve).max(at_least)
    }
}
