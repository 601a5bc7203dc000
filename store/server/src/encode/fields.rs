//! The fields that messages are made of: tags, varints, bytes. proto3's rule that zero and empty are left out is kept here.
//! Not here: which message has which fields.

use bytes::{BufMut, BytesMut};

const VARINT: u32 = 0;
const LENGTH_DELIMITED: u32 = 2;

pub fn varint_len(value: u64) -> usize {
    // Seven bits a byte; `| 1` because zero takes one byte too.
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

pub fn put_varint(buf: &mut BytesMut, mut value: u64) {
    let mut bytes = [0u8; 10];
    let mut len = 0;
    while value >= 0x80 {
        bytes[len] = (value as u8) | 0x80;
        value >>= 7;
        len += 1;
    }
    bytes[len] = value as u8;
    buf.put_slice(&bytes[..=len]);
}

pub fn put_tag(buf: &mut BytesMut, field: u32, wire: u32) {
    put_varint(buf, u64::from(field << 3 | wire));
}

pub fn tag_len(field: u32) -> usize {
    varint_len(u64::from(field << 3))
}

pub fn uint_len(field: u32, value: u64) -> usize {
    if value == 0 {
        0
    } else {
        tag_len(field) + varint_len(value)
    }
}

pub fn put_uint(buf: &mut BytesMut, field: u32, value: u64) {
    if value != 0 {
        put_tag(buf, field, VARINT);
        put_varint(buf, value);
    }
}

/// Signed fields are varints of the two's complement.
pub fn put_int(buf: &mut BytesMut, field: u32, value: i64) {
    put_uint(buf, field, value as u64);
}

pub fn bytes_len(field: u32, bytes: &[u8]) -> usize {
    if bytes.is_empty() {
        0
    } else {
        message_len(field, bytes.len())
    }
}

pub fn put_bytes(buf: &mut BytesMut, field: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_message_head(buf, field, bytes.len());
        buf.put_slice(bytes);
    }
}

/// A message field of `len` bytes, tag and length included. Present even when empty.
pub fn message_len(field: u32, len: usize) -> usize {
    tag_len(field) + varint_len(len as u64) + len
}

pub fn put_message_head(buf: &mut BytesMut, field: u32, len: usize) {
    put_tag(buf, field, LENGTH_DELIMITED);
    put_varint(buf, len as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varint_lengths_match_what_is_written() {
        for value in [
            0,
            1,
            127,
            128,
            16_383,
            16_384,
            u64::from(u32::MAX),
            u64::MAX,
        ] {
            let mut buf = BytesMut::new();
            put_varint(&mut buf, value);
            assert_eq!(buf.len(), varint_len(value), "{value}");
        }
    }
}
