//! The replicated state machine: the same entries give the same state on every member.
//! Owns keys, revisions, leases and cluster time. Promise: [`State::apply`] is deterministic and total, whatever an
//! entry carries; nothing here reads a clock, a disk or chance.
//! Not here: consensus (entries arrive committed), who may ask, what a watcher is told and when (`store/watch`).

mod alarms;
mod apply;
mod archive;
mod check;
mod cluster;
pub mod command;
mod cover;
mod digest;
mod lease;
pub mod limits;
mod mvcc;
mod persist;
mod read_since;
mod row;
mod state;
pub mod types;
mod version;
pub mod wire;

pub use alarms::{ActiveAlarms, Alarm, AlarmCause, AlarmKind, Alarms, growth};
pub use archive::{Archive, ReadError, Unreadable};
pub use cluster::{Cluster, WantedMember};
pub use command::*;
pub use mvcc::{AtOnce, Changes, HashKv, HashRun, Outline, RangeRun, Reading};
pub use persist::{Batch, Restoring};
pub use read_since::{OldMember, TooOld, read_since};
pub use state::{Applied, LeaseView, State};
pub use types::*;
pub use version::ClusterVersion;
pub use wire::WireError;

#[cfg(test)]
mod tests;
