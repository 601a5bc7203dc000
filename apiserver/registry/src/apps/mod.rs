//! Deployments and ReplicaSets: the same rules for selector and template, a scale each.

pub mod deployments;
pub mod replicasets;
pub mod scale;
mod template;
