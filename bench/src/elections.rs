//! Whether a busy machine alone makes members vote: two busy threads per core beside the servers, writes going on, no fault.
//! Promise: only one side's cluster is up at a time, a new one each turn; a change is any rise of the term.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::Void;
use crate::cluster::{Cluster, Side};
use crate::limits::{CLIENTS_MAX, TERM_POLL};
use crate::roam::{self, Load, Seen};
use crate::setup::{Bench, Each, Servers, turn};
use crate::table::{Better, Named, most};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Seconds of full load for each side, in all its turns together
    #[arg(long, default_value_t = 600.0)]
    seconds: f64,
    /// Turns of each side
    #[arg(long, default_value_t = 4)]
    turns: usize,
    /// Busy threads per core
    #[arg(long, default_value_t = 2)]
    busy: usize,
    #[arg(long, default_value_t = 16)]
    clients: usize,
    #[command(flatten)]
    servers: Servers,
}

/// What is asked of Barque: leaders change for faults, not for load.
const BAR_CHANGES: f64 = 0.0;

/// One side's turns.
#[derive(Clone, Debug, Default)]
struct Turns {
    changes: u64,
    acknowledged: u64,
    moved: u64,
    failed: u64,
    gap_ms: Vec<f64>,
}

/// Threads that do nothing, as fast as they can.
struct Busy {
    stop: Arc<AtomicBool>,
}

impl Busy {
    fn start(threads: usize) -> Busy {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..threads {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Busy { stop }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

pub async fn run(args: &Args) -> Result<String, Void> {
    if args.turns == 0 || !(args.seconds > 0.0 && args.seconds <= 86_400.0) {
        return Err(Void::Asked(
            "--turns: at least 1; --seconds: at most a day".into(),
        ));
    }
    if !(1..=CLIENTS_MAX).contains(&args.clients) || args.busy > 64 {
        return Err(Void::Asked(
            "--clients: 1 to 2000; --busy: at most 64".into(),
        ));
    }
    let bench = Bench::new(&args.servers.asked).await?;
    let threads = args.busy * bench.machine.cores;
    let what = format!(
        "elections: 3 members beside {threads} busy threads, {} clients in a closed loop, no fault; {} s each in {} alternating turns",
        args.clients, args.seconds, args.turns
    );
    let mut table = bench.table(&what, &args.servers.in_words());
    let mut turns = Each::<Turns>::default();
    let both: Vec<Side> = [Side::Barque, Side::Etcd]
        .into_iter()
        .filter(|side| args.servers.sides.has(*side))
        .collect();
    for n in 0..args.turns {
        for which in turn(n, both.len()) {
            let side = both[which];
            let mut cluster = bench.start(side, 3, &args.servers.flags.flags()).await?;
            let (changes, seen) = one(&mut cluster, args, threads).await?;
            eprintln!(
                "turn {}: {side} {changes} changes of the term, {} puts, {} failed, longest gap {} ms",
                n + 1,
                seen.acknowledged,
                seen.failed,
                seen.gap.as_millis()
            );
            cluster.stop().await?;
            let sum = turns.of(side);
            sum.changes += changes;
            sum.acknowledged += seen.acknowledged;
            sum.moved += seen.moved;
            sum.failed += seen.failed;
            sum.gap_ms.push(seen.gap.as_secs_f64() * 1e3);
        }
    }
    let counts: [Named<Turns, u64>; 3] = [
        ("rises of the term", |turns| turns.changes),
        ("attempts sent again at once", |turns| turns.moved),
        ("failed puts", |turns| turns.failed),
    ];
    for (name, count) in counts {
        let of = turns.map(|turns| count(turns).to_string());
        table.row(name, &of.barque, &of.etcd, "");
    }
    let rate = turns.map(|turns| turns.acknowledged as f64 / args.seconds);
    table.both("puts/s", rate.barque, rate.etcd, Better::More);
    let gap = turns.map(|turns| most(&turns.gap_ms));
    table.both(
        "longest time without an acknowledged write, ms",
        gap.barque,
        gap.etcd,
        Better::Less,
    );
    let changes = if args.servers.sides.has(Side::Barque) {
        turns.barque.changes as f64
    } else {
        f64::NAN
    };
    table.bar(
        "rises of the term",
        changes,
        BAR_CHANGES,
        "no fault happened",
    );
    Ok(table.text())
}

async fn one(cluster: &mut Cluster, args: &Args, threads: usize) -> Result<(u64, Seen), Void> {
    let before = cluster.settled().await?.term;
    let length = Duration::from_secs_f64(args.seconds / args.turns as f64);
    let busy = Busy::start(threads);
    let shape = roam::Shape {
        clients: args.clients,
        pause: Duration::ZERO,
    };
    let load = Load::start(&cluster.addrs(), shape);
    let began = Instant::now();
    let mut term = before;
    while began.elapsed() < length {
        tokio::time::sleep(TERM_POLL.min(length.saturating_sub(began.elapsed()))).await;
        // One that does not answer in time is asked again, and at the latest at the end.
        if let Some(now) = cluster.term().await
            && now > term
        {
            eprintln!(
                "{}: term {term} to {now} after {} s",
                cluster.side,
                began.elapsed().as_secs()
            );
            term = now;
        }
    }
    let seen = load.seen();
    load.end().await;
    drop(busy);
    let after = cluster.settled().await?.term;
    if seen.acknowledged == 0 {
        return Err(cluster.load_error("no put was acknowledged under the load"));
    }
    Ok((after - before, seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_threads_end_with_their_handle() {
        let busy = Busy::start(2);
        let stop = busy.stop.clone();
        assert_eq!(Arc::strong_count(&stop), 4);
        drop(busy);
        let end = Instant::now() + Duration::from_secs(10);
        while Arc::strong_count(&stop) > 1 {
            assert!(Instant::now() < end, "a busy thread goes on");
            std::thread::yield_now();
        }
    }
}
