//! Damaged files: no flipped bit is ever served; what cannot be put together is refused, with the file's name.

use std::collections::BTreeMap;
use std::path::Path;

use barque_store_env::sim::{self, NodeId, SimDisk, SimEnv};
use barque_store_env::{Disk, File, Open};
use bytes::Bytes;

use super::model::*;
use crate::*;

const DIR: &str = "/member/state";
type Files = BTreeMap<String, Vec<u8>>;

fn disk() -> SimDisk {
    sim::disk(NodeId(1))
}

async fn start() -> Result<Start<SimEnv>, Error> {
    Start::new(Kind::Segments, disk(), Path::new(DIR), SMALL).await
}

async fn put(files: &Files) {
    let (disk, dir) = (disk(), Path::new(DIR));
    for name in disk.list(dir).await.unwrap() {
        disk.remove(&dir.join(name)).await.unwrap();
    }
    for (name, bytes) in files {
        let file = disk.open(&dir.join(name), Open::CreateNew).await.unwrap();
        file.write_sync(0, Bytes::copy_from_slice(bytes))
            .await
            .unwrap();
    }
    disk.sync_dir(dir).await.unwrap();
}

fn some_rows(from: u64, to: u64) -> Batch {
    let row = |main: u64| Bytes::from(vec![main as u8 + 1; 10 + main as usize % 23]);
    Batch {
        rows: (from..to).map(|main| (id(main, 0), row(main))).collect(),
        meta: vec![("applied".into(), Some(to.to_string().into()))],
        ..Batch::default()
    }
}

fn frees(ids: impl Iterator<Item = u64>) -> Batch {
    Batch {
        freed: ids.map(|main| id(main, 0)).collect(),
        ..Batch::default()
    }
}

async fn checkpoint(engine: &mut AnyEngine<SimEnv>, state: &State) {
    engine.begin_checkpoint().await.unwrap();
    for chunk in state.index() {
        engine.checkpoint_chunk(chunk).await.unwrap();
    }
    engine.finish_checkpoint().await.unwrap();
}

/// Commits, with every state the engine went through.
struct Made {
    states: Vec<State>,
    engine: AnyEngine<SimEnv>,
}

impl Made {
    async fn new() -> Self {
        if disk().exists(Path::new(DIR)).await.unwrap() {
            put(&Files::new()).await;
        }
        let engine = start().await.unwrap().engine;
        let states = vec![State::default()];
        Made { states, engine }
    }
    fn state(&self) -> &State {
        self.states.last().unwrap()
    }
    async fn commit(&mut self, batch: Batch) {
        let mut next = self.state().clone();
        next.apply(&batch);
        self.states.push(next);
        self.engine.commit(batch).await.unwrap();
    }
    async fn files(self) -> (Vec<State>, Files) {
        drop(self.engine);
        let files = files(&disk(), Path::new(DIR)).await;
        (self.states, files)
    }
}

/// Segments, the first of them dropped, a checkpoint and a tail after it.
async fn with_checkpoint() -> (Vec<State>, Files) {
    let mut made = Made::new().await;
    for n in 0..5 {
        made.commit(some_rows(1 + n * 12, 13 + n * 12)).await;
    }
    made.commit(frees((1..50).filter(|main| main % 9 != 0)))
        .await;
    let state = made.state().clone();
    checkpoint(&mut made.engine, &state).await;
    while made.engine.maintain().await.unwrap() {}
    made.commit(some_rows(70, 74)).await;
    made.commit(frees([62, 70].into_iter())).await;
    made.files().await
}

/// Two segments and no checkpoint.
async fn without_checkpoint() -> (Vec<State>, Files) {
    let mut made = Made::new().await;
    for n in 0..5 {
        made.commit(some_rows(1 + n * 10, 11 + n * 10)).await;
    }
    made.commit(frees([3, 44].into_iter())).await;
    made.files().await
}

/// As [`without_checkpoint`], and a checkpoint that is not needed, for all segments are there.
async fn with_spare_checkpoint() -> (Vec<State>, Files) {
    let mut made = Made::new().await;
    for n in 0..4 {
        made.commit(some_rows(1 + n * 10, 11 + n * 10)).await;
    }
    let state = made.state().clone();
    checkpoint(&mut made.engine, &state).await;
    made.commit(frees([3, 34].into_iter())).await;
    made.files().await
}

#[derive(Debug, Default)]
struct Count {
    refused: u64,
    /// The start went well, a read was refused.
    unreadable: u64,
    /// The last batch was taken for a torn write.
    cut: u64,
    harmless: u64,
}

/// Opens damaged files. Whatever comes of it, nothing wrong may be served.
async fn judge(states: &[State], what: &str, file: &str, count: &mut Count) {
    let start = match start().await {
        Ok(start) => start,
        Err(error @ (Error::Corrupt { .. } | Error::TooNew { .. })) => {
            let text = error.to_string();
            assert!(text.contains(".seg") || text.contains(".ckpt"), "{text}");
            count.refused += 1;
            return;
        }
        Err(error) => panic!("{what}: {error}"),
    };
    let (last, before) = (&states[states.len() - 1], &states[states.len() - 2]);
    let is =
        |state: &State| start.meta == state.meta && start.told.ids.iter().eq(state.rows.keys());
    // A frame that only moves rows may be the last one, too.
    let state = if is(last) {
        last
    } else {
        assert!(
            is(before),
            "{what}: neither the last state nor the one before"
        );
        count.cut += 1;
        before
    };
    let reader = start.engine.reader();
    let mut refused = false;
    for (at, row) in &state.rows {
        match reader.read(*at) {
            Ok(found) => assert_eq!(found.as_ref(), Some(row), "{what}: row {at}"),
            Err(unreadable) => {
                assert!(
                    unreadable.to_string().contains(file),
                    "{what}: {unreadable}"
                );
                refused = true;
            }
        }
    }
    assert_eq!(
        reader.scan(id(0, 0), 999, 99_999).is_err(),
        refused,
        "{what}"
    );
    if refused {
        count.unreadable += 1;
    } else if is(last) {
        count.harmless += 1;
    }
}

#[test]
fn every_flipped_bit_is_found_or_harmless() {
    sim::run(1, async {
        for scenario in 0..3 {
            let (states, good) = match scenario {
                0 => with_checkpoint().await,
                1 => without_checkpoint().await,
                _ => with_spare_checkpoint().await,
            };
            put(&good).await;
            start().await.unwrap().is(states.last().unwrap()).unwrap();
            let mut total = Count::default();
            for (name, bytes) in &good {
                let mut count = Count::default();
                for bit in 0..bytes.len() * 8 {
                    let mut bad = good.clone();
                    bad.get_mut(name).unwrap()[bit / 8] ^= 1 << (bit % 8);
                    put(&bad).await;
                    let what = format!("bit {bit} of {name}");
                    judge(&states, &what, name, &mut count).await;
                }
                println!(
                    "scenario {scenario}, {name}, {} bytes: {count:?}",
                    bytes.len()
                );
                total.refused += count.refused;
                total.unreadable += count.unreadable;
                total.cut += count.cut;
                total.harmless += count.harmless;
            }
            assert!(total.cut > 100 && total.refused > 500, "{total:?}");
            assert_eq!(total.unreadable > 1_000, scenario != 1, "{total:?}");
            if scenario == 2 {
                assert!(
                    total.harmless > 1_000,
                    "a spare checkpoint is not missed: {total:?}"
                );
            }
        }
    });
}

#[test]
fn a_torn_tail_is_cut_at_every_byte_and_the_engine_goes_on() {
    sim::run(2, async {
        let (states, good) = with_checkpoint().await;
        let name = good.keys().rfind(|name| name.ends_with(".seg")).unwrap();
        let len = good[name].len();
        // The last frame: header, two freed rows, no padding.
        let frame = 40 + 24;
        for cut in 0..frame {
            for keep_front in [true, false] {
                let mut torn = good.clone();
                let bytes = torn.get_mut(name).unwrap();
                if keep_front {
                    bytes.truncate(len - frame + cut);
                } else {
                    bytes[len - frame..len - frame + cut].fill(0);
                }
                let whole = torn == good;
                put(&torn).await;
                let mut now = start().await.unwrap();
                let mut state = states[states.len() - 2 + usize::from(whole)].clone();
                now.is(&state).unwrap();
                let next = some_rows(80, 82);
                state.apply(&next);
                now.engine.commit(next).await.unwrap();
                drop(now);
                start().await.unwrap().is(&state).unwrap();
            }
        }
    });
}

#[test]
fn missing_and_foreign_files_are_named() {
    sim::run(3, async {
        let (states, good) = with_checkpoint().await;
        let newest = good.keys().rfind(|name| name.ends_with(".seg")).unwrap();
        for name in good.keys() {
            let mut left = good.clone();
            left.remove(name);
            put(&left).await;
            if name == newest {
                // Nothing on disk tells a newest file that somebody deleted from one that never was.
                assert!(start().await.unwrap().told.chunks > 0);
                continue;
            }
            let error = start().await.err().expect(name).to_string();
            // Without the checkpoint, the first file that it would have spared is named.
            let expect = if name.ends_with(".ckpt") {
                ".seg"
            } else {
                name
            };
            assert!(
                error.contains(expect) && error.contains("missing"),
                "{error}"
            );
        }
        // Segments that the checkpoint covers are not read, but they must be there as long as rows lie in them.
        let mut made = Made::new().await;
        for n in 0..9 {
            made.commit(some_rows(1 + n * 12, 13 + n * 12)).await;
        }
        let state = made.state().clone();
        checkpoint(&mut made.engine, &state).await;
        let (_, covered) = made.files().await;
        let segments: Vec<&String> = covered.keys().filter(|n| n.ends_with(".seg")).collect();
        assert!(segments.len() > 2);
        for name in &segments[..segments.len() - 1] {
            let mut left = covered.clone();
            left.remove(*name);
            put(&left).await;
            let error = start().await.err().expect(name).to_string();
            assert!(error.contains(*name), "{error}");
            assert!(error.contains("rows with it"), "{error}");
        }

        let (_, foreign) = with_checkpoint().await;
        for name in good.keys() {
            let mut mixed = good.clone();
            mixed.insert(name.clone(), foreign[name].clone());
            put(&mixed).await;
            match start().await {
                Err(error) => {
                    let text = error.to_string();
                    assert!(
                        text.contains("another store") || text.contains("corrupt"),
                        "{text}"
                    );
                }
                // A covered segment is opened when it is first read.
                Ok(start) => {
                    let error = start.is(states.last().unwrap()).unwrap_err();
                    assert!(error.contains("another store"), "{error}");
                }
            }
        }
    });
}

#[test]
fn a_damaged_checkpoint_is_done_without_only_where_that_is_proven() {
    sim::run(4, async {
        let spoil = |files: &mut Files| {
            let name = files.keys().find(|n| n.ends_with(".ckpt")).unwrap().clone();
            let bytes = files.get_mut(&name).unwrap();
            let at = bytes.len() - 60;
            bytes[at] ^= 4;
            name
        };
        // All segments are there: the full scan tells it all.
        let (states, mut files) = with_spare_checkpoint().await;
        spoil(&mut files);
        put(&files).await;
        let mut now = start().await.unwrap();
        now.is(states.last().unwrap()).unwrap();
        assert_eq!(now.told.chunks, 0);
        // The next checkpoint replaces the bad one.
        checkpoint(&mut now.engine, states.last().unwrap()).await;
        drop(now);
        let now = start().await.unwrap();
        now.is(states.last().unwrap()).unwrap();
        assert!(now.told.chunks > 0);
        drop(now);
        let left = super::model::files(&disk(), Path::new(DIR)).await;
        assert_eq!(left.keys().filter(|n| n.ends_with(".ckpt")).count(), 1);

        // Frames that the bad checkpoint covers are lost as well: the scan may not pass for complete.
        let (states, good) = with_spare_checkpoint().await;
        let mut files = good.clone();
        spoil(&mut files);
        let newest = files.keys().rfind(|n| n.ends_with(".seg")).unwrap().clone();
        let offset = files[&newest].len() / 2;
        files.get_mut(&newest).unwrap().truncate(offset);
        put(&files).await;
        let error = start().await.err().expect("incomplete").to_string();
        assert!(error.contains("covers it"), "{error}");
        drop(states);

        // A power cut left the checkpoint before it, and all that came after that one is there.
        let mut made = Made::new().await;
        made.commit(some_rows(1, 30)).await;
        let state = made.state().clone();
        checkpoint(&mut made.engine, &state).await;
        let (mut states, with_older) = made.files().await;
        let mut now = start().await.unwrap();
        let next = some_rows(30, 90);
        let mut state = states.pop().unwrap();
        state.apply(&next);
        now.engine.commit(next).await.unwrap();
        checkpoint(&mut now.engine, &state).await;
        drop(now);
        let mut files = super::model::files(&disk(), Path::new(DIR)).await;
        let bad = spoil(&mut files);
        let (older, bytes) = with_older
            .iter()
            .find(|(n, _)| n.ends_with(".ckpt"))
            .unwrap();
        assert!(*older < bad);
        files.insert(older.clone(), bytes.clone());
        put(&files).await;
        let now = start().await.unwrap();
        now.is(&state).unwrap();
        assert!(
            now.told.chunks > 0 && now.told.rows > 0,
            "the older one and its tail"
        );
        drop(now);
        // One segment less, and the older one is of no use either.
        let segment = files.keys().find(|n| n.ends_with(".seg")).unwrap().clone();
        files.remove(&segment);
        put(&files).await;
        let error = start().await.err().expect("not complete").to_string();
        assert!(error.contains(&bad) && error.contains(&segment), "{error}");

        // A segment was dropped: nothing can stand in for the checkpoint.
        let (_, mut files) = with_checkpoint().await;
        let name = spoil(&mut files);
        put(&files).await;
        let error = start().await.err().expect("not complete").to_string();
        assert!(
            error.contains(&name) && error.contains("cannot be put together"),
            "{error}"
        );
    });
}

#[test]
fn newer_formats_are_refused_loudly() {
    sim::run(5, async {
        let (_, good) = with_checkpoint().await;
        for (name, bytes) in &good {
            let mut newer = bytes.clone();
            newer[12..16].copy_from_slice(&[3, 0, 2, 0]);
            let crc = crc32c::crc32c_append(crc32c::crc32c(&newer[..8]), &newer[12..64]);
            newer[8..12].copy_from_slice(&crc.to_le_bytes());
            let mut files = good.clone();
            files.insert(name.clone(), newer);
            put(&files).await;
            let newest = good.keys().rfind(|n| n.ends_with(".seg")).unwrap();
            match start().await {
                Err(error) => {
                    let text = error.to_string();
                    assert!(
                        text.contains(name) && text.contains("newer version"),
                        "{text}"
                    );
                }
                Ok(start) => {
                    assert!(name != newest && name.ends_with(".seg"), "{name}");
                    let all = start.engine.reader().scan(id(0, 0), 999, 99_999);
                    let text = all.unwrap_err().to_string();
                    assert!(text.contains("newer version"), "{text}");
                }
            }
        }
    });
}
