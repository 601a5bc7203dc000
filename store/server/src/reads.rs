//! One core's linearizable reads: those that arrive together share one read index.
//! Promise: a read runs only after a read index that was asked for after the read arrived.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use barque_store_env::Env;
use barque_store_node::{Answered, LargeRange, ProposeError, Store};
use barque_store_rpc::Status;
use tokio::sync::{Notify, Semaphore};

use crate::limits::{LARGE_RANGES_PER_CORE, LARGE_RANGES_WAITING_MAX, READS_PER_CORE_MAX};
use crate::status::not_proposed;

type Read = Box<dyn FnOnce(Result<(), Status>)>;

pub(crate) struct Reads<E: Env> {
    store: Store<E>,
    timeout: Duration,
    gathered: RefCell<Vec<Read>>,
    /// Gathered ones and those whose read index is on its way.
    waiting: Cell<usize>,
    arrived: Notify,
}

/// One core's ranges over many keys: few at a time, each in turns with everything else.
pub(crate) struct Large {
    turns: Semaphore,
    waiting: Cell<usize>,
}

impl Default for Large {
    fn default() -> Self {
        Large {
            turns: Semaphore::new(LARGE_RANGES_PER_CORE),
            waiting: Cell::new(0),
        }
    }
}

impl Large {
    pub async fn range<E: Env>(&self, range: LargeRange<E>) -> Result<Answered, Status> {
        /// Whoever asked may be gone before it is done.
        struct Counted<'a>(&'a Cell<usize>);
        impl Drop for Counted<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        let busy = || not_proposed(&ProposeError::TooManyRequests);
        if self.waiting.get() >= LARGE_RANGES_WAITING_MAX {
            return Err(busy());
        }
        self.waiting.set(self.waiting.get() + 1);
        let _counted = Counted(&self.waiting);
        // It is never closed.
        let _turn = self.turns.acquire().await.map_err(|_| busy())?;
        Ok(range.in_turns().await)
    }
}

impl<E: Env> Reads<E> {
    pub fn start(store: Store<E>, timeout: Duration) -> Rc<Self> {
        let reads = Rc::new(Reads {
            store,
            timeout,
            gathered: RefCell::default(),
            waiting: Cell::new(0),
            arrived: Notify::new(),
        });
        barque_store_rpc::spawn_local(reads.clone().run());
        reads
    }

    /// Calls `read` once this member has applied everything that was acknowledged before now, or with the reason why not.
    pub fn linearizable(&self, read: impl FnOnce(Result<(), Status>) + 'static) {
        if self.waiting.get() >= READS_PER_CORE_MAX {
            return read(Err(not_proposed(&ProposeError::TooManyRequests)));
        }
        self.waiting.set(self.waiting.get() + 1);
        let mut gathered = self.gathered.borrow_mut();
        if gathered.is_empty() {
            self.arrived.notify_one();
        }
        gathered.push(Box::new(read));
    }

    async fn run(self: Rc<Self>) {
        loop {
            self.arrived.notified().await;
            let batch = self.gathered.take();
            let reads = self.clone();
            // Its own task: the next batch may leave while this one waits; the store puts them into rounds.
            barque_store_rpc::spawn_local(async move {
                let deadline = E::now() + reads.timeout;
                let result = reads.store.read_index(deadline).await;
                reads.waiting.set(reads.waiting.get() - batch.len());
                for read in batch {
                    read(result.as_ref().map(|_| ()).map_err(not_proposed));
                }
            });
        }
    }
}
