//! Many seeds on several threads: the only place that knows real time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::run::{Failure, Options, Report, simulate};

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// The first seed's options.
    pub first: Options,
    pub count: u64,
    pub threads: usize,
    /// Each seed twice; the traces must be equal.
    pub twice: bool,
    /// No further seed is begun after a failure whose text contains this.
    pub stop_at: Option<&'static str>,
}

/// What came of it. Seeds in order.
#[derive(Debug)]
pub struct Outcome {
    pub reports: Vec<Report>,
    pub failures: Vec<Failure>,
    pub took: Duration,
}

impl Outcome {
    pub fn seeds(&self) -> usize {
        self.reports.len() + self.failures.len()
    }
    pub fn seeds_per_minute(&self) -> f64 {
        self.seeds() as f64 * 60.0 / self.took.as_secs_f64().max(0.001)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let total = |count: fn(&Report) -> u64| self.reports.iter().map(count).sum::<u64>();
        write!(
            f,
            "{} seeds, {} failed, {:.0} seeds per minute ({:.1} s); {} operations ({} unknown), {} writes acknowledged, \
             {} watch events over {} connections, {} leaders, {} faults, {:.1} M polls",
            self.seeds(),
            self.failures.len(),
            self.seeds_per_minute(),
            self.took.as_secs_f64(),
            total(|r| r.counts.operations),
            total(|r| r.counts.unknown),
            total(|r| r.counts.acknowledged),
            total(|r| r.counts.watch_events),
            total(|r| r.counts.reconnects),
            total(|r| r.counts.leaders),
            total(|r| r.counts.faults),
            total(|r| r.polls) as f64 / 1e6,
        )
    }
}

/// Runs a seed; a panic inside it is its failure.
fn run_one(options: Options, twice: bool) -> Result<Report, Failure> {
    let once = || {
        catch_unwind(AssertUnwindSafe(|| simulate(options))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(Failure {
                options,
                at: Duration::ZERO,
                what: format!("panicked: {}", text.unwrap_or_default()),
                trace: 0,
            })
        })
    };
    let first = once();
    if twice {
        let second = once();
        let trace = |r: &Result<Report, Failure>| match r {
            Ok(report) => (report.trace, report.polls),
            Err(failure) => (failure.trace, 0),
        };
        if trace(&first) != trace(&second) {
            return Err(Failure {
                options,
                at: Duration::ZERO,
                what: format!("the same seed gave two runs: {first:?} and {second:?}"),
                trace: 0,
            });
        }
    }
    first
}

fn found(failures: &[Failure], text: &str) -> bool {
    failures.iter().any(|failure| failure.what.contains(text))
}

/// Runs the batch.
pub fn run_seeds(batch: Batch) -> Outcome {
    let start = Instant::now();
    let next = AtomicU64::new(0);
    let (reports, failures) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..batch.threads.max(1) {
            scope.spawn(|| {
                loop {
                    if batch
                        .stop_at
                        .is_some_and(|text| found(&failures.lock(), text))
                    {
                        return;
                    }
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= batch.count {
                        return;
                    }
                    let seed = batch.first.seed + n;
                    match run_one(
                        Options {
                            seed,
                            ..batch.first
                        },
                        batch.twice,
                    ) {
                        Ok(report) => reports.lock().push(report),
                        Err(failure) => failures.lock().push(failure),
                    }
                }
            });
        }
    });
    let mut outcome = Outcome {
        reports: reports.into_inner(),
        failures: failures.into_inner(),
        took: start.elapsed(),
    };
    outcome.reports.sort_by_key(|r| r.options.seed);
    outcome.failures.sort_by_key(|f| f.options.seed);
    outcome
}
