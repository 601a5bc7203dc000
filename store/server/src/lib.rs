//! etcd's front: its v3 gRPC services, health and version over HTTP, in front of a [`Store`](barque_store_node::Store).
//! Promise: a client of etcd sees etcd: the same messages, texts, codes and orders, also for refusals.
//! Not here: sockets and HTTP/2 (`rpc`), what commands do (`state`), replication (`node`).

mod cluster;
mod convert;
mod core;
mod encode;
mod exposition;
mod front;
mod http;
mod kv;
mod lease;
pub mod limits;
mod maintenance;
mod metrics;
mod pages;
mod proposals;
mod reads;
mod service;
mod status;
mod watch;

pub use barque_store_rpc::TlsFiles;
pub use front::{BoundFront, Config, EtcdFront, Handle, StartError};
pub use pages::Pages;

use barque_store_state::ClusterVersion;

/// The version of etcd's API this front speaks, as `Status` and `/version` give it. Clients choose features by it
/// (kube-apiserver asks for watch progress from 3.5.13 on). Not Barque's own version.
pub const ETCD_API_VERSION: &str = "3.7.1";

/// The cluster's version as etcd writes it, with a patch number that means nothing. Rows are stored as every version stores
/// them, so the storage's version is the same one.
pub(crate) fn version_text(version: ClusterVersion) -> String {
    format!("{version}.0")
}
