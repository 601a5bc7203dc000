//! Damaged files: what a crash can leave is repaired, what it cannot is refused.

use super::*;
use crate::codec::{Place, SegmentHeader};
use crate::scan::{Found, read_batch};

/// A log of single-entry batches over several segments, closed; the bytes of its files.
async fn written(dir: &Path, entries: u64) -> Vec<(PathBuf, Vec<u8>)> {
    let (wal, _) = open(dir).await.unwrap();
    put(&wal, vec![Record::Vote("v".into())]).await;
    for i in 1..=entries {
        put(&wal, vec![entry(i, 1)]).await;
    }
    wal.close().await;
    files(dir)
}

/// Every batch: file number, offset, length.
fn batches(files: &[(PathBuf, Vec<u8>)]) -> Vec<(usize, usize, usize)> {
    let mut out = Vec::new();
    for (at, (_, bytes)) in files.iter().enumerate() {
        let header = SegmentHeader::decode(bytes).unwrap();
        let mut place = Place {
            log_id: header.log_id,
            segment: header.segment,
            offset: 64,
        };
        while let Found::Batch(batch) = read_batch(bytes, place) {
            out.push((at, place.offset as usize, batch.bytes.len()));
            place.offset += batch.bytes.len() as u64;
        }
    }
    out
}

fn restore(dir: &Path, files: &[(PathBuf, Vec<u8>)]) {
    for (path, _) in super::files(dir) {
        std::fs::remove_file(path).unwrap();
    }
    for (path, bytes) in files {
        std::fs::write(path, bytes).unwrap();
    }
}

/// The damage is gone when the log takes another entry and holds everything at the next open.
async fn goes_on(wal: RealWal, recovered: Recovered, dir: &Path) {
    let next = recovered.entries.len() as u64 + 1;
    put(&wal, vec![entry(next, 9)]).await;
    let (wal, after) = again(wal, dir).await;
    assert_eq!(after.entries.len() as u64, next);
    assert_eq!(after.entries.last(), Some(&recovered_entry(next, 9)));
    assert_eq!(after.vote, recovered.vote);
    wal.close().await;
}

#[tokio::test]
async fn a_torn_tail_is_cut_at_every_byte() {
    // Tails in the middle of a segment and at its very beginning.
    for entries in [3, 4, 5, 6, 7, 8] {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        let good = written(dir, entries).await;
        let (file, offset, len) = *batches(&good).last().unwrap();
        for cut in 0..len {
            for keep_front in [true, false] {
                let mut torn = good.clone();
                let (front, back) = torn[file].1[offset..offset + len].split_at_mut(cut);
                let lost = if keep_front { back } else { front };
                if lost.iter().all(|byte| *byte == 0) {
                    continue;
                }
                lost.fill(0);
                restore(dir, &torn);
                let (wal, recovered) = open(dir).await.unwrap();
                // The batch that opens a segment repeats what was there; losing it loses nothing.
                assert!(recovered.entries.len() as u64 >= entries - 1);
                assert_eq!(recovered.vote, Some("v".into()));
                if cut % 5 == 0 {
                    goes_on(wal, recovered, dir).await;
                } else {
                    wal.close().await;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_lost_write_in_the_middle_is_corruption() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let good = written(dir, 12).await;
    let batches = batches(&good);
    for (file, offset, len) in &batches[..batches.len() - 1] {
        let mut bad = good.clone();
        bad[*file].1[*offset..offset + len].fill(0);
        restore(dir, &bad);
        let error = open(dir).await.err().expect("a batch is missing");
        assert!(matches!(error, WalError::Corrupt { .. }), "{error}");
    }
}

#[tokio::test]
async fn missing_and_foreign_files_are_named() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let good = written(dir, 20).await;
    assert!(good.len() >= 4);
    let missing = |skip: usize| {
        let mut left = good.clone();
        let (path, _) = left.remove(skip);
        restore(dir, &left);
        path
    };
    let path = missing(1);
    let error = open(dir).await.err().unwrap().to_string();
    assert!(
        error.contains(path.to_str().unwrap()) && error.contains("missing"),
        "{error}"
    );
    // Without the first segment nothing says what was in it.
    missing(0);
    let error = open(dir).await.err().unwrap().to_string();
    assert!(error.contains("corrupt"), "{error}");

    let other = tempfile::tempdir().unwrap();
    let foreign = written(other.path(), 20).await;
    let mut mixed = good.clone();
    mixed[2].1.clone_from(&foreign[2].1);
    restore(dir, &mixed);
    let error = open(dir).await.err().unwrap().to_string();
    assert!(error.contains("another log"), "{error}");
}

#[tokio::test]
async fn a_value_that_looks_like_a_log_is_not_one() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let (wal, _) = open(dir).await.unwrap();
    put(&wal, vec![entry(1, 1)]).await;
    // A client stores a copy of this very log; then power is lost while the batch is written, header last.
    let payload: Bytes = files(dir)[0].1.clone().into();
    put(
        &wal,
        vec![Record::Entry {
            index: 2,
            term: 1,
            payload,
        }],
    )
    .await;
    wal.close().await;
    let mut torn = files(dir);
    let (file, offset, _) = *batches(&torn).last().unwrap();
    torn[file].1[offset..offset + 16].fill(0);
    restore(dir, &torn);
    let (wal, recovered) = open(dir).await.unwrap();
    assert_eq!(recovered.entries.len(), 1);
    goes_on(wal, recovered, dir).await;
}

#[tokio::test]
async fn leftovers_of_a_crash_are_cleared() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let good = written(dir, 12).await;
    std::fs::write(dir.join(segment::FILLING), b"half a segment").unwrap();
    // Restarts do not pile up empty segments.
    for _ in 0..5 {
        let (wal, recovered) = open(dir).await.unwrap();
        assert_eq!(recovered.entries.len(), 12);
        wal.close().await;
    }
    assert!(files(dir).len() <= good.len() + 2, "empty segments pile up");
    assert!(!dir.join(segment::FILLING).exists());
}
