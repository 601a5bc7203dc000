//! The state that is being sent, kept the same for as long as somebody receives it (guard 11).
//! Promise: every request of openraft's for a snapshot gets the same one until it was sent whole or nobody has asked for a
//! piece for [`limits::IMAGE_HELD`], or the log does not go on behind it any more: openraft counts the follower as matching what it was handed, and a receiver goes on
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
    /// A piece; `None`, when none begins there. Damage of its present state ends the member; a place that another member made up must not.
    pub fn piece(&self, from: &[u8]) -> Result<Option<Piece>, String> {
        let piece = self.image.piece(from);
        piece.inspect_err(|reason| {
            if self.image.is_present() {
                self.machine.damaged(reason);
            }
        })
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
    /// Off only to show what holding states is for.
    holds: bool,
    world: PhantomData<fn() -> E>,
}

impl<E: Env> Pins<E> {
    pub fn new(machine: Arc<dyn Machine>, holds: bool) -> Self {
        Pins {
            machine,
            held: Mutex::default(),
            open: AtomicBool::new(false),
            holds,
            world: PhantomData,
        }
    }
    pub fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }

    /// The state to be sent, with a log that goes on behind it and was given up to `purged` (in openraft's count); `None` when
    /// nothing was persisted yet, or during a start.
    pub fn get(&self, purged: Option<u64>) -> Result<Option<Arc<Held>>, String> {
        if !self.open.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let now = E::now();
        let mut held = self.held.lock();
        // The log may have been given up beyond it (its hard bound): whoever has it would need another one at once.
        let fits = |held: &Held| self.holds && !held.is_over(now) && purged <= Some(held.id.index);
        if let Some(held) = held.as_ref().filter(|held| fits(held)) {
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
        if held
            .as_ref()
            .is_some_and(|held| !self.holds || held.is_over(now))
        {
            *held = None;
        }
        held.as_ref().map(|held| held.id.index)
    }

    /// The state was replaced: what is pinned is of no use any more.
    pub fn clear(&self) {
        *self.held.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use barque_store_env::sim::{self, SimEnv};
    use barque_store_state::{Entry, LogIndex, Outcome};
    use bytes::Bytes;

    use super::*;
    use crate::Pinned;

    /// Begins with damage, and nothing begins elsewhere.
    struct Torn {
        present: bool,
    }
    impl Image for Torn {
        fn piece(&self, from: &[u8]) -> Result<Option<Piece>, String> {
            match from.is_empty() {
                true => Err("a row is damaged".to_owned()),
                false => Ok(None),
            }
        }
        fn is_present(&self) -> bool {
            self.present
        }
    }

    /// Goes on by ten entries whenever it is asked.
    #[derive(Default)]
    struct Steps {
        last: AtomicU64,
        exchanged: bool,
        damaged: AtomicBool,
    }
    impl Machine for Steps {
        fn apply(&self, _: LogIndex, _: u64, _: Option<&Entry>) -> Result<Vec<Outcome>, String> {
            Ok(Vec::new())
        }
        fn pin(&self) -> Result<Option<Pinned>, String> {
            let index = LogIndex(self.last.fetch_add(10, Ordering::Relaxed) + 10);
            let mark = Mark {
                index,
                term: 1,
                membership: Bytes::new(),
            };
            Ok(Some(Pinned {
                mark,
                bytes: 0,
                image: Arc::new(Torn {
                    present: !self.exchanged,
                }),
            }))
        }
        fn damaged(&self, _: &str) {
            self.damaged.store(true, Ordering::Relaxed);
        }
    }

    /// A transfer to a dead member kept the pin while the log was given up beyond it: every other member was sent that state
    /// again and again, and never came to where the log begins.
    #[test]
    fn a_state_that_the_log_does_not_follow_any_more_is_not_sent_to_the_next() {
        sim::run(1, async {
            let pins = Pins::<SimEnv>::new(Arc::new(Steps::default()), true);
            pins.open();
            let get = |purged| {
                pins.get(purged)
                    .expect("no damage")
                    .expect("a state")
                    .id
                    .index
            };
            let first = pins.get(Some(5)).expect("no damage").expect("a state");
            let _under_way = Use::begin(first.clone(), SimEnv::now());
            assert_eq!(get(Some(first.id.index)), first.id.index);
            assert_eq!(get(Some(first.id.index + 1)), first.id.index + 10);
        });
    }

    /// It counted as damage of the member that was asked: one faulty asker could have ended every member of the cluster.
    #[test]
    fn a_malformed_place_is_no_damage_of_the_member_that_is_asked() {
        sim::run(1, async {
            let machine = Arc::new(Steps::default());
            let pins = Pins::<SimEnv>::new(machine.clone(), true);
            pins.open();
            let held = pins.get(None).expect("no damage").expect("a state");
            assert_eq!(held.piece(b"nowhere"), Ok(None));
            assert!(!machine.damaged.load(Ordering::Relaxed));
            assert!(held.piece(b"").is_err());
            assert!(machine.damaged.load(Ordering::Relaxed));
        });
    }

    /// It ended a member whose new state was whole.
    #[test]
    fn damage_of_a_state_that_was_exchanged_does_not_end_the_member() {
        sim::run(1, async {
            let machine = Arc::new(Steps {
                exchanged: true,
                ..Steps::default()
            });
            let pins = Pins::<SimEnv>::new(machine.clone(), true);
            pins.open();
            let held = pins.get(None).expect("no damage").expect("a state");
            assert!(held.piece(b"").is_err());
            assert!(!machine.damaged.load(Ordering::Relaxed));
        });
    }
}
