//! The bytes of the log, as FORMAT.md describes them. Owns the layout of segment headers, batches and records.
//! Promise: what `seal` made, `read_batch` reads back, at the place it was made for and nowhere else; any changed
//! bit is noticed.
//! Not here: files, the order of batches (`recover` judges the chain), what the records mean (`replay`).

use bytes::{BufMut, Bytes, BytesMut};

use crate::Record;

/// The format this version writes; it reads every older one.
pub const FORMAT: u16 = 1;
/// The oldest format number a reader must know to read what this version writes.
pub const MIN_READER: u16 = 1;

/// Bytes of a segment's header; the first batch follows it.
pub const SEGMENT_HEADER: usize = 64;
/// Bytes of a batch's header.
pub const BATCH_HEADER: usize = 32;
/// Bytes of a record before its payload.
pub const RECORD_HEADER: usize = 24;
/// Batches start at multiples of this; the search for a valid one after a bad one steps by it.
pub const ALIGN: usize = 8;

const SEGMENT_MAGIC: [u8; 8] = *b"BARQUEWL";
const BATCH_MAGIC: [u8; 4] = *b"BQB\x01";

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
}

#[derive(Debug, PartialEq, Eq)]
pub enum HeaderError {
    Bad(&'static str),
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
        Ok(SegmentHeader {
            segment: u64_at(header, 16),
            log_id: u64_at(header, 24),
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
    batch.len().next_multiple_of(ALIGN)
}

/// Fills in the header of a batch made of `records` records and returns its link.
pub fn seal(batch: &mut BytesMut, records: u32, place: Place, previous: Link) -> Link {
    let len = sealed_len(batch);
    batch.put_bytes(0, len - batch.len());
    let body = u32::try_from(len - BATCH_HEADER).expect("APPEND_BYTES_MAX is below 4 GiB");
    let number = previous.number + 1;
    batch[..4].copy_from_slice(&BATCH_MAGIC);
    batch[8..16].copy_from_slice(&number.to_le_bytes());
    batch[16..20].copy_from_slice(&body.to_le_bytes());
    batch[20..24].copy_from_slice(&previous.crc.to_le_bytes());
    batch[24..28].copy_from_slice(&records.to_le_bytes());
    let crc = crc32c::crc32c_append(place.seed(), &batch[8..]);
    batch[4..8].copy_from_slice(&crc.to_le_bytes());
    Link { number, crc }
}

/// A batch whose checksum is right.
#[derive(Debug)]
pub struct Batch<'a> {
    pub link: Link,
    /// Checksum of the batch before it.
    pub previous_crc: u32,
    /// All its bytes, header included.
    pub bytes: &'a [u8],
    records: u32,
}

/// What stands where a batch could begin.
#[derive(Debug)]
pub enum Found<'a> {
    Batch(Batch<'a>),
    /// Nothing but zeros up to the end of the segment.
    End,
    Bad(&'static str),
}

/// Looks for a batch at `place.offset` of the segment whose bytes are `segment`.
pub fn read_batch(segment: &[u8], place: Place) -> Found<'_> {
    let rest = usize::try_from(place.offset)
        .ok()
        .and_then(|offset| segment.get(offset..))
        .unwrap_or_default();
    match check(rest, place) {
        Ok(batch) => Found::Batch(batch),
        Err(_) if all_zero(rest) => Found::End,
        Err(why) => Found::Bad(why),
    }
}

fn check(rest: &[u8], place: Place) -> Result<Batch<'_>, &'static str> {
    let Some(header) = rest.get(..BATCH_HEADER) else {
        return Err("the segment ends inside a batch header");
    };
    if header[..4] != BATCH_MAGIC {
        return Err("no batch begins here");
    }
    let body = u32_at(header, 16) as usize;
    let Some(bytes) = rest.get(..BATCH_HEADER + body) else {
        return Err("the batch is longer than its segment");
    };
    let crc = u32_at(header, 4);
    if crc != crc32c::crc32c_append(place.seed(), &bytes[8..]) {
        return Err("the checksum of the batch is wrong");
    }
    Ok(Batch {
        link: Link {
            number: u64_at(header, 8),
            crc,
        },
        previous_crc: u32_at(header, 20),
        bytes,
        records: u32_at(header, 24),
    })
}

/// The offset of the first valid batch at or after `place.offset`, whatever its number.
pub fn find_batch(segment: &[u8], mut place: Place) -> Option<u64> {
    let end = segment.len() as u64;
    place.offset = place.offset.next_multiple_of(ALIGN as u64);
    while place.offset + BATCH_HEADER as u64 <= end {
        // The magic is compared first, so that the checksum is computed for next to no offset.
        if let Found::Batch(_) = peek(segment, place) {
            return Some(place.offset);
        }
        place.offset += ALIGN as u64;
    }
    None
}

fn peek(segment: &[u8], place: Place) -> Found<'_> {
    let rest = &segment[usize::try_from(place.offset).expect("below the segment's length")..];
    match check(rest, place) {
        Ok(batch) => Found::Batch(batch),
        Err(why) => Found::Bad(why),
    }
}

pub fn all_zero(bytes: &[u8]) -> bool {
    // Words first: this runs over the whole unused rest of a segment at each start.
    let mut words = bytes.chunks_exact(8);
    words.all(|word| word == [0; 8]) && words.remainder().iter().all(|byte| *byte == 0)
}

impl Batch<'_> {
    /// Its records. An error means that a valid checksum covers nonsense: a bug in the writer, not the disk.
    pub fn records(&self) -> Result<Vec<Record>, &'static str> {
        let mut rest = &self.bytes[BATCH_HEADER..];
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLACE: Place = Place {
        log_id: 7,
        segment: 3,
        offset: 64,
    };

    fn sealed(records: &[Record], place: Place, previous: Link) -> BytesMut {
        let mut batch = BytesMut::new();
        begin(&mut batch);
        records.iter().for_each(|r| encode(r, &mut batch));
        seal(&mut batch, records.len() as u32, place, previous);
        batch
    }

    fn at(place: Place, batch: &[u8]) -> Vec<u8> {
        let mut segment = vec![0; place.offset as usize];
        segment.extend_from_slice(batch);
        segment.extend_from_slice(&[0; 40]);
        segment
    }

    fn record() -> impl Strategy<Value = Record> {
        let payload = || proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
        prop_oneof![
            payload().prop_map(Record::Vote),
            (any::<u64>(), any::<u64>(), payload()).prop_map(|(index, term, payload)| {
                Record::Entry {
                    index,
                    term,
                    payload,
                }
            }),
            any::<u64>().prop_map(|index| Record::TruncateAfter { index }),
            any::<(u64, u64)>().prop_map(|(index, term)| Record::Purge { index, term }),
            any::<(u64, u64)>().prop_map(|(index, term)| Record::Committed { index, term }),
        ]
    }

    proptest! {
        #[test]
        fn records_come_back_as_they_were(records in proptest::collection::vec(record(), 0..8), crc: u32) {
            let previous = Link { number: 41, crc };
            let batch = sealed(&records, PLACE, previous);
            let segment = at(PLACE, &batch);
            let Found::Batch(found) = read_batch(&segment, PLACE) else { panic!("the batch was not found") };
            prop_assert_eq!(found.link.number, 42);
            prop_assert_eq!(found.previous_crc, crc);
            prop_assert_eq!(found.bytes, &batch[..]);
            prop_assert_eq!(found.records().unwrap(), records);
        }

        #[test]
        fn arbitrary_bytes_are_refused_not_trusted(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let segment = at(PLACE, &bytes);
            prop_assert!(!matches!(read_batch(&segment, PLACE), Found::Batch(_)));
            let _ = SegmentHeader::decode(&bytes);
        }
    }

    #[test]
    fn every_flipped_bit_of_a_batch_is_noticed() {
        let records = [Record::Entry {
            index: 5,
            term: 2,
            payload: Bytes::from_static(b"odd"),
        }];
        let batch = sealed(&records, PLACE, Link::default());
        assert_eq!(batch.len() % ALIGN, 0, "padding is part of the batch");
        for bit in 0..batch.len() * 8 {
            let mut bad = batch.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let segment = at(PLACE, &bad);
            assert!(
                matches!(read_batch(&segment, PLACE), Found::Bad(_)),
                "bit {bit} of the batch was not noticed"
            );
        }
    }

    #[test]
    fn every_flipped_bit_of_a_segment_header_is_noticed() {
        let header = SegmentHeader {
            segment: 9,
            log_id: 77,
        };
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
        for bit in 0..SEGMENT_HEADER * 8 {
            let mut bad = header.encode();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(
                matches!(SegmentHeader::decode(&bad), Err(HeaderError::Bad(_))),
                "bit {bit} of the header was not noticed"
            );
        }
    }

    #[test]
    fn a_newer_format_says_so() {
        let mut bytes = SegmentHeader {
            segment: 1,
            log_id: 1,
        }
        .encode();
        bytes[12..14].copy_from_slice(&9u16.to_le_bytes());
        bytes[14..16].copy_from_slice(&8u16.to_le_bytes());
        let crc = segment_crc(&bytes);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(
            SegmentHeader::decode(&bytes),
            Err(HeaderError::TooNew {
                format: 9,
                min_reader: 8
            })
        );
    }

    #[test]
    fn a_batch_copied_elsewhere_is_not_a_batch() {
        let batch = sealed(&[], PLACE, Link::default());
        for elsewhere in [
            Place {
                offset: 72,
                ..PLACE
            },
            Place {
                segment: 4,
                ..PLACE
            },
            Place { log_id: 8, ..PLACE },
        ] {
            assert_eq!(find_batch(&at(elsewhere, &batch), elsewhere), None);
        }
        assert_eq!(
            find_batch(&at(PLACE, &batch), Place { offset: 8, ..PLACE }),
            Some(64)
        );
    }
}
