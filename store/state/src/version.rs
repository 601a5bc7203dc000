//! The version the cluster works in: what every member's program is able to do. It is part of the replicated state, so that
//! what is newer is used by all members from one entry on.
//! Promise: it never goes back.
//! Not here: when it is raised (`store/node`), what a program says it can do (`store/consensus`, the handshake), what needs
//! which version (`read_since`).

use std::fmt;

/// Counted as etcd's API is, because clients read it as such; the default is "not decided yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterVersion {
    pub major: u32,
    pub minor: u32,
}

impl ClusterVersion {
    /// Not above any version there is: what needs no more than this, every program reads that was ever shipped.
    pub const EVERY: ClusterVersion = ClusterVersion { major: 0, minor: 0 };
    /// The newest one this program can work in. Raised whenever something gets a row of its own in
    /// `read_since`, and `wire::READERS` with it.
    pub const NEWEST: ClusterVersion = ClusterVersion { major: 3, minor: 7 };
}

impl fmt::Display for ClusterVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
