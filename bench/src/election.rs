//! How long writes stand still when the leader of three is killed or paused, and what becomes of the puts of that time.
//! Promise: a trial begins with all members up, agreed and caught up, and with a leader that led until the fault.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::Void;
use crate::cluster::Cluster;
use crate::find::Asked;
use crate::limits::{PROBE_EVERY_MIN, PUT_DEADLINE, RETRIALS, STOP, WINDOW_MAX};
use crate::load::Chance;
use crate::probe::{Fates, Probe, Window, window};
use crate::setup::{Bench, Each, Sides, Timing, stop_each, turn};
use crate::table::{Better, Named, Table, median, most};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// HEARTBEAT/ELECTION in milliseconds, for both sides
    #[arg(long, value_delimiter = ',', default_values_t = [Timing::DEFAULT])]
    flags: Vec<Timing>,
    /// Faults of each kind, for each of --flags and each side
    #[arg(long, default_value_t = 30)]
    trials: usize,
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Fault::Kill])]
    fault: Vec<Fault>,
    /// Milliseconds between the puts to one survivor
    #[arg(long, default_value_t = 5)]
    every_ms: u64,
    /// The moments of the faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    sides: Sides,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// SIGKILL
    Kill,
    /// SIGSTOP, and SIGCONT when the others serve
    Stop,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Fault::Kill => "killed",
            Fault::Stop => "paused",
        }
    }
}

/// What is asked of Barque's windows beside etcd's: less at the default timing, no more at others.
fn bar(timing: Timing) -> f64 {
    if timing == Timing::DEFAULT { 0.8 } else { 1.0 }
}

/// What is asked of the puts sent in the window: so many in a hundred may fail.
const BAR_FAILED_PERCENT: f64 = 5.0;

/// Probes run for so long before the fault may come, and so long after all serve again.
const BEFORE: Duration = Duration::from_millis(500);
const AFTER: Duration = Duration::from_millis(100);

/// The fault comes within so long after that: longer than a heartbeat and an election, so that it meets every phase of them.
const SOMEWHEN_MS: u64 = 1_500;

/// One side's trials of one fault at one timing.
#[derive(Clone, Debug, Default)]
struct Trials {
    first_ms: Vec<f64>,
    last_ms: Vec<f64>,
    fates: Fates,
    /// Leaders that changed without a fault, while a trial waited for its moment.
    unasked: usize,
    /// Some of the errors that puts were told.
    told: BTreeSet<String>,
}

impl Trials {
    fn add(&mut self, window: Window) {
        self.first_ms.push(window.first.as_secs_f64() * 1e3);
        self.last_ms.push(window.last.as_secs_f64() * 1e3);
        self.fates.add(window.fates);
    }

    fn failed_percent(&self) -> f64 {
        100.0 * self.fates.failed() as f64 / self.fates.sent() as f64
    }
}

pub async fn run(args: &Args) -> Result<String, Void> {
    let every = Duration::from_millis(args.every_ms);
    if args.trials == 0 || args.flags.is_empty() || args.fault.is_empty() {
        return Err(Void::Asked("--trials, --flags, --fault: at least 1".into()));
    }
    if every < PROBE_EVERY_MIN || every > PUT_DEADLINE {
        return Err(Void::Asked("--every-ms: between 1 and 5000".into()));
    }
    let bench = Bench::new(&args.asked).await?;
    let what = format!(
        "election: the leader of 3 members faulted, {} alternating trials each; one probe per survivor, a put every {} ms with a deadline \
         of {} s, never sent again; window: from the fault to the first acknowledged put that was sent after it",
        args.trials,
        args.every_ms,
        PUT_DEADLINE.as_secs()
    );
    let flags: Vec<String> = args.flags.iter().map(Timing::to_string).collect();
    let flags = format!("heartbeat/election ms {}", flags.join(", "));
    let mut table = bench.table(&what, &flags);
    let mut chance = Chance(args.seed);
    let mut errors = Vec::new();
    for &timing in &args.flags {
        let mut clusters = bench.start_each(args.sides, 3, &timing.flags()).await?;
        for &fault in &args.fault {
            let mut trials = Each::<Trials>::default();
            for n in 0..args.trials {
                for which in turn(n, clusters.len()) {
                    let cluster = &mut clusters[which];
                    let side = cluster.side;
                    let found = trials.of(side);
                    let window = trial(cluster, fault, every, &mut chance, found);
                    let window = window.await?;
                    eprintln!(
                        "{timing} {} {}: {side} {} ms, every survivor {} ms; {:?}",
                        fault.name(),
                        n + 1,
                        window.first.as_millis(),
                        window.last.as_millis(),
                        window.fates
                    );
                    found.add(window);
                }
            }
            rows(&mut table, timing, fault, &trials);
            for (side, trials) in [("Barque", &trials.barque), ("etcd", &trials.etcd)] {
                for told in &trials.told {
                    errors.push(format!(
                        "{timing} {}, a put of {side}'s: {told}",
                        fault.name()
                    ));
                }
            }
        }
        stop_each(clusters).await?;
    }
    table.note(
        "Failed puts: \"unknown\" is an error that leaves open whether it was carried out (\"leader changed\", a timeout of the server); \
         \"refused\" says that it was not. A put acknowledged within its deadline is not failed, however long it waited.",
    );
    for error in errors {
        table.note(&error);
    }
    Ok(table.text())
}

async fn trial(
    cluster: &mut Cluster,
    fault: Fault,
    every: Duration,
    chance: &mut Chance,
    found: &mut Trials,
) -> Result<Window, Void> {
    for _ in 0..RETRIALS {
        let standing = cluster.settled().await?;
        let survivors = (0..cluster.len()).filter(|n| *n != standing.leader);
        let survivors: Vec<usize> = survivors.collect();
        let mut probes = Vec::new();
        for &n in &survivors {
            let probe = Probe::start(cluster.addr(n), n as u64, every).await;
            probes.push(probe.map_err(|why| cluster.load_error(why))?);
        }
        let moment = Duration::from_millis(chance.next() % SOMEWHEN_MS);
        tokio::time::sleep(BEFORE + moment).await;
        if !cluster.still(standing).await? {
            found.unasked += 1;
            for probe in probes {
                probe.end().await;
            }
            continue;
        }
        let signal = match fault {
            Fault::Kill => Signal::SIGKILL,
            Fault::Stop => Signal::SIGSTOP,
        };
        let began = cluster.member(standing.leader).signal(signal)?;
        let served = served_again(&probes, began).await;
        let mut puts = Vec::new();
        for probe in probes {
            let (sent, told) = probe.end().await;
            puts.push(sent);
            found.told.extend(told);
        }
        let window = served.then(|| window(began, &puts)).flatten();
        let Some(window) = window else {
            let why = format!("not every survivor acknowledged a put within {WINDOW_MAX:?}");
            return Err(cluster.load_error(why));
        };
        let faulted = cluster.member(standing.leader);
        match fault {
            Fault::Kill => {
                faulted.ended(STOP).await?;
                faulted.start_again()?;
            }
            Fault::Stop => {
                faulted.signal(Signal::SIGCONT)?;
            }
        }
        cluster.settled().await?;
        return Ok(window);
    }
    Err(cluster.restless())
}

/// Whether every probe has had a put acknowledged that was sent after the fault; a little later, so that those of the window end.
async fn served_again(probes: &[Probe], fault: Instant) -> bool {
    while !probes.iter().all(|probe| probe.served_since(fault)) {
        if fault.elapsed() > WINDOW_MAX {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(AFTER).await;
    true
}

fn rows(table: &mut Table, timing: Timing, fault: Fault, trials: &Each<Trials>) {
    let what = format!("{timing} {}", fault.name());
    table.spread(
        &format!("{what}: write window, ms"),
        &trials.barque.first_ms,
        &trials.etcd.first_ms,
    );
    table.spread(
        &format!("{what}: until every survivor serves, ms"),
        &trials.barque.last_ms,
        &trials.etcd.last_ms,
    );
    let failed = trials.map(Trials::failed_percent);
    table.both(
        &format!("{what}: puts sent in the windows that failed, %"),
        failed.barque,
        failed.etcd,
        Better::Less,
    );
    let counts: [Named<Fates, u64>; 6] = [
        ("sent", Fates::sent),
        ("acknowledged", |fates| fates.acknowledged),
        ("refused", |fates| fates.refused),
        ("unknown", |fates| fates.unknown),
        ("not answered", |fates| fates.no_answer),
        ("never sent on", |fates| fates.never_sent),
    ];
    for (name, count) in counts {
        let of = trials.map(|trials| count(&trials.fates).to_string());
        table.row(&format!("{what}: of them {name}"), &of.barque, &of.etcd, "");
    }
    let unasked = trials.map(|trials| trials.unasked.to_string());
    let name = format!("{what}: leaders that changed without a fault");
    table.row(&name, &unasked.barque, &unasked.etcd, "");
    let times = bar(timing);
    let how = format!("{times} of etcd's");
    let medians = trials.map(|trials| median(trials.first_ms.clone()));
    let greatest = trials.map(|trials| most(&trials.first_ms));
    table.bar(
        &format!("{what}: median window, ms"),
        medians.barque,
        times * medians.etcd,
        &how,
    );
    table.bar(
        &format!("{what}: longest window, ms"),
        greatest.barque,
        times * greatest.etcd,
        &how,
    );
    table.bar(
        &format!("{what}: failed puts, %"),
        failed.barque,
        BAR_FAILED_PERCENT,
        "of those sent in the window",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_default_timing_asks_for_less_than_etcds() {
        assert_eq!(bar("100/1000".parse().unwrap()), 0.8);
        assert_eq!(bar("20/200".parse().unwrap()), 1.0);
    }

    #[test]
    fn windows_add_up() {
        let window = |ms, failed| Window {
            first: Duration::from_millis(ms),
            last: Duration::from_millis(ms + 1),
            fates: Fates {
                acknowledged: 10 - failed,
                unknown: failed,
                ..Fates::default()
            },
        };
        let mut trials = Trials::default();
        trials.add(window(900, 1));
        trials.add(window(1_000, 0));
        assert_eq!(trials.first_ms, [900.0, 1_000.0]);
        assert_eq!(trials.failed_percent(), 5.0);
    }
}
