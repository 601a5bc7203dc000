//! Receiving another member's state: an engine of its own beside the present one, filled by ordinary commits, and the
//! state put together from it before anything counts on it. Then whoever owns the present engine, the persister, is asked
//! to go on with the new one.
//! Promise: what was taken in is kept for the same offer, over broken connections and restarts; a state that is not the one
//! offered is thrown away; until the last step the present state is untouched.
//! Not here: what pieces hold (`pieces`), where directories are (`places`), the exchange itself (`persister`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use barque_store_consensus::{ImageRules, Offer, Piece, Staged, Staging, Working};
use barque_store_engine::{self as engine, AnyEngine, Batch, Engine};
use barque_store_env::{Disk, Env, watch};
use barque_store_state::LogIndex;
use bytes::Bytes;
use futures::future::{Either, select};
use parking_lot::Mutex;
use tokio::sync::{MutexGuard, Notify, oneshot};

use crate::limits::*;
use crate::persister::{self, Restored, Restoring};
use crate::pieces::Contents;
use crate::places::{Places, Removal};
use crate::versions;

/// Where the next piece begins; part of every commit of a state that is not whole.
const NEXT: &str = "staging/next";
/// The index of the state that was received whole and installed as it is: 8 bytes, little-endian. Of this member's own past, so
/// that it is not sent to others.
pub(crate) const INSTALLED: &str = "consensus/installed";

/// Whether this is a state as it was received, with nothing carried out on top of it.
pub(crate) fn is_installed(meta: &BTreeMap<String, Bytes>, index: u64) -> bool {
    meta.get(INSTALLED)
        .is_some_and(|installed| installed[..] == index.to_le_bytes())
}

/// What becomes the present engine and state.
pub(crate) struct Exchange<E: Env> {
    pub(crate) restored: Restored<E>,
    pub(crate) done: oneshot::Sender<()>,
}

enum Slot<E: Env> {
    Free,
    Asked(Box<Exchange<E>>),
    /// Nobody would answer any more.
    Closed,
}

/// Where states are received, and where the persister finds the one to go on with.
pub(crate) struct Depot<E: Env> {
    kind: engine::Kind,
    sizes: engine::Options,
    disk: E::Disk,
    /// Held by whoever receives a state or exchanges the engine.
    places: tokio::sync::Mutex<Places<E::Disk>>,
    cache_bytes: u64,
    /// Committed at a time.
    batch_bytes: usize,
    /// Off only to show what going on with a state that was begun is for.
    resumes: bool,
    /// The present state is not to be used, which its directory says durably: it makes room for the one that takes its place.
    spent: AtomicBool,
    /// Shared by whoever receives a state or has one to install.
    receiving: Arc<()>,
    slot: Mutex<Slot<E>>,
    /// Wakes the persister.
    due: Arc<Notify>,
    /// Wakes whoever takes a state away that was exchanged.
    left: Notify,
    /// What of the disk failed. As everywhere, the first such error is final.
    broken: watch::Sender<Option<String>>,
}

impl<E: Env> Depot<E> {
    pub(crate) fn new(
        kind: engine::Kind,
        sizes: engine::Options,
        disk: E::Disk,
        places: Places<E::Disk>,
        cache_bytes: u64,
        rules: ImageRules,
        resumes: bool,
    ) -> Self {
        Depot {
            kind,
            sizes,
            disk,
            places: tokio::sync::Mutex::new(places),
            cache_bytes,
            batch_bytes: STAGE_BATCH_BYTES.min(4 * rules.piece_bytes),
            resumes,
            spent: AtomicBool::new(false),
            receiving: Arc::default(),
            slot: Mutex::new(Slot::Free),
            due: Arc::default(),
            left: Notify::new(),
            broken: watch::channel(None).0,
        }
    }

    /// Resolves once the disk has failed under a state that was being received.
    pub(crate) async fn failed(&self) -> String {
        self.broken.until(Option::clone).await
    }
    fn breaks(&self, why: String) -> String {
        self.broken.send(Some(why.clone()));
        why
    }
    fn engine_failed(&self, error: &engine::Error) -> String {
        match error {
            engine::Error::Io { .. } => self.breaks(error.to_string()),
            _ => error.to_string(),
        }
    }

    /// The present state is not to be used, and marked so: see `spent`.
    pub(crate) fn spend(&self) {
        self.spent.store(true, Ordering::Relaxed);
    }

    /// What the persister waits for.
    pub(crate) fn due(&self) -> Arc<Notify> {
        self.due.clone()
    }

    /// The state to go on with, if one waits.
    pub(crate) fn take(&self) -> Option<Exchange<E>> {
        let mut slot = self.slot.lock();
        match std::mem::replace(&mut *slot, Slot::Free) {
            Slot::Asked(exchange) => Some(*exchange),
            Slot::Free => None,
            Slot::Closed => {
                *slot = Slot::Closed;
                None
            }
        }
    }
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(*self.slot.lock(), Slot::Asked(_))
    }
    /// The persister has ended.
    pub(crate) fn close(&self) {
        let last = std::mem::replace(&mut *self.slot.lock(), Slot::Closed);
        drop(last);
    }
    /// Where the present state is. While it is held nobody begins to receive another one.
    pub(crate) async fn places(&self) -> MutexGuard<'_, Places<E::Disk>> {
        self.places.lock().await
    }

    /// A state was left in `places`.
    pub(crate) fn has_left(&self) {
        self.left.notify_one();
    }

    /// Takes away each state that was exchanged, once nobody reads it any more, and rests between the steps as all housekeeping
    /// does; and each that was received in vain. Resolves when the disk fails. `applied`: where the present state is.
    pub(crate) async fn clear_up(&self, applied: impl Fn() -> LogIndex + Sync) -> String {
        loop {
            if let Err(why) = self.drop_useless(applied()).await {
                return why;
            }
            let left = std::pin::pin!(self.left.notified());
            if let Either::Right(_) = select(left, E::sleep(STAGED_LOOK)).await {
                continue;
            }
            loop {
                let begun = E::now();
                // Given back after each step, for a state that is to be received there: its beginning takes the rest away.
                let removal = self.places.lock().await.clear_on().await;
                match removal {
                    Ok(Removal::Done) => break,
                    Ok(Removal::Read) => E::sleep(LEFT_ROWS_POLL).await,
                    Ok(Removal::More) => {
                        let took = E::now().saturating_since(begun);
                        E::sleep((took * HOUSE_PAUSE_FACTOR).min(HOUSE_PAUSE_MAX)).await;
                    }
                    Err(why) => return why,
                }
            }
        }
    }

    /// A state that goes no further than the present one is of no use: the log came first, or the answer to its transfer was lost.
    async fn drop_useless(&self, applied: LogIndex) -> Result<(), String> {
        let mut places = self.places.lock().await;
        let useless = |index| index <= applied.0;
        // Whoever has one to install has an engine open there; Raft will not have it installed, and it goes the next time.
        let nobody = Arc::strong_count(&self.receiving) == 1;
        if nobody && places.staged_index().await.is_some_and(useless) {
            tracing::info!("what was received of another member's state is not needed any more");
            places.discard().await?;
        }
        Ok(())
    }

    async fn exchange(&self, restored: Restored<E>) -> Result<(), String> {
        const STOPPING: &str = "the member stops";
        let (done, answer) = oneshot::channel();
        {
            let mut slot = self.slot.lock();
            if matches!(*slot, Slot::Closed) {
                return Err(STOPPING.into());
            }
            *slot = Slot::Asked(Box::new(Exchange { restored, done }));
        }
        self.due.notify_one();
        answer.await.map_err(|_| STOPPING.to_owned())
    }

    /// Makes a state that was received the present one at a start, where there is no persister yet: it stands in for it, with the
    /// same steps.
    pub(crate) async fn adopt(&self, staged: Box<dyn Staged>) -> Result<Restored<E>, String> {
        let taking = async {
            let Exchange { restored, done } = loop {
                match self.take() {
                    Some(exchange) => break exchange,
                    None => self.due.notified().await,
                }
            };
            self.spent.store(false, Ordering::Relaxed);
            versions::check(&restored.state)?;
            let mut places = self.places.lock().await;
            places.swap().await?;
            // Nobody but this one waits.
            let _ = done.send(());
            places.discard().await?;
            Ok::<_, String>(restored)
        };
        let (installed, restored) = futures::join!(staged.install(), taking);
        // What went wrong with the exchange says more than that it was not done.
        let restored = restored?;
        installed.map(|()| restored)
    }

    /// Sees to it that so many bytes can still be received there.
    async fn make_room(
        &self,
        places: &mut Places<E::Disk>,
        place: &Path,
        bytes: u64,
    ) -> Result<(), String> {
        let enough = self.room(place, bytes).await;
        if enough.is_ok() || !self.spent.load(Ordering::Relaxed) {
            return enough;
        }
        tracing::warn!(
            "this member's own rows, which are not to be used, are removed to make room"
        );
        places.empty().await.map_err(|why| self.breaks(why))?;
        self.room(place, bytes).await
    }

    /// Whether so many bytes can still be received there. Not every file system tells.
    async fn room(&self, place: &Path, bytes: u64) -> Result<(), String> {
        let Ok(space) = self.disk.space(&place_of(place)).await else {
            return Ok(());
        };
        let needed = bytes.saturating_add(DISK_RESERVE_BYTES_MIN);
        match space.free >= needed {
            true => Ok(()),
            false => Err(format!(
                "too little room for it: {} bytes free, {needed} needed",
                space.free
            )),
        }
    }

    /// Begins to receive a state, or goes on with what is there of it.
    pub(crate) async fn stage(self: Arc<Self>, offer: Offer) -> Result<Box<dyn Staging>, String> {
        let mut places = self.places.lock().await;
        if places.is_read() {
            // The offer comes again.
            return Err(
                "the state that this member had before is still being read where this one is to be received".into(),
            );
        }
        let place = places.other();
        let name = format!(
            "{:016x} {} {}",
            offer.from.0, offer.mark.term, offer.mark.index.0
        );
        if !self.resumes {
            places.discard().await.map_err(|why| self.breaks(why))?;
        }
        let staged = places.stage(&name).await;
        let mut begun = staged.map_err(|why| self.breaks(why))?;
        if !begun && let Err(why) = self.make_room(&mut places, &place, offer.bytes).await {
            // The offer comes again, and must not be taken for one that was begun.
            places.discard().await.map_err(|why| self.breaks(why))?;
            return Err(why);
        }
        let opened = loop {
            let mut restoring = Restoring::default();
            let (kind, disk) = (self.kind, self.disk.clone());
            let opened =
                engine::open_with::<E>(kind, disk, &place, &mut restoring, self.sizes).await;
            match opened {
                Ok(opened) => break (opened, restoring),
                // It was perhaps never whole: it is only a part of what can be had again. But one that is in use is not damaged.
                Err(error)
                    if begun
                        && !matches!(
                            error,
                            engine::Error::Io { .. } | engine::Error::Locked { .. }
                        ) =>
                {
                    tracing::warn!(%error, "what was received of the state is damaged; it is received again");
                    let again = async {
                        places.discard().await?;
                        places.stage(&name).await
                    };
                    again.await.map_err(|why| self.breaks(why))?;
                    begun = false;
                }
                Err(error) => return Err(self.engine_failed(&error)),
            }
        };
        let (opened, restoring) = opened;
        let there = opened.engine.space().live_bytes;
        let left = offer.bytes.saturating_sub(there);
        if begun && let Err(why) = self.make_room(&mut places, &place, left).await {
            drop(opened);
            // Whoever filled the disk meanwhile needs the room more.
            places.discard().await.map_err(|why| self.breaks(why))?;
            return Err(why);
        }
        drop(places);
        let next = match opened.meta.get(NEXT) {
            Some(next) => Some(next.clone()),
            None if opened.meta.contains_key(INSTALLED) => None,
            None => Some(Bytes::new()),
        };
        tracing::debug!(resumed = begun, ?next, "a place for the state is ready");
        Ok(Box::new(Receiving {
            token: self.receiving.clone(),
            depot: self,
            offer,
            engine: opened.engine,
            restoring,
            meta: opened.meta,
            next,
            batch: Batch::default(),
            batch_bytes: 0,
        }))
    }
}

/// The directory above, which is there.
fn place_of(place: &Path) -> PathBuf {
    place.parent().unwrap_or(place).to_owned()
}

struct Receiving<E: Env> {
    token: Arc<()>,
    depot: Arc<Depot<E>>,
    offer: Offer,
    engine: AnyEngine<E>,
    restoring: Restoring,
    /// As it is with `batch` committed.
    meta: BTreeMap<String, Bytes>,
    next: Option<Bytes>,
    /// Taken in and not committed.
    batch: Batch,
    batch_bytes: usize,
}

impl<E: Env> Receiving<E> {
    async fn add(&mut self, piece: Piece) -> Result<(), String> {
        self.batch_bytes += piece.body.len();
        let Contents { rows, names } = Contents::of(piece.body)?;
        for (id, row) in &rows {
            engine::Restore::row(&mut self.restoring, *id, row.clone())?;
        }
        self.batch.rows.extend(rows);
        for (name, value) in names {
            self.batch.meta.push((name.clone(), Some(value.clone())));
            self.meta.insert(name, value);
        }
        self.next = piece.next;
        match &self.next {
            Some(next) if self.batch_bytes >= self.depot.batch_bytes => {
                let next = Some(next.clone());
                self.batch.meta.push((NEXT.to_owned(), next));
            }
            Some(_) => return Ok(()),
            None => {
                self.batch.meta.push((NEXT.to_owned(), None));
                let index = Bytes::copy_from_slice(&self.offer.mark.index.0.to_le_bytes());
                self.batch
                    .meta
                    .push((INSTALLED.to_owned(), Some(index.clone())));
                self.meta.insert(INSTALLED.to_owned(), index);
                self.meta.remove(NEXT);
            }
        }
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let committed = self.engine.commit(batch).await;
        committed.map_err(|e| self.depot.engine_failed(&e))
    }

    async fn whole(self) -> Result<Box<dyn Staged>, String> {
        let Receiving {
            token,
            depot,
            offer,
            engine,
            restoring,
            meta,
            ..
        } = self;
        let put_together = persister::put_together(engine, restoring, &meta);
        let mut restored = match put_together {
            Ok(restored) if restored.mark.as_ref() == Some(&offer.mark) => restored,
            other => {
                // Going on with it would come to the same.
                let why = match other {
                    Ok(restored) => format!("it is that of {:?}", restored.mark),
                    Err(why) => why,
                };
                let discarded = depot.places().await.discard().await;
                discarded.map_err(|why| depot.breaks(why))?;
                return Err(format!("the state received is not the one offered: {why}"));
            }
        };
        restored.state.set_cache_budget(depot.cache_bytes);
        Ok(Box::new(Whole {
            token,
            depot,
            restored,
        }))
    }
}

impl<E: Env> Staging for Receiving<E> {
    fn next(&self) -> Option<Bytes> {
        self.next.clone()
    }
    fn take(&mut self, piece: Piece) -> Working<'_, ()> {
        Box::pin(self.add(piece))
    }
    fn finish(self: Box<Self>) -> Working<'static, Box<dyn Staged>> {
        Box::pin(self.whole())
    }
}

struct Whole<E: Env> {
    token: Arc<()>,
    depot: Arc<Depot<E>>,
    restored: Restored<E>,
}

impl<E: Env> Staged for Whole<E> {
    fn install(self: Box<Self>) -> Working<'static, ()> {
        let Whole {
            token,
            depot,
            restored,
        } = *self;
        Box::pin(async move {
            let exchanged = depot.exchange(restored).await;
            drop(token);
            exchanged
        })
    }
}
