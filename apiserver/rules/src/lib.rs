//! Who may do what, and what every object must satisfy before it is stored: functions of the request and given facts.
//! Promise: pure; the same request and facts always give the same verdict, in Kubernetes' words.
//! Not here: where certificates, clocks and random bytes come from (the gateway), per-resource validation (the registry).

pub mod admission;
mod attributes;
mod authn;
mod authz;
mod policy;

pub use attributes::Attributes;
pub use authn::{Group, User};
pub use authz::{Authorized, Denied, authorize};
