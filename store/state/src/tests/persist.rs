//! What leaves memory comes back: rows from an archive, the whole state from batches and a checkpoint of the index.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::cluster::some_member_change;
use super::random::{Generator, history};
use super::*;
use crate::limits::SWEEP_WORK;
use crate::{Archive, AtOnce, Restoring, RowId, Unreadable};

type Rows = Arc<Mutex<BTreeMap<RowId, Bytes>>>;

struct Shelf(Rows);
impl Archive for Shelf {
    fn read(&self, id: RowId) -> Result<Option<Bytes>, Unreadable> {
        Ok(self.0.lock().unwrap().get(&id).cloned())
    }
    fn scan(
        &self,
        from: RowId,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<(RowId, Bytes)>, Unreadable> {
        let rows = self.0.lock().unwrap();
        let mut bytes = 0;
        let slice = rows.range(from..).take(max_rows).take_while(|(_, row)| {
            let fits = bytes < max_bytes;
            bytes += row.len();
            fits
        });
        Ok(slice.map(|(id, row)| (*id, row.clone())).collect())
    }
}

enum Step {
    Row(RowId, Bytes),
    Freed(RowId),
}

/// A model of an engine with a persister before it: batches are told, then durable, and a checkpoint is made in pieces
/// between them.
#[derive(Default)]
pub struct Engine {
    rows: Rows,
    meta: BTreeMap<String, Bytes>,
    /// The durable checkpoint, and everything since it began.
    index: Vec<Bytes>,
    tail: Vec<Step>,
    /// The one being made: its chunks, the last key in it, how long `tail` was when it began.
    making: Option<(Vec<Bytes>, Option<Bytes>, usize)>,
}

impl Engine {
    pub fn archive(&self) -> Arc<dyn Archive> {
        Arc::new(Shelf(self.rows.clone()))
    }
    fn commit(&mut self, batch: &crate::Batch) {
        let mut rows = self.rows.lock().unwrap();
        for (id, row) in batch.rows() {
            let newest = rows.last_key_value().map(|(id, _)| *id);
            assert!(newest.is_none_or(|newest| newest < id), "rows out of order");
            rows.insert(id, row.clone());
            self.tail.push(Step::Row(id, row));
        }
        for id in &batch.freed {
            rows.remove(id);
            self.tail.push(Step::Freed(*id));
        }
        for (name, value) in &batch.meta {
            match value {
                Some(value) => self.meta.insert(name.clone(), value.clone()),
                None => self.meta.remove(name),
            };
        }
    }
    /// A batch, whole.
    pub fn persist(&mut self, state: &mut State) {
        let batch = state.begin_batch();
        self.commit(&batch);
        state.batch_done();
    }
    /// A piece of a checkpoint; after the last one a batch, then it counts.
    fn checkpoint_on(&mut self, state: &mut State, keys: usize) {
        let begun = self.tail.len();
        let (mut chunks, last, begun) = self.making.take().unwrap_or((Vec::new(), None, begun));
        match state.index_chunk(last.as_ref(), keys) {
            Some((chunk, last)) => {
                chunks.push(chunk);
                self.making = Some((chunks, Some(last), begun));
            }
            None => {
                self.persist(state);
                self.index = chunks;
                self.tail.drain(..begun);
            }
        }
    }
    pub fn restore(&self) -> Result<State, String> {
        let mut restoring = Restoring::default();
        for chunk in &self.index {
            restoring.index_chunk(chunk)?;
        }
        for step in &self.tail {
            match step {
                Step::Row(id, row) => restoring.row(*id, row)?,
                Step::Freed(id) => restoring.freed(*id),
            }
        }
        restoring.finish(&self.meta, self.archive())
    }
}

/// Every history of the model test, with rows leaving memory at random.
#[test]
fn rows_read_from_the_archive_are_the_rows_that_were_written() {
    for seed in 0..120 {
        let mut engine = Engine::default();
        let mut dice = Dice::new(seed ^ 0x5ca1e);
        history(seed, 50, |m| {
            m.state.set_archive(engine.archive());
            m.state
                .set_cache_budget([0, 300, 2_000][(seed % 3) as usize]);
            if dice.one_in(3) {
                engine.persist(&mut m.state);
                m.state.trim_cache(dice.below(30) as usize);
            }
        });
    }
}

/// A crash at any moment: the restored state, with the entries after its `applied` carried out again, is the state of a
/// member that never stopped, to the last bit of its digest.
#[test]
fn a_restored_state_goes_on_as_if_it_had_never_stopped() {
    for seed in 0..150 {
        let mut generator = Generator::new(seed);
        let mut dice = Dice::new(seed ^ 0xdead);
        let mut whole = Member::new();
        let mut engine = Engine::default();
        let mut m = Member::new();
        m.state.set_archive(engine.archive());
        let mut log: Vec<(ClusterTime, Vec<Command>)> = Vec::new();
        for _ in 0..60 {
            whole.now.0 += dice.below(1_500);
            let mut commands = generator.commands(&whole.state);
            if dice.one_in(6) {
                commands.push(some_member_change(&mut dice));
            }
            log.push((whole.now, commands.clone()));
            whole.apply(commands.clone());
            m.now = whole.now;
            m.apply(commands);
            m.state.set_cache_budget(dice.below(3) * 300);
            match dice.below(6) {
                0 | 1 => engine.persist(&mut m.state),
                2 => engine.checkpoint_on(&mut m.state, 1 + dice.below(4) as usize),
                3 => {
                    // A batch that was begun and is not durable when the member dies.
                    if dice.one_in(2) {
                        m.state.begin_batch();
                    }
                    engine.making = None;
                    m.state = engine
                        .restore()
                        .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                    let applied = m.state.applied().0 as usize;
                    for (now, commands) in &log[applied..] {
                        m.now = *now;
                        m.apply(commands.clone());
                    }
                }
                _ => {}
            }
            assert_eq!(m.state.applied(), whole.state.applied());
            assert_eq!(
                m.state.whole_hash(),
                whole.state.whole_hash(),
                "seed {seed}"
            );
        }
        for _ in 0..10 {
            let range = generator.range(&whole.state);
            assert_eq!(m.state.range(&range), whole.state.range(&range));
        }
        assert_eq!(m.state.hash_kv(None), whole.state.hash_kv(None));
    }
}

/// The rows that went before they were ever persisted left older versions of their keys behind at the next start.
#[test]
fn a_key_deleted_and_compacted_within_one_batch_does_not_come_back() {
    let mut engine = Engine::default();
    let mut m = Member::new();
    m.state.set_archive(engine.archive());
    m.ok(put("k", "1"));
    engine.persist(&mut m.state);
    engine.checkpoint_on(&mut m.state, 10);
    engine.checkpoint_on(&mut m.state, 10);
    m.ok(delete("k", ""));
    m.ok(put("other", "1"));
    m.ok(compact(m.state.revision().0));
    engine.persist(&mut m.state);
    let restored = engine.restore().unwrap();
    assert_eq!(restored.whole_hash(), m.state.whole_hash());
    assert_eq!(restored.keys(), 1);
    assert_eq!(engine.rows.lock().unwrap().len(), 1);
}

#[test]
fn a_sweep_under_way_is_gone_on_with_after_a_restart() {
    let mut engine = Engine::default();
    let mut m = Member::new();
    m.state.set_archive(engine.archive());
    for chunk in 0..3 {
        for half in 0..SWEEP_WORK / 512 {
            let puts = (0..512).map(|n| put(&format!("k{chunk}/{half:03}/{n:03}"), "v"));
            m.apply(puts.collect());
        }
    }
    m.ok(delete("\0", "\0"));
    m.ok(put("stays", "v"));
    m.ok(compact(m.state.revision().0));
    let mut restored = {
        engine.persist(&mut m.state);
        engine.restore().unwrap()
    };
    while m.state.store.index.keys.len() > 1 {
        let next = LogIndex(m.state.applied().0 + 1);
        m.state.skip(next);
        restored.skip(next);
        assert_eq!(restored.whole_hash(), m.state.whole_hash());
    }
    assert_eq!(restored.store.index.keys.len(), 1);
}

/// What is not what the batches wrote is refused, whichever part of it is lost or changed.
#[test]
fn a_state_that_does_not_add_up_is_refused() {
    let mut engine = Engine::default();
    let mut m = Member::new();
    m.state.set_archive(engine.archive());
    m.ok(grant(7, 60));
    for i in 0..20 {
        m.ok(put_leased(&format!("k{i:02}"), "v", 7));
    }
    engine.persist(&mut m.state);
    while engine.index.is_empty() {
        engine.checkpoint_on(&mut m.state, 5);
    }
    m.ok(put("late", "v"));
    engine.persist(&mut m.state);
    assert!(engine.restore().is_ok());

    let chunk = engine.index.remove(1);
    assert!(engine.restore().is_err(), "a chunk is missing");
    engine.index.push(chunk);
    assert!(engine.restore().is_err(), "chunks in another order");
    let chunk = engine.index.pop().unwrap();
    engine.index.insert(1, chunk);
    assert!(engine.restore().is_ok());

    let step = engine.tail.pop();
    assert!(engine.restore().is_err(), "a row is missing");
    engine.tail.extend(step);
    let lease = engine.meta.remove("state/lease/0000000000000007").unwrap();
    assert!(engine.restore().is_err(), "a lease is missing");
    engine
        .meta
        .insert("state/lease/0000000000000007".into(), lease);
    assert!(engine.restore().is_ok());

    for at in 0..engine.index[0].len() {
        for bit in 0..8 {
            let whole = engine.index[0].clone();
            let mut flipped = whole.to_vec();
            flipped[at] ^= 1 << bit;
            engine.index[0] = flipped.into();
            if let Ok(restored) = engine.restore() {
                // The digest is over rows; what only describes them is compared with the row when it is read, and the
                // engine's checksum covers all of it.
                assert_eq!(restored.whole_hash(), m.state.whole_hash());
            }
            engine.index[0] = whole;
        }
    }
}

/// A row in the wrong place, whole as it is, is not served.
#[test]
fn another_row_than_the_index_means_is_unreadable() {
    let mut engine = Engine::default();
    let mut m = Member::new();
    m.state.set_archive(engine.archive());
    m.state.set_cache_budget(0);
    m.ok(put("a", "1"));
    m.ok(put("a", "2"));
    engine.persist(&mut m.state);
    m.state.trim_cache(10);
    let first = RowId::first_of(Revision(2));
    let second = RowId::first_of(Revision(3));
    let row = engine.rows.lock().unwrap()[&first].clone();
    engine.rows.lock().unwrap().insert(second, row);
    let read = m.state.range(&range_of("a", ""));
    assert!(
        matches!(read, Err(crate::ReadError::Unreadable(_))),
        "{read:?}"
    );
    engine.rows.lock().unwrap().remove(&second);
    let read = m.state.range(&range_of("a", ""));
    assert!(
        matches!(read, Err(crate::ReadError::Unreadable(_))),
        "{read:?}"
    );
}

/// The hand gives up looking when it went round for nothing, not for good.
#[test]
fn rows_that_had_to_stay_leave_memory_once_they_are_persisted() {
    let mut engine = Engine::default();
    let mut m = Member::new();
    m.state.set_archive(engine.archive());
    m.state.set_cache_budget(0);
    for i in 0..50 {
        m.ok(put(&format!("k{i:02}"), "v"));
    }
    let all = m.state.cached_bytes();
    for _ in 0..10 {
        m.state.trim_cache(100);
    }
    assert_eq!(m.state.cached_bytes(), all);
    engine.persist(&mut m.state);
    m.state.trim_cache(200);
    assert_eq!(m.state.cached_bytes(), 0);
}

#[test]
fn a_large_range_is_read_outside_and_asked_again_when_a_row_went() {
    let mut engine = Engine::default();
    let mut m = Member::new();
    m.state.set_archive(engine.archive());
    m.state.set_cache_budget(0);
    for i in 0..20 {
        m.ok(put(&format!("k{i:02}"), "v"));
    }
    engine.persist(&mut m.state);
    m.state.trim_cache(100);
    let all = range_of("k", "l");
    let expected = m.state.range(&all).unwrap();
    let at_once = |reads| AtOnce { keys: 100, reads };
    let outline = m.state.outline(&all, at_once(5)).unwrap();
    let Err(outline) = outline.expect("few keys").ready() else {
        panic!("15 are to be read");
    };
    assert_eq!(outline.to_read(), 15);
    assert_eq!(outline.read(&*engine.archive()), Ok(Some(expected)));

    let outline = m.state.outline(&all, at_once(0)).unwrap();
    let outline = outline.expect("few keys");
    m.ok(put("k07", "new"));
    m.ok(compact(m.state.revision().0));
    engine.persist(&mut m.state);
    assert_eq!(outline.read(&*engine.archive()), Ok(None));
}
