//! The order of things: both clusters up, rounds alternating, the order turned around each time, everything checked.
//! Promise: a round counts only if the store's revision grew by exactly the puts that were acknowledged.

use std::time::Duration;

use crate::cluster::{Cluster, Side};
use crate::limits::SETTLE;
use crate::load::{self, Shape};
use crate::setup::{Bench, Sides, stop_each, turn};
use crate::{PutArgs, Void};

/// One side's figures of one round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Round {
    pub side: Side,
    pub puts_per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Processor time of all members per put, warm-up included on both sides of the fraction.
    pub cpu_us_per_put: f64,
}

/// All rounds of one load on one size of cluster.
#[derive(Clone, Debug)]
pub struct Section {
    pub members: usize,
    pub clients: usize,
    pub rounds: Vec<Round>,
}

/// Measures every number of clients against clusters of `members` members.
pub async fn put(args: &PutArgs, bench: &Bench, members: usize) -> Result<Vec<Section>, Void> {
    let clusters = bench.start_each(Sides::both(), members, &[]).await?;
    let mut sections = Vec::new();
    for &clients in &args.clients {
        let mut rounds = Vec::new();
        for number in 0..args.rounds {
            for which in turn(number, clusters.len()) {
                let cluster = &clusters[which];
                let round = one(args, cluster, clients, number as u64).await?;
                eprintln!(
                    "{members} member(s), {clients} client(s), round {}: {} {:.0} puts/s, p50 {:.0} us, p99 {:.0} us",
                    number + 1,
                    round.side,
                    round.puts_per_second,
                    round.p50_us,
                    round.p99_us
                );
                rounds.push(round);
            }
        }
        sections.push(Section {
            members,
            clients,
            rounds,
        });
    }
    stop_each(clusters).await?;
    Ok(sections)
}

async fn one(
    args: &PutArgs,
    cluster: &Cluster,
    clients: usize,
    number: u64,
) -> Result<Round, Void> {
    tokio::time::sleep(SETTLE).await;
    let shape = Shape {
        clients,
        keys: args.keys,
        key_bytes: args.key_bytes,
        value_bytes: args.value_bytes,
        warm_up: args.warm_up(),
        window: args.window(),
        seed: number,
    };
    let before = cluster.revision().await?;
    let cpu_before = cpu(&cluster.pids());
    let measured = load::run(&cluster.addrs(), shape)
        .await
        .map_err(|error| cluster.load_error(error))?;
    let cpu = cpu(&cluster.pids()).saturating_sub(cpu_before);
    let grown = cluster.revision().await? - before;
    if grown != i64::try_from(measured.acknowledged).unwrap_or(i64::MAX) {
        return Err(cluster.load_error(format!(
            "{} puts were acknowledged, but the revision grew by {grown}",
            measured.acknowledged
        )));
    }
    if measured.nanos.is_empty() {
        return Err(cluster.load_error("no put was acknowledged in the window"));
    }
    let us = |quantile| measured.nanos.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Round {
        side: cluster.side,
        puts_per_second: measured.ended as f64 / shape.window.as_secs_f64(),
        p50_us: us(0.5),
        p99_us: us(0.99),
        cpu_us_per_put: cpu.as_micros() as f64 / measured.acknowledged as f64,
    })
}

/// Processor time the processes have used so far.
fn cpu(pids: &[u32]) -> Duration {
    let stats = pids
        .iter()
        .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    let ticks: u64 = stats.filter_map(|stat| cpu_ticks(&stat)).sum();
    // USER_HZ, which is 100 on every Linux that reports in ticks.
    Duration::from_millis(ticks * 10)
}

/// User and system time of a line of `/proc/<pid>/stat`. The name may hold spaces: count from its closing bracket.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_past_odd_names() {
        let stat = "42 (a b) c) S 1 2 3 4 5 6 7 8 9 10 700 55 1 1 20 0 3 0 99 0 0";
        assert_eq!(cpu_ticks(stat), Some(755));
        assert_eq!(cpu_ticks("nonsense"), None);
    }
}
