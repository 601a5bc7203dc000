//! The bytes of the log, as FORMAT.md describes them. Owns the layout of segment headers, batches and records.
//! Promise: what `seal` made, `open` reads back, at the place it was made for and nowhere else; any changed bit is
//! noticed, and headers and trailers can be recognised by themselves.
//! Not here: files, what a bad batch means (`scan`), the order of batches (`recover`), what records mean (`replay`).

use bytes::{BufMut, Bytes, BytesMut};

use crate::Record;

/// The format this version writes, and the only one it reads.
pub const FORMAT: u16 = 2;
/// The oldest format number a reader must know to read what this version writes.
pub const MIN_READER: u16 = 2;

/// Bytes of a segment's header; the first batch follows it.
pub const SEGMENT_HEADER: usize = 64;
/// Bytes of a batch's header.
pub const BATCH_HEADER: usize = 40;
/// Bytes behind a batch's body.
pub const BATCH_TRAILER: usize = 16;
/// Bytes of a record before its payload.
pub const RECORD_HEADER: usize = 24;
/// Batches start at multiples of this; the search for later ones after a bad one steps by it.
pub const ALIGN: usize = 8;
/// What a disk writes whole or not at all.
pub const SECTOR: usize = 512;

const SEGMENT_MAGIC: [u8; 8] = *b"BARQUEWL";
/// No bit flip makes its first byte zero: a zero there says "not written".
const BATCH_MAGIC: [u8; 4] = *b"BQB\x02";
/// A batch's last bytes. No bit flip makes the last one zero: a zero there says "not written to the end".
const TRAILER_MAGIC: [u8; 4] = *b"BQE\xa5";

const KIND_VOTE: u8 = 1;
const KIND_ENTRY: u8 = 2;
const KIND_TRUNCATE_AFTER: u8 = 3;
const KIND_PURGE: u8 = 4;
const KIND_COMMITTED: u8 = 5;

/// Where a batch lies. It goes into the checksum, with the log's random id, so that bytes which merely look like a
/// batch (a value that holds a copy of a log file, say) are never taken for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub log_id: u64,
    pub segment: u64,
    pub offset: u64,
}

impl Place {
    fn seed(self) -> u32 {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.log_id.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.segment.to_le_bytes());
        bytes[16..].copy_from_slice(&self.offset.to_le_bytes());
        crc32c::crc32c(&bytes)
    }
}

/// The link from one batch to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Number of the last batch; 0 before the first.
    pub number: u64,
    /// Its checksum; 0 before the first.
    pub crc: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub segment: u64,
    pub log_id: u64,
    /// The file's size when it got its name. It may have grown since (a batch larger than a segment), not shrunk.
    pub bytes: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub enum HeaderError {
    Bad(&'static str),
    TooOld { format: u16 },
    TooNew { format: u16, min_reader: u16 },
}

impl SegmentHeader {
    pub fn encode(self) -> [u8; SEGMENT_HEADER] {
        let mut out = [0; SEGMENT_HEADER];
        out[..8].copy_from_slice(&SEGMENT_MAGIC);
        out[12..14].copy_from_slice(&FORMAT.to_le_bytes());
        out[14..16].copy_from_slice(&MIN_READER.to_le_bytes());
        out[16..24].copy_from_slice(&self.segment.to_le_bytes());
        out[24..32].copy_from_slice(&self.log_id.to_le_bytes());
        out[32..40].copy_from_slice(&self.bytes.to_le_bytes());
        let crc = segment_crc(&out);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let Some(header) = bytes.get(..SEGMENT_HEADER) else {
            return Err(HeaderError::Bad("the file is shorter than its header"));
        };
        if header[..8] != SEGMENT_MAGIC {
            return Err(HeaderError::Bad("not a log segment"));
        }
        if u32_at(header, 8) != segment_crc(header) {
            return Err(HeaderError::Bad("the checksum of the header is wrong"));
        }
        let format = u16::from_le_bytes([header[12], header[13]]);
        let min_reader = u16::from_le_bytes([header[14], header[15]]);
        if min_reader > FORMAT {
            return Err(HeaderError::TooNew { format, min_reader });
        }
        if format < FORMAT {
            return Err(HeaderError::TooOld { format });
        }
        Ok(SegmentHeader {
            segment: u64_at(header, 16),
            log_id: u64_at(header, 24),
            bytes: u64_at(header, 32),
        })
    }
}

/// The header's checksum with its own field taken as absent.
fn segment_crc(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..8]), &header[12..SEGMENT_HEADER])
}

/// Bytes that the record takes in a batch.
pub fn encoded_len(record: &Record) -> usize {
    RECORD_HEADER
        + match record {
            Record::Vote(payload) | Record::Entry { payload, .. } => payload.len(),
            Record::TruncateAfter { .. } | Record::Purge { .. } | Record::Committed { .. } => 0,
        }
}

/// Appends the record. The payload must be shorter than 4 GiB (`limits::APPEND_BYTES_MAX` sees to it).
pub fn encode(record: &Record, out: &mut BytesMut) {
    let (kind, index, term, payload) = match record {
        Record::Vote(payload) => (KIND_VOTE, 0, 0, &payload[..]),
        Record::Entry {
            index,
            term,
            payload,
        } => (KIND_ENTRY, *index, *term, &payload[..]),
        Record::TruncateAfter { index } => (KIND_TRUNCATE_AFTER, *index, 0, &[][..]),
        Record::Purge { index, term } => (KIND_PURGE, *index, *term, &[][..]),
        Record::Committed { index, term } => (KIND_COMMITTED, *index, *term, &[][..]),
    };
    let len = u32::try_from(payload.len()).expect("APPEND_BYTES_MAX is below 4 GiB");
    out.put_u8(kind);
    out.put_bytes(0, 3);
    out.put_u32_le(len);
    out.put_u64_le(index);
    out.put_u64_le(term);
    out.put_slice(payload);
}

/// Space for the header of a batch; records follow, then [`seal`].
pub fn begin(batch: &mut BytesMut) {
    batch.put_bytes(0, BATCH_HEADER);
}

/// The size of a batch once it is sealed.
pub fn sealed_len(batch: &BytesMut) -> usize {
    batch.len().next_multiple_of(ALIGN) + BATCH_TRAILER
}

/// Fills in the header and the trailer of a batch made of `records` records and returns its link.
pub fn seal(batch: &mut BytesMut, records: u32, place: Place, previous: Link) -> Link {
    let end = batch.len().next_multiple_of(ALIGN);
    batch.put_bytes(0, end - batch.len());
    let body = u32::try_from(end - BATCH_HEADER).expect("APPEND_BYTES_MAX is below 4 GiB");
    let number = previous.number + 1;
    batch[..4].copy_from_slice(&BATCH_MAGIC);
    batch[8..16].copy_from_slice(&number.to_le_bytes());
    batch[16..20].copy_from_slice(&body.to_le_bytes());
    batch[20..24].copy_from_slice(&previous.crc.to_le_bytes());
    batch[24..28].copy_from_slice(&records.to_le_bytes());
    // Stand-ins for the checksums: what is counted as zero must be zero in the end.
    batch[4..8].fill(0xff);
    batch[36..40].fill(0xff);
    batch.put_slice(&[0xff; BATCH_TRAILER]);
    let zero = zero_sectors(batch, place.offset);
    batch[28..32].copy_from_slice(&zero.to_le_bytes());
    let seed = place.seed();
    let crc = batch_crc(&batch[..end], seed);
    batch[4..8].copy_from_slice(&crc.to_le_bytes());
    let header_crc = crc32c::crc32c_append(seed, &batch[..36]);
    batch[36..40].copy_from_slice(&header_crc.to_le_bytes());
    batch[end..].copy_from_slice(&trailer(end + BATCH_TRAILER, crc, seed));
    Link { number, crc }
}

/// Of `batch[..end]`, its header included and its trailer not.
fn batch_crc(bytes: &[u8], seed: u32) -> u32 {
    let crc = crc32c::crc32c_append(seed, &bytes[8..36]);
    crc32c::crc32c_append(crc, &bytes[BATCH_HEADER..])
}

fn trailer(len: usize, crc: u32, seed: u32) -> [u8; BATCH_TRAILER] {
    let mut out = [0; BATCH_TRAILER];
    let len = u32::try_from(len).expect("APPEND_BYTES_MAX is below 4 GiB");
    out[..4].copy_from_slice(&len.to_le_bytes());
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    let own = crc32c::crc32c_append(seed, &out[..8]);
    out[8..12].copy_from_slice(&own.to_le_bytes());
    out[12..].copy_from_slice(&TRAILER_MAGIC);
    out
}

/// How many of the sectors that `bytes` touch, lying at `offset` of a file, hold nothing but zeros of it.
pub fn zero_sectors(bytes: &[u8], offset: u64) -> u32 {
    let first = SECTOR - (offset % SECTOR as u64) as usize;
    let (head, rest) = bytes.split_at(first.min(bytes.len()));
    let zero = |part: &&[u8]| all_zero(part);
    let count = std::iter::once(head)
        .chain(rest.chunks(SECTOR))
        .filter(zero)
        .count();
    u32::try_from(count).expect("a batch has fewer sectors than bytes")
}

/// A batch's header whose own checksum is right; the rest of the batch may be missing or damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub link: Link,
    /// Checksum of the batch before it.
    pub previous_crc: u32,
    /// Bytes of the whole batch.
    pub len: usize,
    /// Sectors that hold nothing but zeros of it.
    pub zero_sectors: u32,
    records: u32,
}

/// The header that `rest`, lying at `place`, begins with.
pub fn head(rest: &[u8], place: Place) -> Option<Head> {
    let header = rest.get(..BATCH_HEADER)?;
    // The magic first, so that a search computes the checksum for next to no offset.
    if header[..4] != BATCH_MAGIC
        || u32_at(header, 36) != crc32c::crc32c_append(place.seed(), &header[..36])
    {
        return None;
    }
    Some(Head {
        link: Link {
            number: u64_at(header, 8),
            crc: u32_at(header, 4),
        },
        previous_crc: u32_at(header, 20),
        len: BATCH_HEADER + u32_at(header, 16) as usize + BATCH_TRAILER,
        zero_sectors: u32_at(header, 28),
        records: u32_at(header, 24),
    })
}

/// Where the batch begins whose trailer lies at `at` of the segment; the rest of it may be missing or damaged.
pub fn trailer_start(segment: &[u8], at: usize, mut place: Place) -> Option<u64> {
    let end = at.checked_add(BATCH_TRAILER)?;
    let found = segment.get(at..end)?;
    if found[12..] != TRAILER_MAGIC {
        return None;
    }
    let len = u32_at(found, 0) as usize;
    place.offset = end.checked_sub(len)? as u64;
    (found == trailer(len, u32_at(found, 4), place.seed())).then_some(place.offset)
}

/// A batch that is whole: every checksum is right.
#[derive(Debug)]
pub struct Batch<'a> {
    pub link: Link,
    /// Checksum of the batch before it.
    pub previous_crc: u32,
    /// All its bytes, header and trailer included.
    pub bytes: &'a [u8],
    records: u32,
}

/// The batch that `rest`, lying at `place`, begins with.
pub fn open<'a>(rest: &'a [u8], place: Place, head: &Head) -> Option<Batch<'a>> {
    let bytes = rest.get(..head.len)?;
    let (content, found) = bytes.split_at(head.len - BATCH_TRAILER);
    let (crc, seed) = (head.link.crc, place.seed());
    let whole = found == trailer(head.len, crc, seed) && crc == batch_crc(content, seed);
    whole.then_some(Batch {
        link: head.link,
        previous_crc: head.previous_crc,
        bytes,
        records: head.records,
    })
}

pub fn all_zero(bytes: &[u8]) -> bool {
    first_nonzero(bytes).is_none()
}

/// Where the first byte lies that is not zero.
pub fn first_nonzero(bytes: &[u8]) -> Option<usize> {
    // Whole blocks first: this runs over the whole unused rest of a segment at each start.
    const BLOCK: usize = 4096;
    let block = bytes
        .chunks(BLOCK)
        .position(|block| block != &[0; BLOCK][..block.len()])?;
    let rest = &bytes[block * BLOCK..];
    Some(block * BLOCK + rest.iter().position(|byte| *byte != 0)?)
}

impl Batch<'_> {
    /// Its records. An error means that a valid checksum covers nonsense: a bug in the writer, not the disk.
    pub fn records(&self) -> Result<Vec<Record>, &'static str> {
        let mut rest = &self.bytes[BATCH_HEADER..self.bytes.len() - BATCH_TRAILER];
        let mut records =
            Vec::with_capacity((self.records as usize).min(rest.len() / RECORD_HEADER));
        for _ in 0..self.records {
            let Some(header) = rest.get(..RECORD_HEADER) else {
                return Err("a batch holds fewer records than it says");
            };
            let len = u32_at(header, 4) as usize;
            let Some(payload) = rest.get(RECORD_HEADER..RECORD_HEADER + len) else {
                return Err("a record is longer than its batch");
            };
            let (index, term) = (u64_at(header, 8), u64_at(header, 16));
            records.push(match header[0] {
                KIND_VOTE => Record::Vote(Bytes::copy_from_slice(payload)),
                KIND_ENTRY => Record::Entry {
                    index,
                    term,
                    payload: Bytes::copy_from_slice(payload),
                },
                KIND_TRUNCATE_AFTER => Record::TruncateAfter { index },
                KIND_PURGE => Record::Purge { index, term },
                KIND_COMMITTED => Record::Committed { index, term },
                _ => return Err("a record of a kind this version does not know"),
            });
            rest = &rest[RECORD_HEADER + len..];
        }
        if rest.len() >= ALIGN {
            return Err("a batch holds more than its records");
        }
        Ok(records)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests;
