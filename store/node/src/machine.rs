//! What consensus drives: the state, and the watchers that are told of its changes.
//! Promise: a watcher sees a revision exactly when the state has it: both change under the hub's lock.
//! Lock order: hub, then state. Readers take the state alone.

use std::collections::BTreeMap;

use barque_store_consensus as consensus;
use barque_store_env::{Env, Instant};
use barque_store_state::{ClusterTime, Entry, LogIndex, MemberId, Outcome, PublishedMember, State};
use barque_store_watch::Hub;
use parking_lot::{Mutex, RwLock};

use crate::clock::{Estimate, LeaderClock};

pub(crate) struct Machine<E: Env> {
    pub(crate) state: RwLock<State>,
    pub(crate) hub: Mutex<Hub>,
    estimate: Mutex<Estimate>,
    leader_clock: Mutex<LeaderClock>,
    env: std::marker::PhantomData<E>,
}

impl<E: Env> Machine<E> {
    pub(crate) fn new() -> Self {
        Machine {
            state: RwLock::new(State::new()),
            hub: Mutex::new(Hub::new(barque_store_watch::Limits::default())),
            leader_clock: Mutex::new(LeaderClock::default()),
            estimate: Mutex::new(Estimate {
                stamp: ClusterTime::default(),
                applied_at: E::now(),
            }),
            env: std::marker::PhantomData,
        }
    }

    /// The leader's stamp for what it proposes or decides at `now` in `term`. The first one of a term starts its clock.
    pub(crate) fn stamp(&self, term: u64, now: Instant) -> ClusterTime {
        let applied = self.state.read().time();
        self.leader_clock.lock().stamp(term, applied, now)
    }

    /// This member's estimate of cluster time at `now`.
    pub(crate) fn cluster_time(&self, now: Instant) -> ClusterTime {
        self.estimate.lock().at(now)
    }
}

impl<E: Env> consensus::Machine for Machine<E> {
    fn apply(&self, index: LogIndex, _term: u64, entry: Option<&Entry>) -> Vec<Outcome> {
        let Some(entry) = entry else {
            self.state.write().skip(index);
            // A new leader's first entry: the time without one did not count.
            self.estimate.lock().applied_at = E::now();
            return Vec::new();
        };
        let mut hub = self.hub.lock();
        let (applied, stamp) = {
            let mut state = self.state.write();
            let applied = state.apply(index, entry);
            (applied, state.time())
        };
        let wake = hub.publish(&applied.events);
        drop(hub);
        // Waking runs other tasks' code: not under the lock.
        drop(wake);
        *self.estimate.lock() = Estimate {
            stamp,
            applied_at: E::now(),
        };
        applied.outcomes
    }

    fn incarnations(&self) -> BTreeMap<MemberId, u64> {
        let state = self.state.read();
        let told = |(id, member): (&MemberId, &PublishedMember)| {
            (member.incarnation != 0).then_some((*id, member.incarnation))
        };
        state.published().iter().filter_map(told).collect()
    }
}
