//! The bytes of one file, and what a power loss would leave of them.
//! Zeros cost nothing: a sector that was never written, or only with zeros, is not stored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::sim::rng::Rng;

const SECTOR: u64 = 512;
type Sector = [u8; SECTOR as usize];
static ZEROS: [u8; 4096] = [0; 4096];

fn is_zero(data: &[u8]) -> bool {
    data.chunks(ZEROS.len()).all(|c| c == &ZEROS[..c.len()])
}

/// A file's bytes, as programs see them and as the platter has them. A missing sector is zeros.
/// Invariant: sectors outside `dirty` are equal in both.
#[derive(Default)]
pub struct Content {
    seen: BTreeMap<u64, Arc<Sector>>,
    stored: BTreeMap<u64, Arc<Sector>>,
    dirty: BTreeSet<u64>,
    len: u64,
    stored_len: u64,
}

impl Content {
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        self.len = self.len.max(end);
        let zero = is_zero(data);
        let mut at = offset;
        while at < end {
            let sector = at / SECTOR;
            if zero && !self.seen.contains_key(&sector) {
                // Jump to the next sector that has content to be cleared.
                let next = self.seen.range(sector..).next().map(|(s, _)| *s * SECTOR);
                at = next.unwrap_or(end);
                continue;
            }
            let stop = end.min((sector + 1) * SECTOR);
            let from = (at % SECTOR) as usize;
            let piece = &data[(at - offset) as usize..(stop - offset) as usize];
            let old = self.seen.entry(sector);
            let bytes = old.or_insert_with(|| Arc::new([0; SECTOR as usize]));
            Arc::make_mut(bytes)[from..from + piece.len()].copy_from_slice(piece);
            self.dirty.insert(sector);
            at = stop;
        }
    }

    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = self.len.min(offset.saturating_add(len as u64));
        if offset >= end {
            return Vec::new();
        }
        let mut out = vec![0; (end - offset) as usize];
        for (sector, bytes) in self.seen.range(offset / SECTOR..end.div_ceil(SECTOR)) {
            let (first, last) = (sector * SECTOR, (sector + 1) * SECTOR);
            let (from, to) = (first.max(offset), last.min(end));
            out[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - first) as usize..(to - first) as usize]);
        }
        out
    }

    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            let gone = self.seen.split_off(&len.div_ceil(SECTOR));
            self.dirty.extend(gone.into_keys());
            if !len.is_multiple_of(SECTOR)
                && let Some(bytes) = self.seen.get_mut(&(len / SECTOR))
            {
                Arc::make_mut(bytes)[(len % SECTOR) as usize..].fill(0);
                self.dirty.insert(len / SECTOR);
            }
        }
        self.len = len;
    }

    fn store(&mut self, sector: u64) {
        match self.seen.get(&sector) {
            Some(bytes) => self.stored.insert(sector, bytes.clone()),
            None => self.stored.remove(&sector),
        };
    }

    pub fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            self.store(sector);
        }
        self.stored_len = self.len;
    }

    /// A sync that failed: some of it reached the platter, and the kernel calls the pages clean all the same.
    pub fn sync_failing(&mut self, rng: &mut Rng) {
        for sector in std::mem::take(&mut self.dirty) {
            if rng.chance(0.5) {
                self.store(sector);
            }
        }
    }

    pub fn lose_power(&mut self, rng: &mut Rng) {
        // Different drives, different habits: nothing, everything, a prefix, or a scatter of the unsynced survives.
        let habit = rng.below(4);
        let dirty = std::mem::take(&mut self.dirty);
        let cut = rng.below(dirty.len() as u64 + 1);
        for (n, sector) in dirty.into_iter().enumerate() {
            let survives = match habit {
                0 => false,
                1 => true,
                2 => (n as u64) < cut,
                _ => rng.chance(0.5),
            };
            if survives {
                self.store(sector);
            }
        }
        if self.stored_len != self.len && habit != 0 && rng.chance(0.5) {
            self.stored_len = self.len;
        }
        // A shorter file has no sectors behind its end.
        let len = self.stored_len;
        self.seen = std::mem::take(&mut self.stored);
        self.len = u64::MAX;
        self.set_len(len);
        self.dirty.clear();
        self.stored = self.seen.clone();
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    /// Sectors that stand on the platter as programs see them, in order.
    pub fn clean_sectors(&self) -> impl Iterator<Item = u64> {
        let stored = self.stored.keys().copied();
        stored.filter(|sector| !self.dirty.contains(sector))
    }

    /// Flips a bit of some byte of the sector, on the platter and for programs; says where in the file.
    pub fn flip(&mut self, sector: u64, rng: &mut Rng) -> u64 {
        let within_file = (self.len - sector * SECTOR).min(SECTOR);
        let byte = rng.below(within_file);
        let bit = 1 << rng.below(8);
        for side in [&mut self.seen, &mut self.stored] {
            let bytes = side
                .entry(sector)
                .or_insert_with(|| Arc::new([0; SECTOR as usize]));
            Arc::make_mut(bytes)[byte as usize] ^= bit;
        }
        sector * SECTOR + byte
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_what_a_plain_vector_would_be() {
        let mut rng = Rng::new(1);
        for _ in 0..50 {
            let (mut file, mut model) = (Content::default(), Vec::<u8>::new());
            for _ in 0..60 {
                let offset = rng.below(3_000) as usize;
                match rng.below(5) {
                    0 => {
                        let len = rng.below(4_000) as usize;
                        file.set_len(len as u64);
                        model.resize(len, 0);
                    }
                    1 => file.sync(),
                    _ => {
                        let fill = if rng.chance(0.3) { 0 } else { rng.next() as u8 };
                        let data = vec![fill; rng.below(2_000) as usize];
                        file.write(offset as u64, &data);
                        model.resize(model.len().max(offset + data.len()), 0);
                        model[offset..offset + data.len()].copy_from_slice(&data);
                    }
                }
                assert_eq!(file.len as usize, model.len());
                assert_eq!(file.read(0, usize::MAX), model);
            }
            file.sync();
            file.lose_power(&mut rng);
            assert_eq!(file.read(0, usize::MAX), model, "synced bytes survive");
        }
    }

    #[test]
    fn unsynced_sectors_survive_in_parts_only_and_never_torn_inside() {
        let (mut lost, mut kept) = (0, 0);
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut file = Content::default();
            file.write(0, &[1; 2_048]);
            file.sync();
            file.write(0, &[2; 2_048]);
            file.lose_power(&mut rng);
            let bytes = file.read(0, 4_096);
            assert_eq!(bytes.len(), 2_048);
            for sector in bytes.chunks(SECTOR as usize) {
                assert!(sector.iter().all(|b| *b == sector[0]));
                match sector[0] {
                    1 => lost += 1,
                    2 => kept += 1,
                    other => panic!("byte {other} was never written"),
                }
            }
        }
        assert!(lost > 100 && kept > 100, "{lost} lost, {kept} kept");
    }

    #[test]
    fn a_failed_sync_cannot_be_repaired_by_another() {
        let mut rng = Rng::new(3);
        let mut file = Content::default();
        file.set_len(SECTOR * 64);
        file.sync();
        file.write(0, &[9; 64 * SECTOR as usize]);
        file.sync_failing(&mut rng);
        file.sync();
        file.lose_power(&mut rng);
        let survived = file.read(0, usize::MAX).iter().filter(|b| **b == 9).count();
        assert!(
            survived < 64 * SECTOR as usize,
            "the pages were clean but not stored"
        );
    }
}
