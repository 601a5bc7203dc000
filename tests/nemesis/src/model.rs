//! The state a history leads to, revision by revision: what every read, hash and previous row of a run must equal.
//! Promise: it computes from the history alone; nothing of the program under test is in it.

use std::collections::BTreeMap;

use barque_proto::mvccpb::KeyValue;
use barque_tests_checkers::History;
use prost::Message;

use crate::history::Row;
use crate::journal::{Cleared, HashSample, Sample};
use crate::value;
use crate::watchers::Previous;

/// A row with its place within its revision.
#[derive(Clone, Debug)]
struct Placed {
    row: Row,
    sub: u64,
}

/// Rows by key at one revision, and where they came from.
struct State<'a> {
    history: &'a History<Row>,
    alive: BTreeMap<Box<str>, Placed>,
}

/// What a replay has compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    pub revisions: u64,
    pub samples: u64,
    pub hashes: u64,
    pub previous: u64,
    pub cleared: u64,
}

/// Everything that has to agree with a state on the way.
#[derive(Default)]
pub struct Evidence {
    pub samples: Vec<Sample>,
    pub hashes: Vec<HashSample>,
    pub previous: Vec<Previous>,
    pub cleared: Vec<Cleared>,
}

/// Goes through the history and compares each piece of evidence with the state at its revision.
pub fn replay(history: &History<Row>, mut evidence: Evidence) -> Result<Compared, String> {
    evidence.samples.sort_by_key(|s| s.revision);
    evidence.hashes.sort_by_key(|h| h.revision);
    evidence.cleared.sort_by_key(|c| c.revision);
    evidence.previous.sort_by_key(|p| p.revision);
    let mut samples = evidence.samples.iter().peekable();
    let mut hashes = evidence.hashes.iter().peekable();
    let mut previous = evidence.previous.iter().peekable();
    let mut cleared = evidence.cleared.iter().peekable();
    let mut compared = Compared::default();
    let mut state = State {
        history,
        alive: BTreeMap::new(),
    };
    // Revision 1 is the empty store.
    let nothing = Vec::new();
    let all = std::iter::once((&1, &nothing)).chain(history);
    for (&revision, changes) in all {
        while let Some(previous) = previous.next_if(|p| p.revision <= revision) {
            state.check_previous(previous)?;
            compared.previous += 1;
        }
        state.apply(revision, changes)?;
        compared.revisions += 1;
        while let Some(sample) = samples.next_if(|s| s.revision <= revision) {
            state.check_sample(sample)?;
            compared.samples += 1;
        }
        while let Some(hash) = hashes.next_if(|h| h.revision <= revision) {
            state.check_hash(hash)?;
            compared.hashes += 1;
        }
        while let Some(cleared) = cleared.next_if(|c| c.revision <= revision) {
            check_cleared(cleared, changes)?;
            compared.cleared += 1;
        }
    }
    let beyond = samples.next().map(|s| s.revision);
    let beyond = beyond.or(hashes.next().map(|h| h.revision));
    match beyond.or(previous.next().map(|p| p.revision)) {
        Some(revision) => Err(format!(
            "something was read at revision {revision}, which the history does not reach"
        )),
        None => Ok(compared),
    }
}

fn check_cleared(cleared: &Cleared, changes: &[Row]) -> Result<(), String> {
    if cleared.deleted == 0 {
        return Ok(());
    }
    let gone = |row: &&Row| row.value.is_none() && row.key.starts_with(&cleared.prefix);
    let there = changes.iter().filter(gone).count() as u64;
    if there == cleared.deleted && there == changes.len() as u64 {
        return Ok(());
    }
    Err(format!(
        "{cleared:?} was acknowledged, but there stands {changes:?}"
    ))
}

impl State<'_> {
    /// Applies one revision's changes; each must follow from the state before it.
    fn apply(&mut self, revision: u64, changes: &[Row]) -> Result<(), String> {
        for (sub, row) in changes.iter().enumerate() {
            let before = self.alive.get(&row.key).map(|p| &p.row);
            let wrong = |what: &str| {
                Err(format!(
                    "revision {revision}: {what}: {row:?} after {before:?}"
                ))
            };
            if row.modified != revision {
                return wrong("mod_revision is another");
            }
            if row.value.is_none() {
                if before.is_none() {
                    return wrong("deleted what was not there");
                }
                self.alive.remove(&row.key);
                continue;
            }
            let (create, version) = before.map_or((revision, 1), |b| (b.create, b.version + 1));
            if (row.create, row.version) != (create, version) {
                return wrong("create_revision or version does not follow");
            }
            let (row, sub) = (row.clone(), sub as u64);
            self.alive.insert(row.key.clone(), Placed { row, sub });
        }
        Ok(())
    }

    fn check_sample(&self, sample: &Sample) -> Result<(), String> {
        let (from, to) = (&sample.range.0[..], &sample.range.1[..]);
        let inside = |key: &str| {
            let key = key.as_bytes();
            if to.is_empty() {
                key == from
            } else {
                key >= from && key < to
            }
        };
        let all: Vec<&Row> = self
            .alive
            .values()
            .map(|p| &p.row)
            .filter(|r| inside(&r.key))
            .collect();
        let limit = if sample.limit == 0 {
            usize::MAX
        } else {
            sample.limit as usize
        };
        let expected = &all[..all.len().min(limit)];
        if sample.count == all.len() as u64 && sample.rows.iter().eq(expected.iter().copied()) {
            return Ok(());
        }
        Err(format!(
            "the model has {} rows there, {expected:?}, but this was read: {sample:?}",
            all.len()
        ))
    }

    fn check_previous(&self, previous: &Previous) -> Result<(), String> {
        let before = self.alive.get(&previous.key).map(|p| &p.row);
        if before == previous.row.as_ref() {
            return Ok(());
        }
        Err(format!(
            "an event came with the wrong row before it: {previous:?}, but before it stood {before:?}"
        ))
    }

    /// etcd's HashKV over the rows that a compaction at `sample.compacted` leaves: everything after it, and of what is not after it
    /// that which is still alive.
    fn check_hash(&self, sample: &HashSample) -> Result<(), String> {
        let compacted = u64::try_from(sample.compacted).unwrap_or(0);
        if sample.revision < compacted {
            return Err(format!(
                "a hash of a revision that is compacted: {sample:?}"
            ));
        }
        let mut old: Vec<&Placed> = self
            .alive
            .values()
            .filter(|p| p.row.modified <= compacted)
            .collect();
        if self.alive.is_empty() {
            // What counts then is what the compaction itself happened to leave: not for a model to say.
            return Ok(());
        }
        old.sort_by_key(|p| (p.row.modified, p.sub));
        let mut hash = crc32c::crc32c(b"key");
        for placed in old {
            hash = append(hash, &placed.row, placed.sub);
        }
        for changes in self
            .history
            .range(compacted + 1..=sample.revision)
            .map(|(_, c)| c)
        {
            for (sub, row) in changes.iter().enumerate() {
                hash = append(hash, row, sub as u64);
            }
        }
        if hash == sample.hash {
            return Ok(());
        }
        Err(format!(
            "the history gives hash {hash} there, but this was answered: {sample:?}"
        ))
    }
}

/// A row as etcd's backend holds it: 17 bytes of revision, `t` after it for a tombstone, and the marshalled row.
fn append(hash: u32, row: &Row, sub: u64) -> u32 {
    let mut key = Vec::with_capacity(18);
    key.extend_from_slice(&row.modified.to_be_bytes());
    key.push(b'_');
    key.extend_from_slice(&sub.to_be_bytes());
    let whole = row.key.to_string();
    let kv = match row.value {
        Some(number) => KeyValue {
            key: whole.into(),
            create_revision: i64::try_from(row.create).unwrap_or(i64::MAX),
            mod_revision: i64::try_from(row.modified).unwrap_or(i64::MAX),
            version: i64::try_from(row.version).unwrap_or(i64::MAX),
            value: value::value(number),
            lease: row.lease,
        },
        None => {
            key.push(b't');
            KeyValue {
                key: whole.into(),
                ..KeyValue::default()
            }
        }
    };
    crc32c::crc32c_append(crc32c::crc32c_append(hash, &key), &kv.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, value: Option<u64>, create: u64, modified: u64, version: u64) -> Row {
        Row {
            key: key.into(),
            value,
            create,
            modified,
            version,
            lease: 0,
        }
    }

    fn history() -> History<Row> {
        [
            (2, vec![row("a", Some(1), 2, 2, 1)]),
            (
                3,
                vec![row("a", Some(2), 2, 3, 2), row("b", Some(3), 3, 3, 1)],
            ),
            (4, vec![row("a", None, 0, 4, 0)]),
            (5, vec![row("a", Some(4), 5, 5, 1)]),
        ]
        .into()
    }

    fn sample(revision: u64, rows: Vec<Row>) -> Evidence {
        let count = rows.len() as u64;
        Evidence {
            samples: vec![Sample {
                revision,
                range: (b"a".to_vec(), b"z".to_vec()),
                limit: 0,
                count,
                rows,
            }],
            ..Evidence::default()
        }
    }

    #[test]
    fn readings_are_compared_with_their_own_revision() {
        let three = vec![row("a", Some(2), 2, 3, 2), row("b", Some(3), 3, 3, 1)];
        let compared = replay(&history(), sample(3, three.clone())).unwrap();
        assert_eq!((compared.samples, compared.revisions), (1, 5));
        assert!(replay(&history(), sample(4, three.clone())).is_err());
        assert!(
            replay(&history(), sample(6, three)).is_err(),
            "beyond the history"
        );
        replay(&history(), sample(1, Vec::new())).unwrap();
    }

    #[test]
    fn a_history_must_follow_from_itself() {
        for (revision, bad) in [
            (5, row("a", Some(4), 2, 5, 3)),
            (5, row("c", None, 0, 5, 0)),
            (5, row("b", Some(4), 3, 5, 3)),
            (5, row("b", Some(4), 3, 4, 2)),
        ] {
            let mut history = history();
            history.insert(revision, vec![bad.clone()]);
            assert!(replay(&history, Evidence::default()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hashes_depend_on_what_a_compaction_leaves() {
        let at = |revision, compacted, hash| Evidence {
            hashes: vec![HashSample {
                member: 0,
                revision,
                compacted,
                hash,
                acknowledged_compaction: 0,
            }],
            ..Evidence::default()
        };
        let mut hash = crc32c::crc32c(b"key");
        for (row, sub) in [
            (row("b", Some(3), 3, 3, 1), 1),
            (row("a", None, 0, 4, 0), 0),
            (row("a", Some(4), 5, 5, 1), 0),
        ] {
            hash = append(hash, &row, sub);
        }
        replay(&history(), at(5, 3, hash)).unwrap();
        assert!(replay(&history(), at(5, 2, hash)).is_err());
        assert!(replay(&history(), at(5, -1, hash)).is_err());
        assert!(replay(&history(), at(4, 3, hash)).is_err());
    }
}
