//! The bytes of segment files, as FORMAT.md describes them. Owns the layout of headers, frames and rows.
//! Promise: what `seal` made, `read_frame` reads back, at the place it was made for and nowhere else; any changed bit is
//! noticed, in a frame and in a row read by itself.
//! Not here: files, the order of frames (`recover` judges the chain), what a batch does to the table.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::Error;
use crate::limits::{BATCH_BYTES_MAX, NAME_BYTES_MAX, ROW_BYTES_MAX};
use crate::{Batch, RowId};

/// The format this version writes; it reads every older one.
pub const FORMAT: u16 = 1;
/// The oldest format number a reader must know to read what this version writes.
pub const MIN_READER: u16 = 1;

/// Bytes of a segment's header; the first frame follows it.
pub const FILE_HEADER: usize = 64;
/// Bytes of a frame's header.
pub const FRAME_HEADER: usize = 40;
/// Bytes of a row before its own.
pub const ROW_HEADER: usize = 20;
/// Bytes of a freed row's id.
const FREED: usize = 12;
/// Bytes of a named value before its name.
const META_HEADER: usize = 8;
/// Frames start at multiples of this; the search for a valid one after a bad one steps by it.
pub const ALIGN: usize = 8;

const FRAME_MAGIC: [u8; 4] = *b"BQF\x01";

/// Where a frame lies. It goes into the checksum, with the store's random id, so that bytes which merely look like a
/// frame (a value that holds a copy of a segment, say) are never taken for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub store_id: u64,
    pub segment: u64,
    pub offset: u64,
}

impl Place {
    fn seed(self) -> u32 {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.store_id.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.segment.to_le_bytes());
        bytes[16..].copy_from_slice(&self.offset.to_le_bytes());
        crc32c::crc32c(&bytes)
    }
}

/// The link from one frame to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Number of the last frame; 0 before the first.
    pub number: u64,
    /// Its checksum; 0 before the first.
    pub crc: u32,
}

/// The first 64 bytes of every file of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    pub magic: [u8; 8],
    /// Of the segment or of the checkpoint.
    pub number: u64,
    pub store_id: u64,
    /// The last frame before the file's first (a segment), or the last one it covers (a checkpoint).
    pub link: Link,
    /// Where the frames go on that a checkpoint does not cover: segment and offset. Zero in a segment.
    pub position: (u64, u64),
}

pub const SEGMENT_MAGIC: [u8; 8] = *b"BARQUESG";
pub const CHECKPOINT_MAGIC: [u8; 8] = *b"BARQUECP";
pub const MEMORY_MAGIC: [u8; 8] = *b"BARQUEMM";
#[cfg(feature = "sled")]
pub const SLED_MAGIC: [u8; 8] = *b"BARQUESL";

#[derive(Debug, PartialEq, Eq)]
pub enum HeaderError {
    Bad(&'static str),
    TooNew { format: u16, min_reader: u16 },
}

impl FileHeader {
    pub fn encode(self) -> [u8; FILE_HEADER] {
        let mut out = [0; FILE_HEADER];
        out[..8].copy_from_slice(&self.magic);
        out[12..14].copy_from_slice(&FORMAT.to_le_bytes());
        out[14..16].copy_from_slice(&MIN_READER.to_le_bytes());
        out[16..24].copy_from_slice(&self.number.to_le_bytes());
        out[24..32].copy_from_slice(&self.store_id.to_le_bytes());
        out[32..40].copy_from_slice(&self.link.number.to_le_bytes());
        out[40..44].copy_from_slice(&self.link.crc.to_le_bytes());
        out[44..52].copy_from_slice(&self.position.0.to_le_bytes());
        out[52..60].copy_from_slice(&self.position.1.to_le_bytes());
        let crc = header_crc(&out);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8], magic: [u8; 8]) -> Result<Self, HeaderError> {
        let Some(header) = bytes.get(..FILE_HEADER) else {
            return Err(HeaderError::Bad("the file is shorter than its header"));
        };
        if header[..8] != magic {
            return Err(HeaderError::Bad("the file does not begin as its name says"));
        }
        if u32_at(header, 8) != header_crc(header) {
            return Err(HeaderError::Bad("the checksum of the header is wrong"));
        }
        let format = u16_at(header, 12);
        let min_reader = u16_at(header, 14);
        if min_reader > FORMAT {
            return Err(HeaderError::TooNew { format, min_reader });
        }
        Ok(FileHeader {
            magic,
            number: u64_at(header, 16),
            store_id: u64_at(header, 24),
            link: Link {
                number: u64_at(header, 32),
                crc: u32_at(header, 40),
            },
            position: (u64_at(header, 44), u64_at(header, 52)),
        })
    }
}

/// The header's checksum with its own field taken as absent.
fn header_crc(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..8]), &header[12..FILE_HEADER])
}

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// A batch the caller committed.
    Batch = 1,
    /// Copies of rows whose old file is to go; nothing the caller has not been told.
    Relocated = 2,
}

/// A frame under construction: `row` as often as needed, then `finish`.
pub struct FrameWriter {
    bytes: BytesMut,
    store_id: u64,
    kind: FrameKind,
    rows: u32,
}

/// The checksum of a row: of the store, the row's id and its bytes, so that a row at another row's place is noticed.
fn row_crc(store_id: u64, header: &[u8], row: &[u8]) -> u32 {
    let seed = crc32c::crc32c_append(crc32c::crc32c(&store_id.to_le_bytes()), &header[..16]);
    crc32c::crc32c_append(seed, row)
}

/// Bytes that a row takes in a file.
pub fn row_len(row: usize) -> u64 {
    (ROW_HEADER + row) as u64
}

impl FrameWriter {
    pub fn new(store_id: u64, kind: FrameKind, capacity: usize) -> Self {
        let mut bytes = BytesMut::with_capacity(capacity);
        bytes.put_bytes(0, FRAME_HEADER);
        FrameWriter {
            bytes,
            store_id,
            kind,
            rows: 0,
        }
    }

    /// Appends a row and returns its offset in the frame. It must be shorter than 4 GiB (`check` sees to it).
    pub fn row(&mut self, id: RowId, row: &[u8]) -> u64 {
        let at = self.bytes.len();
        self.bytes.put_u64_le(id.main);
        self.bytes.put_u32_le(id.sub);
        self.bytes.put_u32_le(row.len() as u32);
        let crc = row_crc(self.store_id, &self.bytes[at..at + 16], row);
        self.bytes.put_u32_le(crc);
        self.bytes.put_slice(row);
        self.rows += 1;
        at as u64
    }

    /// The bytes from a row's offset on.
    #[cfg(feature = "sled")]
    pub fn record(&self, at: u64) -> &[u8] {
        &self.bytes[at as usize..]
    }

    /// The size of the frame if it ended with these.
    pub fn sealed_len(&self, freed: &[RowId], meta: &[(String, Option<Bytes>)]) -> u64 {
        let meta: usize = meta.iter().map(meta_len).sum();
        (self.bytes.len() + freed.len() * FREED + meta).next_multiple_of(ALIGN) as u64
    }

    /// Appends the rest, fills in the header and returns the frame and its link.
    pub fn seal(
        mut self,
        freed: &[RowId],
        meta: &[(String, Option<Bytes>)],
        place: Place,
        previous: Link,
    ) -> (Bytes, Link) {
        let len = self.sealed_len(freed, meta) as usize;
        let out = &mut self.bytes;
        out.reserve(len - out.len());
        for id in freed {
            out.put_u64_le(id.main);
            out.put_u32_le(id.sub);
        }
        for (name, value) in meta {
            let bytes = value.as_deref().unwrap_or_default();
            out.put_u16_le(name.len() as u16);
            out.put_u8(u8::from(value.is_some()));
            out.put_u8(0);
            out.put_u32_le(bytes.len() as u32);
            out.put_slice(name.as_bytes());
            out.put_slice(bytes);
        }
        out.put_bytes(0, len - out.len());
        let number = previous.number + 1;
        out[..4].copy_from_slice(&FRAME_MAGIC);
        out[8..16].copy_from_slice(&number.to_le_bytes());
        out[16..20].copy_from_slice(&((len - FRAME_HEADER) as u32).to_le_bytes());
        out[20..24].copy_from_slice(&previous.crc.to_le_bytes());
        out[24] = self.kind as u8;
        out[28..32].copy_from_slice(&self.rows.to_le_bytes());
        out[32..36].copy_from_slice(&(freed.len() as u32).to_le_bytes());
        out[36..40].copy_from_slice(&(meta.len() as u32).to_le_bytes());
        let crc = crc32c::crc32c_append(place.seed(), &out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        (self.bytes.freeze(), Link { number, crc })
    }
}

fn meta_len((name, value): &(String, Option<Bytes>)) -> usize {
    META_HEADER + name.len() + value.as_ref().map_or(0, Bytes::len)
}

/// Whether the engine takes the batch, whose rows must be above `last`; its size in a file, more or less.
pub fn check(batch: &Batch, mut last: Option<RowId>) -> Result<usize, Error> {
    let too_large = |what, bytes, max| Err(Error::TooLarge { what, bytes, max });
    let mut total = FRAME_HEADER;
    for (id, row) in &batch.rows {
        if let Some(last) = last
            && *id <= last
        {
            return Err(Error::Order { last, got: *id });
        }
        last = Some(*id);
        if row.len() > ROW_BYTES_MAX {
            return too_large("a row", row.len(), ROW_BYTES_MAX);
        }
        total += ROW_HEADER + row.len();
    }
    for entry in &batch.meta {
        if entry.0.len() > NAME_BYTES_MAX {
            return too_large("a name", entry.0.len(), NAME_BYTES_MAX);
        }
        total += meta_len(entry);
    }
    total += batch.freed.len() * FREED + ALIGN;
    if total > BATCH_BYTES_MAX {
        return too_large("a batch", total, BATCH_BYTES_MAX);
    }
    Ok(total)
}

/// A frame whose checksum is right.
#[derive(Debug)]
pub struct Frame<'a> {
    pub link: Link,
    /// Checksum of the frame before it.
    pub previous_crc: u32,
    /// All its bytes, header included.
    pub bytes: &'a [u8],
}

/// What stands where a frame could begin.
#[derive(Debug)]
pub enum Found<'a> {
    Frame(Frame<'a>),
    /// Nothing, or nothing but zeros, up to the end of the file.
    End,
    Bad(&'static str),
}

/// Looks for a frame at `place.offset` of the file, of which `rest` is what begins there.
pub fn read_frame(rest: &[u8], place: Place) -> Found<'_> {
    match check_frame(rest, place) {
        Ok(frame) => Found::Frame(frame),
        Err(_) if all_zero(rest) => Found::End,
        Err(why) => Found::Bad(why),
    }
}

fn check_frame(rest: &[u8], place: Place) -> Result<Frame<'_>, &'static str> {
    let Some(header) = rest.get(..FRAME_HEADER) else {
        return Err("the file ends inside a frame header");
    };
    if header[..4] != FRAME_MAGIC {
        return Err("no frame begins here");
    }
    let body = u32_at(header, 16) as usize;
    let Some(bytes) = rest.get(..FRAME_HEADER + body) else {
        return Err("the frame is longer than its file");
    };
    let crc = u32_at(header, 4);
    if crc != crc32c::crc32c_append(place.seed(), &bytes[8..]) {
        return Err("the checksum of the frame is wrong");
    }
    Ok(Frame {
        link: Link {
            number: u64_at(header, 8),
            crc,
        },
        previous_crc: u32_at(header, 20),
        bytes,
    })
}

/// The offset of the first valid frame in `rest`, which begins at `place.offset` of the file; whatever its number.
pub fn find_frame(rest: &[u8], place: Place) -> Option<u64> {
    let first = place.offset.next_multiple_of(ALIGN as u64);
    let mut offset = first;
    while let Some(here) = rest.get((offset - place.offset) as usize..)
        && here.len() >= FRAME_HEADER
    {
        // The magic is compared first, so that the checksum is computed for next to no offset.
        if check_frame(here, Place { offset, ..place }).is_ok() {
            return Some(offset);
        }
        offset += ALIGN as u64;
    }
    None
}

fn all_zero(bytes: &[u8]) -> bool {
    let mut words = bytes.chunks_exact(8);
    words.all(|word| word == [0; 8]) && words.remainder().iter().all(|byte| *byte == 0)
}

/// What a frame says.
#[derive(Debug, PartialEq, Eq)]
pub struct Contents<'a> {
    pub kind: FrameKind,
    /// Id, offset of the row's header in the frame, the row.
    pub rows: Vec<(RowId, u64, &'a [u8])>,
    pub freed: Vec<RowId>,
    pub meta: Vec<(&'a str, Option<&'a [u8]>)>,
}

impl<'a> Frame<'a> {
    /// Its contents. An error means that a valid checksum covers nonsense: a bug in the writer, not the disk.
    pub fn contents(&self) -> Result<Contents<'a>, &'static str> {
        const SHORT: &str = "a frame holds less than it says";
        let header = &self.bytes[..FRAME_HEADER];
        let kind = match header[24] {
            1 => FrameKind::Batch,
            2 => FrameKind::Relocated,
            _ => return Err("a frame of a kind this version does not know"),
        };
        let count = |at: usize| u32_at(header, at) as usize;
        let fits = |count: usize, each: usize| count.min(self.bytes.len() / each);
        let mut at = FRAME_HEADER;
        let mut take = |len: usize| {
            let part = at.checked_add(len).and_then(|end| self.bytes.get(at..end));
            at += len;
            part.ok_or(SHORT)
        };
        let mut rows = Vec::with_capacity(fits(count(28), ROW_HEADER));
        let mut offset = FRAME_HEADER as u64;
        for _ in 0..count(28) {
            let header = take(ROW_HEADER)?;
            let row = take(u32_at(header, 12) as usize)?;
            rows.push((row_id(header), offset, row));
            offset += row_len(row.len());
        }
        let mut freed = Vec::with_capacity(fits(count(32), FREED));
        for _ in 0..count(32) {
            freed.push(row_id(take(FREED)?));
        }
        let mut meta = Vec::with_capacity(fits(count(36), META_HEADER));
        for _ in 0..count(36) {
            let header = take(META_HEADER)?;
            let name = take(u16_at(header, 0).into())?;
            let name = std::str::from_utf8(name).map_err(|_| "a name is not UTF-8")?;
            let value = take(u32_at(header, 4) as usize)?;
            meta.push((name, (header[2] == 1).then_some(value)));
        }
        if self.bytes.len() - at >= ALIGN {
            return Err("a frame holds more than it says");
        }
        Ok(Contents {
            kind,
            rows,
            freed,
            meta,
        })
    }
}

/// Checks a row read by itself, header included, which must be `id`'s.
pub fn check_row(bytes: &[u8], store_id: u64, id: RowId) -> Result<&[u8], &'static str> {
    let (Some(header), Some(row)) = (bytes.get(..ROW_HEADER), bytes.get(ROW_HEADER..)) else {
        return Err("the row is shorter than its header");
    };
    if row_id(header) != id {
        return Err("another row stands at its place");
    }
    if u32_at(header, 12) as usize != row.len() {
        return Err("the row's length is wrong");
    }
    if u32_at(header, 16) != row_crc(store_id, header, row) {
        return Err("the row's checksum is wrong");
    }
    Ok(row)
}

fn row_id(bytes: &[u8]) -> RowId {
    RowId {
        main: u64_at(bytes, 0),
        sub: u32_at(bytes, 8),
    }
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests;
