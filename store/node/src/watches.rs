//! A client's stream of watches, as a future over the hub.

use std::sync::Arc;
use std::task::Poll;

use barque_store_env::Env;
use barque_store_watch::{CreateError, Delivery, StreamId, WatchId, WatchSpec};

use crate::machine::Machine;

/// One client's stream of watches. Dropping it ends them.
pub struct WatchStream<E: Env> {
    machine: Arc<Machine<E>>,
    id: StreamId,
}

impl<E: Env> WatchStream<E> {
    pub(crate) fn open(machine: Arc<Machine<E>>) -> Self {
        let id = machine.hub.lock().open();
        WatchStream { machine, id }
    }

    /// `id`: chosen by the client, or the next free one. The `Created` delivery comes through [`WatchStream::next`].
    pub fn create(&mut self, id: Option<WatchId>, spec: WatchSpec) -> Result<WatchId, CreateError> {
        let mut hub = self.machine.hub.lock();
        let revision = self.machine.state.read().revision();
        hub.create(self.id, id, spec, revision)
    }

    /// Unknown ids are ignored, as in etcd.
    pub fn cancel(&mut self, id: WatchId) {
        let mut hub = self.machine.hub.lock();
        let revision = self.machine.state.read().revision();
        hub.cancel(self.id, id, revision);
    }

    /// etcd's WatchProgressRequest: answered once every watch of the stream is synced.
    pub fn request_progress(&mut self) {
        self.machine.hub.lock().request_progress(self.id);
    }

    /// The next deliveries, in order, at least one. Cancel-safe.
    pub async fn next(&mut self) -> Vec<Delivery> {
        std::future::poll_fn(|cx| {
            let mut out = Vec::new();
            let mut hub = self.machine.hub.lock();
            let state = self.machine.state.read();
            if hub.poll(self.id, &*state, cx.waker(), &mut out) {
                Poll::Ready(out)
            } else {
                Poll::Pending
            }
        })
        .await
    }
}

impl<E: Env> Drop for WatchStream<E> {
    fn drop(&mut self) {
        self.machine.hub.lock().close(self.id);
    }
}
