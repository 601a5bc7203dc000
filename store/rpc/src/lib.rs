//! The edge of the store towards clients: listeners, TLS, HTTP/2 with gRPC framing, HTTP/1.1 beside it.
//! Promise: a connection lives on one core from accept to close, and so do its handlers and their answers; handlers see
//! methods and bytes, never a socket; no client can make the process hold more than `limits` allows per connection.
//! Not here: what any method means (`server`), where proposals go (`node`).
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the edge: real sockets, threads and timers are its business; nothing below it sees them"
)]

mod authority;
mod body;
mod call;
mod connection;
mod core;
pub mod frame;
mod http;
pub mod limits;
mod listen;
pub mod mailbox;
mod output;
mod socket;
mod status;
mod tls;

pub use call::{Closed, Kind, Reply, Requests, Responses, Service, Tally};
pub use core::{Running, Settings, start};
pub use frame::{Framed, Frames};
pub use listen::{Listening, bind};
pub use status::{Code, Status};
pub use tls::{Tls, TlsError, TlsFiles};

/// Runs a task on this core. Only for code that runs on a core already (handlers and what they start).
pub fn spawn_local(task: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(task);
}

/// Waits on this core's clock.
pub async fn sleep(duration: std::time::Duration) {
    tokio::time::sleep(duration).await;
}
