//! Moves what was applied to the engine, off the request path, and keeps the engine's house: checkpoints, space.
//! Promise: one synced batch at a time, each the whole change up to one entry, and none before the log has that entry on
//! this member's disk (guard 10). The first error is final: it fences the member. It never waits for Raft, which may wait for
//! it: between two batches it exchanges the engine for one that was received.
//! Not here: what a batch is made of (`state`), what it looks like on disk (`engine`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use barque_store_consensus::{Consensus, Mark};
use barque_store_engine::{self as engine, AnyEngine, Engine};
use barque_store_env::{Env, Instant};
use barque_store_state::{Archive, LogIndex, Revision, RowId, State, Unreadable};
use bytes::Bytes;

use crate::limits::*;
use crate::machine::Machine;
use crate::staging::{self, Depot, Exchange};
use crate::trouble::Trouble;
use crate::versions;

/// The name under which the log mark is kept beside the state (FORMAT.md).
const MARK: &str = "consensus/mark";

/// The engine as the state reads it.
struct Shelf(Arc<dyn engine::Reader>);

fn place(id: RowId) -> engine::RowId {
    engine::RowId {
        main: id.main.0,
        sub: id.sub,
    }
}
fn row_id(id: engine::RowId) -> RowId {
    RowId {
        main: Revision(id.main),
        sub: id.sub,
    }
}
fn damage(cause: engine::Unreadable) -> Unreadable {
    Unreadable(cause.to_string())
}

impl Archive for Shelf {
    fn read(&self, id: RowId) -> Result<Option<Bytes>, Unreadable> {
        self.0.read(place(id)).map_err(damage)
    }
    fn scan(
        &self,
        from: RowId,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<(RowId, Bytes)>, Unreadable> {
        let rows = self.0.scan(place(from), max_rows, max_bytes);
        let rows = rows.map_err(damage)?.into_iter();
        Ok(rows.map(|(id, row)| (row_id(id), row)).collect())
    }
}

/// A state that is being put together from what an engine tells, or from what another member sends.
#[derive(Default)]
pub(crate) struct Restoring(barque_store_state::Restoring);

impl engine::Restore for Restoring {
    fn index(&mut self, chunk: Bytes) -> Result<(), String> {
        self.0.index_chunk(&chunk)
    }
    fn row(&mut self, id: engine::RowId, row: Bytes) -> Result<(), String> {
        self.0.row(row_id(id), &row)
    }
    fn freed(&mut self, id: engine::RowId) -> Result<(), String> {
        self.0.freed(row_id(id));
        Ok(())
    }
}

/// What a start finds: the engine, the state as of the last batch, and how far that is in the log.
pub(crate) struct Restored<E: Env> {
    pub(crate) engine: AnyEngine<E>,
    pub(crate) state: State,
    pub(crate) mark: Option<Mark>,
    /// It is another member's, with nothing carried out on top of it.
    pub(crate) installed: bool,
}

pub(crate) async fn restore<E: Env>(
    kind: engine::Kind,
    disk: E::Disk,
    dir: &Path,
    options: engine::Options,
) -> Result<Restored<E>, Trouble> {
    let mut restoring = Restoring::default();
    let opened = engine::open_with::<E>(kind, disk, dir, &mut restoring, options).await?;
    let restored = put_together(opened.engine, restoring, &opened.meta);
    Ok(restored.map_err(|reason| format!("{}: {reason}", dir.display()))?)
}

/// The state of an engine that has told all it holds; an error when that does not add up.
pub(crate) fn put_together<E: Env>(
    engine: AnyEngine<E>,
    restoring: Restoring,
    meta: &BTreeMap<String, Bytes>,
) -> Result<Restored<E>, String> {
    let shelf = Arc::new(Shelf(engine.reader()));
    let state = restoring.0.finish(meta, shelf)?;
    let mark = mark(meta)?;
    let marked = mark.as_ref().map_or(LogIndex(0), |mark| mark.index);
    if marked != state.applied() {
        return Err(format!(
            "the state is that of entry {}, its mark that of entry {}",
            state.applied().0,
            marked.0
        ));
    }
    Ok(Restored {
        installed: staging::is_installed(meta, marked.0),
        engine,
        state,
        mark,
    })
}

/// How far in the log the state with these named values is; `None` when nothing was persisted.
pub(crate) fn mark(meta: &BTreeMap<String, Bytes>) -> Result<Option<Mark>, String> {
    let Some(bytes) = meta.get(MARK) else {
        return Ok(None);
    };
    let word = |at: usize| {
        let word = bytes.get(at..at + 8)?;
        Some(u64::from_le_bytes(word.try_into().ok()?))
    };
    match (word(0), word(8)) {
        (Some(index), Some(term)) => Ok(Some(Mark {
            index: LogIndex(index),
            term,
            membership: bytes.slice(16..),
        })),
        _ => Err("the log mark cannot be read".to_owned()),
    }
}

fn encoded(mark: &Mark) -> Bytes {
    let mut bytes = Vec::with_capacity(16 + mark.membership.len());
    bytes.extend_from_slice(&mark.index.0.to_le_bytes());
    bytes.extend_from_slice(&mark.term.to_le_bytes());
    bytes.extend_from_slice(&mark.membership);
    bytes.into()
}

/// A checkpoint under way: the last key in it.
struct Checkpoint {
    last: Option<Bytes>,
}

pub(crate) struct Persister<E: Env> {
    engine: AnyEngine<E>,
    machine: Arc<Machine<E>>,
    consensus: Consensus<E>,
    depot: Arc<Depot<E>>,
    checkpoint: Option<Checkpoint>,
    /// The entry up to which the engine has the state.
    persisted: LogIndex,
}

impl<E: Env> Persister<E> {
    pub(crate) fn new(
        engine: AnyEngine<E>,
        machine: Arc<Machine<E>>,
        consensus: Consensus<E>,
        depot: Arc<Depot<E>>,
        persisted: LogIndex,
    ) -> Self {
        Persister {
            engine,
            machine,
            consensus,
            depot,
            checkpoint: None,
            persisted,
        }
    }

    /// Runs until the machine is closed, and then once more, so that the next start has nothing to carry out again.
    pub(crate) async fn run(mut self) {
        let result = self.serve().await;
        self.depot.close();
        match result {
            Ok(()) => {}
            Err(Trouble::Damage(reason)) => self.machine.lose(&reason),
            Err(Trouble::Other(reason)) => self.machine.fail(&reason),
        }
    }

    async fn serve(&mut self) -> Result<(), Trouble> {
        loop {
            let stopping = self.machine.pause(PERSIST_INTERVAL).await;
            let begun = E::now();
            if let Some(exchange) = self.depot.take() {
                self.exchange(exchange).await?;
            }
            self.persist().await?;
            if stopping {
                return Ok(());
            }
            self.checkpoint_on(begun).await?;
            self.keep_house(begun).await?;
        }
    }

    /// One batch of everything that was applied since the last one.
    async fn persist(&mut self) -> Result<(), Trouble> {
        let Some((batch, mark)) = self.machine.begin_batch(self.persisted) else {
            return Ok(());
        };
        // Guard 10: an entry may be committed, and applied here, before this member's own log has it on disk.
        self.consensus.log_barrier().await?;
        let mut rows = Vec::with_capacity(batch.row_count());
        rows.extend(batch.rows().map(|(id, row)| (place(id), row)));
        let applied = batch.applied;
        let mut meta = batch.meta;
        meta.push((MARK.to_owned(), Some(encoded(&mark))));
        let batch = engine::Batch {
            rows,
            freed: batch.freed.into_iter().map(place).collect(),
            meta,
        };
        let begun = E::now();
        self.engine.commit(batch).await?;
        let took = E::now().saturating_since(begun);
        self.machine.counters.commits.note(took);
        self.machine.batch_done(self.engine.space());
        self.persisted = applied;
        self.consensus.persisted(&mark);
        Ok(())
    }

    /// Goes on with the state of another member, which is whole and durable beside the present one. Whatever was applied here
    /// and not persisted is part of it. A power cut before the swap leaves the old state, one after it the new one.
    async fn exchange(&mut self, exchange: Exchange<E>) -> Result<(), String> {
        let Exchange { restored, done } = exchange;
        let mark = restored.mark.ok_or("a state without a mark")?;
        versions::check(&restored.state)?;
        let depot = self.depot.clone();
        let mut places = depot.places().await;
        places.swap().await?;
        self.persisted = mark.index;
        // It was of the old engine.
        self.checkpoint = None;
        let images = restored.engine.images();
        let space = restored.engine.space();
        let old = std::mem::replace(&mut self.engine, restored.engine);
        let readers = old.reader();
        self.machine.replace(restored.state, mark, images, space);
        drop(old);
        // Nobody may wait any more: the member stops.
        let _ = done.send(());
        // Reads that are under way go on in the old files. They go when the last one is done, in steps, while batches go on.
        places.leave(&readers).await?;
        depot.has_left();
        Ok(())
    }

    /// Goes on with a checkpoint, or begins one that is due, for a while. The pieces are of different moments; the batch
    /// after the last of them makes them one (see `Restoring`).
    async fn checkpoint_on(&mut self, begun: Instant) -> Result<(), Trouble> {
        if self.checkpoint.is_none() {
            if !self.engine.keeps_checkpoints() || !self.engine.wants_checkpoint() {
                return Ok(());
            }
            self.engine.begin_checkpoint().await?;
            self.checkpoint = Some(Checkpoint { last: None });
        }
        while let Some(checkpoint) = &mut self.checkpoint {
            let step = E::now();
            let last = checkpoint.last.as_ref();
            match self.machine.index_chunk(last, CHECKPOINT_KEYS) {
                Some((chunk, last)) => {
                    checkpoint.last = Some(last);
                    self.engine.checkpoint_chunk(chunk).await?;
                }
                None => {
                    self.persist().await?;
                    self.engine.finish_checkpoint().await?;
                    self.checkpoint = None;
                }
            }
            self.rest(step).await;
            // The other half is for the rest of the house.
            if E::now().saturating_since(begun) >= PERSIST_INTERVAL / 2 || self.depot.is_waiting() {
                break;
            }
        }
        Ok(())
    }

    /// Leaves disk and thread to those who write, after a step of housekeeping.
    async fn rest(&self, step: Instant) {
        let space = self.engine.space();
        if space.disk_bytes <= space.live_bytes.saturating_mul(HOUSE_HURRY_FACTOR) {
            let took = E::now().saturating_since(step);
            E::sleep((took * HOUSE_PAUSE_FACTOR).min(HOUSE_PAUSE_MAX)).await;
        }
    }

    /// Gives space and memory back, in steps, until there is none to give or the next batch is due.
    async fn keep_house(&mut self, begun: Instant) -> Result<(), Trouble> {
        self.machine.trim_cache();
        loop {
            let step = E::now();
            if !self.engine.maintain().await? {
                break;
            }
            self.rest(step).await;
            if E::now().saturating_since(begun) >= PERSIST_INTERVAL || self.depot.is_waiting() {
                break;
            }
        }
        self.machine.set_space(self.engine.space());
        Ok(())
    }
}
