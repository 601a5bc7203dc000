//! Tests of the whole log on the real disk; `damage` spoils files, `faults` fails operations, `power` loses power.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use barque_store_env::real::{RealDisk, RealEnv};
use barque_store_env::{Env, Instant};
use bytes::Bytes;

use super::*;

mod damage;
mod exhaustive;
mod faults;
mod model;
mod power;
mod recycle;

use model::{Model, Op};

type RealWal = Wal<RealEnv>;

/// Small segments, so that tests rotate often.
const SMALL: Options = Options {
    segment_bytes: 640,
    fsync: true,
};

fn entry(index: u64, term: u64) -> Record {
    // Lengths that leave every kind of padding.
    let len = (index * 7 + term) as usize % 61;
    let payload = vec![(index % 251) as u8 + 1; len];
    Record::Entry {
        index,
        term,
        payload: payload.into(),
    }
}

fn recovered_entry(index: u64, term: u64) -> RecoveredEntry {
    let Record::Entry { payload, .. } = entry(index, term) else {
        unreachable!()
    };
    RecoveredEntry {
        index,
        term,
        payload,
    }
}

async fn open(dir: &Path) -> Result<(RealWal, Recovered), WalError> {
    Wal::open(RealDisk, dir, SMALL).await
}

async fn put(wal: &RealWal, records: Vec<Record>) {
    let number = wal.append(records);
    wal.durable(number).await.unwrap();
}

/// Closes the log and opens it again.
async fn again(wal: RealWal, dir: &Path) -> (RealWal, Recovered) {
    wal.close().await;
    drop(wal);
    open(dir).await.unwrap()
}

async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let end: Instant = RealEnv::now() + Duration::from_secs(20);
    while !check() {
        assert!(RealEnv::now() < end, "never: {what}");
        RealEnv::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn everything_comes_back_after_each_operation() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("deep/log");
    let (mut wal, mut recovered) = open(&dir).await.unwrap();
    assert_eq!(recovered, Recovered::default());
    let vote = |v: &'static str| Record::Vote(Bytes::from_static(v.as_bytes()));
    let steps: Vec<(Vec<Record>, Recovered)> = {
        let mut expect = Recovered::default();
        let mut steps = Vec::new();
        let mut step = |records: Vec<Record>, change: &dyn Fn(&mut Recovered)| {
            change(&mut expect);
            steps.push((records, expect.clone()));
        };
        step(vec![vote("first")], &|e| e.vote = Some("first".into()));
        step(vec![entry(0, 0), entry(1, 1)], &|e| {
            e.entries = vec![recovered_entry(0, 0), recovered_entry(1, 1)];
        });
        step(vec![Record::Committed { index: 1, term: 1 }], &|e| {
            e.committed = Some((1, 1));
        });
        step((2..9).map(|i| entry(i, 2)).collect(), &|e| {
            e.entries.extend((2..9).map(|i| recovered_entry(i, 2)));
        });
        step(
            vec![Record::TruncateAfter { index: 4 }, vote(""), entry(5, 3)],
            &|e| {
                e.vote = Some(Bytes::new());
                e.entries.truncate(5);
                e.entries.push(recovered_entry(5, 3));
            },
        );
        step(vec![Record::Purge { index: 3, term: 2 }], &|e| {
            e.purged = Some((3, 2));
            e.entries.drain(..4);
        });
        step(vec![Record::Purge { index: 90, term: 7 }], &|e| {
            e.purged = Some((90, 7));
            e.entries.clear();
        });
        step(vec![entry(91, 8)], &|e| {
            e.entries.push(recovered_entry(91, 8))
        });
        steps
    };
    for (records, expect) in steps {
        put(&wal, records.clone()).await;
        (wal, recovered) = again(wal, &dir).await;
        assert_eq!(recovered, expect, "after {records:?}");
    }
}

#[tokio::test]
async fn a_large_batch_gets_a_long_segment_and_payloads_survive() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path()).await.unwrap();
    let payload: Bytes = (0..100_000u32)
        .flat_map(u32::to_le_bytes)
        .collect::<Vec<_>>()
        .into();
    let large = Record::Entry {
        index: 2,
        term: 1,
        payload: payload.clone(),
    };
    put(&wal, vec![entry(1, 1)]).await;
    put(&wal, vec![large]).await;
    put(&wal, vec![entry(3, 1)]).await;
    let (wal, recovered) = again(wal, dir.path()).await;
    assert_eq!(recovered.entries[1].payload, payload);
    assert_eq!(recovered.entries.len(), 3);
    let on_disk = files(dir.path())
        .iter()
        .map(|(_, bytes)| bytes.len() as u64)
        .sum::<u64>();
    assert!(on_disk > 400_000);
    // The filler may be at work on one more.
    eventually("the disk usage is the sum of the files", || {
        let sum = files(dir.path())
            .iter()
            .map(|(_, b)| b.len() as u64)
            .sum::<u64>();
        wal.bytes_on_disk() == sum
    })
    .await;
}

#[tokio::test]
async fn callbacks_run_in_order_and_only_when_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path()).await.unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    for i in 1..=200u64 {
        let heard = heard.clone();
        let done: Done = Box::new(move |result| heard.lock().unwrap().push((i, result.is_ok())));
        // Every third waits for nothing of its own.
        let records = if i % 3 == 0 {
            vec![]
        } else {
            vec![entry(i - i / 3, 1)]
        };
        wal.append_then(records, done);
    }
    wal.close().await;
    let expect: Vec<_> = (1..=200).map(|i| (i, true)).collect();
    assert_eq!(*heard.lock().unwrap(), expect);
    let stats = wal.stats();
    assert_eq!(stats.records, 134);
    assert!(
        stats.batches < 134,
        "appends queued during a sync share the next one"
    );
    assert_eq!(wal.pending_bytes(), 0);

    let late = heard.clone();
    wal.append_then(
        vec![],
        Box::new(move |r| late.lock().unwrap().push((0, r.is_ok()))),
    );
    assert_eq!(
        heard.lock().unwrap().last(),
        Some(&(0, false)),
        "closed is an answer too"
    );
    let number = wal.append(vec![entry(135, 1)]);
    assert_eq!(number, RecordNumber(134));
}

#[tokio::test]
async fn a_committed_mark_alone_waits_a_little_then_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path()).await.unwrap();
    let start = RealEnv::now();
    wal.append(vec![Record::Committed { index: 7, term: 1 }]);
    eventually("the mark is written", || wal.stats().batches == 1).await;
    assert!(RealEnv::now().saturating_since(start) >= limits::LAZY);

    let number = wal.append(vec![Record::Committed { index: 8, term: 1 }]);
    wal.append(vec![entry(1, 1)]);
    wal.durable(number).await.unwrap();
    let (wal, recovered) = again(wal, dir.path()).await;
    assert_eq!(recovered.committed, Some((8, 1)));
    assert_eq!(recovered.entries.len(), 1);

    // Closing does not lose one either.
    wal.append(vec![Record::Committed { index: 9, term: 1 }]);
    let (_, recovered) = again(wal, dir.path()).await;
    assert_eq!(recovered.committed, Some((9, 1)));
}

#[tokio::test]
async fn one_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path()).await.unwrap();
    let error = open(dir.path())
        .await
        .err()
        .expect("the directory is taken");
    assert!(matches!(error, WalError::Locked { .. }));
    assert!(
        error.to_string().contains("in use by another process"),
        "{error}"
    );
    // Dropping the last handle closes the log as well, only later.
    put(&wal, vec![entry(1, 1)]).await;
    drop(wal);
    let end = RealEnv::now() + Duration::from_secs(20);
    let recovered = loop {
        match open(dir.path()).await {
            Ok((_, recovered)) => break recovered,
            Err(WalError::Locked { .. }) if RealEnv::now() < end => {
                RealEnv::sleep(Duration::from_millis(2)).await;
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(recovered.entries.len(), 1);
}

#[tokio::test]
async fn purged_segments_leave_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path()).await.unwrap();
    put(&wal, vec![Record::Vote("kept".into())]).await;
    for i in 1..=200 {
        put(&wal, vec![entry(i, 1)]).await;
    }
    let many = files(dir.path()).len();
    assert!(many > 20);
    put(
        &wal,
        vec![Record::Purge {
            index: 195,
            term: 1,
        }],
    )
    .await;
    // The queue of removals is bounded; later batches carry on.
    let mut index = 200;
    let end = RealEnv::now() + Duration::from_secs(20);
    while files(dir.path()).len() > 6 {
        assert!(RealEnv::now() < end, "segments were not removed");
        index += 1;
        put(
            &wal,
            vec![
                entry(index, 1),
                Record::Purge {
                    index: index - 4,
                    term: 1,
                },
            ],
        )
        .await;
    }
    let before = wal.bytes_on_disk();
    assert!(before < many as u64 * SMALL.segment_bytes);
    let (_, recovered) = again(wal, dir.path()).await;
    assert_eq!(
        recovered.vote,
        Some("kept".into()),
        "the vote moved on from a removed segment"
    );
    assert_eq!(recovered.purged.unwrap().0 + 1, recovered.entries[0].index);
    assert_eq!(recovered.entries.last().unwrap().index, index);
}

#[tokio::test]
async fn a_gap_in_the_entries_fails_the_log_before_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path()).await.unwrap();
    put(&wal, vec![entry(1, 1)]).await;
    let number = wal.append(vec![entry(3, 1)]);
    let error = wal.durable(number).await.unwrap_err();
    assert!(matches!(
        error,
        WalError::Gap {
            expected: 2,
            got: 3
        }
    ));
    assert!(matches!(wal.failed().await, WalError::Gap { .. }));
    let (_, recovered) = again(wal, dir.path()).await;
    assert_eq!(recovered.entries.len(), 1);
}

/// Segment files and their bytes, oldest first.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut out: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "wal"))
        // A segment may be removed between the listing and the reading.
        .filter_map(|path| std::fs::read(&path).ok().map(|bytes| (path, bytes)))
        .collect();
    out.sort();
    out
}
