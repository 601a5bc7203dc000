//! Purged segments: which are recycled, which are removed, and what their old content can do. Sync times too.

use barque_store_env::sim::{self, DiskProfile, NodeId, SimEnv};
use barque_store_env::{Disk, File, Open};

use super::*;

const DIR: &str = "/member/wal";
const SIM: Options = Options {
    segment_bytes: 1_024,
    fsync: true,
};

fn on_a_machine<F>(seed: u64, check: F) -> F::Output
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    sim::run(seed, async {
        let done = sim::spawn_on(NodeId(1), "check", check).await;
        done.expect("the checks hold")
    })
}

async fn start() -> Result<(Wal<SimEnv>, Recovered), WalError> {
    Wal::<SimEnv>::open(sim::disk(NodeId(1)), Path::new(DIR), SIM).await
}

async fn put(wal: &Wal<SimEnv>, records: Vec<Record>) {
    let number = wal.append(records);
    wal.durable(number).await.unwrap();
}

async fn segments() -> Vec<String> {
    let mut names = sim::disk(NodeId(1)).list(Path::new(DIR)).await.unwrap();
    names.retain(|name| segment::number(name).is_some());
    names
}

async fn contents(name: &str) -> Bytes {
    let path = Path::new(DIR).join(name);
    let file = sim::disk(NodeId(1)).open(&path, Open::Read).await.unwrap();
    file.read_at(0, usize::MAX).await.unwrap()
}

fn purge(index: u64) -> Record {
    Record::Purge { index, term: 1 }
}

/// Ten of them fit into one segment.
fn vote() -> Record {
    Record::Vote(Bytes::from_static(b"v"))
}

#[test]
fn a_log_that_is_purged_runs_in_circles() {
    on_a_machine(1, async {
        let (wal, _) = start().await.unwrap();
        let mut created = std::collections::BTreeSet::new();
        for i in 1..=600 {
            put(&wal, vec![entry(i, 1), purge(i.saturating_sub(3))]).await;
            // Time for the keeper; it works beside the writer.
            sim::sleep(Duration::from_millis(20)).await;
            let names = segments().await;
            assert!(names.len() <= 3, "{names:?}");
            assert_eq!(wal.space().segments, names.len() as u64);
            assert_eq!(wal.space().bytes, names.len() as u64 * SIM.segment_bytes);
            assert_eq!(wal.bytes_on_disk(), wal.space().bytes);
            created.extend(names);
        }
        let recycled = wal.stats().recycled;
        assert!(created.len() > 40, "only {} segments", created.len());
        assert!(
            recycled + 4 > created.len() as u64,
            "{recycled} of {} segments were recycled ones",
            created.len()
        );
        wal.close().await;
        let (wal, recovered) = start().await.unwrap();
        assert_eq!(recovered.purged, Some((597, 1)));
        assert_eq!(recovered.entries.len(), 3);
        assert_eq!(wal.space().segments, segments().await.len() as u64);
        wal.close().await;
    });
}

#[test]
fn one_purged_segment_is_kept_and_the_others_go() {
    on_a_machine(2, async {
        let (wal, _) = start().await.unwrap();
        for i in 1..=200 {
            put(&wal, vec![entry(i, 1)]).await;
        }
        let before = wal.space();
        assert!(before.segments > 15, "{before:?}");
        // One more batch for each time the queue of what is to be removed was full.
        for _ in 0..3 {
            put(&wal, vec![purge(200)]).await;
            sim::sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(segments().await.len(), 2, "the active one and the next");
        assert_eq!(wal.space().bytes, 2 * SIM.segment_bytes);
        wal.close().await;
        assert_eq!(start().await.unwrap().1.purged, Some((200, 1)));
    });
}

#[test]
fn a_longer_segment_is_not_recycled() {
    on_a_machine(3, async {
        let (wal, _) = start().await.unwrap();
        for i in 1..=60 {
            let payload = vec![1; 3_000].into();
            let term = 1;
            put(
                &wal,
                vec![
                    Record::Entry {
                        index: i,
                        term,
                        payload,
                    },
                    purge(i - 1),
                ],
            )
            .await;
            sim::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(wal.stats().recycled, 0);
        let names = segments().await;
        assert!(names.len() <= 3, "{names:?}");
        let mut bytes = 0;
        for name in names {
            bytes += contents(&name).await.len() as u64;
        }
        assert_eq!(wal.space().bytes, bytes);
    });
}

/// The zeros were lost by a disk that lied; the new header came through.
#[test]
fn the_old_content_of_a_recycled_file_is_never_taken_for_new() {
    on_a_machine(4, async {
        let (wal, _) = start().await.unwrap();
        // A term each, so that an old entry shows wherever it turns up.
        for i in 1..=40 {
            put(&wal, vec![entry(i, i)]).await;
        }
        wal.close().await;
        let names = segments().await;
        let last = names.iter().rposition(|_| true).unwrap();
        let (_, expect) = start().await.unwrap();
        assert!(names.len() > 4);
        for old in 0..last {
            for new in 0..=last {
                if old == new {
                    continue;
                }
                let good = contents(&names[new]).await;
                let stale = contents(&names[old]).await;
                let path = Path::new(DIR).join(&names[new]);
                let file = sim::disk(NodeId(1))
                    .open(&path, Open::ReadWrite)
                    .await
                    .unwrap();
                file.write_sync(64, stale.slice(64..)).await.unwrap();
                let found = loop {
                    match start().await {
                        Err(WalError::Locked { .. }) => sim::sleep(Duration::from_millis(1)).await,
                        found => break found,
                    }
                };
                match found {
                    Err(WalError::Corrupt { file, .. }) => assert!(file.ends_with(&names[new])),
                    Err(error) => panic!("{error}"),
                    // What is behind the last batch is nobody's.
                    Ok((wal, recovered)) => {
                        assert_eq!(recovered, expect);
                        wal.close().await;
                    }
                }
                file.write_sync(0, good).await.unwrap();
            }
        }
    });
}

#[test]
fn sync_times_are_those_of_the_disk() {
    on_a_machine(5, async {
        let ms = Duration::from_millis;
        sim::set_disk(
            NodeId(1),
            DiskProfile {
                sync: (ms(5), ms(7)),
                ..DiskProfile::default()
            },
        );
        let (wal, _) = start().await.unwrap();
        assert_eq!(wal.sync_times().count, 0);
        for _ in 0..10 {
            put(&wal, vec![vote()]).await;
        }
        let times = wal.sync_times();
        assert_eq!(times.count, 10);
        assert_eq!(times.buckets[3], 10, "{times:?}");
        assert!((0.05..0.071).contains(&times.sum_seconds), "{times:?}");
    });
}

/// Counts the warnings that a slow disk is behind.
struct Warnings(Arc<Mutex<u32>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        if event.metadata().fields().field("took_seconds").is_some() {
            *self.0.lock().unwrap() += 1;
        }
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_slow_disk_is_complained_about() {
    let count = Arc::new(Mutex::new(0));
    let subscriber = Warnings(count.clone());
    tracing::subscriber::with_default(subscriber, || {
        on_a_machine(6, async {
            let ms = Duration::from_millis;
            let (wal, _) = start().await.unwrap();
            put(&wal, vec![vote()]).await;
            sim::set_disk(
                NodeId(1),
                DiskProfile {
                    sync: (ms(1_500), ms(1_500)),
                    ..DiskProfile::default()
                },
            );
            for _ in 0..8 {
                put(&wal, vec![vote()]).await;
            }
            // Eight slow ones in twelve seconds.
            let times = wal.sync_times();
            assert_eq!(times.buckets[11], 8, "{times:?}");
        });
    });
    assert_eq!(*count.lock().unwrap(), 2, "the first, and one 10 s later");
}
