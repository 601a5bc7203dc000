//! A client's stream of watches, as a future over the hub.

use std::sync::Arc;
use std::task::Poll;

use barque_store_env::Env;
use barque_store_state::{Changes, KeyRange, Refusal, Revision};
use barque_store_watch::{CreateError, Delivery, History, StreamId, WatchId, WatchSpec};

use crate::machine::Machine;

/// The state as history, locked for each look only: a live watcher needs none, and must not wait for a long apply.
struct OnDemand<'a, E: Env>(&'a Machine<E>);

impl<E: Env> History for OnDemand<'_, E> {
    fn revision(&self) -> Revision {
        self.0.state.read().revision()
    }
    fn compact_revision(&self) -> Revision {
        self.0.state.read().compact_revision()
    }
    fn changes(
        &self,
        range: &KeyRange,
        from: Revision,
        max_revisions: usize,
    ) -> Result<Changes, Refusal> {
        self.0.state.read().changes(range, from, max_revisions)
    }
}

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

    /// Whether so many answers wait unread that no further request of this client should be taken.
    pub fn congested(&self) -> bool {
        self.machine.hub.lock().congested(self.id)
    }

    /// The next deliveries, in order, at least one. Cancel-safe.
    pub async fn next(&mut self) -> Vec<Delivery> {
        std::future::poll_fn(|cx| {
            let mut out = Vec::new();
            let mut hub = self.machine.hub.lock();
            if hub.poll(self.id, &OnDemand(&self.machine), cx.waker(), &mut out) {
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
