//! The resources of the core group (pods have a folder of their own), and leases.

pub mod configmaps;
pub mod events;
pub mod leases;
pub mod namespaces;
pub mod nodes;
pub mod secrets;
pub mod serviceaccounts;
pub mod services;
