//! /livez, /readyz, /healthz: live as soon as the gateway answers, ready when the store can be read and what every
//! cluster needs has been created.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use tokio::sync::watch;

use super::typed;
use crate::rest::Body;
use crate::storage::{Consistency, Objects};

/// A read that takes longer says that the store is not ready; probes ask every few seconds.
const STORE_PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// What readiness depends on beside the store.
#[derive(Clone)]
pub struct Readiness {
    /// Turns true once the system namespaces exist.
    pub bootstrapped: watch::Receiver<bool>,
}

impl Readiness {
    pub async fn serve(&self, segments: &[&str], query: &str, objects: &Objects) -> Response<Body> {
        let mut checks = vec![("ping", true)];
        if segments[0] != "livez" {
            let read = objects.storage().revision(Consistency::Linearizable);
            let store = tokio::time::timeout(STORE_PROBE_TIMEOUT, read).await;
            checks.push(("store", matches!(store, Ok(Ok(_)))));
            checks.push(("bootstrap", *self.bootstrapped.borrow()));
        }
        if let Some(one) = segments.get(1) {
            checks.retain(|(name, _)| name == one);
        }
        let fine = checks.iter().all(|(_, fine)| *fine) && !checks.is_empty();
        let verbose = query.split('&').any(|pair| pair.starts_with("verbose"));
        let text = if fine && !verbose {
            "ok".to_owned()
        } else {
            let mut lines: String = checks
                .iter()
                .map(|(name, fine)| {
                    let (sign, word) = if *fine { ('+', "ok") } else { ('-', "failed") };
                    format!("[{sign}]{name} {word}\n")
                })
                .collect();
            let verdict = if fine { "passed" } else { "failed" };
            lines.push_str(&format!("{} check {verdict}\n", segments[0]));
            lines
        };
        let mut response = typed(
            Bytes::from(text),
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        if checks.is_empty() {
            *response.status_mut() = StatusCode::NOT_FOUND;
        } else if !fine {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        response
    }
}
