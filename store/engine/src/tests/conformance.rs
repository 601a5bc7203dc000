//! What every engine must do alike, on real files.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use barque_store_env::real::{RealDisk, RealEnv};
use bytes::Bytes;

use super::model::*;
use crate::*;

async fn start(kind: Kind, dir: &Path) -> Start<RealEnv> {
    Start::new(kind, RealDisk, dir, SMALL).await.unwrap()
}

fn kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| kind.is_built())
}

#[tokio::test]
async fn every_engine_is_the_model() {
    for kind in kinds() {
        let (mut reopened, mut told_index, mut told_rows) = (0, 0, 0);
        for seed in 0..6 {
            let home = tempfile::tempdir().unwrap();
            let dir = home.path().join("a/state");
            let mut chance = Chance(seed);
            let mut state = State::default();
            let mut now = start(kind, &dir).await;
            for _ in 0..50 {
                let engine = &mut now.engine;
                step(engine, &mut state, &mut chance, &mut |_| {}, &mut || {})
                    .await
                    .unwrap();
                serves(&*engine.reader(), &state).unwrap().unwrap();
                sample(&*engine.reader(), &state, &mut chance);
                let space = engine.space();
                assert!(space.disk_bytes >= space.checkpoint_bytes && space.segments >= 1);
                if chance.one_in(6) {
                    drop(now);
                    now = start(kind, &dir).await;
                    now.is(&state).unwrap();
                    reopened += 1;
                    told_index += now.told.chunks;
                    told_rows += now.told.rows;
                }
            }
        }
        assert!(
            reopened > 20 && told_rows > 100,
            "{kind}: {reopened} {told_rows}"
        );
        let keeps = kind == Kind::Segments;
        assert_eq!(told_index > 0, keeps, "{kind} told {told_index} chunks");
    }
}

/// Everything a start was told, in order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told(Vec<Event>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Index(Bytes),
    Row(RowId, Bytes),
    Freed(RowId),
}

impl Restore for Told {
    fn index(&mut self, chunk: Bytes) -> Result<(), String> {
        self.0.push(Event::Index(chunk));
        Ok(())
    }
    fn row(&mut self, id: RowId, row: Bytes) -> Result<(), String> {
        self.0.push(Event::Row(id, row));
        Ok(())
    }
    fn freed(&mut self, id: RowId) -> Result<(), String> {
        self.0.push(Event::Freed(id));
        Ok(())
    }
}

fn rows(rows: &[(u64, u32, &'static str)]) -> Batch {
    let rows = rows.iter();
    Batch {
        rows: rows
            .map(|(m, s, row)| (id(*m, *s), (*row).into()))
            .collect(),
        ..Batch::default()
    }
}

fn freed(ids: &[(u64, u32)]) -> Batch {
    Batch {
        freed: ids.iter().map(|(main, sub)| id(*main, *sub)).collect(),
        ..Batch::default()
    }
}

/// What is told after a checkpoint with commits before, in and after it, said once in full.
#[tokio::test]
async fn a_start_tells_index_then_rows_then_frees() {
    for kind in [Kind::Segments, Kind::Memory] {
        let home = tempfile::tempdir().unwrap();
        let mut now = start(kind, home.path()).await;
        let engine = &mut now.engine;
        engine
            .commit(rows(&[(2, 0, "a"), (2, 1, "b")]))
            .await
            .unwrap();
        engine.commit(freed(&[(2, 0)])).await.unwrap();
        engine.begin_checkpoint().await.unwrap();
        engine.checkpoint_chunk("chunk 1".into()).await.unwrap();
        engine.commit(rows(&[(3, 0, "c")])).await.unwrap();
        engine.checkpoint_chunk("chunk 2".into()).await.unwrap();
        engine.commit(freed(&[(2, 1), (1, 7)])).await.unwrap();
        engine.finish_checkpoint().await.unwrap();
        let mut last = rows(&[(5, 1, "d")]);
        last.freed = vec![id(3, 0)];
        last.meta = vec![("applied".into(), Some("9".into()))];
        engine.commit(last).await.unwrap();
        drop(now);

        let mut told = Told::default();
        let opened = open::<RealEnv>(kind, RealDisk, home.path(), &mut told)
            .await
            .unwrap();
        let before = [
            Event::Row(id(2, 0), "a".into()),
            Event::Row(id(2, 1), "b".into()),
            Event::Freed(id(2, 0)),
        ];
        let index = [
            Event::Index("chunk 1".into()),
            Event::Index("chunk 2".into()),
        ];
        let after = [
            Event::Row(id(3, 0), "c".into()),
            Event::Freed(id(2, 1)),
            Event::Freed(id(1, 7)),
            Event::Row(id(5, 1), "d".into()),
            Event::Freed(id(3, 0)),
        ];
        let first: &[Event] = match kind {
            Kind::Segments => &index,
            _ => &before,
        };
        assert_eq!(told.0, [first, &after].concat(), "{kind}");
        assert_eq!(opened.meta.len(), 1);
        assert_eq!(opened.meta["applied"], "9");
        let left = opened.engine.reader().scan(id(0, 0), 9, 99).unwrap();
        assert_eq!(left, [(id(5, 1), Bytes::from("d"))]);
    }
}

#[tokio::test]
async fn wrong_calls_fail_the_engine_for_good() {
    for kind in kinds() {
        let refused: [(&str, Batch); 4] = [
            ("row 4/0 was given after row 4/0", rows(&[(4, 0, "again")])),
            ("row 3/9 was given after row 4/0", rows(&[(3, 9, "late")])),
            (
                "row 6/0 was given after row 6/1",
                rows(&[(6, 1, "x"), (6, 0, "y")]),
            ),
            (
                "a name of 70000 bytes is more than the engine takes (65535)",
                Batch {
                    meta: vec![("n".repeat(70_000), None)],
                    ..Batch::default()
                },
            ),
        ];
        for (expect, batch) in refused {
            let home = tempfile::tempdir().unwrap();
            let mut now = start(kind, home.path()).await;
            let mut state = State::default();
            // Freed or not, and over a restart: the ids below are used up.
            let good = rows(&[(2, 0, "two"), (4, 0, "four")]);
            state.apply(&good);
            now.engine.commit(good).await.unwrap();
            let good = freed(&[(4, 0)]);
            state.apply(&good);
            now.engine.commit(good).await.unwrap();
            drop(now);
            let mut now = start(kind, home.path()).await;
            let error = now.engine.commit(batch).await.unwrap_err();
            assert_eq!(error.to_string(), expect, "{kind}");
            let again = now.engine.commit(rows(&[(9, 0, "fine")])).await;
            assert_eq!(again.unwrap_err().to_string(), expect, "{kind}: latched");
            assert!(now.engine.maintain().await.is_err());
            drop(now);
            start(kind, home.path()).await.is(&state).unwrap();
        }
        let home = tempfile::tempdir().unwrap();
        let mut now = start(kind, home.path()).await;
        let error = now.engine.finish_checkpoint().await.unwrap_err();
        assert!(matches!(error, Error::NoCheckpoint), "{kind}: {error}");
    }
}

#[tokio::test]
async fn one_directory_has_one_owner_and_dropping_gives_it_up() {
    for kind in kinds() {
        let home = tempfile::tempdir().unwrap();
        let now = start(kind, home.path()).await;
        let second = Start::<RealEnv>::new(kind, RealDisk, home.path(), SMALL).await;
        let error = second.err().expect("the directory is taken");
        assert!(matches!(error, Error::Locked { .. }), "{kind}: {error}");
        assert!(error.to_string().contains("in use by another process"));
        drop(now);
        start(kind, home.path()).await;
    }
}

#[tokio::test]
async fn a_call_that_was_dropped_half_way_fails_the_engine() {
    for kind in [Kind::Segments, Kind::Memory] {
        let home = tempfile::tempdir().unwrap();
        let mut now = start(kind, home.path()).await;
        // Polled once: the write is on its way, and nobody will hear of its end. A very fast disk may be done even so.
        let mut begun = 1;
        loop {
            let commit = now.engine.commit(rows_at(begun));
            match tokio::time::timeout(Duration::ZERO, commit).await {
                Ok(done) => done.unwrap(),
                Err(_) => break,
            }
            begun += 1;
            assert!(begun < 1_000, "{kind}: no call was ever interrupted");
        }
        let error = now.engine.commit(rows_at(begun + 1)).await.unwrap_err();
        assert!(matches!(error, Error::Interrupted), "{kind}: {error}");
        assert!(now.engine.finish_checkpoint().await.is_err());
        drop(now);
        let now = start(kind, home.path()).await;
        let left = now.engine.reader().scan(id(0, 0), 2_000, 99_999).unwrap();
        let left = left.len() as u64;
        assert!(left == begun || left == begun - 1, "{left} of {begun}");
    }
}

fn rows_at(main: u64) -> Batch {
    Batch {
        rows: vec![(id(main, 0), Bytes::from_static(b"row"))],
        ..Batch::default()
    }
}

struct Refuses;
impl Restore for Refuses {
    fn index(&mut self, _: Bytes) -> Result<(), String> {
        Ok(())
    }
    fn row(&mut self, _: RowId, _: Bytes) -> Result<(), String> {
        Err("it is not protobuf".into())
    }
    fn freed(&mut self, _: RowId) -> Result<(), String> {
        Ok(())
    }
}

#[tokio::test]
async fn a_caller_that_does_not_understand_ends_the_start() {
    for kind in kinds() {
        let home = tempfile::tempdir().unwrap();
        let mut now = start(kind, home.path()).await;
        now.engine.commit(rows(&[(2, 0, "a")])).await.unwrap();
        drop(now);
        let opened = open::<RealEnv>(kind, RealDisk, home.path(), &mut Refuses).await;
        let error = opened.err().expect("refused").to_string();
        assert!(error.contains("it is not protobuf"), "{kind}: {error}");
    }
}

#[tokio::test]
async fn large_rows_get_through() {
    for kind in kinds() {
        let home = tempfile::tempdir().unwrap();
        let mut now = start(kind, home.path()).await;
        let mut state = State::default();
        for (main, len) in [(1, 10), (2, 3 << 20), (3, 0), (4, 5 << 20), (5, 1)] {
            let row = Bytes::from(vec![main as u8; len]);
            let batch = Batch {
                rows: vec![(id(main, 0), row)],
                ..Batch::default()
            };
            state.apply(&batch);
            now.engine.commit(batch).await.unwrap();
        }
        serves(&*now.engine.reader(), &state).unwrap().unwrap();
        drop(now);
        start(kind, home.path()).await.is(&state).unwrap();
    }
}

#[test]
fn engines_have_names() {
    for kind in Kind::ALL {
        assert_eq!(kind.to_string().parse(), Ok(kind));
    }
    let error = "rocksdb".parse::<Kind>().unwrap_err().to_string();
    assert!(error.contains("segments, memory or sled"), "{error}");
    let names: BTreeSet<&str> = Kind::ALL.into_iter().map(Kind::name).collect();
    assert_eq!(names.len(), Kind::ALL.len());
}

#[cfg(not(feature = "sled"))]
#[tokio::test]
async fn sled_is_refused_by_name_where_it_is_not_built() {
    let home = tempfile::tempdir().unwrap();
    let opened = Start::<RealEnv>::new(Kind::Sled, RealDisk, home.path(), SMALL).await;
    let error = opened.err().expect("not built").to_string();
    assert!(error.contains("cargo feature `sled`"), "{error}");
}
