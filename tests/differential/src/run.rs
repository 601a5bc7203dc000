//! One run: steps from a seed, done to a fresh pair of servers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::accepted::Accepted;
use crate::difference::Difference;
use crate::fields::Fields;
use crate::generate::Generator;
use crate::pair::Pair;
use crate::servers::Programs;
use crate::step::Step;

/// What one run is asked to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub steps: usize,
    /// Goes on after a difference.
    pub keep_going: bool,
}

/// A difference and what led to it.
#[derive(Clone, Debug)]
pub struct Found {
    pub difference: Difference,
    /// Every step since the servers were started, the differing one last.
    pub prefix: Vec<Step>,
    pub at_step: usize,
}

#[derive(Debug, Default)]
pub struct Report {
    pub steps: usize,
    pub took: Duration,
    /// One of each kind.
    pub found: Vec<Found>,
    /// How often each kind came.
    pub kinds: BTreeMap<String, usize>,
    pub accepted: BTreeMap<Accepted, usize>,
    /// Requests after which etcd itself was gone.
    pub etcd_deaths: Vec<String>,
}

/// What is still on its way belongs to the run.
const LAST: Step = Step::Settle {
    replay: true,
    exact: false,
};

/// Errors are those of the machine: a program that does not start.
pub async fn run(programs: &Programs, plan: Plan) -> Result<Report, String> {
    let begun = Instant::now();
    let mut report = Report::default();
    let mut pair = Pair::start(programs).await?;
    let mut generator = Generator::new(plan.seed);
    let mut since_start = Vec::new();
    while report.steps < plan.steps {
        let step = generator.step();
        report.steps += 1;
        since_start.push(step.clone());
        let (etcd, difference) = pair.step(&step).await;
        learn(&mut generator, &step, &etcd);
        if report.steps == plan.steps && difference.is_none() {
            since_start.push(LAST);
        }
        let difference = match difference {
            None if report.steps == plan.steps => pair.step(&LAST).await.1,
            other => other,
        };
        if let Some(why) = pair.barque.death() {
            return Err(format!("barque ended after {step}: {why}"));
        }
        let mut restart = false;
        if let Some(why) = pair.etcd.death() {
            report.etcd_deaths.push(format!("{step}: {why}"));
            restart = true;
        } else if let Some(difference) = difference {
            let count = report.kinds.entry(difference.kind.clone()).or_default();
            *count += 1;
            if *count == 1 {
                report.found.push(Found {
                    difference,
                    prefix: since_start.clone(),
                    at_step: report.steps,
                });
            }
            if !plan.keep_going {
                break;
            }
            restart = !pair.same_state().await;
            if matches!(step, Step::Settle { .. }) {
                generator.forget_watches();
            }
        }
        if restart {
            merge(&mut report.accepted, &pair.accepted);
            pair = Pair::start(programs).await?;
            generator.forget();
            since_start.clear();
        }
    }
    merge(&mut report.accepted, &pair.accepted);
    report.took = begun.elapsed();
    Ok(report)
}

fn merge(into: &mut BTreeMap<Accepted, usize>, from: &BTreeMap<Accepted, usize>) {
    for (reason, count) in from {
        *into.entry(*reason).or_default() += count;
    }
}

/// The generator's requests follow what etcd answered.
fn learn(generator: &mut Generator, step: &Step, etcd: &Fields) {
    let number = |path: &str| etcd.get(path).and_then(|value| value.parse::<i64>().ok());
    let known = &mut generator.known;
    if let Some(revision) = number("header.revision") {
        known.revision = known.revision.max(revision);
    }
    // The answer to a hash names the compacted revision, so none is ever missed for long.
    if let Some(compacted) = number("compact_revision") {
        known.compacted = known.compacted.max(compacted);
    }
    if step.name() == "Compact"
        && etcd.get("grpc-status").is_some_and(|code| code == "0")
        && let Some(compacted) = step.compacts()
    {
        known.compacted = known.compacted.max(compacted);
    }
}
