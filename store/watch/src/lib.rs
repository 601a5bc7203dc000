//! Watch: who is told what. Owns the registry of watchers, their queues and their places in history.
//! Promise: each watcher is given every matching event from its start on, once, in order, revisions never split; a slow
//! one falls back to reading history at its own pace and neither loses an event nor holds others.
//! Not here: locks, tasks, sockets (`store/node` and the fronts), encoding.

mod hub;
mod intervals;
pub mod limits;
mod lookup;
mod poll;
mod stream;
pub mod types;

pub use hub::{Counts, History, Hub, Wake};
pub use limits::Limits;
pub use types::*;

#[cfg(test)]
mod tests;
