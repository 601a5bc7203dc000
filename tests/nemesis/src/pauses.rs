//! SIGSTOP and SIGCONT: a member stands still for longer than its lease and than an election, and goes on as if nothing had been.
//! Some are killed while they stand still.

use std::time::Duration;

use crate::Failure;
use crate::chance::Chance;
use crate::kills::judgement;
use crate::member::{Member, Program, cluster, start_all};
use crate::probes::Probes;
use crate::report::{Report, times};
use crate::run::{Load, temporary};
use crate::standing::{agreed, leader};

#[derive(Clone, Debug)]
pub struct Options {
    pub program: Program,
    pub seed: u64,
    pub members: usize,
    pub pauses: u32,
    /// Load between two pauses, about.
    pub between: Duration,
}

/// Reads that wait in a paused member's socket, and the time between two.
const PROBES: u32 = 20;
const APART: Duration = Duration::from_millis(25);

#[derive(Default)]
struct Counts {
    of_leaders: u32,
    two_at_once: u32,
    killed: u32,
    answered: u64,
}

/// With the default timings a lease is 500 ms (etcd: none) and an election 250 to 1000 ms (etcd: 1 to 2 s).
fn length(chance: &mut Chance) -> Duration {
    let (from, to) = match chance.below(4) {
        0 => (100, 450),
        1 | 2 => (600, 1_800),
        _ => (2_000, 4_500),
    };
    chance.between(Duration::from_millis(from), Duration::from_millis(to))
}

async fn victims(members: &[Member], counts: &mut Counts, chance: &mut Chance) -> Vec<usize> {
    let size = members.len();
    let leads = leader(members).await;
    let any = chance.below(size as u64) as usize;
    let first = match chance.below(3) {
        0 => any,
        _ => leads.unwrap_or(any),
    };
    counts.of_leaders += u32::from(leads == Some(first));
    if size > 2 && chance.below(6) == 0 {
        counts.two_at_once += 1;
        let step = 1 + chance.below(size as u64 - 1) as usize;
        return vec![first, (first + step) % size];
    }
    vec![first]
}

pub async fn run(options: &Options) -> Result<Report, Failure> {
    let home = temporary()?;
    let data = home.path().join("data");
    let mut members = cluster(&options.program, options.members, &data, home.path())?;
    start_all(&mut members).await?;
    let (_, first_term) = agreed(&members).await?;
    let load = Load::start(&members, options.seed);
    let mut chance = Chance::new(options.seed, 0x5709);
    let mut counts = Counts::default();
    let mut lengths = Vec::new();
    let mut gaps = Vec::new();
    load.journal.take_gap();
    for _ in 0..options.pauses {
        tokio::time::sleep(chance.between(options.between / 4, options.between * 7 / 4)).await;
        let victims = victims(&members, &mut counts, &mut chance).await;
        for &at in &victims {
            members[at].still_runs()?;
            members[at].pause()?;
        }
        let length = length(&mut chance);
        let before = length.saturating_sub(APART * PROBES);
        tokio::time::sleep(before).await;
        let sent = victims
            .iter()
            .map(|at| Probes::send(&load.journal, *at, PROBES, APART));
        let probes: Vec<Probes> = sent.collect();
        tokio::time::sleep(length - before).await;
        lengths.push(length);
        for &at in &victims {
            let member = &mut members[at];
            if chance.below(5) == 0 {
                member.kill();
                member.start()?;
                counts.killed += 1;
            } else {
                member.resume()?;
            }
        }
        for &at in &victims {
            members[at].still_runs()?;
            members[at].ready().await?;
        }
        for probes in probes {
            counts.answered += probes.answered().await;
        }
        load.serves().await?;
        gaps.push(load.journal.take_gap());
        load.check()?;
    }
    tokio::time::sleep(options.between).await;
    let (_, last_term) = agreed(&members).await?;
    let judged = load.judged(&mut members).await?;
    let mut report = Report::new("members stand still under load", &options.program);
    report.row("seed", options.seed);
    report.row("members", options.members);
    report.row(
        "pauses",
        format!(
            "{}, {} of the leader, {} of two at once, {} ended by kill -9",
            options.pauses, counts.of_leaders, counts.two_at_once, counts.killed
        ),
    );
    report.row("their length", times(&mut lengths));
    report.row("terms", last_term - first_term);
    report.row(
        "linearizable reads that waited in a paused member and were answered, none stale",
        counts.answered,
    );
    report.row(
        "longest time without an acknowledged write, for each pause",
        times(&mut gaps),
    );
    judgement(&mut report, &judged);
    Ok(report)
}
