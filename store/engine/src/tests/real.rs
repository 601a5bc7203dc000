//! The segments engine on real files: readers beside everything else, space, the time of a start.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use barque_store_env::real::{RealDisk, RealEnv};
use bytes::Bytes;

use super::model::*;
use crate::*;

/// Bytes that only this row has.
fn row_of(main: u64, len: usize) -> Bytes {
    let mut chance = Chance(main);
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend_from_slice(&chance.next().to_le_bytes());
    }
    out.truncate(len);
    out.into()
}

async fn start(dir: &Path, options: Options) -> Start<RealEnv> {
    Start::new(Kind::Segments, RealDisk, dir, options)
        .await
        .unwrap()
}

async fn checkpoint(engine: &mut AnyEngine<RealEnv>, chunks: impl Iterator<Item = Bytes>) {
    engine.begin_checkpoint().await.unwrap();
    for chunk in chunks {
        engine.checkpoint_chunk(chunk).await.unwrap();
    }
    engine.finish_checkpoint().await.unwrap();
}

/// Readers look up, open and read while rows are committed, freed, moved and files go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_are_right_beside_everything() {
    let home = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 16 << 10,
        tail_bytes: 1,
        step_bytes: 4 << 10,
        ..Options::default()
    };
    let mut now = start(home.path(), options).await;
    let engine = &mut now.engine;
    let stop = Arc::new(AtomicBool::new(false));
    // Rows from `low` up to and with `high` are held as long as `low` is not above them.
    let (low, high) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(0)));
    let readers: Vec<_> = (0..2u64)
        .map(|n| {
            let (stop, low, high) = (stop.clone(), low.clone(), high.clone());
            let reader = engine.reader();
            std::thread::spawn(move || {
                let mut chance = Chance(n);
                let mut found = 0u64;
                while !stop.load(Ordering::SeqCst) {
                    let (first, last) = (low.load(Ordering::SeqCst), high.load(Ordering::SeqCst));
                    let main = chance.below(last + 2);
                    match reader.read(id(main, 0)).unwrap() {
                        Some(row) => {
                            assert_eq!(row, row_of(main, 200));
                            found += 1;
                        }
                        // Every seventh row is kept for ever.
                        None => assert!(
                            main == 0
                                || main > last
                                || main < low.load(Ordering::SeqCst) && !main.is_multiple_of(7),
                            "row {main} of {first}..={last} is not there"
                        ),
                    }
                    let some = reader.scan(id(main, 0), 20, 3_000).unwrap();
                    for (at, row) in some {
                        assert_eq!(row, row_of(at.main, 200));
                    }
                }
                found
            })
        })
        .collect();
    let mut dropped = 0;
    let mut before = 0;
    for round in 0..120u64 {
        let first = round * 50 + 1;
        let rows = (first..first + 50).map(|main| (id(main, 0), row_of(main, 200)));
        let freed = first.saturating_sub(400);
        let old = freed.saturating_sub(50).max(1)..freed.max(1);
        // Said before the rows go, so that readers allow for it.
        low.store(old.end, Ordering::SeqCst);
        let batch = Batch {
            rows: rows.collect(),
            freed: old.filter(|main| main % 7 != 0).map(|m| id(m, 0)).collect(),
            meta: vec![],
        };
        engine.commit(batch).await.unwrap();
        high.store(first + 49, Ordering::SeqCst);
        if engine.wants_checkpoint() && round % 5 == 0 {
            checkpoint(engine, std::iter::empty()).await;
        }
        while engine.maintain().await.unwrap() {}
        let segments = engine.space().segments;
        dropped += u64::from(segments < before);
        before = segments;
    }
    stop.store(true, Ordering::SeqCst);
    let found: u64 = readers
        .into_iter()
        .map(|reader| reader.join().unwrap())
        .sum();
    assert!(
        found > 500 && dropped > 5,
        "{found} rows found, {dropped} drops"
    );
}

/// Three overwrites of everything with the old versions freed: the workload in which page stores ended at seven times.
#[tokio::test]
async fn space_comes_back_while_writing() {
    const ROWS: u64 = 20_000;
    const LEN: usize = 1_000;
    let home = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 1 << 20,
        tail_bytes: 1 << 20,
        ..Options::default()
    };
    let mut now = start(home.path(), options).await;
    let engine = &mut now.engine;
    let mut chance = Chance(1);
    // Which revision each key has.
    let mut latest: Vec<u64> = vec![0; ROWS as usize];
    let mut main = 0;
    let (mut written, mut worst) = (0u64, 0.0f64);
    for round in 0..4 * ROWS / 500 {
        let mut batch = Batch::default();
        for n in 0..500 {
            main += 1;
            // In order at first, then at random, so that every segment dies evenly: the worst case.
            let key = if round * 500 + n < ROWS {
                round * 500 + n
            } else {
                chance.below(ROWS)
            };
            let old = std::mem::replace(&mut latest[key as usize], main);
            if old > 0 {
                batch.freed.push(id(old, 0));
            }
            batch.rows.push((id(main, 0), row_of(main, LEN)));
        }
        written += 500 * LEN as u64;
        engine.commit(batch).await.unwrap();
        if engine.wants_checkpoint() {
            checkpoint(engine, std::iter::empty()).await;
        }
        while engine.maintain().await.unwrap() {}
        let space = engine.space();
        if round * 500 > ROWS {
            let rows = (space.disk_bytes - space.checkpoint_bytes) as f64;
            worst = worst.max(rows / space.live_bytes as f64);
        }
    }
    let space = engine.space();
    let on_disk: u64 = std::fs::read_dir(home.path())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert_eq!(
        on_disk, space.disk_bytes,
        "the accounting is the directory's"
    );
    println!(
        "{written} bytes of rows written; {space:?}; at worst {worst:.2} times the live bytes"
    );
    assert!(worst < 1.5, "{worst}");
    for main in latest {
        assert_eq!(
            engine.reader().read(id(main, 0)).unwrap(),
            Some(row_of(main, LEN))
        );
    }
}

struct Ignores;
impl Restore for Ignores {
    fn index(&mut self, _: Bytes) -> Result<(), String> {
        Ok(())
    }
    fn row(&mut self, _: RowId, _: Bytes) -> Result<(), String> {
        Ok(())
    }
    fn freed(&mut self, _: RowId) -> Result<(), String> {
        Ok(())
    }
}

#[tokio::test]
async fn a_start_reads_the_checkpoint_and_the_tail_only() {
    const ROWS: u64 = 500_000;
    let home = tempfile::tempdir().unwrap();
    let mut now = start(home.path(), Options::default()).await;
    let engine = &mut now.engine;
    let begun = Instant::now();
    for first in (1..=ROWS).step_by(10_000) {
        let rows = (first..first + 10_000).map(|main| (id(main, 0), row_of(main, 200)));
        engine
            .commit(Batch {
                rows: rows.collect(),
                ..Batch::default()
            })
            .await
            .unwrap();
    }
    let wrote = begun.elapsed();
    drop(now);
    let begun = Instant::now();
    let opened = open::<RealEnv>(Kind::Segments, RealDisk, home.path(), &mut Ignores)
        .await
        .unwrap();
    let scanned = begun.elapsed();
    let mut opened_engine = opened.engine;
    let engine = &mut opened_engine;
    assert!(engine.wants_checkpoint());
    let begun = Instant::now();
    // An index of 100 bytes a row.
    let chunk = Bytes::from(vec![7; 1 << 20]);
    checkpoint(engine, (0..50).map(|_| chunk.clone())).await;
    let checkpointed = begun.elapsed();
    assert!(!engine.wants_checkpoint());
    drop(opened_engine);
    let begun = Instant::now();
    let opened = open::<RealEnv>(Kind::Segments, RealDisk, home.path(), &mut Ignores)
        .await
        .unwrap();
    let took = begun.elapsed();
    println!(
        "{ROWS} rows: written in {wrote:?}, opened without a checkpoint in {scanned:?}, checkpoint in {checkpointed:?}, opened in {took:?}; {:?}",
        opened.engine.space()
    );
    assert!(took.as_millis() < 1_500, "a start took {took:?}");
    let reader = opened.engine.reader();
    assert_eq!(
        reader.read(id(ROWS / 2, 0)).unwrap(),
        Some(row_of(ROWS / 2, 200))
    );
}
