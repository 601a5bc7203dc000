//! Images: of whole commits, and untouched by whatever comes after them.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use barque_store_env::Env;
use barque_store_env::real::{RealDisk, RealEnv};
use barque_store_env::sim::{self, NodeId, SimEnv};
use bytes::Bytes;

use super::model::*;
use crate::limits::LOCK_ROWS;
use crate::*;

/// Whether the image is of this state, read in small pieces.
fn is_of(image: &dyn Image, state: &State) {
    assert_eq!(image.meta(), &state.meta);
    let mut rows = Vec::new();
    let mut from = id(0, 0);
    loop {
        let some = image.rows(from, 7, 500).expect("readable");
        let Some((last, _)) = some.last() else { break };
        from = id(last.main, last.sub + 1);
        rows.extend(some);
    }
    assert!(rows.iter().map(|(id, row)| (id, row)).eq(state.rows.iter()));
    let all = image.rows(id(0, 0), usize::MAX, usize::MAX);
    assert_eq!(all.expect("readable"), rows);
    let least: usize = rows.iter().map(|(_, row)| row.len()).sum();
    assert!(image.bytes() >= least as u64);
}

/// Random steps with images pinned in between; returns how many files were dropped while one was pinned.
async fn walk<E: Env>(kind: Kind, disk: E::Disk, dir: &Path, seed: u64) -> u64 {
    let mut chance = Chance(seed);
    let mut state = State::default();
    let mut now = Start::<E>::new(kind, disk, dir, SMALL).await.unwrap();
    let images = now.engine.images();
    is_of(&*images.pin().unwrap(), &state);
    let mut pinned: Vec<(Arc<dyn Image>, State)> = Vec::new();
    let mut dropped = 0;
    for _ in 0..120 {
        if chance.one_in(5) {
            pinned.push((images.pin().unwrap(), state.clone()));
        }
        let before = now.engine.space().segments;
        step(
            &mut now.engine,
            &mut state,
            &mut chance,
            &mut |_| {},
            &mut || {},
        )
        .await
        .unwrap();
        if !pinned.is_empty() {
            dropped += before.saturating_sub(now.engine.space().segments);
        }
        is_of(&*images.pin().unwrap(), &state);
        if chance.one_in(12) {
            let at = chance.below(pinned.len().max(1) as u64) as usize;
            if at < pinned.len() {
                let (image, then) = pinned.swap_remove(at);
                is_of(&*image, &then);
            }
        }
    }
    for (image, then) in &pinned {
        is_of(&**image, then);
    }
    // An image outlives its engine.
    drop(now);
    for (image, then) in &pinned {
        is_of(&**image, then);
    }
    dropped
}

#[tokio::test]
async fn an_image_is_of_one_commit_and_stays_what_it_was() {
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_built()) {
        let mut dropped = 0;
        for seed in 0..8 {
            let home = tempfile::tempdir().unwrap();
            dropped += walk::<RealEnv>(kind, RealDisk, home.path(), seed).await;
        }
        assert_eq!(dropped > 10, kind == Kind::Segments, "{kind}: {dropped}");
    }
}

#[test]
fn the_simulated_disk_keeps_an_image_as_well() {
    let mut dropped = 0;
    for seed in 0..8 {
        dropped += sim::run(seed, async move {
            let walk = walk::<SimEnv>(
                Kind::Segments,
                sim::disk(NodeId(1)),
                Path::new("/data/rows"),
                seed,
            );
            sim::spawn_on(NodeId(1), "walk", walk).await.unwrap()
        });
    }
    assert!(dropped > 10, "{dropped}");
}

/// Files of several steps: what is cut off is nobody's, and goes once nobody reads it.
#[tokio::test]
async fn a_file_that_an_image_reads_is_cut_off_after_it() {
    const ROWS: u64 = 160;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let options = Options {
        segment_bytes: 4 << 20,
        tail_bytes: 1 << 20,
        ..SMALL
    };
    let start = Start::<RealEnv>::new(Kind::Segments, RealDisk, dir, options).await;
    let mut engine = start.unwrap().engine;
    let row = |main: u64| (id(main, 0), Bytes::from(vec![main as u8; 64 << 10]));
    for main in 1..=ROWS {
        let rows = vec![row(main)];
        let batch = Batch {
            rows,
            ..Batch::default()
        };
        engine.commit(batch).await.unwrap();
    }
    let image = engine.images().pin().unwrap();
    let freed = (1..ROWS).map(|main| id(main, 0)).collect();
    let batch = Batch {
        freed,
        ..Batch::default()
    };
    engine.commit(batch).await.unwrap();
    engine.begin_checkpoint().await.unwrap();
    engine.finish_checkpoint().await.unwrap();
    let segments = || {
        let names = std::fs::read_dir(dir).unwrap();
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        let names = names.map(|entry| name(entry).into_string().unwrap());
        names.filter(|name| name.ends_with(".seg")).count()
    };
    let before = segments();
    while engine.maintain().await.unwrap() {}
    assert_eq!(engine.space().segments, 1, "the others hold no row");
    assert_eq!(segments(), before, "they are read still");
    let all = image.rows(id(0, 0), usize::MAX, usize::MAX).unwrap();
    assert!(all.into_iter().eq((1..=ROWS).map(row)));
    drop(image);
    while engine.maintain().await.unwrap() {}
    assert_eq!(segments(), 1);
}

/// A batch that is taken in piece by piece is pinned whole or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_pins_half_a_batch() {
    const ROWS: u64 = 3 * LOCK_ROWS as u64;
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_built()) {
        let home = tempfile::tempdir().unwrap();
        let mut now = Start::<RealEnv>::new(kind, RealDisk, home.path(), Options::default())
            .await
            .unwrap();
        let images = now.engine.images();
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let looking = std::thread::spawn(move || {
            let mut looks = 0;
            while !told.load(Ordering::Relaxed) {
                let image = images.pin().unwrap();
                let round = image.meta().get("round").map_or(0, |value| value[0]);
                let rows = image.rows(id(0, 0), usize::MAX, usize::MAX).unwrap();
                let expect = if round == 0 { 0 } else { ROWS };
                assert_eq!(rows.len() as u64, expect, "{kind}: round {round}");
                assert!(rows.iter().all(|(_, row)| row[0] == round), "{kind}");
                looks += 1;
            }
            looks
        });
        for round in 1..=8u64 {
            let ids = |round: u64| (0..ROWS).map(move |n| id(round * ROWS + n, 0));
            let batch = Batch {
                rows: ids(round)
                    .map(|id| (id, Bytes::from(vec![round as u8; 9])))
                    .collect(),
                freed: ids(round - 1).collect(),
                meta: vec![("round".into(), Some(vec![round as u8].into()))],
            };
            now.engine.commit(batch).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.store(true, Ordering::Relaxed);
        assert!(looking.join().unwrap() > 2, "{kind}");
    }
}
