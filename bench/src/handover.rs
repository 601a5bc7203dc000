//! What clients see when a leader is told to stop, and when all three members are restarted one after the other.
//! Promise: the load never pauses for it, and a member is restarted only when the one before says that it is ready again.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::Void;
use crate::cluster::Cluster;
use crate::limits::{CLIENTS_MAX, RETRIALS, STOP};
use crate::load::Chance;
use crate::roam::{self, Load, Seen};
use crate::setup::{Bench, Each, Servers, stop_each, turn};
use crate::table::{Named, Table, most};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// SIGTERMs to each side's leader
    #[arg(long, default_value_t = 30)]
    trials: usize,
    /// Rolling restarts of all three members of each side
    #[arg(long, default_value_t = 10)]
    rolling: usize,
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Milliseconds between an acknowledgement and the client's next put
    #[arg(long, default_value_t = 2)]
    pause_ms: u64,
    /// The moments of the signals
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    servers: Servers,
}

/// What is asked of Barque: the longest times without an acknowledged write.
const BAR_STOP_MS: f64 = 100.0;
const BAR_ROLLING_MS: f64 = 150.0;

/// The load runs for so long before the signal may come, and is looked at for so long after it and after the process is gone.
const BEFORE: Duration = Duration::from_millis(500);
const AFTER: Duration = Duration::from_secs(1);

/// The signal comes within so long after that.
const SOMEWHEN_MS: u64 = 500;

/// One side's trials of one kind.
#[derive(Clone, Debug, Default)]
struct Trials {
    gap_ms: Vec<f64>,
    wait_ms: Vec<f64>,
    /// From the signal to the end of the process, or of the whole rolling restart.
    took_ms: Vec<f64>,
    acknowledged: u64,
    moved: u64,
    failed: u64,
    failures: Vec<String>,
}

impl Trials {
    fn add(&mut self, seen: Seen, took: Duration) {
        self.gap_ms.push(seen.gap.as_secs_f64() * 1e3);
        self.wait_ms.push(seen.wait.as_secs_f64() * 1e3);
        self.took_ms.push(took.as_secs_f64() * 1e3);
        self.acknowledged += seen.acknowledged;
        self.moved += seen.moved;
        self.failed += seen.failed;
        self.failures.extend(seen.failures);
    }
}

pub async fn run(args: &Args) -> Result<String, Void> {
    if args.trials + args.rolling == 0 || !(1..=CLIENTS_MAX).contains(&args.clients) {
        return Err(Void::Asked(
            "--trials, --rolling: not both 0; --clients: 1 to 2000".into(),
        ));
    }
    let bench = Bench::new(&args.servers.asked).await?;
    let what = format!(
        "handover: 3 members, {} clients over all of them in a closed loop with pauses of {} ms; {} SIGTERMs of the leader and {} rolling \
         restarts, alternating",
        args.clients, args.pause_ms, args.trials, args.rolling
    );
    let mut table = bench.table(&what, &args.servers.in_words());
    let mut clusters = bench
        .start_each(args.servers.sides, 3, &args.servers.flags.flags())
        .await?;
    let mut chance = Chance(args.seed);
    let mut stops = Each::<Trials>::default();
    for n in 0..args.trials {
        for which in turn(n, clusters.len()) {
            let cluster = &mut clusters[which];
            let (seen, took) = stop_leader(cluster, args, &mut chance).await?;
            tell(&format!("stop {}", n + 1), cluster, &seen, took);
            stops.of(cluster.side).add(seen, took);
        }
    }
    let mut rolling = Each::<Trials>::default();
    for n in 0..args.rolling {
        for which in turn(n, clusters.len()) {
            let cluster = &mut clusters[which];
            let (seen, took) = restart_all(cluster, args).await?;
            tell(&format!("rolling {}", n + 1), cluster, &seen, took);
            rolling.of(cluster.side).add(seen, took);
        }
    }
    stop_each(clusters).await?;
    if args.trials > 0 {
        rows(&mut table, "leader stopped", &stops, BAR_STOP_MS);
    }
    if args.rolling > 0 {
        rows(&mut table, "rolling restart", &rolling, BAR_ROLLING_MS);
        table.bar(
            "rolling restart: failed puts",
            rolling.barque.failed as f64,
            0.0,
            "all others could be sent again at once",
        );
    }
    table.note(
        "Sent again at once: never sent for want of a connection, not looked at by a leaving server (GOAWAY, REFUSED_STREAM), or refused \
         before being proposed (\"no leader\"). Failed: every other error; whether such a put was carried out is open.",
    );
    for (side, trials) in [
        ("Barque", [&stops.barque, &rolling.barque]),
        ("etcd", [&stops.etcd, &rolling.etcd]),
    ] {
        let mut failures: Vec<&String> = trials.iter().flat_map(|t| &t.failures).collect();
        failures.sort();
        failures.dedup();
        for failure in failures {
            table.note(&format!("A failed put of {side}'s: {failure}"));
        }
    }
    Ok(table.text())
}

fn load(cluster: &Cluster, args: &Args) -> Load {
    let shape = roam::Shape {
        clients: args.clients,
        pause: Duration::from_millis(args.pause_ms),
    };
    Load::start(&cluster.addrs(), shape)
}

async fn stop_leader(
    cluster: &mut Cluster,
    args: &Args,
    chance: &mut Chance,
) -> Result<(Seen, Duration), Void> {
    for _ in 0..RETRIALS {
        let standing = cluster.settled().await?;
        let load = load(cluster, args);
        let moment = Duration::from_millis(chance.next() % SOMEWHEN_MS);
        tokio::time::sleep(BEFORE + moment).await;
        if !cluster.still(standing).await? {
            load.end().await;
            continue;
        }
        load.mark();
        let leader = cluster.member(standing.leader);
        let began = leader.signal(Signal::SIGTERM)?;
        leader.ended(STOP).await?;
        let took = began.elapsed();
        tokio::time::sleep(AFTER).await;
        let seen = load.seen();
        load.end().await;
        if seen.acknowledged == 0 {
            return Err(
                cluster.load_error("no put was acknowledged once the leader was told to stop")
            );
        }
        cluster.member(standing.leader).start_again()?;
        cluster.settled().await?;
        return Ok((seen, took));
    }
    Err(cluster.restless())
}

async fn restart_all(cluster: &mut Cluster, args: &Args) -> Result<(Seen, Duration), Void> {
    cluster.settled().await?;
    let load = load(cluster, args);
    tokio::time::sleep(BEFORE).await;
    load.mark();
    let began = Instant::now();
    for n in 0..cluster.len() {
        let member = cluster.member(n);
        member.signal(Signal::SIGTERM)?;
        member.ended(STOP).await?;
        member.start_again()?;
        cluster.caught_up(n).await?;
    }
    let took = began.elapsed();
    tokio::time::sleep(AFTER).await;
    let seen = load.seen();
    load.end().await;
    if seen.acknowledged == 0 {
        return Err(cluster.load_error("no put was acknowledged during the rolling restart"));
    }
    Ok((seen, took))
}

fn tell(what: &str, cluster: &Cluster, seen: &Seen, took: Duration) {
    eprintln!(
        "{what}: {} gap {} ms, longest wait {} ms, {} acknowledged, {} sent again, {} failed, took {} ms",
        cluster.side,
        seen.gap.as_millis(),
        seen.wait.as_millis(),
        seen.acknowledged,
        seen.moved,
        seen.failed,
        took.as_millis()
    );
}

fn rows(table: &mut Table, what: &str, trials: &Each<Trials>, bar: f64) {
    let name = format!("{what}: longest time without an acknowledged write, ms");
    table.spread(&name, &trials.barque.gap_ms, &trials.etcd.gap_ms);
    let name = format!("{what}: longest wait of one client for one put, ms");
    table.spread(&name, &trials.barque.wait_ms, &trials.etcd.wait_ms);
    let name = format!("{what}: signal to end, ms");
    table.spread(&name, &trials.barque.took_ms, &trials.etcd.took_ms);
    let counts: [Named<Trials, u64>; 3] = [
        ("acknowledged puts", |trials| trials.acknowledged),
        ("attempts sent again at once", |trials| trials.moved),
        ("failed puts", |trials| trials.failed),
    ];
    for (name, count) in counts {
        let of = trials.map(|trials| count(trials).to_string());
        table.row(&format!("{what}: {name}"), &of.barque, &of.etcd, "");
    }
    let name = format!("{what}: longest time without an acknowledged write, ms");
    table.bar(&name, most(&trials.barque.gap_ms), bar, "in every trial");
}
