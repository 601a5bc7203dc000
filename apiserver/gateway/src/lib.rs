//! The API gateway: Kubernetes' REST API and the agents' gRPC service over the store, through one pipeline.
//! Promise: what a client may do, sees and is told is what a kube-apiserver would let, show and tell it, for the
//! kinds that are served.
//! Not here: fields of kinds (schema), rules of resources (registry), permissions (rules), replication (store).

mod discovery;
mod gateway;
mod grpc;
mod housekeeping;
pub mod limits;
mod listener;
mod patch;
mod pipeline;
mod requests;
mod rest;
mod status;
pub mod storage;
mod table;
#[cfg(test)]
mod tests;
mod watch;

pub use gateway::{Config, Gateway, Handle, StartError};
pub use listener::tls::Pem;
