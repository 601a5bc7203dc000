//! The key index as bytes, for a checkpoint (FORMAT.md): in chunks of whole keys, made while the state goes on changing.
//! Promise: chunks made at different times, and the rows and frees of every batch since before the first, give the index as
//! it was at the last of these batches; whatever does not add up is refused.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::compact::Sweep;
use super::index::{KeyHistory, Version};
use super::store::{Store, version_of};
use crate::archive::Archive;
use crate::digest::Digest;
use crate::limits::ROW_OVERHEAD_BYTES;
use crate::row;
use crate::types::{LeaseId, Revision, RowId};

const FORMAT: u8 = 1;

impl Store {
    /// The index of the next `keys` keys after `after`, and the last one's key; `None`: there are no more.
    pub fn index_chunk(&self, after: Option<&Bytes>, keys: usize) -> Option<(Bytes, Bytes)> {
        let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.clone()));
        let mut out = BytesMut::with_capacity(keys * 64);
        out.put_u8(FORMAT);
        let mut before: Option<&Bytes> = None;
        let slice = self.index.keys.range::<Bytes, _>((from, Bound::Unbounded));
        for (key, history) in slice.take(keys) {
            let shared = before.map_or(0, |before| {
                let alike = before.iter().zip(key.iter()).take_while(|(a, b)| a == b);
                alike.count()
            });
            put_varint(&mut out, shared as u64);
            put_varint(&mut out, (key.len() - shared) as u64);
            out.put_slice(&key[shared..]);
            put_varint(&mut out, history.create_revision.0);
            put_varint(&mut out, history.version);
            put_varint(&mut out, history.lease.0.cast_unsigned());
            put_varint(&mut out, history.versions.len() as u64);
            let mut main = 0;
            for version in &history.versions {
                put_varint(&mut out, version.id.main.0 - main);
                main = version.id.main.0;
                put_varint(&mut out, u64::from(version.id.sub));
                put_varint(
                    &mut out,
                    u64::from(version.value_len) << 1 | u64::from(version.tombstone),
                );
                out.put_u64_le(version.digest);
            }
            before = Some(key);
        }
        before.map(|last| (out.freeze(), last.clone()))
    }
}

/// An index that is being put together again.
#[derive(Debug, Default)]
pub struct Restoring {
    /// From the checkpoint; they come in order, so the tree is built at one stroke.
    ordered: Vec<(Bytes, KeyHistory)>,
    keys: BTreeMap<Bytes, KeyHistory>,
    freed: Vec<RowId>,
}

/// What the rest of the persisted state says about the rows.
pub struct Expected {
    pub revision: Revision,
    pub compacted: Option<Revision>,
    pub sweep: Sweep,
    pub digest: u64,
    pub bytes: u64,
    pub last_row: RowId,
}

impl Restoring {
    pub fn chunk(&mut self, chunk: &Bytes) -> Result<(), String> {
        let before = self.ordered.len();
        read_chunk(&mut chunk.clone(), &mut self.ordered).ok_or_else(|| {
            format!(
                "a chunk of {} bytes of the key index is damaged",
                chunk.len()
            )
        })?;
        let joint = self.ordered[before.saturating_sub(1)..].windows(2);
        if joint.into_iter().any(|pair| pair[0].0 >= pair[1].0) {
            return Err("the key index's chunks are not in key order".to_owned());
        }
        Ok(())
    }

    /// The chunks are all there: makes the tree of them.
    fn build(&mut self) {
        if !self.ordered.is_empty() {
            let ordered = std::mem::take(&mut self.ordered);
            self.keys = ordered.into_iter().collect();
        }
    }

    pub fn row(&mut self, id: RowId, bytes: &Bytes) -> Result<(), String> {
        self.build();
        let kv = row::decode(id.main, bytes)
            .ok_or_else(|| format!("the row of revision {} is no row", id.main.0))?;
        let version = version_of(id, &kv);
        let history = match self.keys.get_mut(&kv.key) {
            Some(history) => history,
            // Copied: the key must not keep the whole frame it was read in.
            None => self
                .keys
                .entry(Bytes::copy_from_slice(&kv.key))
                .or_default(),
        };
        if history.versions.last().is_none_or(|last| last.id < id) {
            history.describe(&kv);
            history.versions.push(version);
        } else if let Err(place) = history.versions.binary_search_by_key(&id, |v| v.id) {
            history.versions.insert(place, version);
        }
        Ok(())
    }

    pub fn freed(&mut self, id: RowId) {
        self.freed.push(id);
    }

    /// Takes out what was freed; the rows must then be those that `expected` tells of.
    pub fn finish(
        mut self,
        expected: Expected,
        archive: Arc<dyn Archive>,
        mut attach: impl FnMut(LeaseId, &Bytes),
    ) -> Result<Store, String> {
        self.build();
        let freed = Freed::new(self.freed);
        let mut digest = Digest::default();
        let mut bytes = 0;
        let mut empty = Vec::new();
        let mut alive_keys = 0;
        let mut last_row = RowId::default();
        for (key, history) in &mut self.keys {
            history.versions.retain(|version| !freed.has(version.id));
            let Some(last) = history.versions.last() else {
                empty.push(key.clone());
                continue;
            };
            last_row = last_row.max(last.id);
            alive_keys += u64::from(!last.tombstone);
            for version in &history.versions {
                digest.add(version.digest);
                bytes += key.len() as u64 + u64::from(version.value_len) + ROW_OVERHEAD_BYTES;
            }
            if !last.tombstone && history.lease != LeaseId::NONE {
                attach(history.lease, key);
            }
        }
        for key in empty {
            self.keys.remove(&key);
        }
        if (digest.value(), bytes) != (expected.digest, expected.bytes) {
            return Err(format!(
                "the key index does not tell of the rows that were persisted ({bytes} bytes found, {} expected)",
                expected.bytes
            ));
        }
        if last_row > expected.last_row {
            return Err(format!(
                "a row of revision {} is newer than the last one persisted ({})",
                last_row.main.0, expected.last_row.main.0
            ));
        }
        let mut store = Store::new();
        store.index.keys = self.keys;
        store.revision = expected.revision;
        store.compacted = expected.compacted;
        store.sweep = expected.sweep;
        store.digest = digest;
        store.bytes = bytes;
        store.alive_keys = alive_keys;
        store.archived = expected.last_row;
        store.archive = Some(archive);
        Ok(store)
    }
}

/// The freed rows, asked for each version there is: nearly always no, which a small filter answers.
struct Freed {
    sorted: Vec<RowId>,
    filter: Vec<u64>,
}

impl Freed {
    /// 2^20 bits: in the cache of a core, and sparse for some 100,000 rows.
    const BITS: usize = 1 << 20;

    fn new(mut freed: Vec<RowId>) -> Self {
        freed.sort_unstable();
        let mut filter = match freed.is_empty() {
            true => Vec::new(),
            false => vec![0; Self::BITS / 64],
        };
        for id in &freed {
            let bit = Self::bit(*id);
            filter[bit / 64] |= 1 << (bit % 64);
        }
        Freed {
            sorted: freed,
            filter,
        }
    }
    fn bit(id: RowId) -> usize {
        let mixed = (id.main.0 ^ u64::from(id.sub) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 44) as usize % Self::BITS
    }
    fn has(&self, id: RowId) -> bool {
        let bit = Self::bit(id);
        self.filter
            .get(bit / 64)
            .is_some_and(|word| word >> (bit % 64) & 1 == 1)
            && self.sorted.binary_search(&id).is_ok()
    }
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn varint(from: &mut Bytes) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = from.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// A length or count that the rest of the chunk can hold, each thing counted being at least one byte.
fn length(from: &mut Bytes) -> Option<usize> {
    let length = usize::try_from(varint(from)?).ok()?;
    (length <= from.len()).then_some(length)
}

fn read_chunk(from: &mut Bytes, out: &mut Vec<(Bytes, KeyHistory)>) -> Option<()> {
    if from.try_get_u8().ok()? != FORMAT {
        return None;
    }
    let mut key: Vec<u8> = Vec::new();
    while !from.is_empty() {
        let shared = usize::try_from(varint(from)?).ok()?;
        if shared > key.len() {
            return None;
        }
        key.truncate(shared);
        let rest = length(from)?;
        key.extend_from_slice(&from.split_to(rest));
        let mut history = KeyHistory {
            create_revision: Revision(varint(from)?),
            version: varint(from)?,
            lease: LeaseId(varint(from)?.cast_signed()),
            ..KeyHistory::default()
        };
        let mut main = 0_u64;
        for _ in 0..length(from)? {
            main = main.checked_add(varint(from)?)?;
            let id = RowId {
                main: Revision(main),
                sub: u32::try_from(varint(from)?).ok()?,
            };
            let value = varint(from)?;
            let digest = from.try_get_u64_le().ok()?;
            let value_len = u32::try_from(value >> 1).ok()?;
            history
                .versions
                .push(Version::new(id, digest, value_len, value & 1 == 1));
        }
        out.push((Bytes::copy_from_slice(&key), history));
    }
    Some(())
}
