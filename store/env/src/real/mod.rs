//! The real world: tokio's ambient runtime, the kernel's clock, files and sockets.
//! Promise: nothing here spawns a runtime of its own; tasks and sockets belong to the runtime they are created in,
//! current-thread or multi-thread alike. The files' I/O threads are plain threads, so that a slow disk never holds a
//! runtime's thread.

use std::future::Future;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::{Env, Instant, Sleep, Task};

mod disk;
mod net;
mod process;
mod reload;
mod tls;

pub use disk::{RealDisk, RealFile, RealLock};
pub use net::{RealConn, RealListener, RealNet, RealRead, RealWrite};
pub use process::{ProcessStats, process_stats};
pub use reload::{Reloading, with_causes};
pub use tls::{TlsError, TlsFiles};

/// The world production runs in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RealEnv;

impl Env for RealEnv {
    type Disk = RealDisk;
    type Net = RealNet;

    fn now() -> Instant {
        let t = clock_gettime(ClockId::CLOCK_BOOTTIME)
            .expect("CLOCK_BOOTTIME exists since Linux 2.6.39");
        let s = u64::try_from(t.tv_sec()).expect("the boot clock starts at 0");
        let ns = u64::try_from(t.tv_nsec()).expect("nanoseconds are never negative");
        Instant(s * 1_000_000_000 + ns)
    }

    fn sleep_until(at: Instant) -> Sleep {
        // tokio's timers count CLOCK_MONOTONIC, which stands still while the machine is suspended, and wake on whole
        // milliseconds: look at our own clock again each time, and never wake early.
        let first = tokio::time::sleep(at.saturating_since(Self::now()));
        Box::pin(async move {
            first.await;
            loop {
                let left = at.saturating_since(Self::now());
                if left == Duration::ZERO {
                    return;
                }
                tokio::time::sleep(left).await;
            }
        })
    }

    fn spawn<F>(_name: &'static str, task: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (tx, rx) = tokio::sync::oneshot::channel();
        let (task, abort) = futures::future::abortable(task);
        // Detached: the result goes through the channel, and a panic (which tokio reports) shows as `Killed`.
        drop(tokio::spawn(async move {
            if let Ok(out) = task.await {
                // The handle may be gone: the task was detached.
                let _ = tx.send(out);
            }
        }));
        Task::new(rx, abort)
    }

    fn random() -> u64 {
        rand::random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Killed;

    #[tokio::test]
    async fn a_sleep_never_ends_early_and_the_past_is_ready() {
        let start = RealEnv::now();
        RealEnv::sleep(Duration::from_millis(3)).await;
        assert!(RealEnv::now().saturating_since(start) >= Duration::from_millis(3));
        RealEnv::sleep_until(Instant(0)).await;
    }

    #[tokio::test]
    async fn tasks_give_results_end_on_abort_and_report_panics() {
        assert_eq!(RealEnv::spawn("sum", async { 1 + 1 }).await.unwrap(), 2);
        let forever = RealEnv::spawn("forever", std::future::pending::<()>());
        forever.abort();
        assert!(matches!(forever.await, Err(Killed)));
        let bug = RealEnv::spawn("bug", async { panic!("planted") });
        assert!(matches!(bug.await, Err(Killed)));
    }

    #[test]
    fn works_on_a_multi_thread_runtime() {
        let rt = tokio::runtime::Runtime::new().unwrap();
        let out = rt.block_on(async {
            RealEnv::timeout(
                Duration::from_secs(10),
                RealEnv::spawn("x", async {
                    RealEnv::sleep(Duration::from_millis(1)).await;
                    7
                }),
            )
            .await
        });
        assert_eq!(out.unwrap().unwrap(), 7);
    }

    #[tokio::test]
    async fn timeouts_fire() {
        let late = RealEnv::timeout(Duration::from_millis(1), std::future::pending::<()>());
        assert!(late.await.is_err());
    }

    #[test]
    fn random_differs() {
        assert_ne!(RealEnv::random(), RealEnv::random());
    }
}
