//! The two signals that ask a process to stop.

use tokio::signal::unix::{SignalKind, signal};

use crate::Failure;

/// Installs the handlers at once; the future resolves at the first SIGTERM or SIGINT.
pub fn stop_asked() -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    let failed = |cause: std::io::Error| Failure::new(format!("cannot handle signals: {cause}"));
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// A runtime for shells that wait more than they work.
pub fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|cause| Failure::new(format!("cannot start threads: {cause}")))
}
