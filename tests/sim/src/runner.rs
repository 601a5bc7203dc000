//! Many seeds on several threads: the only place that knows real time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::faults::Kind;
use crate::journal::Counts;
use crate::run::{Failure, Options, Report, simulate};

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// The first seed's options.
    pub first: Options,
    pub count: u64,
    pub jobs: usize,
    /// Each seed twice; the traces must be equal.
    pub twice: bool,
    /// No further seed is begun after a failure whose text contains this.
    pub stop_at: Option<&'static str>,
    /// No further seed is begun after this real time.
    pub time_limit: Option<Duration>,
    /// One line per seed that has ended.
    pub tell_each: bool,
}

impl Batch {
    /// So many seeds with the same options, until one fails.
    pub fn new(first: Options, count: u64) -> Self {
        Batch {
            first,
            count,
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
            twice: false,
            stop_at: Some(""),
            time_limit: None,
            tell_each: false,
        }
    }
}

/// What came of it. Seeds in order.
#[derive(Debug)]
pub struct Outcome {
    pub reports: Vec<Report>,
    pub failures: Vec<Failure>,
    pub took: Duration,
    /// Processor time of this process meanwhile.
    pub worked: Duration,
    pub counts: Counts,
}

impl Outcome {
    pub fn seeds(&self) -> usize {
        self.reports.len() + self.failures.len()
    }
    pub fn seeds_per_minute(&self) -> f64 {
        self.seeds() as f64 * 60.0 / self.took.as_secs_f64().max(0.001)
    }
    pub fn seeds_per_cpu_hour(&self) -> f64 {
        self.seeds() as f64 * 3_600.0 / self.worked.as_secs_f64().max(0.001)
    }

    /// How often each fault fired, one line each.
    pub fn fault_table(&self) -> String {
        let line = |kind: Kind| {
            let fired = self.counts.faults.0[kind as usize];
            let runs = self.reports.iter().map(|r| &r.counts);
            let runs = runs.chain(self.failures.iter().map(|f| &f.counts));
            let runs = runs.filter(|c| c.faults.0[kind as usize] > 0).count();
            format!("{:>20} {fired:>8} in {runs:>5} seeds\n", kind.name())
        };
        Kind::ALL.into_iter().map(line).collect()
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let c = &self.counts;
        write!(
            f,
            "{} seeds, {} failed, {:.0} seeds per minute ({:.1} s), {:.0} per CPU-hour; {} operations ({} unknown, {} searches given up), {} writes \
             acknowledged, {} observed, {} transfers, {} watch events over {} connections ({} ended by compaction), \
             {} compactions, {} equal hashes, {} leases ({} renewals, {} expired), {} leaders, {} ends, {} states taken anew, {} faults, {:.1} M polls",
            self.seeds(),
            self.failures.len(),
            self.seeds_per_minute(),
            self.took.as_secs_f64(),
            self.seeds_per_cpu_hour(),
            c.operations,
            c.unknown,
            c.undecided,
            c.acknowledged,
            c.observed,
            c.transfers,
            c.watch_events,
            c.reconnects,
            c.compacted_watches,
            c.compactions,
            c.equal_hashes,
            c.leases,
            c.renewals,
            c.expiries,
            c.leaders,
            c.ended,
            c.renewed,
            c.all_faults(),
            self.reports.iter().map(|r| r.polls).sum::<u64>() as f64 / 1e6,
        )
    }
}

/// Runs a seed; a panic inside it is its failure.
fn run_one(options: Options, twice: bool) -> Result<Report, Box<Failure>> {
    let failure = |what| {
        Box::new(Failure {
            options,
            at: Duration::ZERO,
            what,
            trace: 0,
            counts: Counts::default(),
        })
    };
    let once = || {
        catch_unwind(AssertUnwindSafe(|| simulate(options))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(failure(format!("panicked: {}", text.unwrap_or_default())))
        })
    };
    let first = once();
    if twice {
        let second = once();
        let trace = |r: &Result<Report, Box<Failure>>| match r {
            Ok(report) => (report.trace, report.polls),
            Err(failure) => (failure.trace, 0),
        };
        if trace(&first) != trace(&second) {
            return Err(failure(format!(
                "the same seed gave two runs: {first:?} and {second:?}"
            )));
        }
    }
    first
}

/// What this process has taken of the processors so far, as the kernel counts it: in hundredths of a second.
fn processor_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name comes second, in brackets, and may hold anything; user and system time are 12th and 13th behind it.
    let (_, behind) = stat.rsplit_once(')')?;
    let ticks = |at: usize| behind.split_whitespace().nth(at)?.parse::<u64>().ok();
    Some(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

fn found(failures: &[Failure], text: &str) -> bool {
    failures.iter().any(|failure| failure.what.contains(text))
}

/// One seed's line.
fn tell(result: &Result<Report, Box<Failure>>, took: Duration) {
    match result {
        Ok(r) => println!(
            "seed {:>6} ok     {:>5.2} s  {:>6} acknowledged {:>4} faults {:>3} leaders  trace {:016x}  {}",
            r.options.seed,
            took.as_secs_f64(),
            r.counts.acknowledged,
            r.counts.all_faults(),
            r.counts.leaders,
            r.trace,
            r.plan
        ),
        Err(f) => println!(
            "seed {:>6} FAILED {:>5.2} s  {}",
            f.options.seed,
            took.as_secs_f64(),
            f.what
        ),
    }
}

/// Runs the batch.
pub fn run_seeds(batch: Batch) -> Outcome {
    let start = Instant::now();
    let next = AtomicU64::new(0);
    let (reports, failures) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let worked_before = processor_time();
    std::thread::scope(|scope| {
        for _ in 0..batch.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let failed = |text| found(&failures.lock(), text);
                    let late = |limit| start.elapsed() > limit;
                    if batch.stop_at.is_some_and(failed) || batch.time_limit.is_some_and(late) {
                        return;
                    }
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= batch.count {
                        return;
                    }
                    let options = Options {
                        seed: batch.first.seed + n,
                        ..batch.first
                    };
                    let begun = Instant::now();
                    let result = run_one(options, batch.twice);
                    let took = begun.elapsed();
                    if batch.tell_each {
                        tell(&result, took);
                    }
                    match result {
                        Ok(report) => reports.lock().push(report),
                        Err(failure) => failures.lock().push(*failure),
                    }
                }
            });
        }
    });
    let took = start.elapsed();
    let mut outcome = Outcome {
        reports: reports.into_inner(),
        failures: failures.into_inner(),
        took,
        worked: match (worked_before, processor_time()) {
            (Some(before), Some(after)) => after.saturating_sub(before),
            // Where it is not told: as if nothing else had wanted the processors.
            _ => took * u32::try_from(batch.jobs).unwrap_or(1),
        },
        counts: Counts::default(),
    };
    outcome.reports.sort_by_key(|r| r.options.seed);
    outcome.failures.sort_by_key(|f| f.options.seed);
    for report in &outcome.reports {
        outcome.counts.add(&report.counts);
    }
    for failure in &outcome.failures {
        outcome.counts.add(&failure.counts);
    }
    outcome
}
