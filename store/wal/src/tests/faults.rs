//! Failing operations: the first error is final, and what was acknowledged before it is kept.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use barque_store_env::real::{RealFile, RealLock, RealNet};
use barque_store_env::{Disk, File, Open, Sleep, Task};

use super::*;

/// The real world with a [`FaultyDisk`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct FaultyEnv;

impl Env for FaultyEnv {
    type Disk = FaultyDisk;
    type Net = RealNet;
    fn now() -> Instant {
        RealEnv::now()
    }
    fn sleep_until(at: Instant) -> Sleep {
        RealEnv::sleep_until(at)
    }
    fn spawn<F>(name: &'static str, task: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        RealEnv::spawn(name, task)
    }
    fn random() -> u64 {
        RealEnv::random()
    }
}

/// Fails the operation whose turn it is, once; counts writes to a segment in use after that.
#[derive(Debug)]
struct Plan {
    turn: AtomicU64,
    failed: AtomicBool,
    written_after: AtomicU64,
}

#[derive(Clone, Debug)]
struct FaultyDisk(Arc<Plan>);

#[derive(Debug)]
struct FaultyFile(RealFile, Arc<Plan>);

impl Plan {
    fn turn(&self) -> io::Result<()> {
        if self.turn.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.failed.store(true, Ordering::SeqCst);
            return Err(io::Error::other("planted"));
        }
        Ok(())
    }
}

impl Disk for FaultyDisk {
    type File = FaultyFile;
    type Lock = RealLock;
    async fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir).await
    }
    async fn open(&self, path: &Path, how: Open) -> io::Result<FaultyFile> {
        Ok(FaultyFile(RealDisk.open(path, how).await?, self.0.clone()))
    }
    async fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path).await
    }
    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir).await
    }
    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.turn()?;
        RealDisk.rename(from, to).await
    }
    async fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path).await
    }
    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.turn()?;
        RealDisk.sync_dir(dir).await
    }
    async fn lock(&self, path: &Path) -> io::Result<RealLock> {
        RealDisk.lock(path).await
    }
}

impl File for FaultyFile {
    async fn len(&self) -> io::Result<u64> {
        self.0.len().await
    }
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.0.read_at(offset, len).await
    }
    async fn write_at(&self, offset: u64, data: Bytes) -> io::Result<()> {
        self.1.turn()?;
        self.0.write_at(offset, data).await
    }
    async fn write_sync(&self, offset: u64, data: Bytes) -> io::Result<()> {
        let failed_before = self.1.failed.load(Ordering::SeqCst);
        let turn = self.1.turn();
        // A failed sync may still have written, all or half of it.
        let kept = if turn.is_ok() {
            data.len()
        } else {
            data.len() / 2
        };
        self.0.write_sync(offset, data.slice(..kept)).await?;
        if failed_before {
            self.1.written_after.fetch_add(1, Ordering::SeqCst);
        }
        turn
    }
    async fn sync_data(&self) -> io::Result<()> {
        self.1.turn()?;
        self.0.sync_data().await
    }
    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len).await
    }
}

#[tokio::test]
async fn the_first_error_is_final_whichever_operation_it_hits() {
    let mut failures_while_running = 0;
    for turn in 1..120 {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        let plan = Arc::new(Plan {
            turn: AtomicU64::new(turn),
            failed: AtomicBool::new(false),
            written_after: AtomicU64::new(0),
        });
        let heard = Arc::new(Mutex::new(Vec::new()));
        if let Ok((wal, _)) = Wal::<FaultyEnv>::open(FaultyDisk(plan.clone()), dir, SMALL).await {
            for i in 1..=40u64 {
                let heard = heard.clone();
                let done: Done = Box::new(move |result| {
                    heard
                        .lock()
                        .unwrap()
                        .push((i, result.map_err(|e| e.to_string())));
                });
                let number = wal.append_then(vec![entry(i, 1)], done);
                // Some alone in their batch, some together.
                if i % 4 == 0 && wal.durable(number).await.is_err() {
                    let error = wal.failed().await.to_string();
                    assert!(error.ends_with("failed: planted"), "{error}");
                    failures_while_running += 1;
                    break;
                }
            }
            wal.close().await;
        }
        // At most one write was already under way beside a failing helper.
        assert!(
            plan.written_after.load(Ordering::SeqCst) <= 2,
            "the log wrote on after an error"
        );
        let heard = std::mem::take(&mut *heard.lock().unwrap());
        let acknowledged = heard
            .iter()
            .take_while(|(_, result)| result.is_ok())
            .count();
        for (at, (i, result)) in heard.iter().enumerate() {
            assert_eq!(
                *i,
                at as u64 + 1,
                "callbacks keep their order when they fail"
            );
            assert_eq!(
                result.is_ok(),
                at < acknowledged,
                "no success after the failure"
            );
        }
        let (wal, recovered) = open(dir).await.unwrap();
        assert!(
            recovered.entries.len() >= acknowledged,
            "turn {turn} lost acknowledged entries"
        );
        wal.close().await;
    }
    assert!(failures_while_running > 10, "{failures_while_running}");
}
