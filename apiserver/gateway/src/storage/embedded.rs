//! The gateway on the store of its own process.

use std::collections::VecDeque;
use std::time::Duration;

use barque_store_env::Env;
use barque_store_node::{ProposeError, Store, WatchStream};
use barque_store_state::{
    Answer, Command, Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, LeaseId,
    OpResult, Outcome, Put, Range, Refusal, Revision, Txn, TxnOp,
};
use barque_store_watch::{Delivery, WatchEvent, WatchSpec};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{
    CompareAndWrite, Consistency, Read, Rows, Storage, StorageError, WatchBatch, WatchSource,
    Write, Written,
};
use crate::limits::STORE_TIMEOUT;

pub struct Embedded<E: Env> {
    store: Store<E>,
}

impl<E: Env> Embedded<E> {
    pub fn new(store: Store<E>) -> Self {
        Embedded { store }
    }

    async fn propose(&self, command: Command) -> Result<Outcome, StorageError> {
        let deadline = E::now() + STORE_TIMEOUT;
        self.store
            .propose(command, deadline)
            .await
            .map_err(propose_error)
    }

    async fn wait_for(&self, consistency: Consistency) -> Result<(), StorageError> {
        match consistency {
            Consistency::Local => Ok(()),
            Consistency::Linearizable => {
                let deadline = E::now() + STORE_TIMEOUT;
                // A read that did not happen can be asked for again, whatever the reason.
                self.store
                    .read_index(deadline)
                    .await
                    .map_err(|error| match error {
                        ProposeError::TooManyRequests => StorageError::Overloaded,
                        other => StorageError::NotDone(other.to_string()),
                    })
            }
        }
    }

    fn refusal(&self, refusal: Refusal, asked: Revision) -> StorageError {
        match refusal {
            Refusal::Compacted => StorageError::Compacted {
                asked,
                oldest: self.store.compact_revision(),
            },
            Refusal::Corrupt => StorageError::Corrupt(refusal.to_string()),
            Refusal::Stopped => StorageError::NotDone(refusal.to_string()),
            Refusal::FutureRevision => StorageError::FutureRevision {
                asked,
                current: self.store.revision(),
            },
            other => StorageError::Refused(other.to_string()),
        }
    }
}

fn propose_error(error: ProposeError) -> StorageError {
    match error {
        ProposeError::NoLeader => StorageError::NotDone(error.to_string()),
        ProposeError::TooManyRequests => StorageError::Overloaded,
        ProposeError::Timeout | ProposeError::LeaderChanged | ProposeError::Stopped => {
            StorageError::OutcomeUnknown(error.to_string())
        }
    }
}

/// The store's transaction for a compare-and-write; its failure branch reads what had changed.
pub(super) fn transaction(request: CompareAndWrite) -> Txn {
    let compare = request
        .expect
        .iter()
        .map(|(key, revision)| Compare {
            range: KeyRange::point(key.clone()),
            result: CompareResult::Equal,
            target: CompareTarget::Mod(i64::try_from(revision.0).unwrap_or(i64::MAX)),
        })
        .collect();
    let write = match request.write {
        Write::Put { key, value, lease } => TxnOp::Put(Put {
            key,
            value,
            lease,
            ..Put::default()
        }),
        Write::Delete { key } => TxnOp::DeleteRange(DeleteRange {
            range: KeyRange::point(key),
            prev_kv: false,
        }),
    };
    let failure = request
        .expect
        .into_iter()
        .map(|(key, _)| {
            TxnOp::Range(Range {
                range: KeyRange::point(key),
                ..Range::default()
            })
        })
        .collect();
    Txn {
        compare,
        success: vec![write],
        failure,
    }
}

/// Reads the transaction's answer back.
pub(super) fn written(revision: Revision, answer: Answer) -> Result<Written, StorageError> {
    let Answer::Txn(result) = answer else {
        return Err(StorageError::Corrupt(format!(
            "a transaction was answered with {answer:?}"
        )));
    };
    if result.succeeded {
        return Ok(Written::Done { revision });
    }
    let current = result
        .results
        .into_iter()
        .map(|result| match result {
            OpResult::Range(rows) => rows.kvs.into_iter().next(),
            _ => None,
        })
        .collect();
    Ok(Written::Lost { current })
}

impl<E: Env> Storage for Embedded<E> {
    fn read(&self, read: Read) -> BoxFuture<'_, Result<Rows, StorageError>> {
        async move {
            self.wait_for(read.consistency).await?;
            let range = Range {
                range: read.range,
                limit: read.limit,
                revision: read.revision,
                ..Range::default()
            };
            let (current, result) = self.store.range_in_turns(&range).await;
            let asked = read.revision.unwrap_or(current);
            let result = result.map_err(|refusal| self.refusal(refusal, asked))?;
            Ok(Rows {
                revision: asked,
                kvs: result.kvs,
                more: result.more,
                count: result.count,
            })
        }
        .boxed()
    }

    fn write(&self, write: CompareAndWrite) -> BoxFuture<'_, Result<Written, StorageError>> {
        async move {
            let outcome = self.propose(Command::Txn(transaction(write))).await?;
            let answer = outcome
                .result
                .map_err(|refusal| self.refusal(refusal, outcome.revision))?;
            written(outcome.revision, answer)
        }
        .boxed()
    }

    fn watch(
        &self,
        range: KeyRange,
        after: Revision,
    ) -> BoxFuture<'_, Result<Box<dyn WatchSource>, StorageError>> {
        async move {
            let start = Revision(after.0 + 1);
            let oldest = self.store.compact_revision();
            if start < oldest {
                return Err(StorageError::Compacted {
                    asked: after,
                    oldest,
                });
            }
            let mut stream = self.store.watch_stream();
            let spec = WatchSpec {
                range,
                start: Some(start),
                prev_kv: true,
                ..WatchSpec::default()
            };
            stream
                .create(None, spec)
                .map_err(|error| StorageError::Refused(error.to_string()))?;
            let source: Box<dyn WatchSource> = Box::new(EmbeddedWatch {
                stream,
                pending: VecDeque::new(),
            });
            Ok(source)
        }
        .boxed()
    }

    fn lease_grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StorageError>> {
        async move {
            // Positive and far from 0: ids of other clients are random too, and a clash is only refused.
            let id = LeaseId((E::random() >> 1).max(1) as i64);
            let command = Command::LeaseGrant {
                id,
                ttl_s: ttl.as_secs(),
            };
            let outcome = self.propose(command).await?;
            outcome
                .result
                .map_err(|refusal| self.refusal(refusal, outcome.revision))?;
            Ok(id)
        }
        .boxed()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StorageError>> {
        async move {
            let outcome = self.propose(Command::Compact { revision }).await?;
            match outcome.result {
                Ok(_) | Err(Refusal::Compacted) => Ok(()),
                Err(refusal) => Err(self.refusal(refusal, revision)),
            }
        }
        .boxed()
    }

    fn revision(&self, consistency: Consistency) -> BoxFuture<'_, Result<Revision, StorageError>> {
        async move {
            self.wait_for(consistency).await?;
            Ok(self.store.revision())
        }
        .boxed()
    }
}

struct EmbeddedWatch<E: Env> {
    stream: WatchStream<E>,
    pending: VecDeque<WatchBatch>,
}

impl<E: Env> WatchSource for EmbeddedWatch<E> {
    fn next(&mut self) -> BoxFuture<'_, WatchBatch> {
        async move {
            loop {
                if let Some(batch) = self.pending.pop_front() {
                    return batch;
                }
                self.pending = batches(self.stream.next().await);
            }
        }
        .boxed()
    }

    fn request_progress(&mut self) {
        self.stream.request_progress();
    }
}

/// The deliveries of a stream with a single watch, in order, as the gateway speaks of them.
pub(super) fn batches(deliveries: Vec<Delivery>) -> VecDeque<WatchBatch> {
    let mut out = VecDeque::new();
    if deliveries.is_empty() {
        out.push_back(WatchBatch::Closed);
    }
    for delivery in deliveries {
        match delivery {
            Delivery::Created { .. } => {}
            Delivery::Events { events: more, .. } => {
                let more = more.into_iter().map(WatchEvent::into_event);
                match out.back_mut() {
                    Some(WatchBatch::Events(events)) => events.extend(more),
                    _ => out.push_back(WatchBatch::Events(more.collect())),
                }
            }
            Delivery::Progress { revision, .. } => out.push_back(WatchBatch::Progress(revision)),
            Delivery::Compacted {
                compact_revision, ..
            } => out.push_back(WatchBatch::Compacted {
                oldest: compact_revision,
            }),
            Delivery::Refused { .. } | Delivery::Canceled { .. } | Delivery::Failed { .. } => {
                out.push_back(WatchBatch::Closed);
            }
        }
    }
    out
}
