//! How an agent talks to the masters: objects over gRPC, informers, work queues, leader election, events.
//! Promise: no call waits for ever, a dead or unready master is left for the next one, and everything an agent
//! knows can be rebuilt from a watch.
//! Not here: what the agents decide (each has its own core), and the wire types (they stop in this crate).

mod client;
mod config;
pub mod core;
mod election;
mod endpoints;
mod error;
mod events;
mod informer;
pub mod limits;
mod object;
mod queue;
mod resource;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod watch;

pub use client::{Client, DeleteOptions, List, Propagation, Selectors};
pub use config::{ClientConfig, ConfigError, Timeouts, Tls};
pub use election::{Election, ElectionConfig, Leadership, lead};
pub use error::{ApiError, Error, Reason};
pub use events::{EventType, Recorder, Subject};
pub use informer::{Informer, InformerConfig, Store};
pub use object::{HasMeta, PartialObject, merge_patch_of};
pub use queue::{Outcome, WorkQueue};
pub use resource::{KINDS, KindInfo, ResourceId, kind_info, resource_of_kind, resources};
pub use watch::{WatchEvent, WatchEventType, WatchStream};
