//! A watch channel: one value, many receivers that see each newest one. Wakes in registration order (tokio's picks
//! wake order by an OS-seeded generator, which a simulator cannot repeat).
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

struct Inner<T> {
    value: T,
    version: u64,
    senders: usize,
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}
pub struct Sender<T>(Arc<Mutex<Inner<T>>>);
pub struct Receiver<T> {
    inner: Arc<Mutex<Inner<T>>>,
    seen: u64,
    id: u64,
}

/// Every sender is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("every sender of the watch channel is gone")]
pub struct Closed;

pub fn channel<T: Clone>(value: T) -> (Sender<T>, Receiver<T>) {
    let inner = Arc::new(Mutex::new(Inner {
        value,
        version: 1,
        senders: 1,
        next: 1,
        wakers: BTreeMap::new(),
    }));
    (
        Sender(inner.clone()),
        Receiver {
            inner,
            seen: 1,
            id: 0,
        },
    )
}

fn locked<T>(m: &Mutex<Inner<T>>) -> std::sync::MutexGuard<'_, Inner<T>> {
    m.lock().expect("no code panics while it holds this lock")
}

impl<T: Clone> Sender<T> {
    /// Replaces the value and wakes every receiver.
    pub fn send(&self, value: T) {
        self.send_if_modified(|v| {
            *v = value;
            true
        });
    }
    /// Changes the value in place; receivers are woken when `change` returns true.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let wakers = {
            let mut inner = locked(&self.0);
            if !change(&mut inner.value) {
                return false;
            }
            inner.version += 1;
            std::mem::take(&mut inner.wakers)
        };
        wakers.into_values().for_each(Waker::wake);
        true
    }
    pub fn get(&self) -> T {
        locked(&self.0).value.clone()
    }
    /// Resolves with what `found` makes of the first value it takes, the present one included.
    pub async fn until<R>(&self, found: impl Fn(&T) -> Option<R>) -> R {
        let mut values = self.subscribe();
        loop {
            if let Some(found) = found(&values.get_and_update()) {
                return found;
            }
            // This sender is here for as long as somebody waits on it: the channel does not end.
            let _ = values.changed().await;
        }
    }
    pub fn subscribe(&self) -> Receiver<T> {
        let mut inner = locked(&self.0);
        inner.next += 1;
        Receiver {
            seen: inner.version,
            id: inner.next,
            inner: self.0.clone(),
        }
    }
}
impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        locked(&self.0).senders += 1;
        Sender(self.0.clone())
    }
}
impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let wakers = {
            let mut inner = locked(&self.0);
            inner.senders -= 1;
            if inner.senders > 0 {
                return;
            }
            std::mem::take(&mut inner.wakers)
        };
        wakers.into_values().for_each(Waker::wake);
    }
}

impl<T: Clone> Receiver<T> {
    pub fn get(&self) -> T {
        locked(&self.inner).value.clone()
    }
    /// The newest value, marked as seen.
    pub fn get_and_update(&mut self) -> T {
        let inner = locked(&self.inner);
        self.seen = inner.version;
        inner.value.clone()
    }
    /// Waits for a value not yet seen and marks it as seen. Cancel-safe.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        std::future::poll_fn(|cx| {
            let mut inner = locked(&self.inner);
            if inner.version != self.seen {
                self.seen = inner.version;
                return Poll::Ready(Ok(()));
            }
            if inner.senders == 0 {
                return Poll::Ready(Err(Closed));
            }
            inner.wakers.insert(self.id, cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}
impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        let mut inner = locked(&self.inner);
        inner.next += 1;
        Receiver {
            inner: self.inner.clone(),
            seen: self.seen,
            id: inner.next,
        }
    }
}
impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let waker = locked(&self.inner).wakers.remove(&self.id);
        drop(waker);
    }
}
