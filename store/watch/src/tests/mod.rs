//! Tests of the hub over a real state, and what they share.

mod catch_up;
mod random;
mod rules;
mod sharing;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake as WakeTask, Waker};

use barque_store_state::{
    ClusterTime, Command, DeleteRange, Entry, KeyRange, LogIndex, Put, Revision, RevisionEvents,
    State, Txn, TxnOp,
};
use bytes::Bytes;

use crate::*;

/// A task that only remembers having been woken.
#[derive(Default)]
pub struct Flag(AtomicBool);
impl WakeTask for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}
impl Flag {
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
    pub fn raised(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// State and hub, kept together as a member does.
pub struct Member {
    pub state: State,
    pub hub: Hub,
    pub flag: Arc<Flag>,
}

impl Member {
    pub fn new(limits: Limits) -> Self {
        Member {
            state: State::new(),
            hub: Hub::new(limits),
            flag: Arc::default(),
        }
    }
    /// Applies without telling the hub.
    pub fn apply(&mut self, command: Command) -> Vec<RevisionEvents> {
        let index = LogIndex(self.state.applied().0 + 1);
        let entry = Entry {
            time: ClusterTime(0),
            commands: vec![command],
            origins: Vec::new(),
        };
        let applied = self
            .state
            .apply(index, &entry, barque_store_state::Previous::Told);
        applied.expect("nothing is read from disk").events
    }
    pub fn write(&mut self, command: Command) {
        let events = self.apply(command);
        self.hub.publish(&events);
    }
    pub fn create(&mut self, s: StreamId, spec: WatchSpec) -> WatchId {
        let current = self.state.revision();
        self.hub.create(s, None, spec, current).expect("created")
    }
    pub fn ask_progress(&mut self, s: StreamId) {
        self.hub.request_progress(s, self.state.revision());
    }
    /// One turn.
    pub fn poll(&mut self, s: StreamId) -> Vec<Delivery> {
        let waker = Waker::from(self.flag.clone());
        let mut turn = self.hub.turn();
        loop {
            match self.hub.poll(s, &mut turn, &waker) {
                Step::Send => {
                    assert!(!turn.deliveries.is_empty());
                    return turn.deliveries;
                }
                Step::Sleep => {
                    assert!(turn.deliveries.is_empty());
                    return Vec::new();
                }
                Step::Read(ask) => {
                    let piece = ask.read(&self.state);
                    self.hub.supply(piece, &mut turn);
                }
            }
        }
    }
    /// Polls until nothing comes and no poll is asked for.
    pub fn drain(&mut self, s: StreamId) -> Vec<Delivery> {
        let mut all = Vec::new();
        for _ in 0..10_000 {
            self.flag.take();
            let more = self.poll(s);
            if more.is_empty() && !self.flag.raised() {
                return all;
            }
            all.extend(more);
        }
        panic!("the stream never comes to rest");
    }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
pub fn put(key: &str, value: &str) -> Command {
    Command::Put(Put {
        key: bytes(key),
        value: bytes(value),
        ..Put::default()
    })
}
pub fn delete(range: KeyRange) -> Command {
    Command::DeleteRange(DeleteRange {
        range,
        prev_kv: false,
    })
}
pub fn put_all(keys: &[&str]) -> Command {
    let op = |key: &&str| {
        TxnOp::Put(Put {
            key: bytes(key),
            ..Put::default()
        })
    };
    Command::Txn(Txn {
        success: keys.iter().map(op).collect(),
        ..Txn::default()
    })
}
pub fn compact(revision: u64) -> Command {
    Command::Compact {
        revision: Revision(revision),
    }
}
pub fn point(key: &str) -> KeyRange {
    KeyRange::point(bytes(key))
}
pub fn everything() -> KeyRange {
    KeyRange::prefix(b"")
}
pub fn spec(range: KeyRange, start: u64) -> WatchSpec {
    WatchSpec {
        range,
        start: (start > 0).then_some(Revision(start)),
        ..WatchSpec::default()
    }
}
