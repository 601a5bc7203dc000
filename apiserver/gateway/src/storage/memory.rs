//! The gateway on a store in memory: the real state machine and watch hub, without log, disk or peers. For tests.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use barque_store_state::{
    ClusterTime, Command, Entry, KeyRange, LeaseId, LogIndex, Outcome, Previous, Range, ReadError,
    Refusal, Revision, State,
};
use barque_store_watch::{Hub, Limits, Step, StreamId, WatchSpec};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::embedded::{batches, transaction, written};
use super::{
    CompareAndWrite, Consistency, Read, Rows, Storage, StorageError, WatchBatch, WatchSource,
    Written,
};

pub struct Memory {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    state: State,
    hub: Hub,
    index: u64,
    leases: i64,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    pub fn new() -> Self {
        Memory {
            inner: Arc::new(Mutex::new(Inner {
                state: State::new(),
                hub: Hub::new(Limits::default()),
                index: 0,
                leases: 0,
            })),
        }
    }

    fn apply(&self, command: Command) -> Result<Outcome, StorageError> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        inner.index += 1;
        let entry = Entry {
            time: ClusterTime(inner.index),
            commands: vec![command],
            origins: Vec::new(),
        };
        let applied = inner
            .state
            .apply(LogIndex(inner.index), &entry, Previous::Told)
            .map_err(|row| StorageError::Corrupt(row.to_string()))?;
        let wake = inner.hub.publish(&applied.events);
        drop(guard);
        drop(wake);
        applied
            .outcomes
            .into_iter()
            .next()
            .ok_or_else(|| StorageError::Corrupt("an entry without an outcome".to_owned()))
    }

    fn refusal(state: &State, refusal: Refusal, asked: Revision) -> StorageError {
        match refusal {
            Refusal::Compacted => StorageError::Compacted {
                asked,
                oldest: state.compact_revision(),
            },
            Refusal::FutureRevision => StorageError::FutureRevision {
                asked,
                current: state.revision(),
            },
            other => StorageError::Refused(other.to_string()),
        }
    }
}

impl Storage for Memory {
    fn read(&self, read: Read) -> BoxFuture<'_, Result<Rows, StorageError>> {
        let inner = self.inner.lock();
        let asked = read.revision.unwrap_or(inner.state.revision());
        let result = inner
            .state
            .range(&Range {
                range: read.range,
                limit: read.limit,
                revision: read.revision,
                ..Range::default()
            })
            .map_err(|error| match error {
                ReadError::Refused(refusal) => Self::refusal(&inner.state, refusal, asked),
                ReadError::Unreadable(row) => StorageError::Corrupt(row.to_string()),
            });
        let answer = result.map(|result| Rows {
            revision: asked,
            kvs: result.kvs,
            more: result.more,
            count: result.count,
        });
        std::future::ready(answer).boxed()
    }

    fn write(&self, write: CompareAndWrite) -> BoxFuture<'_, Result<Written, StorageError>> {
        let answer = self
            .apply(Command::Txn(transaction(write)))
            .and_then(|outcome| match outcome.result {
                Ok(answer) => written(outcome.revision, answer),
                Err(refusal) => Err(StorageError::Refused(refusal.to_string())),
            });
        std::future::ready(answer).boxed()
    }

    fn watch(
        &self,
        range: KeyRange,
        after: Revision,
    ) -> BoxFuture<'_, Result<Box<dyn WatchSource>, StorageError>> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let start = Revision(after.0 + 1);
        let oldest = inner.state.compact_revision();
        let answer = if start < oldest {
            Err(StorageError::Compacted {
                asked: after,
                oldest,
            })
        } else {
            let stream = inner.hub.open();
            let spec = WatchSpec {
                range,
                start: Some(start),
                prev_kv: true,
                ..WatchSpec::default()
            };
            let source: Box<dyn WatchSource> = Box::new(MemoryWatch {
                inner: self.inner.clone(),
                stream,
                pending: VecDeque::new(),
            });
            inner
                .hub
                .create(stream, None, spec, inner.state.revision())
                .map(|_| source)
                .map_err(|error| StorageError::Refused(error.to_string()))
        };
        drop(guard);
        std::future::ready(answer).boxed()
    }

    fn lease_grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StorageError>> {
        let id = {
            let mut inner = self.inner.lock();
            inner.leases += 1;
            LeaseId(inner.leases)
        };
        let granted = self
            .apply(Command::LeaseGrant {
                id,
                ttl_s: ttl.as_secs(),
            })
            .and_then(|outcome| match outcome.result {
                Ok(_) => Ok(id),
                Err(refusal) => Err(StorageError::Refused(refusal.to_string())),
            });
        std::future::ready(granted).boxed()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StorageError>> {
        let done = self
            .apply(Command::Compact { revision })
            .and_then(|outcome| match outcome.result {
                Ok(_) | Err(Refusal::Compacted) => Ok(()),
                Err(refusal) => Err(StorageError::Refused(refusal.to_string())),
            });
        std::future::ready(done).boxed()
    }

    fn revision(&self, _: Consistency) -> BoxFuture<'_, Result<Revision, StorageError>> {
        let revision = self.inner.lock().state.revision();
        std::future::ready(Ok(revision)).boxed()
    }
}

struct MemoryWatch {
    inner: Arc<Mutex<Inner>>,
    stream: StreamId,
    pending: VecDeque<WatchBatch>,
}

impl WatchSource for MemoryWatch {
    fn next(&mut self) -> BoxFuture<'_, WatchBatch> {
        poll_fn(move |context| {
            loop {
                if let Some(batch) = self.pending.pop_front() {
                    return Poll::Ready(batch);
                }
                let mut guard = self.inner.lock();
                let inner = &mut *guard;
                let mut turn = inner.hub.turn();
                let step = loop {
                    match inner.hub.poll(self.stream, &mut turn, context.waker()) {
                        Step::Read(ask) => {
                            let piece = ask.read(&inner.state);
                            inner.hub.supply(piece, &mut turn);
                        }
                        step => break step,
                    }
                };
                drop(guard);
                if matches!(step, Step::Sleep) {
                    return Poll::Pending;
                }
                self.pending = batches(turn.deliveries);
            }
        })
        .boxed()
    }

    fn request_progress(&mut self) {
        let mut inner = self.inner.lock();
        let current = inner.state.revision();
        inner.hub.request_progress(self.stream, current);
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.inner.lock().hub.close(self.stream);
    }
}
