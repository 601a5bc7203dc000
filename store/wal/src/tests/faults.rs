//! Failing operations: the first error is final, and what was acknowledged before it is kept.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use barque_store_env::real::{RealFile, RealLock, RealNet};
use barque_store_env::{Disk, File, Open, ReadAt, Sleep, Space, Task};

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
    /// What fails.
    operation: &'static str,
    /// How many of them are left until it does.
    turn: AtomicU64,
    failed: AtomicBool,
    written_after: AtomicU64,
    /// Bytes read.
    read: AtomicU64,
}

#[derive(Clone, Debug)]
struct FaultyDisk(Arc<Plan>);

#[derive(Debug)]
struct FaultyFile(RealFile, Arc<Plan>);

impl Plan {
    /// Fails the `turn`-th of these operations; 0: none.
    fn new(operation: &'static str, turn: u64) -> Arc<Plan> {
        Arc::new(Plan {
            operation,
            turn: AtomicU64::new(turn),
            failed: AtomicBool::new(false),
            written_after: AtomicU64::new(0),
            read: AtomicU64::new(0),
        })
    }

    fn turn(&self, operation: &'static str) -> io::Result<()> {
        if operation == self.operation && self.turn.fetch_sub(1, Ordering::SeqCst) == 1 {
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
        if path.ends_with(segment::FILLING) && how == Open::ReadWrite {
            self.0.turn("opening of a recycled file")?;
        }
        Ok(FaultyFile(RealDisk.open(path, how).await?, self.0.clone()))
    }
    async fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path).await
    }
    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir).await
    }
    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let recycling = to.ends_with(segment::FILLING);
        self.0.turn(if recycling {
            "recycling rename"
        } else {
            "naming rename"
        })?;
        RealDisk.rename(from, to).await
    }
    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.turn("removal")?;
        RealDisk.remove(path).await
    }
    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.turn("directory sync")?;
        RealDisk.sync_dir(dir).await
    }
    async fn lock(&self, path: &Path) -> io::Result<RealLock> {
        RealDisk.lock(path).await
    }
    fn reader(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        RealDisk.reader(path)
    }
    async fn space(&self, dir: &Path) -> io::Result<Space> {
        RealDisk.space(dir).await
    }
}

impl File for FaultyFile {
    async fn len(&self) -> io::Result<u64> {
        self.0.len().await
    }
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let bytes = self.0.read_at(offset, len).await?;
        self.1.read.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        Ok(bytes)
    }
    async fn write_at(&self, offset: u64, data: Bytes) -> io::Result<()> {
        self.1.turn("write")?;
        self.0.write_at(offset, data).await
    }
    async fn write_sync(&self, offset: u64, data: Bytes) -> io::Result<()> {
        let failed_before = self.1.failed.load(Ordering::SeqCst);
        let turn = self.1.turn("write and sync");
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
        self.1.turn("sync")?;
        self.0.sync_data().await
    }
    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len).await
    }
}

#[tokio::test]
async fn the_first_error_is_final_whichever_operation_it_hits() {
    // Each occurs at least so often.
    for (operation, times) in [
        ("recycling rename", 4),
        ("opening of a recycled file", 4),
        ("naming rename", 8),
        ("directory sync", 16),
        ("removal", 2),
        ("write", 8),
        ("write and sync", 40),
        ("sync", 8),
    ] {
        for turn in 1..=times {
            fail(operation, turn).await;
        }
    }
}

/// Lets the `turn`-th of the operations fail and looks at what the log says and keeps.
async fn fail(operation: &'static str, turn: u64) {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let plan = Plan::new(operation, turn);
    let heard = Arc::new(Mutex::new(Vec::new()));
    // The last entry of each append.
    let mut last = vec![0];
    if let Ok((wal, _)) = Wal::<FaultyEnv>::open(FaultyDisk(plan.clone()), dir, SMALL).await {
        for i in 1..=80u64 {
            let heard = heard.clone();
            let done: Done = Box::new(move |result| {
                heard
                    .lock()
                    .unwrap()
                    .push((i, result.map_err(|e| e.to_string())));
            });
            let mut records = vec![entry(i, 1)];
            // Purged often and little, then rarely and much: recycled files, and removed ones.
            if i < 40 || i % 30 == 0 {
                let index = i - 1;
                records.push(Record::Purge { index, term: 1 });
            }
            let number = wal.append_then(records, done);
            last.push(i);
            // Some alone in their batch, some together.
            if i % 2 == 0 {
                if wal.durable(number).await.is_err() {
                    let error = wal.failed().await.to_string();
                    assert!(error.ends_with("failed: planted"), "{error}");
                    break;
                }
                RealEnv::sleep(Duration::from_millis(1)).await;
            }
        }
        // The keeper may still have to come to it.
        eventually(operation, || plan.failed.load(Ordering::SeqCst)).await;
        // With nothing under way when it failed, what came after it was once taken for durable (simulator, seed 39: a state
        // persisted beyond its log; a vote would have been no better).
        wal.failed().await;
        for late in [vec![entry(81, 1)], Vec::new()] {
            let number = wal.append(late);
            assert!(wal.durable(number).await.is_err(), "{operation} {turn}");
        }
        wal.close().await;
    }
    assert!(plan.failed.load(Ordering::SeqCst));
    // At most one write was already under way beside a failing keeper.
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
    let end = recovered.entries.last().map_or(0, |e| e.index);
    assert!(
        end >= last[acknowledged],
        "{operation} {turn} lost acknowledged entries"
    );
    wal.close().await;
}

#[tokio::test]
async fn a_start_reads_each_byte_once() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let (wal, _) = open(dir).await.unwrap();
    for i in 1..=30 {
        put(&wal, vec![entry(i, 1)]).await;
    }
    wal.close().await;
    for torn in [false, true] {
        let files = files(dir);
        if torn {
            // The end of the last write is missing: it is zeroed too.
            let mut full = files
                .iter()
                .filter(|(_, b)| b[64..].iter().any(|b| *b != 0));
            let (path, bytes) = full.next_back().unwrap();
            let mut bytes = bytes.clone();
            let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
            bytes[last - 20..].fill(0);
            std::fs::write(path, bytes).unwrap();
        }
        let plan = Plan::new("nothing", 0);
        let (wal, recovered) = Wal::<FaultyEnv>::open(FaultyDisk(plan.clone()), dir, SMALL)
            .await
            .unwrap();
        assert!(recovered.entries.len() >= 29);
        let there: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(plan.read.load(Ordering::SeqCst), there as u64);
        wal.close().await;
    }
}
