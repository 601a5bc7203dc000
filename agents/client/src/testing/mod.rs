//! An in-process server of the agents' protocol over a map with revisions, and the faults tests need: lost masters, hung masters,
//! broken streams, conflicts, answers that get lost.
//! Promise: what it does, the gateway does too (resourceVersion rules, generations, graceful deletion, finalizers, watch order). It does
//! less: no validation, no defaults beyond what the agents rely on, merge patches only.

mod service;
mod store;

pub use service::{Master, connect, connect_with};
pub use store::{Cluster, Faults};

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Waits until `condition` holds; panics with `what` after 20 s.
pub async fn eventually<F, Fut>(what: &str, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(Instant::now() < deadline, "never happened: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
