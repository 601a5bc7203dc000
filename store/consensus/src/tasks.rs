//! The tasks of one member's consensus, so that a shutdown ends every one of them.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use barque_store_env::{Env, Task};
use parking_lot::Mutex;

#[derive(Default)]
struct Inner {
    next: u64,
    stopped: bool,
    /// `None`: started, its handle not yet stored.
    running: BTreeMap<u64, Option<Task<()>>>,
}

pub struct Tasks<E> {
    inner: Arc<Mutex<Inner>>,
    world: std::marker::PhantomData<fn() -> E>,
}
impl<E> Clone for Tasks<E> {
    fn clone(&self) -> Self {
        Tasks {
            inner: self.inner.clone(),
            world: self.world,
        }
    }
}

/// Forgets the task however it ends.
struct Ended(Arc<Mutex<Inner>>, u64);
impl Drop for Ended {
    fn drop(&mut self) {
        let handle = self.0.lock().running.remove(&self.1);
        drop(handle);
    }
}

impl<E: Env> Tasks<E> {
    pub fn new() -> Self {
        Tasks {
            inner: Arc::default(),
            world: std::marker::PhantomData,
        }
    }
    /// Starts a task; after [`Tasks::stop`] it is dropped instead.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let id = {
            let mut inner = self.inner.lock();
            if inner.stopped {
                return;
            }
            inner.next += 1;
            let id = inner.next;
            inner.running.insert(id, None);
            id
        };
        let ended = Ended(self.inner.clone(), id);
        let handle = E::spawn(name, async move {
            let _ended = ended;
            task.await;
        });
        let mut inner = self.inner.lock();
        if inner.stopped {
            handle.abort();
        } else if let Some(slot) = inner.running.get_mut(&id) {
            *slot = Some(handle);
        }
    }
    pub fn count(&self) -> usize {
        self.inner.lock().running.len()
    }
    pub fn stop(&self) {
        let running = {
            let mut inner = self.inner.lock();
            inner.stopped = true;
            std::mem::take(&mut inner.running)
        };
        for task in running.into_values().flatten() {
            task.abort();
        }
    }
}
