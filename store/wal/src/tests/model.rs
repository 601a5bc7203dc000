//! The log against the plainest model of it: random operations and reopenings, and sequences that failed once.

use barque_store_env::sim::{self, NodeId, SimEnv};
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
pub enum Op {
    Entries(u8),
    Truncate(u8),
    Purge(u8),
    Vote(u8),
    Committed(u8),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1..6u8).prop_map(Op::Entries),
        2 => any::<u8>().prop_map(Op::Truncate),
        2 => any::<u8>().prop_map(Op::Purge),
        1 => any::<u8>().prop_map(Op::Vote),
        1 => any::<u8>().prop_map(Op::Committed),
        2 => Just(Op::Reopen),
    ]
}

/// What the log should hold, kept in the plainest way.
#[derive(Default)]
pub struct Model {
    pub holds: Recovered,
    term: u64,
}

impl Model {
    fn next(&self) -> u64 {
        let purged = self.holds.purged.map_or(1, |(index, _)| index + 1);
        self.holds.entries.last().map_or(purged, |e| e.index + 1)
    }

    /// Some index between the purged and a little past the last.
    fn pick(&self, seed: u8) -> u64 {
        let purged = self.holds.purged.map_or(0, |(index, _)| index);
        purged + u64::from(seed) % (self.next() - purged + 2)
    }

    pub fn records(&mut self, op: &Op) -> Vec<Record> {
        self.term += 1;
        let term = self.term;
        let holds = &mut self.holds;
        match *op {
            Op::Entries(count) => {
                let next = self.next();
                let indexes = next..next + u64::from(count);
                let new = indexes.clone().map(|i| recovered_entry(i, term));
                self.holds.entries.extend(new);
                indexes.map(|i| entry(i, term)).collect()
            }
            Op::Truncate(seed) => {
                let index = self.pick(seed);
                self.holds.entries.retain(|e| e.index <= index);
                vec![Record::TruncateAfter { index }]
            }
            Op::Purge(seed) => {
                let index = self.pick(seed);
                self.holds.entries.retain(|e| e.index > index);
                self.holds.purged = Some((index, term));
                vec![Record::Purge { index, term }]
            }
            Op::Vote(vote) => {
                holds.vote = Some(vec![vote].into());
                vec![Record::Vote(vec![vote].into())]
            }
            Op::Committed(index) => {
                holds.committed = Some((index.into(), term));
                vec![Record::Committed {
                    index: index.into(),
                    term,
                }]
            }
            Op::Reopen => vec![],
        }
    }
}

/// Carries out the operations and compares the log with the model at each reopening and at the end.
async fn follow(ops: &[Op], segment_bytes: u64) {
    let options = Options {
        segment_bytes,
        fsync: true,
    };
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    let open = || Wal::<RealEnv>::open(RealDisk, dir.path(), options);
    let (mut wal, _) = open().await.unwrap();
    for op in ops.iter().chain([&Op::Reopen]) {
        let records = model.records(op);
        // Not waited for: batches of many appends, and of one.
        wal.append(records);
        if let Op::Reopen = op {
            wal.close().await;
            drop(wal);
            let recovered;
            (wal, recovered) = open().await.unwrap();
            assert_eq!(recovered, model.holds);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn the_log_is_the_model(ops in proptest::collection::vec(op(), 1..60), sectors in 1..5u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(follow(&ops, sectors * 512));
    }
}

/// A purge of an index below all entries, and nothing purged before: entries 1 to 7 stay.
fn once_failed() -> [Op; 7] {
    [
        Op::Vote(0),
        Op::Reopen,
        Op::Entries(5),
        Op::Entries(2),
        Op::Purge(0),
        Op::Committed(0),
        Op::Entries(2),
    ]
}

#[tokio::test]
async fn a_purge_below_all_entries_takes_none() {
    for segment_bytes in [512, 640, 4_096] {
        follow(&once_failed(), segment_bytes).await;
    }
}

/// What was reported durable is there when power is lost right then, after each operation.
#[test]
fn a_purge_below_all_entries_takes_none_though_power_is_lost() {
    for seed in 0..30 {
        for count in 1..=once_failed().len() {
            sim::run(seed, async move {
                let options = Options {
                    segment_bytes: 512 + 128 * (seed % 3),
                    fsync: true,
                };
                let node = NodeId(1);
                let open = move || {
                    let dir = Path::new("/member/wal");
                    Wal::<SimEnv>::open(sim::disk(node), dir, options)
                };
                let held = sim::spawn_on(node, "before", async move {
                    let mut model = Model::default();
                    let (mut wal, _) = open().await.unwrap();
                    for op in &once_failed()[..count] {
                        let number = wal.append(model.records(op));
                        wal.durable(number).await.unwrap();
                        if let Op::Reopen = op {
                            wal.close().await;
                            (wal, _) = open().await.unwrap();
                        }
                    }
                    model.holds
                });
                let held = held.await.expect("nothing failed so far");
                sim::power_off(node);
                sim::power_on(node);
                let found = sim::spawn_on(node, "after", async move {
                    open().await.map(|(_, recovered)| recovered)
                });
                let found = found.await.expect("it ends").expect("the log opens");
                assert_eq!(found, held, "seed {seed}, {count} operations");
            });
        }
    }
}
