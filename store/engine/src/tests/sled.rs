//! The guards around sled: what it lost is noticed, and its panics end nothing but the start.

use std::path::Path;
use std::time::Duration;

use barque_store_env::real::{RealDisk, RealEnv};
use barque_store_env::sim::{self, NodeId, SimEnv};
use bytes::Bytes;

use super::model::*;
use crate::*;

async fn start(dir: &Path) -> Result<Start<RealEnv>, Error> {
    Start::new(Kind::Sled, RealDisk, dir, SMALL).await
}

fn batch(main: u64) -> Batch {
    Batch {
        rows: vec![(id(main, 0), Bytes::from(vec![main as u8; 50_000]))],
        freed: vec![],
        meta: vec![
            ("applied".into(), Some(main.to_string().into())),
            // Large, shrinking: the pieces of the longer one must go.
            ("leases".into(), Some(vec![7; 200_000 >> main].into())),
        ],
    }
}

#[tokio::test]
async fn a_database_that_came_back_older_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let mut now = start(dir).await.unwrap();
    now.engine.commit(batch(2)).await.unwrap();
    drop(now);
    let copy = tempfile::tempdir().unwrap();
    copy_all(&dir.join("sled"), &copy.path().join("sled"));
    let mut now = start(dir).await.unwrap();
    now.engine.commit(batch(3)).await.unwrap();
    drop(now);
    let now = start(dir).await.unwrap();
    assert_eq!(now.meta["applied"], "3");
    assert_eq!(now.meta["leases"].len(), 200_000 >> 3);
    drop(now);

    // What a power cut does to it: an older state, or nothing at all.
    std::fs::remove_dir_all(dir.join("sled")).unwrap();
    copy_all(&copy.path().join("sled"), &dir.join("sled"));
    let error = start(dir).await.err().expect("older").to_string();
    let expect = "it came back with commit 1, but 2 were acknowledged";
    assert!(error.contains(expect), "{error}");
    std::fs::remove_dir_all(dir.join("sled")).unwrap();
    let error = start(dir).await.err().expect("empty").to_string();
    assert!(error.contains("commit 0, but 2"), "{error}");
    copy_all(&copy.path().join("sled"), &dir.join("sled"));
    std::fs::remove_file(dir.join("sled.mark")).unwrap();
    let error = start(dir).await.err().expect("no mark").to_string();
    assert!(error.contains("missing beside its database"), "{error}");
}

/// Its threads keep a closed database for a moment, with its lock.
#[tokio::test]
async fn a_database_that_sled_has_not_let_go_of_yet_is_waited_for() {
    let home = tempfile::tempdir().unwrap();
    let mut now = start(home.path()).await.unwrap();
    now.engine.commit(batch(2)).await.unwrap();
    drop(now);
    let lingering = std::fs::File::open(home.path().join("sled/db")).unwrap();
    lingering.lock().unwrap();
    let (begun, held_for) = (std::time::Instant::now(), Duration::from_millis(60));
    let thread = std::thread::spawn(move || {
        std::thread::sleep(held_for);
        drop(lingering);
    });
    let now = start(home.path()).await.unwrap();
    assert!(begun.elapsed() >= held_for, "opened beside a lock");
    thread.join().unwrap();
    assert_eq!(now.meta["applied"], "2");
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_all(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_spoiled_database_is_an_error_not_a_panic_and_never_served_wrong() {
    let (mut refused, mut unreadable, mut fine) = (0, 0, 0);
    let home = tempfile::tempdir().unwrap();
    let good = home.path().join("good");
    let mut state = State::default();
    let mut now = start(&good).await.unwrap();
    for main in 2..6 {
        state.apply(&batch(main));
        now.engine.commit(batch(main)).await.unwrap();
    }
    drop(now);
    let len = std::fs::metadata(good.join("sled/db")).unwrap().len();
    let mut chance = Chance(1);
    for n in 0..24 {
        let dir = home.path().join(n.to_string());
        copy_all(&good, &dir);
        let db = dir.join("sled/db");
        let mut bytes = std::fs::read(&db).unwrap();
        for _ in 0..4 {
            bytes[chance.below(len) as usize] ^= 1 << chance.below(8);
        }
        std::fs::write(&db, bytes).unwrap();
        match start(&dir).await {
            Err(_) => refused += 1,
            Ok(now) => {
                let reader = now.engine.reader();
                for (at, row) in &state.rows {
                    match reader.read(*at) {
                        Ok(found) => {
                            assert_eq!(found.as_ref(), Some(row));
                            fine += 1;
                        }
                        Err(_) => unreadable += 1,
                    }
                }
            }
        }
    }
    println!("{refused} refused, {unreadable} unreadable rows, {fine} right rows");
    assert!(refused > 0);
}

#[test]
fn a_simulated_disk_is_refused() {
    sim::run(1, async {
        let disk = sim::disk(NodeId(1));
        let opened = Start::<SimEnv>::new(Kind::Sled, disk, Path::new("/m/state"), SMALL).await;
        let error = opened.err().expect("refused").to_string();
        assert!(error.contains("real files only"), "{error}");
    });
}
