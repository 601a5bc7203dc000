//! A hash of a set that can be kept up to date: the wrapping sum of its elements' hashes. Equal sets have equal digests
//! however they came about, so a member that replayed the log and one that was sent an image compare equal.
//! Made to find divergence and damage, not to withstand someone who wants a collision.

use crate::types::KeyValue;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(u64);

impl Digest {
    pub fn add(&mut self, element: u64) {
        self.0 = self.0.wrapping_add(element);
    }
    pub fn remove(&mut self, element: u64) {
        self.0 = self.0.wrapping_sub(element);
    }
    pub fn value(self) -> u64 {
        self.0
    }
}

/// Spreads a word over all 64 bits (a bijection), so that sums of neighbouring words do not cancel out.
fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Hash of a few words in order.
pub fn words(words: &[u64]) -> u64 {
    words.iter().fold(0, |hash, word| mix(hash ^ mix(*word)))
}

/// Hash of a short text.
pub fn text(text: &str) -> u64 {
    bytes(text.as_bytes())
}

/// Hash of a short string of bytes.
pub fn bytes(bytes: &[u8]) -> u64 {
    words(&[bytes.len() as u64, u64::from(crc32c::crc32c(bytes))])
}

/// Hash of a row, its place among the rows included.
pub fn row(main: u64, sub: u32, kv: &KeyValue) -> u64 {
    let content = crc32c::crc32c_append(crc32c::crc32c(&kv.key), &kv.value);
    words(&[
        main,
        u64::from(sub),
        u64::from(content) << 32 | u64::from(crc32c::crc32c(&kv.value)),
        kv.key.len() as u64,
        kv.create_revision.0,
        kv.version,
        kv.lease.0.cast_unsigned(),
    ])
}
