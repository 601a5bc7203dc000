//! openraft's watch channel: the newest value, read through a borrow (metrics are too large to clone at each look).
//! Promise: receivers wake in the order in which they began to wait, so that a simulated run can be repeated.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::Deref;
use std::sync::Arc;
use std::task::{Poll, Waker};

use openraft_rt as rt;
use openraft_rt::{OptionalSend, OptionalSync};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

struct Shared<T> {
    value: RwLock<T>,
    state: Mutex<State>,
}
struct State {
    version: u64,
    senders: usize,
    receivers: usize,
    next_id: u64,
    /// By receiver; a receiver waits at most once.
    wakers: BTreeMap<u64, Waker>,
}

impl<T> Shared<T> {
    /// Wakes outside the lock: a waker may run anything.
    fn changed(&self) {
        let wakers = {
            let mut state = self.state.lock();
            state.version += 1;
            std::mem::take(&mut state.wakers)
        };
        wakers.into_values().for_each(Waker::wake);
    }
}

pub struct RaftWatch;
pub struct Sender<T>(Arc<Shared<T>>);
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
    id: u64,
}
pub struct Ref<'a, T>(RwLockReadGuard<'a, T>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}
impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state.lock().senders += 1;
        Sender(self.0.clone())
    }
}
impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let wakers = {
            let mut state = self.0.state.lock();
            state.senders -= 1;
            if state.senders > 0 {
                return;
            }
            std::mem::take(&mut state.wakers)
        };
        wakers.into_values().for_each(Waker::wake);
    }
}
impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        let mut state = self.shared.state.lock();
        state.receivers += 1;
        state.next_id += 1;
        Receiver {
            shared: self.shared.clone(),
            seen: self.seen,
            id: state.next_id,
        }
    }
}
impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.shared.state.lock();
            state.receivers -= 1;
            state.wakers.remove(&self.id)
        };
        drop(waker);
    }
}

impl rt::Watch for RaftWatch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = Ref<'a, T>;
    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let shared = Arc::new(Shared {
            value: RwLock::new(init),
            state: Mutex::new(State {
                version: 1,
                senders: 1,
                receivers: 1,
                next_id: 1,
                wakers: BTreeMap::new(),
            }),
        });
        let receiver = Receiver {
            shared: shared.clone(),
            seen: 1,
            id: 1,
        };
        (Sender(shared), receiver)
    }
}

impl<T: OptionalSend + OptionalSync> rt::WatchSender<RaftWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), rt::watch::SendError<T>> {
        if self.0.state.lock().receivers == 0 {
            return Err(rt::watch::SendError(value));
        }
        *self.0.value.write() = value;
        self.0.changed();
        Ok(())
    }
    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        let modified = modify(&mut self.0.value.write());
        if modified {
            self.0.changed();
        }
        modified
    }
    fn borrow_watched(&self) -> Ref<'_, T> {
        Ref(self.0.value.read())
    }
    fn subscribe(&self) -> Receiver<T> {
        let mut state = self.0.state.lock();
        state.receivers += 1;
        state.next_id += 1;
        Receiver {
            shared: self.0.clone(),
            seen: state.version,
            id: state.next_id,
        }
    }
}

impl<T: OptionalSend + OptionalSync> rt::WatchReceiver<RaftWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), rt::RecvError> {
        poll_fn(|cx| {
            let mut state = self.shared.state.lock();
            if state.version != self.seen {
                self.seen = state.version;
                return Poll::Ready(Ok(()));
            }
            if state.senders == 0 {
                return Poll::Ready(Err(rt::RecvError(())));
            }
            let old = state.wakers.insert(self.id, cx.waker().clone());
            drop(state);
            drop(old);
            Poll::Pending
        })
        .await
    }
    fn borrow_watched(&self) -> Ref<'_, T> {
        Ref(self.shared.value.read())
    }
    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        // The version first: a value written in between is then seen twice, never missed.
        self.seen = self.shared.state.lock().version;
        Ref(self.shared.value.read())
    }
}
