//! A client's stream of watches, as a future over the hub. History is read here, with the state's lock and not the hub's:
//! whoever catches up costs only its own core's time.

use std::sync::Arc;
use std::task::{Context, Poll};

use barque_store_env::Env;
use barque_store_state::Revision;
use barque_store_watch::{CreateError, Delivery, Step, StreamId, WatchId, WatchSpec};

use crate::machine::Machine;

/// One client's stream of watches. Dropping it ends them.
pub struct WatchStream<E: Env> {
    machine: Arc<Machine<E>>,
    id: StreamId,
}

impl<E: Env> WatchStream<E> {
    pub(crate) fn open(machine: Arc<Machine<E>>) -> Self {
        let id = machine.hub.lock().open();
        machine.ticks.open(id, E::random() as u32, E::now());
        WatchStream { machine, id }
    }

    /// `id`: chosen by the client, or the next free one. The `Created` delivery comes through [`WatchStream::next`].
    pub fn create(&mut self, id: Option<WatchId>, spec: WatchSpec) -> Result<WatchId, CreateError> {
        let current = self.current();
        self.machine.hub.lock().create(self.id, id, spec, current)
    }

    /// Answers a creation that was refused, by [`WatchStream::create`] or before it, in its place among the other answers.
    pub fn refuse(&mut self, reason: String) {
        let current = self.current();
        self.machine.hub.lock().refuse(self.id, reason, current);
    }

    /// Unknown ids are ignored, as in etcd.
    pub fn cancel(&mut self, id: WatchId) {
        let current = self.current();
        self.machine.hub.lock().cancel(self.id, id, current);
    }

    /// etcd's WatchProgressRequest: answered once every watch of the stream is synced.
    pub fn request_progress(&mut self) {
        let current = self.current();
        self.machine.hub.lock().request_progress(self.id, current);
    }

    /// Whether so many answers wait unread that no further request of this client should be taken.
    pub fn congested(&self) -> bool {
        self.machine.hub.lock().congested(self.id)
    }

    /// The next deliveries, in order, at least one. Cancel-safe.
    pub async fn next(&mut self) -> Vec<Delivery> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Vec<Delivery>> {
        let mut hub = self.machine.hub.lock();
        let mut turn = hub.turn();
        loop {
            match hub.poll(self.id, &mut turn, cx.waker()) {
                Step::Send => {
                    drop(hub);
                    let events = |delivery: &Delivery| match delivery {
                        Delivery::Events { events, .. } => events.len(),
                        _ => 0,
                    };
                    let delivered = turn.deliveries.iter().map(events).sum();
                    self.machine.counters.events_delivered(delivered);
                    return Poll::Ready(turn.deliveries);
                }
                Step::Sleep => return Poll::Pending,
                Step::Read(ask) => {
                    drop(hub);
                    let (from, most) = (ask.from, ask.max_revisions);
                    let past = self.machine.history(ask.range(), from, most);
                    let piece = ask.piece(past);
                    hub = self.machine.hub.lock();
                    hub.supply(piece, &mut turn);
                }
            }
        }
    }

    /// The store's revision. Read before the hub's lock is taken (see `machine` for the order); the hub knows that it may
    /// be old by then.
    fn current(&self) -> Revision {
        self.machine.glance.revision()
    }
}

impl<E: Env> Drop for WatchStream<E> {
    fn drop(&mut self) {
        self.machine.ticks.close(self.id);
        self.machine.hub.lock().close(self.id);
    }
}
