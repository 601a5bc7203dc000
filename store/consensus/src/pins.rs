//! The state that is being sent, kept the same for as long as somebody receives it (guard 11).
//! Promise: every request of openraft's for a snapshot gets the same one until it was sent whole or nobody has asked for a
//! piece for [`limits::IMAGE_HELD`]: openraft counts the follower as matching what it was handed, and a receiver goes on
//! with the same one only. What it covers, and nothing later, may be purged meanwhile.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use barque_store_env::{Env, Instant};
use parking_lot::Mutex;

use crate::machine::{self, StoredMembership};
use crate::types::LogId;
use crate::{Image, Machine, Mark, Piece, limits};

/// A pinned state.
pub struct Held {
    pub id: LogId,
    pub membership: StoredMembership,
    pub mark: Mark,
    pub bytes: u64,
    image: Arc<dyn Image>,
    machine: Arc<dyn Machine>,
    touched: AtomicU64,
    /// Transfers of it that are under way.
    users: AtomicUsize,
    sent: AtomicBool,
}

impl Held {
    pub fn touch(&self, now: Instant) {
        self.touched.fetch_max(now.0, Ordering::Relaxed);
    }
    /// A piece; damage ends the member.
    pub fn piece(&self, from: &[u8]) -> Result<Piece, String> {
        let piece = self.image.piece(from);
        piece.inspect_err(|reason| self.machine.damaged(reason))
    }
    fn is_over(&self, now: Instant) -> bool {
        let idle = now.saturating_since(Instant(self.touched.load(Ordering::Relaxed)));
        self.users.load(Ordering::Relaxed) == 0
            && (self.sent.load(Ordering::Relaxed) || idle >= limits::IMAGE_HELD)
    }
}

/// One transfer of it.
pub struct Use(Arc<Held>);

impl Use {
    pub fn begin(held: Arc<Held>, now: Instant) -> Self {
        held.touch(now);
        held.users.fetch_add(1, Ordering::Relaxed);
        Use(held)
    }
    /// It is there whole: the next one who needs a state gets a newer one.
    pub fn sent(self) {
        self.0.sent.store(true, Ordering::Relaxed);
    }
}
impl Drop for Use {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::Relaxed);
    }
}

pub struct Pins<E> {
    machine: Arc<dyn Machine>,
    held: Mutex<Option<Arc<Held>>>,
    /// Nothing is pinned for openraft's questions during a start.
    open: AtomicBool,
    world: PhantomData<fn() -> E>,
}

impl<E: Env> Pins<E> {
    pub fn new(machine: Arc<dyn Machine>) -> Self {
        Pins {
            machine,
            held: Mutex::default(),
            open: AtomicBool::new(false),
            world: PhantomData,
        }
    }
    pub fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }

    /// The state to be sent; `None` when nothing was persisted yet, or during a start.
    pub fn get(&self) -> Result<Option<Arc<Held>>, String> {
        if !self.open.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let now = E::now();
        let mut held = self.held.lock();
        if let Some(held) = held.as_ref().filter(|held| !held.is_over(now)) {
            held.touch(now);
            return Ok(Some(held.clone()));
        }
        *held = None;
        let Some(pinned) = self.machine.pin()? else {
            return Ok(None);
        };
        let stored = machine::stored(&pinned.mark).map_err(|e| e.to_string())?;
        let Some((id, membership)) = stored else {
            return Ok(None);
        };
        let fresh = Arc::new(Held {
            id,
            membership,
            mark: pinned.mark,
            bytes: pinned.bytes,
            image: pinned.image,
            machine: self.machine.clone(),
            touched: AtomicU64::new(now.0),
            users: AtomicUsize::new(0),
            sent: AtomicBool::new(false),
        });
        *held = Some(fresh.clone());
        Ok(Some(fresh))
    }

    /// The entry after which the log has to stay, in openraft's count; lets go of what nobody wants any more.
    pub fn floor(&self) -> Option<u64> {
        let now = E::now();
        let mut held = self.held.lock();
        if held.as_ref().is_some_and(|held| held.is_over(now)) {
            *held = None;
        }
        held.as_ref().map(|held| held.id.index)
    }

    /// The state was replaced: what is pinned is of no use any more.
    pub fn clear(&self) {
        *self.held.lock() = None;
    }
}
