//! What consensus drives: the state, and the watchers that are told of its changes.
//! Promise: a watcher sees a revision exactly when the state has it: both change under the hub's lock.
//! Lock order: hub, then state. Readers take the state alone.

use barque_store_consensus as consensus;
use barque_store_env::{Env, Instant};
use barque_store_state::{ClusterTime, Entry, LogIndex, Outcome, State};
use barque_store_watch::Hub;
use parking_lot::{Mutex, RwLock};

use crate::clock::Estimate;

pub(crate) struct Machine<E: Env> {
    pub(crate) state: RwLock<State>,
    pub(crate) hub: Mutex<Hub>,
    clock: Mutex<Estimate>,
    env: std::marker::PhantomData<E>,
}

impl<E: Env> Machine<E> {
    pub(crate) fn new() -> Self {
        Machine {
            state: RwLock::new(State::new()),
            hub: Mutex::new(Hub::new(barque_store_watch::Limits::default())),
            clock: Mutex::new(Estimate {
                stamp: ClusterTime::default(),
                applied_at: E::now(),
            }),
            env: std::marker::PhantomData,
        }
    }

    /// This member's estimate of cluster time at `now`.
    pub(crate) fn cluster_time(&self, now: Instant) -> ClusterTime {
        self.clock.lock().at(now)
    }
}

impl<E: Env> consensus::Machine for Machine<E> {
    fn apply(&self, index: LogIndex, _term: u64, entry: Option<&Entry>) -> Vec<Outcome> {
        let Some(entry) = entry else {
            return Vec::new();
        };
        let mut hub = self.hub.lock();
        let (applied, stamp) = {
            let mut state = self.state.write();
            let applied = state.apply(index, entry);
            (applied, state.time())
        };
        hub.publish(&applied.events);
        drop(hub);
        *self.clock.lock() = Estimate {
            stamp,
            applied_at: E::now(),
        };
        applied.outcomes
    }
}
