//! The deciding half: one file (or folder) per controller, `reconcile(observed) → actions`. Pure; time is an argument.

pub mod action;
pub mod deployment;
pub mod garbage;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod replicaset;
pub mod settled;

pub use action::{Action, Target};
