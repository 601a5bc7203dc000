//! What a metrics page shows of a member's log and of its peers.

use barque_store_env::{Durations, Env};

use crate::Consensus;
use crate::transport::traffic::PeerTraffic;

impl<E: Env> Consensus<E> {
    /// How long the fdatasyncs of the log took.
    pub fn log_syncs(&self) -> Durations {
        self.inner.wal.sync_times()
    }

    /// What went to and came from each other member.
    pub fn traffic(&self) -> Vec<PeerTraffic> {
        let links = self.inner.links.all().into_iter();
        links
            .map(|(member, link)| link.peer.traffic.read(member))
            .collect()
    }
}
