//! Kills, power losses and disk errors in the simulator, at any moment, recovery included: what was acknowledged is there, and what
//! is there is a prefix of what was appended.

use barque_store_env::sim::{self, DiskFault, DiskOp, NodeId, SimEnv};

use super::*;

/// All states the log went through, one per append.
struct History {
    states: Vec<Recovered>,
    /// `states[acknowledged]` is known to be durable.
    acknowledged: usize,
    model: Model,
    opened: u64,
    lost: u64,
    /// Disk errors that stopped the log.
    failed: u64,
    /// Segments recycled.
    recycled: u64,
}

/// Opens the log, compares it with the history and appends until it is killed.
async fn owner(history: Arc<Mutex<History>>, options: Options) {
    let dir = Path::new("/member/wal");
    let disk = sim::disk(NodeId(1));
    let (wal, recovered) = match Wal::<SimEnv>::open(disk, dir, options).await {
        Ok(opened) => opened,
        Err(WalError::Io { cause, .. }) if cause.kind() == std::io::ErrorKind::StorageFull => {
            history.lock().unwrap().failed += 1;
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let base = {
        let mut history = history.lock().unwrap();
        let from = history.acknowledged;
        let at = history.states[from..]
            .iter()
            .position(|state| *state == recovered);
        let at = from
            + at.unwrap_or_else(|| {
                panic!("not a state since the last acknowledged one: {recovered:?}")
            });
        history.lost += (history.states.len() - 1 - at) as u64;
        history.states = vec![recovered.clone()];
        history.acknowledged = 0;
        history.model.holds = recovered;
        history.opened += 1;
        0
    };
    let mut recycled = 0;
    for i in base + 1.. {
        let now = wal.stats().recycled;
        history.lock().unwrap().recycled += now - recycled;
        recycled = now;
        let op = match sim::below(12) {
            0..6 => Op::Entries(1 + sim::below(5) as u8),
            6..8 => Op::Truncate(sim::random() as u8),
            8..10 => Op::Purge(sim::random() as u8),
            10 => Op::Vote(sim::random() as u8),
            _ => Op::Committed(sim::random() as u8),
        };
        let records = {
            let mut history = history.lock().unwrap();
            let records = history.model.records(&op);
            let state = history.model.holds.clone();
            history.states.push(state);
            records
        };
        let heard = history.clone();
        let done: Done = Box::new(move |result| {
            // A planted disk error: from here on nothing may be acknowledged.
            let mut history = heard.lock().unwrap();
            if result.is_ok() {
                assert_eq!(history.acknowledged + 1, i, "acknowledged out of order");
                history.acknowledged = i;
            }
        });
        let number = wal.append_then(records, done);
        match sim::below(4) {
            0 if wal.durable(number).await.is_err() => {
                history.lock().unwrap().failed += 1;
                return;
            }
            1 => sim::sleep(sim::between(Duration::ZERO, Duration::from_millis(3))).await,
            _ => {}
        }
    }
}

fn one_seed(seed: u64) -> (u64, u64, u64, u64, u64) {
    sim::run(seed, async {
        let node = NodeId(1);
        let history = Arc::new(Mutex::new(History {
            states: vec![Recovered::default()],
            acknowledged: 0,
            model: Model::default(),
            opened: 0,
            lost: 0,
            failed: 0,
            recycled: 0,
        }));
        let options = Options {
            segment_bytes: 512 + sim::below(4) * 512,
            fsync: true,
        };
        for _ in 0..12 {
            drop(sim::spawn_on(
                node,
                "owner",
                owner(history.clone(), options),
            ));
            let fault = sim::chance(0.2).then(|| DiskFault {
                on: if sim::chance(0.5) {
                    DiskOp::Sync
                } else {
                    DiskOp::Write
                },
                after: sim::below(100),
                error: std::io::ErrorKind::StorageFull,
            });
            sim::fail_disk(node, fault);
            // Short lives end in the middle of recovery.
            let life = if sim::chance(0.4) { 6 } else { 80 };
            sim::sleep(sim::between(Duration::ZERO, Duration::from_millis(life))).await;
            if sim::chance(0.3) {
                sim::kill(node);
            } else {
                sim::power_off(node);
                sim::power_on(node);
            }
        }
        let history = history.lock().unwrap();
        (
            history.opened,
            history.lost,
            history.failed,
            history.recycled,
            sim::trace_hash(),
        )
    })
}

#[test]
fn crashes_and_disk_errors_cost_nothing_acknowledged() {
    let (mut opened, mut lost, mut failed, mut recycled) = (0, 0, 0, 0);
    for seed in 0..1_000 {
        let (o, l, f, r, _) = one_seed(seed);
        opened += o;
        lost += l;
        failed += f;
        recycled += r;
    }
    assert!(opened > 5_000, "only {opened} recoveries came through");
    assert!(failed > 500, "only {failed} disk errors stopped the log");
    assert!(recycled > 5_000, "only {recycled} segments were recycled");
    assert!(
        lost > 5_000,
        "only {lost} unacknowledged appends were lost: the faults hit nothing"
    );
}

#[test]
fn the_same_seed_is_the_same_run() {
    assert_eq!(one_seed(7), one_seed(7));
}

/// A start is killed while it zeroes a torn tail, then power is lost: some of the zeros arrive, in any order.
#[test]
fn a_half_cleared_torn_tail_is_still_a_torn_tail() {
    use barque_store_env::sim::DiskProfile;
    use barque_store_env::{Disk, File, Open};

    let mut cut = 0;
    for seed in 0..12_000 {
        cut += sim::run(seed, async {
            let node = NodeId(1);
            let dir = Path::new("/member/wal");
            let options = Options {
                segment_bytes: 1_536,
                fsync: true,
            };
            let open = move || Wal::<SimEnv>::open(sim::disk(node), dir, options);
            let written = sim::spawn_on(node, "write", async move {
                let (wal, _) = open().await.unwrap();
                let large = |index, len| Record::Entry {
                    index,
                    term: 1,
                    payload: vec![7; len].into(),
                };
                // The second batch's header lies across a sector's edge.
                for record in [large(1, 344), large(2, 100)] {
                    let number = wal.append(vec![record]);
                    wal.durable(number).await.unwrap();
                }
                wal.close().await;
                // The last write was cut off before its end.
                let path = dir.join(segment::name(1));
                let file = sim::disk(node).open(&path, Open::ReadWrite).await.unwrap();
                let end = 488 + 40 + 24 + 104 + 16;
                file.write_sync(end - 4, vec![0; 4].into()).await.unwrap();
            });
            written.await.expect("it ends");
            // Writing takes most of the time: it is where the kill hits.
            let (us, ms) = (Duration::from_micros(1), Duration::from_millis(1));
            let profile = DiskProfile {
                access: (ms, ms),
                sync: (us, us),
                names: (us, us),
            };
            sim::set_disk(node, profile);
            drop(sim::spawn_on(node, "killed", open()));
            sim::sleep(sim::between(2 * ms, 5 * ms)).await;
            sim::kill(node);
            sim::power_off(node);
            sim::power_on(node);
            let found = sim::spawn_on(node, "after", async move {
                open().await.map(|(_, recovered)| recovered.entries.len())
            });
            match found.await.expect("it ends") {
                Ok(entries) => u64::from(entries == 1),
                Err(error) => panic!("seed {seed}: {error}"),
            }
        });
    }
    assert_eq!(cut, 12_000);
}
