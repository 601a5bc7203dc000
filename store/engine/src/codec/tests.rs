//! Frames and rows come back as they were made, at their own place only, and no changed bit goes unseen.

use super::*;
use proptest::prelude::*;

const PLACE: Place = Place {
    store_id: 7,
    segment: 3,
    offset: 64,
};

fn sealed(batch: &Batch, place: Place, previous: Link) -> (Bytes, Link) {
    let mut frame = FrameWriter::new(place.store_id, FrameKind::Batch, 0);
    for (id, row) in &batch.rows {
        frame.row(*id, row);
    }
    frame.seal(&batch.freed, &batch.meta, place, previous)
}

fn batch() -> impl Strategy<Value = Batch> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..30).prop_map(Bytes::from);
    let id = || (0..90u64, 0..4u32).prop_map(|(main, sub)| RowId { main, sub });
    (
        proptest::collection::btree_map(id(), bytes(), 0..5),
        proptest::collection::vec(id(), 0..5),
        proptest::collection::vec(("[a-z/é]{0,9}", proptest::option::of(bytes())), 0..4),
    )
        .prop_map(|(rows, freed, meta)| Batch {
            rows: rows.into_iter().collect(),
            freed,
            meta,
        })
}

proptest! {
    #[test]
    fn a_frame_is_read_back_at_its_place_only(batch in batch()) {
        let previous = Link { number: 41, crc: 9 };
        let (bytes, link) = sealed(&batch, PLACE, previous);
        prop_assert_eq!(link.number, 42);
        prop_assert_eq!(bytes.len() % ALIGN, 0);
        let mut file = bytes.to_vec();
        file.extend_from_slice(&[0; 24]);
        let Found::Frame(frame) = read_frame(&file, PLACE) else { panic!("not found") };
        prop_assert_eq!((frame.link, frame.previous_crc), (link, 9));
        let contents = frame.contents().unwrap();
        prop_assert_eq!(contents.kind, FrameKind::Batch);
        prop_assert_eq!(&contents.freed, &batch.freed);
        let rows: Vec<_> = contents.rows.iter().map(|(id, _, row)| (*id, Bytes::copy_from_slice(row))).collect();
        prop_assert_eq!(&rows, &batch.rows);
        let meta: Vec<_> = contents.meta.iter()
            .map(|(name, value)| ((*name).to_owned(), value.map(Bytes::copy_from_slice))).collect();
        prop_assert_eq!(&meta, &batch.meta);
        for (id, offset, row) in contents.rows {
            let at = offset as usize;
            let record = &file[at..at + ROW_HEADER + row.len()];
            prop_assert_eq!(check_row(record, 7, id), Ok(row));
            prop_assert!(check_row(record, 8, id).is_err(), "another store's row");
        }
        for other in [Place { store_id: 8, ..PLACE }, Place { segment: 4, ..PLACE }, Place { offset: 72, ..PLACE }] {
            prop_assert!(matches!(read_frame(&file, other), Found::Bad(_)));
        }
        prop_assert_eq!(find_frame(&file, PLACE), Some(64));
        let mut shifted = vec![1; 13];
        shifted.extend_from_slice(&[0; 3]);
        shifted.extend_from_slice(&file);
        prop_assert_eq!(find_frame(&shifted, Place { offset: 48, ..PLACE }), Some(64));
    }
}

#[test]
fn every_flipped_bit_of_a_frame_and_of_a_row_is_seen() {
    let id = RowId { main: 5, sub: 1 };
    let batch = Batch {
        rows: vec![(id, Bytes::from_static(b"a row of some length"))],
        freed: vec![RowId { main: 2, sub: 0 }],
        meta: vec![("applied".into(), Some(Bytes::from_static(b"7")))],
    };
    let (bytes, _) = sealed(&batch, PLACE, Link::default());
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(
            matches!(read_frame(&bad, PLACE), Found::Bad(_)),
            "bit {bit}"
        );
        let row = FRAME_HEADER..FRAME_HEADER + ROW_HEADER + 20;
        assert_eq!(
            check_row(&bad[row.clone()], 7, id).is_err(),
            row.contains(&(bit / 8)),
            "bit {bit}"
        );
    }
}

#[test]
fn headers_name_what_is_wrong() {
    let header = FileHeader {
        magic: SEGMENT_MAGIC,
        number: 9,
        store_id: 77,
        link: Link { number: 4, crc: 5 },
        position: (6, 7),
    };
    let good = header.encode();
    assert_eq!(FileHeader::decode(&good, SEGMENT_MAGIC), Ok(header));
    assert!(FileHeader::decode(&good, CHECKPOINT_MAGIC).is_err());
    for bit in 0..good.len() * 8 {
        let mut bad = good;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(
            FileHeader::decode(&bad, SEGMENT_MAGIC).is_err(),
            "bit {bit}"
        );
    }
    let mut newer = good;
    newer[12..16].copy_from_slice(&[9, 0, 8, 0]);
    let crc = header_crc(&newer);
    newer[8..12].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(
        FileHeader::decode(&newer, SEGMENT_MAGIC),
        Err(HeaderError::TooNew {
            format: 9,
            min_reader: 8
        })
    );
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_written() {
    let id = |main| RowId { main, sub: 0 };
    let rows = |ids: &[u64]| Batch {
        rows: ids.iter().map(|main| (id(*main), Bytes::new())).collect(),
        ..Batch::default()
    };
    assert!(check(&rows(&[3, 4]), Some(id(2))).is_ok());
    for (ids, last) in [(&[3, 3][..], 2), (&[4, 3], 2), (&[2], 2), (&[1], 2)] {
        let error = check(&rows(ids), Some(id(last))).unwrap_err();
        assert!(matches!(error, Error::Order { .. }), "{error}");
    }
    let long = Batch {
        meta: vec![("n".repeat(70_000), None)],
        ..Batch::default()
    };
    let error = check(&long, None).unwrap_err().to_string();
    assert!(error.contains("a name of 70000 bytes"), "{error}");
}
