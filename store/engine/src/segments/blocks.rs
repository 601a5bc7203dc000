//! The bytes of a checkpoint file after its header: blocks, each with a checksum of its own.
//! Promise: a block is read back at its place in its checkpoint only; any changed bit is noticed.
//! Not here: files, and whether the checkpoint fits the segments.

use bytes::{BufMut, Bytes, BytesMut};

use crate::RowId;
use crate::codec::{u16_at, u32_at, u64_at};

use super::table::Row;

pub const BLOCK_HEADER: usize = 16;
pub const ROW_BYTES: usize = 24;
const SEGMENT_BYTES: usize = 12;
const END_BYTES: usize = 40;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlockKind {
    Meta = 1,
    Segments = 2,
    Rows = 3,
    Index = 4,
    End = 5,
}

/// Which checkpoint of which store, and which block of it; part of the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPlace {
    pub store_id: u64,
    pub checkpoint: u64,
    pub sequence: u32,
}

impl BlockPlace {
    fn crc(self, header: &[u8], body: &[u8]) -> u32 {
        let mut seed = [0; 20];
        seed[..8].copy_from_slice(&self.store_id.to_le_bytes());
        seed[8..16].copy_from_slice(&self.checkpoint.to_le_bytes());
        seed[16..].copy_from_slice(&self.sequence.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&seed), &header[4..BLOCK_HEADER]);
        crc32c::crc32c_append(crc, body)
    }
}

/// A whole block of `body`, which is shorter than 4 GiB.
pub fn block(kind: BlockKind, place: BlockPlace, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(BLOCK_HEADER + body.len());
    out.put_u32_le(0);
    out.put_u32_le(body.len() as u32);
    out.put_u8(kind as u8);
    out.put_bytes(0, 3);
    out.put_u32_le(place.sequence);
    let crc = place.crc(&out, body);
    out[..4].copy_from_slice(&crc.to_le_bytes());
    out.put_slice(body);
    out.freeze()
}

/// Bytes of the body that follows this header, which is not checked yet.
pub fn body_len(header: &[u8]) -> usize {
    u32_at(header, 4) as usize
}

/// Checks the block with this header and body.
pub fn check(header: &[u8], body: &[u8], place: BlockPlace) -> Result<BlockKind, &'static str> {
    if u32_at(header, 0) != place.crc(header, body) {
        return Err("the checksum of the block is wrong");
    }
    match header[8] {
        1 => Ok(BlockKind::Meta),
        2 => Ok(BlockKind::Segments),
        3 => Ok(BlockKind::Rows),
        4 => Ok(BlockKind::Index),
        5 => Ok(BlockKind::End),
        _ => Err("a block of a kind this version does not know"),
    }
}

pub fn put_row(out: &mut Vec<u8>, row: &Row) {
    out.extend_from_slice(&row.main.to_le_bytes());
    out.extend_from_slice(&row.sub.to_le_bytes());
    out.extend_from_slice(&row.segment.to_le_bytes());
    out.extend_from_slice(&row.offset.to_le_bytes());
    out.extend_from_slice(&row.len.to_le_bytes());
}

pub fn rows(body: &[u8]) -> Result<Vec<Row>, &'static str> {
    if !body.len().is_multiple_of(ROW_BYTES) {
        return Err("a block of rows ends inside one");
    }
    let rows = body.chunks_exact(ROW_BYTES).map(|row| Row {
        main: u64_at(row, 0),
        sub: u32_at(row, 8),
        segment: u32_at(row, 12),
        offset: u32_at(row, 16),
        len: u32_at(row, 20),
    });
    Ok(rows.collect())
}

pub fn put_meta(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(&(name.len() as u16).to_le_bytes());
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(value);
}

pub fn meta(mut body: &[u8]) -> Result<Vec<(String, Bytes)>, &'static str> {
    const SHORT: &str = "a block of named values ends inside one";
    let mut out = Vec::new();
    while !body.is_empty() {
        let (header, rest) = body.split_at_checked(6).ok_or(SHORT)?;
        let (name, rest) = rest
            .split_at_checked(u16_at(header, 0).into())
            .ok_or(SHORT)?;
        let (value, rest) = rest
            .split_at_checked(u32_at(header, 2) as usize)
            .ok_or(SHORT)?;
        let name = std::str::from_utf8(name).map_err(|_| "a name is not UTF-8")?;
        out.push((name.to_owned(), Bytes::copy_from_slice(value)));
        body = rest;
    }
    Ok(out)
}

/// A segment's number and the bytes of its file.
pub fn put_segment(out: &mut Vec<u8>, number: u32, bytes: u64) {
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&bytes.to_le_bytes());
}

pub fn segments(body: &[u8]) -> Result<Vec<(u32, u64)>, &'static str> {
    if !body.len().is_multiple_of(SEGMENT_BYTES) {
        return Err("a block of segments ends inside one");
    }
    let segments = body.chunks_exact(SEGMENT_BYTES);
    Ok(segments.map(|s| (u32_at(s, 0), u64_at(s, 4))).collect())
}

/// The last block: what must have come before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    pub rows: u64,
    pub index_chunks: u64,
    /// The last row ever given, held or not.
    pub last: Option<RowId>,
}

impl End {
    pub fn encode(self) -> [u8; END_BYTES] {
        let mut out = [0; END_BYTES];
        out[..8].copy_from_slice(&self.rows.to_le_bytes());
        out[8..16].copy_from_slice(&self.index_chunks.to_le_bytes());
        if let Some(last) = self.last {
            out[16] = 1;
            out[20..28].copy_from_slice(&last.main.to_le_bytes());
            out[28..32].copy_from_slice(&last.sub.to_le_bytes());
        }
        out
    }

    pub fn decode(body: &[u8]) -> Result<Self, &'static str> {
        if body.len() != END_BYTES {
            return Err("the last block has a wrong length");
        }
        let last = RowId {
            main: u64_at(body, 20),
            sub: u32_at(body, 28),
        };
        Ok(End {
            rows: u64_at(body, 0),
            index_chunks: u64_at(body, 8),
            last: (body[16] == 1).then_some(last),
        })
    }
}
