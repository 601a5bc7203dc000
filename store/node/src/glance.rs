//! What hot paths ask of the state, kept beside it: nobody who only wants to know the revision waits for an apply.
//! Promise: what is told here stands in the state already, or an instant later: it changes under the state's lock, before
//! the lock is given back, and never goes back (but for bytes).
//! Not here: what the log knows (`consensus`).

use std::sync::atomic::{AtomicU64, Ordering};

use barque_store_state::{ClusterTime, ClusterVersion, Revision, State};

#[derive(Debug, Default)]
pub(crate) struct Glance {
    revision: AtomicU64,
    live_bytes: AtomicU64,
    time: AtomicU64,
    /// Major in the upper half, minor in the lower; 0: not decided.
    version: AtomicU64,
}

impl Glance {
    pub(crate) fn of(state: &State) -> Self {
        let glance = Glance::default();
        glance.update(state);
        glance
    }
    /// To be called under the state's lock.
    pub(crate) fn update(&self, state: &State) {
        let version = state
            .cluster_version()
            .map_or(0, |v| u64::from(v.major) << 32 | u64::from(v.minor));
        self.version.store(version, Ordering::Release);
        self.live_bytes.store(state.live_bytes(), Ordering::Release);
        self.time.store(state.time().0, Ordering::Release);
        self.revision.store(state.revision().0, Ordering::Release);
    }
    pub(crate) fn revision(&self) -> Revision {
        Revision(self.revision.load(Ordering::Acquire))
    }
    pub(crate) fn time(&self) -> ClusterTime {
        ClusterTime(self.time.load(Ordering::Acquire))
    }
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Ordering::Acquire)
    }
    pub(crate) fn version(&self) -> Option<ClusterVersion> {
        let word = self.version.load(Ordering::Acquire);
        let version = ClusterVersion {
            major: (word >> 32) as u32,
            minor: word as u32,
        };
        (word != 0).then_some(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barque_store_state::{Command, Entry, LogIndex, Previous};

    #[test]
    fn it_tells_what_the_state_holds() {
        let mut state = State::new();
        let glance = Glance::of(&state);
        assert_eq!((glance.revision(), glance.version()), (Revision(1), None));
        let put = barque_store_state::Put {
            key: "k".into(),
            ..Default::default()
        };
        let entry = Entry {
            time: ClusterTime(1),
            commands: vec![
                Command::Put(put),
                Command::ClusterVersionSet(ClusterVersion::NEWEST),
            ],
            origins: Vec::new(),
        };
        state
            .apply(LogIndex(1), &entry, Previous::LeftOut)
            .expect("nothing is read from disk");
        glance.update(&state);
        assert_eq!(glance.revision(), Revision(2));
        assert_eq!(glance.time(), ClusterTime(1));
        assert_eq!(glance.version(), Some(ClusterVersion::NEWEST));
        assert_eq!(glance.live_bytes(), state.live_bytes());
        assert!(glance.live_bytes() > 0);
    }
}
