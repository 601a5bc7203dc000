//! Random steps. Knows what etcd told so far (its revision, its leases), so that most requests mean something; the rest is
//! odd on purpose.
//! Promise: deterministic from the seed and etcd's answers.
//! Not here: what crashes etcd 3.5.16 itself: an unknown sort target, a `client-api-version` that is not UTF-8, and a delete
//! "from this key on" beside a put in one transaction.

mod kv;
mod lease;
mod raw;
mod txn;
mod watch;

use std::collections::VecDeque;

use barque_proto::etcdserverpb as pb;

use crate::limits::STREAMS;
use crate::random::Random;
use crate::step::Step;

/// What etcd told.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub revision: i64,
    /// -1: never compacted.
    pub compacted: i64,
}

pub struct Generator {
    random: Random,
    pub known: Known,
    leases: Vec<i64>,
    /// Watches created by stream; some may have been refused.
    watches: [Vec<i64>; STREAMS],
    /// The next id the server chooses, by stream; a guess.
    auto: [i64; STREAMS],
    queue: VecDeque<Step>,
    /// Watches read history and were not waited for.
    racing: bool,
    since_settle: usize,
}

const METHODS: &[&str] = &[
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/Put",
    "/etcdserverpb.KV/DeleteRange",
    "/etcdserverpb.KV/Txn",
    "/etcdserverpb.KV/Compact",
    "/etcdserverpb.Lease/LeaseGrant",
    "/etcdserverpb.Lease/LeaseRevoke",
    "/etcdserverpb.Lease/LeaseTimeToLive",
    "/etcdserverpb.Lease/LeaseLeases",
    "/etcdserverpb.Cluster/MemberList",
    "/etcdserverpb.Maintenance/HashKV",
    "/etcdserverpb.Maintenance/Status",
    "/etcdserverpb.Maintenance/Alarm",
];

impl Generator {
    pub fn new(seed: u64) -> Self {
        Generator {
            random: Random::new(seed),
            known: Known {
                revision: 1,
                compacted: -1,
            },
            leases: Vec::new(),
            watches: Default::default(),
            auto: [0; STREAMS],
            queue: VecDeque::new(),
            racing: false,
            since_settle: 0,
        }
    }

    /// The pair was started afresh: nothing is there any more.
    pub fn forget(&mut self) {
        *self = Generator {
            random: self.random.clone(),
            ..Generator::new(0)
        };
    }

    /// The watch streams were closed.
    pub fn forget_watches(&mut self) {
        self.watches = Default::default();
        self.auto = [0; STREAMS];
        self.queue.clear();
    }

    pub fn step(&mut self) -> Step {
        if self.queue.is_empty() {
            self.since_settle += 1;
            self.fill();
        }
        self.queue.pop_front().expect("just filled")
    }

    fn push(&mut self, path: &str, request: &impl prost::Message) {
        self.queue.push_back(Step::call(path, request));
    }

    fn fill(&mut self) {
        if self.since_settle > 25 {
            return self.settle();
        }
        match self.random.below(100) {
            0..28 => {
                let request = self.lone_range();
                self.push("/etcdserverpb.KV/Range", &request);
            }
            28..48 => {
                let request = self.put();
                self.push("/etcdserverpb.KV/Put", &request);
            }
            48..54 => {
                let request = self.delete_range();
                self.push("/etcdserverpb.KV/DeleteRange", &request);
            }
            54..70 => self.txn(),
            70..73 => self.compact(),
            73..81 => self.lease(),
            81..90 => self.watch(),
            90..96 => self.maintenance(),
            _ => self.raw(),
        }
    }

    /// A compaction must not race with a watch that reads history: either may win.
    fn compact(&mut self) {
        self.settle();
        let request = pb::CompactionRequest {
            revision: if self.random.once_in(4) {
                self.odd_revision()
            } else {
                // Not 0: etcd would answer the hash of "now" from what it stored at that compaction ever after.
                let first = self.known.compacted.max(0);
                let ahead = usize::try_from(self.known.revision - first).unwrap_or(0);
                let step = 1 + self.random.below(ahead.max(1));
                first + i64::try_from(step).unwrap_or(0)
            },
            physical: self.random.once_in(3),
        };
        self.push("/etcdserverpb.KV/Compact", &request);
    }

    fn maintenance(&mut self) {
        match self.random.below(6) {
            0 | 1 => {
                let revision = if self.random.once_in(2) {
                    0
                } else {
                    self.revision()
                };
                self.push(
                    "/etcdserverpb.Maintenance/HashKV",
                    &pb::HashKvRequest { revision },
                );
            }
            2 => self.push(
                "/etcdserverpb.Maintenance/Status",
                &pb::StatusRequest::default(),
            ),
            3 => {
                let request = pb::AlarmRequest {
                    alarm: i32::try_from(self.random.below(4)).unwrap_or(0),
                    ..Default::default()
                };
                self.push("/etcdserverpb.Maintenance/Alarm", &request);
            }
            4 => {
                let request = pb::MemberListRequest {
                    linearizable: self.random.once_in(2),
                };
                self.push("/etcdserverpb.Cluster/MemberList", &request);
            }
            _ => self.push(
                "/etcdserverpb.Maintenance/Defragment",
                &pb::DefragmentRequest::default(),
            ),
        }
    }

    /// A revision that mostly can be read.
    fn revision(&mut self) -> i64 {
        if self.random.once_in(4) {
            return self.odd_revision();
        }
        let first = self.known.compacted.max(1);
        let span = usize::try_from(self.known.revision - first).unwrap_or(0) + 1;
        first + i64::try_from(self.random.below(span)).unwrap_or(0)
    }

    fn odd_revision(&mut self) -> i64 {
        let Known {
            revision,
            compacted,
        } = self.known;
        self.random.pick(&[
            compacted - 1,
            compacted,
            compacted + 1,
            1,
            2,
            0,
            -1,
            -2,
            i64::MIN,
            revision - 1,
            revision,
            revision + 1,
            revision + 1000,
            i64::MAX,
        ])
    }
}
