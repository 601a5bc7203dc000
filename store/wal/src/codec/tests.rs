//! Bytes there and back, and every flipped bit of them.

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

fn opened(bytes: &[u8], place: Place) -> Option<Batch<'_>> {
    open(bytes, place, &head(bytes, place)?)
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
        let mut bytes = batch.to_vec();
        bytes.extend_from_slice(&[0; 40]);
        let found = opened(&bytes, PLACE).expect("the batch is whole");
        prop_assert_eq!(found.link.number, 42);
        prop_assert_eq!(found.previous_crc, crc);
        prop_assert_eq!(found.bytes, &batch[..]);
        prop_assert_eq!(found.records().unwrap(), records);
    }

    #[test]
    fn arbitrary_bytes_are_refused_not_trusted(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(head(&bytes, PLACE).is_none());
        for at in 0..bytes.len() {
            prop_assert!(trailer_start(&bytes, at, PLACE).is_none());
        }
        prop_assert!(SegmentHeader::decode(&bytes).is_err());
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
        assert!(
            opened(&bad, PLACE).is_none(),
            "bit {bit} of the batch was not noticed"
        );
        // Only one of the two can be hit.
        let end = batch.len() - BATCH_TRAILER;
        let mut segment = vec![0; PLACE.offset as usize];
        segment.extend_from_slice(&bad);
        let trailer = trailer_start(&segment, PLACE.offset as usize + end, PLACE);
        assert_eq!(head(&bad, PLACE).is_some(), bit / 8 >= BATCH_HEADER);
        assert_eq!(trailer.is_some(), bit / 8 < end);
    }
}

#[test]
fn every_flipped_bit_of_a_segment_header_is_noticed() {
    let header = SegmentHeader {
        segment: 9,
        log_id: 77,
        bytes: 4096,
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
        bytes: 4096,
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
        assert!(head(&batch, elsewhere).is_none(), "{elsewhere:?}");
        let mut segment = vec![0; elsewhere.offset as usize];
        segment.extend_from_slice(&batch);
        let at = segment.len() - BATCH_TRAILER;
        assert_eq!(trailer_start(&segment, at, elsewhere), None);
    }
    assert!(opened(&batch, PLACE).is_some());
}

#[test]
fn format_1_is_refused_by_name() {
    let mut bytes = SegmentHeader {
        segment: 1,
        log_id: 1,
        bytes: 4096,
    }
    .encode();
    bytes[12..16].copy_from_slice(&[1, 0, 1, 0]);
    let crc = segment_crc(&bytes);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(
        SegmentHeader::decode(&bytes),
        Err(HeaderError::TooOld { format: 1 })
    );
}

#[test]
fn zero_sectors_are_counted_where_they_lie() {
    let mut bytes = vec![0; 3 * SECTOR];
    assert_eq!(zero_sectors(&bytes, 0), 3);
    assert_eq!(zero_sectors(&bytes, 8), 4);
    bytes[600] = 1;
    assert_eq!(zero_sectors(&bytes, 0), 2);
    assert_eq!(zero_sectors(&bytes, 504), 3);
    assert_eq!(zero_sectors(&[], 100), 1);
    assert_eq!(first_nonzero(&bytes), Some(600));
    assert_eq!(first_nonzero(&bytes[601..]), None);
}
