//! Watch: who is told what. Owns the registry of watchers, their queues and their places in history.
//! Promise: each watcher is given every matching event from its start on, once, in order, revisions never split; a slow
//! one falls back to reading history at its own pace and neither loses an event nor holds others.
//! Not here: locks, tasks, sockets (`store/node` and the fronts), encoding (only the cells that keep it).

mod event;
mod history;
mod hub;
mod intervals;
pub mod limits;
mod lookup;
mod poll;
mod stream;
pub mod types;

pub use event::WatchEvent;
pub use history::{Ask, History, HistoryError, Past, Piece};
pub use hub::{Counts, Hub, Wake};
pub use limits::Limits;
pub use poll::{Step, Turn};
pub use types::*;

#[cfg(test)]
mod tests;
