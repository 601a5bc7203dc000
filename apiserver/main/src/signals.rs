//! The two signals that ask a process to stop, and ending by them as etcd does.

use tokio::signal::unix::{SignalKind, signal};

use crate::Failure;

/// Which of them came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    Term,
    Int,
}

impl StopSignal {
    /// Ends the process by the signal, after everything was stopped in order: whoever waits for it sees that it was asked to
    /// end (a shell's 143 or 130), as from etcd. The first process of a container, which the kernel does not kill by a signal
    /// of its own, returns and ends with success.
    pub fn die(self) {
        if std::process::id() == 1 {
            return;
        }
        let signal = match self {
            StopSignal::Term => signal_hook::consts::SIGTERM,
            StopSignal::Int => signal_hook::consts::SIGINT,
        };
        // An error would mean that there is no such signal; the process then ends with success.
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
}

/// Installs the handlers at once; the future resolves at the first SIGTERM or SIGINT.
pub fn stop_asked() -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    let signal = stop_signal()?;
    Ok(async move {
        signal.await;
    })
}

/// The same, telling which it was.
pub fn stop_signal() -> Result<impl Future<Output = StopSignal> + Send + 'static, Failure> {
    let failed = |cause: std::io::Error| Failure::new(format!("cannot handle signals: {cause}"));
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => StopSignal::Term,
            _ = int.recv() => StopSignal::Int,
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
