//! What would hold the state too long goes in pieces, and ends where it would at one stroke: compaction, HashKV.

use super::*;
use crate::limits::SWEEP_WORK;

const ENTRY: usize = 512;

/// Puts and deletes over a few hot keys and many cold ones.
fn written(rows: usize) -> Member {
    let mut m = Member::new();
    for entry in 0..rows / ENTRY {
        let commands = (0..ENTRY).map(|n| {
            let i = entry * ENTRY + n;
            match i % 8 {
                0 => put(&format!("hot{}", i % 3), &i.to_string()),
                7 => delete(&format!("cold{:05}", i - 5), ""),
                _ => put(&format!("cold{:05}", i % (rows / 3)), &i.to_string()),
            }
        });
        m.apply(commands.collect());
    }
    m
}

/// The pass under way, and the one that waits for it.
fn to_its_end(state: &mut State) {
    while state.is_sweeping() {
        state.store.sweep(usize::MAX);
    }
}

fn at_one_stroke(mut m: Member, revision: u64) -> State {
    m.ok(compact(revision));
    to_its_end(&mut m.state);
    m.state
}

#[test]
fn a_large_compaction_is_spread_over_entries() {
    let rows = 12 * SWEEP_WORK;
    let mut m = written(rows);
    let upto = m.state.revision().0 - 100;
    let whole = at_one_stroke(written(rows), upto);
    let before = m.state.live_bytes();

    m.ok(compact(upto));
    let mut held = m.state.live_bytes();
    assert!(before > held && held > whole.live_bytes(), "one slice went");
    let range = Range {
        range: everything(),
        revision: Some(Revision(upto)),
        ..Range::default()
    };
    let mut entries = 0;
    while m.state.live_bytes() > whole.live_bytes() {
        assert_eq!(m.state.range(&range), whole.range(&range));
        assert_eq!(m.state.hash_kv(None), whole.hash_kv(None));
        m.state.skip(LogIndex(m.state.applied().0 + 1));
        m.state.store.verify();
        assert!(m.state.live_bytes() <= held);
        held = m.state.live_bytes();
        entries += 1;
        assert!(entries < 200, "it does not come to an end");
    }
    assert!(entries >= 3, "all at once: {entries}");
    to_its_end(&mut m.state);
    assert_eq!(m.state.store.digest(), whole.store.digest());
}

#[test]
fn a_compaction_during_the_sweep_of_another_leaves_what_it_alone_would() {
    let rows = 8 * SWEEP_WORK;
    let mut m = written(rows);
    let last = m.state.revision().0;
    let whole = at_one_stroke(written(rows), last);
    for upto in [last / 3, last / 2, last / 2 + 1, last] {
        m.ok(compact(upto));
    }
    to_its_end(&mut m.state);
    m.state.store.verify();
    assert_eq!(m.state.store.digest(), whole.store.digest());
    assert_eq!(m.state.live_bytes(), whole.live_bytes());
}

/// Tombstones at the very revision of a compaction stay until the next one, which then has to look at them again.
#[test]
fn tombstones_at_a_compaction_go_with_the_next_even_when_the_first_was_not_finished() {
    let mut m = Member::new();
    let many = SWEEP_WORK + SWEEP_WORK / 2;
    for chunk in 0..many / ENTRY {
        let keys = (0..ENTRY).map(|n| put(&format!("k{chunk:03}{n:03}"), "v"));
        m.apply(keys.collect());
    }
    m.ok(delete("\0", "\0"));
    let at = m.state.revision().0;
    m.ok(compact(at));
    // The first slice ended among the puts; this one ends among the tombstones.
    m.state.skip(LogIndex(m.state.applied().0 + 1));
    m.ok(put("other", "v"));
    m.ok(compact(at + 1));
    to_its_end(&mut m.state);
    m.state.store.verify();
    let one_row = crate::limits::ROW_OVERHEAD_BYTES + 6;
    assert_eq!(m.state.live_bytes(), one_row);
}

/// Every row was read under one lock, longer than a leader's lease.
#[test]
fn a_hash_in_pieces_is_the_hash_whatever_is_written_or_compacted_between_them() {
    let mut m = written(8 * SWEEP_WORK);
    let at = m.state.revision();
    let whole = m.state.hash_kv(None).unwrap();
    let mut run = m.state.hash_begin(None).unwrap();
    let mut hash = None;
    while hash.is_none() {
        m.ok(put("between", "pieces"));
        hash = m.state.hash_on(&mut run, 300).unwrap();
    }
    assert_eq!(hash, Some(whole));

    let mut run = m.state.hash_begin(Some(at)).unwrap();
    assert_eq!(m.state.hash_on(&mut run, 1000), Ok(None));
    m.ok(compact(at.0 - 5));
    let after = m.state.hash_kv(Some(at)).unwrap();
    assert_eq!(m.state.hash_on(&mut run, usize::MAX), Ok(Some(after)));

    let mut run = m.state.hash_begin(Some(at)).unwrap();
    assert_eq!(m.state.hash_on(&mut run, 10), Ok(None));
    m.ok(compact(at.0 + 1));
    assert_eq!(
        m.state.hash_on(&mut run, usize::MAX),
        Err(Refusal::Compacted.into())
    );
}
