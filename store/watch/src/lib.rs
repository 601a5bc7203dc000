//! Watch: who is told what. Owns the registry of watchers, their queues and their places in history.
pub mod types;
pub use types::*;
