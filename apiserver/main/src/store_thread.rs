//! The store's own thread: Raft, the log's writer and the state machine run on one current-thread runtime, apart from connections.

use std::thread::JoinHandle;

use barque_store_env::real::{RealDisk, RealEnv, RealNet};
use barque_store_node::{Config, Store};
use tokio::sync::oneshot;

use crate::Failure;
use crate::ending::Ending;
use crate::signals::StopSignal;

pub struct StoreThread {
    pub store: Store<RealEnv>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

const NAME: &str = "store";

/// A panic in Raft, the log or the state machine leaves a member that answers from half-done work: the process ends at
/// once instead, and its log recovers at the next start. Other threads' panics stay theirs.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if std::thread::current().name() == Some(NAME) {
            std::process::abort();
        }
    }));
}

impl StoreThread {
    /// Starts the member; resolves once it takes part, or with why it ends before: when `stop` comes first (a member that takes its
    /// state anew, or looks for the cluster it is to join, may be long at it; it is as a crash for it then, and nothing was promised
    /// yet), or when it hears that it was removed.
    pub async fn start(
        config: Config,
        net: RealNet,
        stop: impl Future<Output = StopSignal>,
    ) -> Result<Result<StoreThread, Ending>, Failure> {
        abort_on_panic();
        let (started, result) = oneshot::channel();
        let (stopping, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name(NAME.into())
            .spawn(move || {
                let runtime = match tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                {
                    Ok(runtime) => runtime,
                    Err(cause) => {
                        return drop(started.send(Err(Failure::new(format!(
                            "cannot start the store's runtime: {cause}"
                        )))));
                    }
                };
                runtime.block_on(async move {
                    match Store::<RealEnv>::start(config, RealDisk, net).await {
                        Ok(store) => {
                            drop(started.send(Ok(Ok(store.clone()))));
                            // Either way the member stops: asked to, or because its owner is gone.
                            let _ = stopped.await;
                            store.shutdown().await;
                        }
                        Err(error) => drop(started.send(Ending::of_start(error).map(Err))),
                    }
                });
            })
            .map_err(|cause| Failure::new(format!("cannot start the store's thread: {cause}")))?;
        let started = tokio::select! {
            signal = stop => return Ok(Err(Ending::Signal(signal))),
            result = result => result.map_err(|_| {
                Failure::new("the store's thread ended before it had started; its log tells why".into())
            })??,
        };
        Ok(started.map(|store| StoreThread {
            store,
            stop: stopping,
            thread,
        }))
    }

    /// Hands leadership over, drains, stops.
    pub fn stop(self) -> Result<(), Failure> {
        // A thread that is gone already is told nothing.
        let _ = self.stop.send(());
        self.thread.join().map_err(|_| {
            Failure::new("the store's thread panicked while stopping; its log tells where".into())
        })
    }
}
