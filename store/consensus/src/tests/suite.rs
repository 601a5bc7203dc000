//! openraft's own suite of log storages, over the wal and real files, and what it leaves out: what a restart finds.
//! And the suite once more, over a log that is closed and opened again after every change.
//! Left out of the suite: the cases that make a snapshot, because none is made here: the engine is it (`store/node`).

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use barque_store_env::real::{RealDisk, RealEnv};
use barque_store_env::{Env, watch};
use barque_store_wal::{Options, Wal, WalError};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{LogState, OptionalSend, StorageError};
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::limits::READ_CHUNK_BYTES;
use crate::log_store::LogStore;
use crate::machine::{Applier, Persisted};
use crate::pins::Pins;
use crate::types::{Data, LogEntry, LogId, Payload, Types, Vote, log_id};
use crate::{Guards, Machine};

type C = Types<RealEnv>;
type Store = LogStore<RealEnv>;

struct Free;
/// The suite's entries leave gaps that `Book` would not take.
struct Anything;
impl Machine for Anything {
    fn apply(
        &self,
        _: barque_store_state::LogIndex,
        _: u64,
        _: Option<&barque_store_state::Entry>,
    ) -> Result<Vec<barque_store_state::Outcome>, String> {
        Ok(Vec::new())
    }
}

async fn open(dir: &TempDir) -> Store {
    let (wal, recovered) =
        Wal::<RealEnv>::open(RealDisk, &dir.path().join("log"), Options::default())
            .await
            .expect("the log opens");
    LogStore::new(wal, recovered, Guards::default()).expect("its records parse")
}

impl StoreBuilder<C, Store, Applier<RealEnv>, TempDir> for Free {
    async fn build(&self) -> Result<(TempDir, Store, Applier<RealEnv>), StorageError<C>> {
        let dir = TempDir::new().expect("a directory");
        let store = open(&dir).await;
        let applier = Applier::new(
            Arc::new(Anything),
            watch::channel(0).0,
            None,
            Persisted::default(),
            Arc::new(Pins::new(Arc::new(Anything), true)),
            store.clone(),
        );
        Ok((dir, store, applier))
    }
}

macro_rules! cases {
    ($builder:ident, $store:ty; $($case:ident)*) => {
        $(
            let (_dir, store, machine) = $builder.build().await.expect("a fresh log");
            Suite::<C, $store, Applier<RealEnv>, $builder, TempDir>::$case(store, machine)
                .await
                .unwrap_or_else(|e| panic!("{}: {e}", stringify!($case)));
        )*
    };
}
macro_rules! all_cases {
    ($builder:ident, $store:ty) => {
        cases! { $builder, $store;
            last_membership_in_log_initial last_membership_in_log last_membership_in_log_multi_step
            get_membership_initial get_membership_from_log_and_empty_sm get_membership_from_empty_log_and_sm
            get_membership_from_log_le_sm_last_applied get_membership_from_log_gt_sm_last_applied_1
            get_membership_from_log_gt_sm_last_applied_2
            get_initial_state_without_init get_initial_state_with_state get_initial_state_last_log_gt_sm
            save_vote get_log_entries limited_get_log_entries leader_bounded_stream entries_stream try_get_log_entry
            log_reader_reads_new_entries initial_logs get_log_state get_log_id last_id_in_log
            purge_logs_upto_0 purge_logs_upto_5
            delete_logs_after_11 delete_logs_after_5 delete_logs_after_0 delete_logs_after_none
            append_to_log
        }
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_openrafts_own_suite() {
    all_cases!(Free, Store);
}

struct Restarting;
static RESTARTS: AtomicUsize = AtomicUsize::new(0);

/// An open log, and the wal below it.
type Open = (Store, Wal<RealEnv>);

/// A log that is closed and opened again after every change. Readers share it.
#[derive(Clone)]
struct Reopened {
    open: Arc<Mutex<Option<Open>>>,
    dir: PathBuf,
}

impl Reopened {
    async fn change<T>(&self, change: impl AsyncFnOnce(&mut Store) -> T) -> T {
        let mut open = self.open.lock().await;
        let (store, wal) = open.as_mut().expect("left open");
        let out = change(store).await;
        // What nobody waits for, such as a purge, is to be found again all the same.
        let all = wal.append(Vec::new());
        wal.durable(all).await.expect("durable");
        // Some cases begin with index 1 after nothing, which no Raft log does, and which no start accepts.
        let state = store.get_log_state().await.expect("in memory");
        let first = store.try_get_log_entries(0..1).await.expect("in memory");
        let hole = state.last_purged_log_id.is_none() && first.is_empty();
        if !hole || state.last_log_id.is_none() {
            *open = None;
            *open = Some(reopen(&self.dir).await);
            RESTARTS.fetch_add(1, Ordering::Relaxed);
        }
        out
    }
    async fn ask<T>(&self, ask: impl AsyncFnOnce(&mut Store) -> T) -> T {
        let mut open = self.open.lock().await;
        let (store, _) = open.as_mut().expect("left open");
        ask(store).await
    }
}

/// Opens the log; the lock of the one before goes with its writer.
async fn reopen(dir: &Path) -> Open {
    // Small enough that the suite meets several segments.
    let options = Options {
        segment_bytes: 4 << 10,
        ..Options::default()
    };
    for _ in 0..200 {
        match Wal::<RealEnv>::open(RealDisk, &dir.join("log"), options).await {
            Ok((wal, recovered)) => {
                let store = LogStore::new(wal.clone(), recovered, Guards::default())
                    .expect("its records parse");
                return (store, wal);
            }
            Err(WalError::Locked { .. }) => {
                RealEnv::sleep(std::time::Duration::from_millis(2)).await;
            }
            Err(e) => panic!("the log does not open again: {e}"),
        }
    }
    panic!("the log stays locked");
}

impl StoreBuilder<C, Reopened, Applier<RealEnv>, TempDir> for Restarting {
    async fn build(&self) -> Result<(TempDir, Reopened, Applier<RealEnv>), StorageError<C>> {
        let (dir, _, applier) = Free.build().await?;
        let path = dir.path().join("again");
        std::fs::create_dir(&path).expect("a directory");
        let open = Arc::new(Mutex::new(Some(reopen(&path).await)));
        Ok((dir, Reopened { open, dir: path }, applier))
    }
}

impl RaftLogReader<C> for Reopened {
    async fn try_get_log_entries<R>(&mut self, range: R) -> Result<Vec<LogEntry>, io::Error>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let mut open = self.open.lock().await;
        let (store, _) = open.as_mut().expect("left open");
        store.try_get_log_entries(range).await
    }
    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.ask(async |store| store.read_vote().await).await
    }
    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<LogEntry>, io::Error> {
        let mut open = self.open.lock().await;
        let (store, _) = open.as_mut().expect("left open");
        store.limited_get_log_entries(start, end).await
    }
}

impl RaftLogStorage<C> for Reopened {
    type LogReader = Self;
    async fn get_log_state(&mut self) -> Result<LogState<C>, io::Error> {
        let mut open = self.open.lock().await;
        let (store, _) = open.as_mut().expect("left open");
        store.get_log_state().await
    }
    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }
    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.change(async |store| store.save_vote(vote).await).await
    }
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.change(async |store| store.save_committed(committed).await)
            .await
    }
    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        self.ask(async |store| store.read_committed().await).await
    }
    async fn append<I>(&mut self, entries: I, callback: IOFlushed<C>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.change(async |store| store.append(entries, callback).await)
            .await
    }
    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.change(async |store| store.truncate_after(last).await)
            .await
    }
    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.change(async |store| store.purge(upto).await).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_suite_with_a_restart_after_every_change() {
    all_cases!(Restarting, Reopened);
    let restarts = RESTARTS.load(Ordering::Relaxed);
    assert!(restarts > 30, "only {restarts} restarts");
}

fn normal(term: u64, index: u64, bytes: usize) -> LogEntry {
    let entry = barque_store_state::Entry {
        time: barque_store_state::ClusterTime(index),
        commands: vec![barque_store_state::Command::Put(barque_store_state::Put {
            key: format!("{index}").into(),
            value: vec![index as u8; bytes].into(),
            ..Default::default()
        })],
        origins: Vec::new(),
    };
    LogEntry::new(log_id(term, index), Payload::Normal(Data::propose(entry)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_finds_vote_mark_and_entries_as_they_were_left() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(&dir).await;
    assert!(store.is_empty() && !store.has_voted());
    let vote = Vote::new_committed(4, u64::MAX);
    store.save_vote(&vote).await.expect("saved");
    store
        .blocking_append((0..10).map(|i| normal(3, i, 100)))
        .await
        .expect("appended");
    store
        .truncate_after(Some(log_id(3, 4)))
        .await
        .expect("truncated");
    store
        .blocking_append((5..8).map(|i| normal(4, i, 100)))
        .await
        .expect("appended");
    store
        .save_committed(Some(log_id(4, 6)))
        .await
        .expect("noted");
    // The mark rides with what comes next.
    store
        .blocking_append([normal(4, 8, 1)])
        .await
        .expect("appended");
    let before = store.try_get_log_entries(..).await.expect("in memory");
    drop(store);

    // The lock goes with the last handle's writer.
    let mut again = None;
    for _ in 0..200 {
        match Wal::<RealEnv>::open(RealDisk, &dir.path().join("log"), Options::default()).await {
            Ok((wal, recovered)) => {
                again = Some(
                    LogStore::<RealEnv>::new(wal, recovered, Guards::default()).expect("parses"),
                );
                break;
            }
            Err(_) => RealEnv::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
    let mut again = again.expect("the log opens again");
    assert_eq!(again.read_vote().await.expect("read"), Some(vote));
    assert_eq!(
        again.read_committed().await.expect("read"),
        Some(log_id(4, 6))
    );
    let after = again.try_get_log_entries(..).await.expect("in memory");
    assert_eq!(after, before);
    assert_eq!(after.len(), 9);
    let Payload::Normal(data) = &after[5].payload else {
        panic!("a normal entry");
    };
    assert!(data.take_proposed().is_none(), "read back, not proposed");
    let entry = crate::record::entry(data.record()).expect("parses");
    assert_eq!(entry.time.0, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_for_replication_is_bounded_and_never_starts_late() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(&dir).await;
    let third = READ_CHUNK_BYTES / 3;
    let sizes = [third, third, third, 2 * READ_CHUNK_BYTES, 10];
    store
        .blocking_append(
            sizes
                .iter()
                .zip(0..)
                .map(|(bytes, index)| normal(1, index, *bytes)),
        )
        .await
        .expect("appended");
    let mut chunks = Vec::new();
    let mut next = 0;
    while next < 5 {
        let chunk = store.limited_get_log_entries(next, 5).await.expect("read");
        assert_eq!(chunk[0].log_id.index, next);
        next += chunk.len() as u64;
        chunks.push(chunk.len());
    }
    assert_eq!(chunks, [2, 1, 1, 1]);
    store.purge(log_id(1, 2)).await.expect("purged");
    for below in 0..3 {
        assert!(
            store
                .limited_get_log_entries(below, 5)
                .await
                .expect("never an error")
                .is_empty()
        );
    }
    assert_eq!(
        store
            .limited_get_log_entries(3, 5)
            .await
            .expect("read")
            .len(),
        1
    );
}

/// A state that was taken anew ends in the middle of this log, or behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_contradict_a_state_go_and_nothing_else_does() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(&dir).await;
    store
        .blocking_append((0..10).map(|i| normal(3, i, 100)))
        .await
        .expect("appended");
    store
        .save_committed(Some(log_id(3, 4)))
        .await
        .expect("noted");
    store.purge(log_id(3, 2)).await.expect("purged");
    let last = async |store: &mut Store| {
        let state = store.get_log_state().await.expect("in memory");
        state.last_log_id.expect("it has entries").index
    };
    for agrees in [(3, 2), (3, 4), (3, 9), (3, 20), (9, 20)] {
        let state = log_id(agrees.0, agrees.1);
        store.give_way(state).await.expect("nothing contradicts");
        assert_eq!(last(&mut store).await, 9, "{agrees:?}");
    }
    // Known to be committed, or given up because it was: whoever says otherwise is not of this cluster.
    for wrong in [(4, 4), (4, 2)] {
        let state = log_id(wrong.0, wrong.1);
        let why = store.give_way(state).await.expect_err("it contradicts");
        assert!(why.contains("not of one cluster"), "{why}");
        assert_eq!(last(&mut store).await, 9, "{wrong:?}");
    }
    store.give_way(log_id(4, 7)).await.expect("it gives way");
    assert_eq!(last(&mut store).await, 6);
    // Durable already, and the log goes on from there.
    store
        .blocking_append([normal(4, 7, 1)])
        .await
        .expect("appended");
    assert_eq!(store.term_at(7), Some(4));
}
