//! The replicated state machine: the same entries give the same state on every member.
pub mod command;
pub mod types;
pub use command::*;
pub use types::*;
