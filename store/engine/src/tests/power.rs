//! Kills, power cuts and disk errors in the simulator, at every operation and at random moments: what was acknowledged
//! is there, what is there is a prefix of what was committed, and the first error is final.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use barque_store_env::sim::{self, DiskFault, DiskOp, NodeId, SimEnv};

use super::model::*;
use crate::*;

const NODE: NodeId = NodeId(1);
const DIR: &str = "/member/state";

/// States the engine may be in.
struct History {
    /// The last acknowledged one.
    durable: State,
    /// The one whose commit is under way.
    begun: Option<State>,
    opened: u64,
    /// Commits that were under way and did (not) survive.
    kept: u64,
    lost: u64,
    failed: u64,
    from_checkpoint: u64,
    dropped_files: u64,
    chance: Chance,
    fault: Option<DiskFault>,
}

impl History {
    fn new(seed: u64) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(History {
            durable: State::default(),
            begun: None,
            opened: 0,
            kept: 0,
            lost: 0,
            failed: 0,
            from_checkpoint: 0,
            dropped_files: 0,
            chance: Chance(seed),
            fault: None,
        }))
    }

    /// An engine was opened: it must be one of the two.
    fn meets(&mut self, start: &Start<SimEnv>) {
        // The comparison reads every row; planted read errors are for the engine's own reads.
        sim::fail_disk(NODE, None);
        self.compare(start);
        sim::fail_disk(NODE, self.fault);
    }

    fn compare(&mut self, start: &Start<SimEnv>) {
        self.opened += 1;
        self.from_checkpoint += u64::from(start.told.chunks > 0);
        match (start.is(&self.durable), self.begun.take()) {
            (Ok(()), begun) => self.lost += u64::from(begun.is_some()),
            (Err(why), None) => panic!("not the acknowledged state: {why}"),
            (Err(why), Some(begun)) => match start.is(&begun) {
                Ok(()) => {
                    self.durable = begun;
                    self.kept += 1;
                }
                Err(other) => {
                    panic!("neither the acknowledged state ({why}) nor the next ({other})")
                }
            },
        }
    }
}

async fn start(kind: Kind) -> Result<Start<SimEnv>, Error> {
    Start::new(kind, sim::disk(NODE), Path::new(DIR), SMALL).await
}

/// Opens the engine, compares and works until it is killed or an operation fails.
async fn owner(kind: Kind, history: Arc<Mutex<History>>, steps: u64) {
    let opened = start(kind).await;
    let mut now = match opened {
        Ok(now) => now,
        Err(error) => return planted(&history, &error),
    };
    let (mut state, seed) = {
        let mut history = history.lock().unwrap();
        history.meets(&now);
        (history.durable.clone(), history.chance.next())
    };
    let mut chance = Chance(seed);
    let mut files = now.engine.space().segments;
    for _ in 0..steps {
        let (begun, acknowledged) = (history.clone(), history.clone());
        let done = step(
            &mut now.engine,
            &mut state,
            &mut chance,
            &mut |next| begun.lock().unwrap().begun = Some(next.clone()),
            &mut || {
                let mut history = acknowledged.lock().unwrap();
                history.durable = history.begun.take().expect("begun before");
            },
        )
        .await;
        if let Err(error) = done {
            planted(&history, &error);
            // Latched, though the disk works again.
            sim::fail_disk(NODE, None);
            let again = now.engine.commit(Batch::default()).await.unwrap_err();
            assert_eq!(again.to_string(), error.to_string());
            assert!(now.engine.begin_checkpoint().await.is_err());
            assert!(now.engine.maintain().await.is_err());
            return;
        }
        let segments = now.engine.space().segments;
        history.lock().unwrap().dropped_files += u64::from(segments < files);
        files = segments;
    }
}

fn planted(history: &Mutex<History>, error: &Error) {
    let text = error.to_string();
    assert!(text.contains("planted"), "{text}");
    history.lock().unwrap().failed += 1;
}

fn plant(history: &Mutex<History>, fault: Option<DiskFault>) {
    history.lock().unwrap().fault = fault;
    sim::fail_disk(NODE, fault);
}

fn crash(power: bool) {
    if power {
        sim::power_off(NODE);
        sim::power_on(NODE);
    } else {
        sim::kill(NODE);
    }
}

/// Lets one operation fail, at the start or later, then ends the process or cuts the power. Whether it failed at all.
fn one_failure(kind: Kind, seed: u64, on: DiskOp, after: u64, power: bool) -> bool {
    sim::run(seed, async move {
        let history = History::new(seed);
        let run = |steps| sim::spawn_on(NODE, "owner", owner(kind, history.clone(), steps));
        run(30).await.unwrap();
        plant(
            &history,
            Some(DiskFault {
                on,
                after,
                error: ErrorKind::StorageFull,
            }),
        );
        run(30).await.unwrap();
        plant(&history, None);
        crash(power);
        run(0).await.unwrap();
        // What the start before found, in the page cache perhaps, it must have made durable.
        crash(true);
        run(4).await.unwrap();
        run(0).await.unwrap();
        let history = history.lock().unwrap();
        assert!(history.failed <= 1);
        history.failed == 1
    })
}

#[test]
fn the_first_error_is_final_whichever_operation_it_hits() {
    let mut hit = 0;
    for kind in [Kind::Segments, Kind::Memory] {
        for on in [DiskOp::Write, DiskOp::Sync, DiskOp::Names, DiskOp::Read] {
            for seed in 0..3 {
                let before = hit;
                for after in 0.. {
                    let kill = one_failure(kind, seed, on, after, false);
                    let cut = one_failure(kind, seed, on, after, true);
                    hit += u64::from(kill) + u64::from(cut);
                    if !kill && !cut {
                        break;
                    }
                }
                let few = kind == Kind::Memory || on == DiskOp::Read;
                let least = if few { 2 } else { 30 };
                assert!(hit - before >= least, "{kind} {on:?}: {} hit", hit - before);
            }
        }
    }
    println!("{hit} failed operations, each final");
}

/// Many lives, each ended at any moment.
fn lives(kind: Kind, seed: u64) -> (u64, u64, u64, u64, u64, u64, u64) {
    sim::run(seed, async move {
        let history = History::new(seed);
        for _ in 0..12 {
            drop(sim::spawn_on(
                NODE,
                "owner",
                owner(kind, history.clone(), u64::MAX),
            ));
            let fault = sim::chance(0.2).then(|| DiskFault {
                on: match sim::below(4) {
                    0 => DiskOp::Write,
                    1 => DiskOp::Sync,
                    2 => DiskOp::Names,
                    _ => DiskOp::Read,
                },
                after: sim::below(80),
                error: ErrorKind::StorageFull,
            });
            plant(&history, fault);
            // Short lives end in the middle of the start.
            let life = if sim::chance(0.4) { 5 } else { 90 };
            sim::sleep(sim::between(Duration::ZERO, Duration::from_millis(life))).await;
            plant(&history, None);
            crash(sim::chance(0.7));
        }
        drop(history.lock().unwrap().begun.clone());
        let h = history.lock().unwrap();
        (
            h.opened,
            h.kept,
            h.lost,
            h.failed,
            h.from_checkpoint,
            h.dropped_files,
            sim::trace_hash(),
        )
    })
}

#[test]
fn crashes_at_any_moment_cost_nothing_acknowledged() {
    for (kind, seeds) in [(Kind::Segments, 260), (Kind::Memory, 40)] {
        let (mut opened, mut kept, mut lost, mut failed, mut from, mut dropped) =
            (0, 0, 0, 0, 0, 0);
        for seed in 0..seeds {
            let (o, k, l, f, c, d, _) = lives(kind, seed);
            opened += o;
            kept += k;
            lost += l;
            failed += f;
            from += c;
            dropped += d;
        }
        println!(
            "{kind}: {opened} starts ({from} from a checkpoint), {kept} unacknowledged commits kept, {lost} lost, \
             {failed} disk errors, {dropped} files dropped"
        );
        assert!(opened > seeds * 5, "only {opened} starts came through");
        assert!(
            kept > seeds / 8 && lost > seeds / 2,
            "{kept} kept, {lost} lost"
        );
        assert!(failed > seeds / 4, "only {failed} disk errors hit");
        if kind == Kind::Segments {
            assert!(from > seeds * 2 && dropped > seeds, "{from} {dropped}");
        }
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    assert_eq!(lives(Kind::Segments, 7), lives(Kind::Segments, 7));
}
