//! The cores: one thread with its own current-thread runtime each. Connections are dealt out in turn and stay.
//! Why not one work-stealing runtime: measured 2-4 times the CPU per request, for moving tasks and waking across threads.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{LocalSet, spawn_local};
use tracing::{error, warn};

use crate::call::Service;
use crate::connection::{Accepted, serve};
use crate::limits;
use crate::listen::Listening;
use crate::tls::Tls;

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Threads; 0: one per processor.
    pub cores: usize,
    /// Largest gRPC request message taken.
    pub request_bytes_max: usize,
}

/// What the connections of one core share.
pub(crate) struct Core<S> {
    pub service: S,
    pub settings: Settings,
    open: Cell<usize>,
    closed: Notify,
    stop: watch::Receiver<bool>,
}

impl<S> Core<S> {
    /// Resolves when the server is being stopped.
    pub async fn stopped(&self) {
        // An error means that the handle is gone, which is a stop as well.
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
    }
}

/// One of a core's connections; gives its place back when dropped, however the connection ends.
struct Place<S>(Rc<Core<S>>);
impl<S> Drop for Place<S> {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.closed.notify_one();
    }
}

/// A running server. Dropping it stops the server without waiting.
#[derive(Debug)]
pub struct Running {
    addresses: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    ended: Vec<oneshot::Receiver<()>>,
}

impl Running {
    /// Bound addresses, in the order of the listeners.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
    /// Stops accepting, lets running calls finish for a moment, closes everything.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        for ended in self.ended.drain(..) {
            // An error means that the thread is gone already.
            let _ = ended.await;
        }
    }
}

/// Serves `listeners` with one service per core, each made by `make` on its core's thread.
pub fn start<S: Service>(
    listeners: Vec<Listening>,
    settings: Settings,
    make: impl Fn() -> S + Send + Sync + 'static,
) -> io::Result<Running> {
    let cores = match settings.cores {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        cores => cores,
    };
    for listening in &listeners {
        listening.listen()?;
    }
    let addresses = listeners.iter().map(Listening::address).collect();
    let (stop, stopped) = watch::channel(false);
    let make = Arc::new(make);
    let mut queues = Vec::new();
    let mut seats = Vec::new();
    for _ in 0..cores {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (queue, incoming) = mpsc::channel(limits::HANDOVER_QUEUE_CONNECTIONS);
        queues.push(queue);
        seats.push((runtime, incoming));
    }
    let mut ended = Vec::new();
    let mut listeners = Some(listeners);
    for (number, (runtime, incoming)) in seats.into_iter().enumerate() {
        let (end, at_end) = oneshot::channel();
        ended.push(at_end);
        let make = make.clone();
        let stop = stopped.clone();
        // The first core accepts for all: accepting is rare beside serving.
        let accepting = listeners.take().map(|l| (l, queues.clone()));
        std::thread::Builder::new()
            .name(format!("rpc-{number}"))
            .spawn(move || {
                run_core(runtime, incoming, accepting, stop, settings, || make());
                let _ = end.send(());
            })?;
    }
    Ok(Running {
        addresses,
        stop,
        ended,
    })
}

type Queues = Vec<mpsc::Sender<Accepted>>;

fn run_core<S: Service>(
    runtime: Runtime,
    mut incoming: mpsc::Receiver<Accepted>,
    accepting: Option<(Vec<Listening>, Queues)>,
    stop: watch::Receiver<bool>,
    settings: Settings,
    make: impl FnOnce() -> S,
) {
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let core = Rc::new(Core {
            service: make(),
            settings,
            open: Cell::new(0),
            closed: Notify::new(),
            stop,
        });
        for listening in accepting.iter().flat_map(|(listeners, _)| listeners) {
            match listening.socket.try_clone().and_then(TcpListener::from_std) {
                Ok(listener) => {
                    let queues = accepting.as_ref().map_or_else(Vec::new, |(_, q)| q.clone());
                    spawn_local(accept(
                        core.clone(),
                        listener,
                        listening.tls.clone(),
                        queues,
                    ));
                }
                Err(cause) => error!(address = %listening.address(), %cause, "cannot accept"),
            }
        }
        loop {
            let accepted = tokio::select! {
                accepted = incoming.recv() => accepted,
                () = core.stopped() => break,
            };
            let Some(accepted) = accepted else { break };
            if core.open.get() >= limits::CONNECTIONS_PER_CORE_MAX {
                warn!("too many connections; one was closed");
                continue;
            }
            core.open.set(core.open.get() + 1);
            let place = Place(core.clone());
            spawn_local(async move {
                serve(place.0.clone(), accepted).await;
                drop(place);
            });
        }
        drop(accepting);
        let drained = async {
            while core.open.get() > 0 {
                core.closed.notified().await;
            }
        };
        // Streams do not end by themselves; what is left after the grace is cut.
        let _ = tokio::time::timeout(limits::SHUTDOWN_GRACE, drained).await;
    });
    drop(local);
    runtime.shutdown_background();
}

async fn accept<S>(
    core: Rc<Core<S>>,
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    queues: Queues,
) {
    let mut turn = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = core.stopped() => return,
        };
        let stream = match accepted.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => stream,
            Err(cause) => {
                // Out of file descriptors, mostly: they come back when connections close.
                warn!(%cause, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let tls = tls.clone();
        if queues[turn % queues.len()]
            .send(Accepted { stream, tls })
            .await
            .is_err()
        {
            return;
        }
        turn += 1;
    }
}
