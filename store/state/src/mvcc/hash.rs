//! HashKV, byte for byte etcd's: CRC32C over "key" and, for each row in revision order, its key and value as etcd's
//! backend holds them (17 bytes of revision, `t` after it for a tombstone; a marshalled `mvccpb.KeyValue`).
//! Of the rows at or before the compaction those count that a compaction at the asked revision would leave alive, and no
//! tombstones; when nothing at all was alive then, every one that is still held counts (measured, and in etcd's source).

use super::store::{Store, is_tombstone};
use crate::archive::ReadError;
use crate::command::Refusal;
use crate::limits::HASH_BYTES;
use crate::types::{KeyValue, Revision, RowId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// The revision the hash is of.
    pub revision: Revision,
    pub compact_revision: Revision,
    /// False until the first compaction; etcd's answer then has a compact_revision of -1.
    pub compacted: bool,
    pub hash: u32,
}

/// A hash under way. It is gone on with in pieces, so that nobody holds the state while every row is read.
#[derive(Clone, Debug)]
pub struct HashRun {
    at: Revision,
    compacted: Option<Revision>,
    any_alive: bool,
    next: RowId,
    hash: u32,
}

impl Store {
    pub fn hash_kv(&self, at: Option<Revision>) -> Result<HashKv, ReadError> {
        let mut run = self.hash_begin(at)?;
        loop {
            if let Some(hash) = self.hash_on(&mut run, usize::MAX)? {
                return Ok(hash);
            }
        }
    }

    pub fn hash_begin(&self, at: Option<Revision>) -> Result<HashRun, Refusal> {
        self.readable(at, self.revision)?;
        let at = at.filter(|at| *at != Revision(0)).unwrap_or(self.revision);
        let mut histories = self.index.keys.values();
        Ok(HashRun {
            at,
            compacted: self.compacted,
            any_alive: histories.any(|history| history.alive_at(at).is_some()),
            next: RowId::first_of(Revision(0)),
            hash: crc32c::crc32c(b"key"),
        })
    }

    /// Goes on with at most so many rows, and about [`HASH_BYTES`] of them; the hash, if they were the last. What is written
    /// between two calls is beyond the revision; a compaction between them begins it anew.
    pub fn hash_on(&self, run: &mut HashRun, rows: usize) -> Result<Option<HashKv>, ReadError> {
        if self.compacted != run.compacted {
            *run = self.hash_begin(Some(run.at))?;
        }
        let mut scratch = Vec::new();
        let (mut left, mut bytes) = (rows, 0);
        while left > 0 && bytes < HASH_BYTES {
            let slice = self.scan(run.next, left, HASH_BYTES)?;
            left -= slice.len();
            let ended = slice.is_empty();
            for (id, row) in slice {
                if id.main > run.at {
                    return Ok(Some(self.hash_of(run)));
                }
                run.next = id.next();
                bytes += row.key.len() + row.value.len();
                // What compaction has left, whether or not the rest is gone by now.
                if let Some(compacted) = self.compacted.filter(|compacted| id.main <= *compacted)
                    && (is_tombstone(&row)
                        || !self.kept(id, &row, if run.any_alive { run.at } else { compacted }))
                {
                    continue;
                }
                run.hash = append(run.hash, id, &row, &mut scratch);
            }
            if ended {
                return Ok(Some(self.hash_of(run)));
            }
        }
        Ok(None)
    }

    fn hash_of(&self, run: &HashRun) -> HashKv {
        HashKv {
            revision: run.at,
            compact_revision: self.compacted.unwrap_or_default(),
            compacted: self.compacted.is_some(),
            hash: run.hash,
        }
    }

    /// Whether the row is its key's state at `at`.
    fn kept(&self, id: RowId, row: &KeyValue, at: Revision) -> bool {
        let history = self.index.keys.get(&row.key);
        history
            .and_then(|history| history.alive_at(at))
            .map(|v| v.id)
            == Some(id)
    }
}

fn append(hash: u32, id: RowId, kv: &KeyValue, scratch: &mut Vec<u8>) -> u32 {
    scratch.clear();
    scratch.extend_from_slice(&id.main.0.to_be_bytes());
    scratch.push(b'_');
    scratch.extend_from_slice(&u64::from(id.sub).to_be_bytes());
    if is_tombstone(kv) {
        scratch.push(b't');
    }
    length_delimited(scratch, 1, kv.key.len());
    scratch.extend_from_slice(&kv.key);
    if is_tombstone(kv) {
        // etcd's tombstone is a KeyValue with a key only.
        return crc32c::crc32c_append(hash, scratch);
    }
    varint_field(scratch, 2, kv.create_revision.0);
    varint_field(scratch, 3, kv.mod_revision.0);
    varint_field(scratch, 4, kv.version);
    length_delimited(scratch, 5, kv.value.len());
    let hash = crc32c::crc32c_append(hash, scratch);
    let hash = crc32c::crc32c_append(hash, &kv.value);
    scratch.clear();
    varint_field(scratch, 6, kv.lease.0.cast_unsigned());
    crc32c::crc32c_append(hash, scratch)
}

/// A protobuf field of wire type 0; zero is not written.
fn varint_field(out: &mut Vec<u8>, field: u8, value: u64) {
    if value != 0 {
        out.push(field << 3);
        varint(out, value);
    }
}

/// Tag and length of a protobuf field of wire type 2; nothing when empty.
fn length_delimited(out: &mut Vec<u8>, field: u8, len: usize) {
    if len != 0 {
        out.push(field << 3 | 2);
        varint(out, len as u64);
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
