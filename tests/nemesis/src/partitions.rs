//! Links between members are cut: a member is alone, hears nobody, is heard by nobody, or two that are both in touch with the rest
//! lose each other. Clients reach every member all the time, also those that are cut off.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Failure;
use crate::chance::Chance;
use crate::kills::judgement;
use crate::member::{Program, cluster_at, start_all};
use crate::netns::Net;
use crate::probes::Probes;
use crate::report::{Report, times};
use crate::run::{Load, temporary};
use crate::standing::{agreed, leader};

#[derive(Clone, Debug)]
pub struct Options {
    pub program: Program,
    pub seed: u64,
    pub members: usize,
    pub partitions: u32,
    /// Load between two partitions, about.
    pub between: Duration,
}

/// Reads sent to the member that is cut off, and the time between two.
const PROBES: u32 = 30;
const APART: Duration = Duration::from_millis(40);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Alone,
    Deaf,
    Mute,
    Link,
    HalfLink,
}

impl Kind {
    const ALL: [Kind; 5] = [
        Kind::Alone,
        Kind::Deaf,
        Kind::Mute,
        Kind::Link,
        Kind::HalfLink,
    ];

    fn text(self) -> &'static str {
        match self {
            Kind::Alone => "alone",
            Kind::Deaf => "hears nobody",
            Kind::Mute => "is heard by nobody",
            Kind::Link => "one link cut",
            Kind::HalfLink => "one link cut in one direction",
        }
    }

    /// The directed links that are cut around `victim`; those of one link go to `other`.
    fn links(self, size: usize, victim: usize, other: usize) -> Vec<(usize, usize)> {
        let others = (0..size).filter(|n| *n != victim);
        match self {
            Kind::Alone => others.flat_map(|n| [(n, victim), (victim, n)]).collect(),
            Kind::Deaf => others.map(|n| (n, victim)).collect(),
            Kind::Mute => others.map(|n| (victim, n)).collect(),
            Kind::Link => vec![(victim, other), (other, victim)],
            Kind::HalfLink => vec![(victim, other)],
        }
    }
}

pub async fn run(options: &Options) -> Result<Report, Failure> {
    let size = options.members;
    if size < 3 {
        return Err(Failure::Void(
            "a partition takes three members or more".into(),
        ));
    }
    let home = temporary()?;
    // Declared before the members: they go first.
    let mut net = Net::make(size)?;
    let places = net.places(&home.path().join("data"));
    let mut members = cluster_at(&options.program, &places, home.path());
    start_all(&mut members).await?;
    let (_, first_term) = agreed(&members).await?;
    let load = Load::start(&members, options.seed);
    let mut chance = Chance::new(options.seed, 0x9a47);
    let mut gaps: BTreeMap<(Kind, bool), Vec<Duration>> = BTreeMap::new();
    let mut lengths = Vec::new();
    let mut answered = 0;
    for n in 0..options.partitions {
        tokio::time::sleep(chance.between(options.between / 4, options.between * 7 / 4)).await;
        let kind = Kind::ALL[n as usize % Kind::ALL.len()];
        let leads = leader(&members).await;
        let any = chance.below(size as u64) as usize;
        let victim = match chance.below(3) {
            0 => any,
            _ => leads.unwrap_or(any),
        };
        let other = (victim + 1 + chance.below(size as u64 - 1) as usize) % size;
        load.journal.take_gap();
        net.cut(&kind.links(size, victim, other))?;
        let probes = Probes::send(&load.journal, victim, PROBES, APART);
        let length = chance.between(Duration::from_millis(400), Duration::from_secs(6));
        tokio::time::sleep(length).await;
        lengths.push(length);
        // A majority has been connected all the time.
        load.serves().await?;
        let gap = load.journal.take_gap();
        gaps.entry((kind, leads == Some(victim)))
            .or_default()
            .push(gap);
        net.heal()?;
        for member in &mut members {
            member.still_runs()?;
            member.ready().await?;
        }
        load.serves().await?;
        answered += probes.answered().await;
        load.check()?;
    }
    tokio::time::sleep(options.between).await;
    let (_, last_term) = agreed(&members).await?;
    let judged = load.judged(&mut members).await?;
    drop(members);
    let mut report = Report::new("members are cut off under load", &options.program);
    report.row("seed", options.seed);
    report.row("members", size);
    report.row("partitions", options.partitions);
    report.row("their length", times(&mut lengths));
    report.row("terms", last_term - first_term);
    for ((kind, leads), gaps) in &mut gaps {
        let whom = if *leads { "the leader" } else { "a follower" };
        let name = format!(
            "longest time without an acknowledged write: {whom}, {}",
            kind.text()
        );
        report.row(&name, times(gaps));
    }
    report.row(
        "linearizable reads that a member answered while it was cut off or after, none stale",
        answered,
    );
    judgement(&mut report, &judged);
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever is cut off, a majority must hear one another in both directions, or serving cannot be asked for.
    #[test]
    fn a_majority_stays_connected() {
        for size in [3, 5] {
            for kind in Kind::ALL {
                let cut = kind.links(size, 1, 2);
                assert!(!cut.is_empty());
                let fine = |a: usize, b: usize| !cut.contains(&(a, b)) && !cut.contains(&(b, a));
                let hub = (0..size).any(|hub| {
                    let near = (0..size).filter(|n| *n == hub || fine(hub, *n)).count();
                    near > size / 2
                });
                assert!(hub, "{kind:?} of {size}");
            }
        }
    }
}
