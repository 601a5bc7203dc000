//! Tests of the state machine as a whole, and what they share.

mod alarms;
mod cluster;
mod hash_kv;
mod large_range;
mod leases;
mod model;
mod persist;
mod random;
mod semantics;
mod sweep;
mod txn_refusals;
mod version;
mod wire;

use bytes::Bytes;

use crate::{
    Answer, Applied, ClusterTime, Command, DeleteRange, Entry, KeyRange, LeaseId, LogIndex,
    Outcome, Previous, Put, Range, Refusal, Revision, State,
};

/// A state that is given entries by a member that counts.
pub struct Member {
    pub state: State,
    pub now: ClusterTime,
}

impl Member {
    pub fn new() -> Self {
        Member {
            state: State::new(),
            now: ClusterTime(1_000),
        }
    }
    pub fn apply(&mut self, commands: Vec<Command>) -> Applied {
        let index = LogIndex(self.state.applied().0 + 1);
        let entry = Entry {
            time: self.now,
            commands,
            origins: Vec::new(),
        };
        let applied = self
            .state
            .apply(index, &entry, Previous::Told)
            .expect("a row cannot be read");
        assert_eq!(
            self.state.store.verify(),
            self.state.lessor.attachments(),
            "rows and leases disagree about attachments"
        );
        applied
    }
    pub fn one(&mut self, command: Command) -> Outcome {
        let mut applied = self.apply(vec![command]);
        assert_eq!(applied.outcomes.len(), 1);
        applied.outcomes.remove(0)
    }
    pub fn ok(&mut self, command: Command) -> Answer {
        self.one(command).result.expect("refused")
    }
    pub fn refused(&mut self, command: Command) -> Refusal {
        self.one(command).result.expect_err("carried out")
    }
    pub fn values(&self, range: &Range) -> Vec<String> {
        let result = self.state.range(range).expect("readable");
        let text = |kv: &std::sync::Arc<crate::KeyValue>| {
            format!(
                "{}={}",
                String::from_utf8_lossy(&kv.key),
                String::from_utf8_lossy(&kv.value)
            )
        };
        result.kvs.iter().map(text).collect()
    }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
pub fn put_of(key: &str, value: &str) -> Put {
    Put {
        key: bytes(key),
        value: bytes(value),
        ..Put::default()
    }
}
pub fn put(key: &str, value: &str) -> Command {
    Command::Put(put_of(key, value))
}
pub fn put_leased(key: &str, value: &str, lease: i64) -> Command {
    Command::Put(Put {
        lease: LeaseId(lease),
        ..put_of(key, value)
    })
}
pub fn interval(key: &str, end: &str) -> KeyRange {
    KeyRange {
        key: bytes(key),
        end: bytes(end),
    }
}
pub fn everything() -> KeyRange {
    interval("\0", "\0")
}
pub fn delete(key: &str, end: &str) -> Command {
    Command::DeleteRange(DeleteRange {
        range: interval(key, end),
        prev_kv: false,
    })
}
pub fn compact(revision: u64) -> Command {
    Command::Compact {
        revision: Revision(revision),
    }
}
pub fn grant(id: i64, ttl_s: u64) -> Command {
    Command::LeaseGrant {
        id: LeaseId(id),
        ttl_s,
    }
}
pub fn range_of(key: &str, end: &str) -> Range {
    Range {
        range: interval(key, end),
        ..Range::default()
    }
}

/// A small generator, so that a failing seed is all there is to repeat.
pub struct Dice(u64);
impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
