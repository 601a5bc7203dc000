//! No fault at all, but a machine with nothing to spare: every core busy with something else, every sync slow. Nobody may be taken
//! for dead, so the term must not change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::kills::judgement;
use crate::member::{Program, cluster, start_all};
use crate::report::Report;
use crate::run::{Load, temporary};
use crate::shim::Shim;
use crate::standing::{agreed, standings};

#[derive(Clone, Debug)]
pub struct Options {
    pub program: Program,
    pub seed: u64,
    pub members: usize,
    pub lasting: Duration,
    /// Threads that only burn; 0: two a core.
    pub burners: usize,
    /// Every sync of a member takes so much longer, milliseconds, from and to.
    pub slow_sync: (u32, u32),
}

/// How often the terms are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Threads that never sleep.
struct Burners {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Burners {
    fn light(count: usize) -> Burners {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count).map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        });
        Burners {
            threads: threads.collect(),
            stop,
        }
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // They only count time: nothing in them can fail.
            let _ = thread.join();
        }
    }
}

pub async fn run(options: &Options) -> Result<Report, Failure> {
    let home = temporary()?;
    let data = home.path().join("data");
    std::fs::create_dir(&data).map_err(Failure::io("making a data directory"))?;
    let mut members = cluster(&options.program, options.members, &data, home.path())?;
    // A Go program does not sync through the C library.
    let slow = matches!(options.program, Program::Barque(_)) && options.slow_sync.1 > 0;
    if slow {
        let shim = Shim::compile(home.path())?;
        for member in &mut members {
            member.set_environment(shim.environment(&data));
        }
        shim.slow_down(options.slow_sync.0, options.slow_sync.1)?;
    }
    start_all(&mut members).await?;
    let (leader, term) = agreed(&members).await?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let count = match options.burners {
        0 => 2 * cores,
        given => given,
    };
    let burners = Burners::light(count);
    let load = Load::start(&members, options.seed);
    load.journal.take_gap();
    let end = Instant::now() + options.lasting;
    let mut unanswered = 0;
    while Instant::now() < end {
        tokio::time::sleep(LOOK.min(end.saturating_duration_since(Instant::now()))).await;
        for (n, standing) in standings(&members).await.into_iter().enumerate() {
            match standing {
                Some(standing) if standing.term != term => {
                    return Err(members[n].failure(format!(
                        "is in term {} where all were in {term}, and nobody was ever gone",
                        standing.term
                    )));
                }
                Some(_) => {}
                // Slow, on a machine like this; the next look finds a term that changed.
                None => unanswered += 1,
            }
        }
        load.check()?;
    }
    let gap = load.journal.take_gap();
    drop(burners);
    let after = agreed(&members).await?;
    if after != (leader, term) {
        return Err(Failure::violated(format!(
            "an election with nobody gone: leader and term were {:?} and are {after:?}",
            (leader, term)
        )));
    }
    let judged = load.judged(&mut members).await?;
    let mut report = Report::new("a busy machine, and nobody is gone", &options.program);
    report.row("seed", options.seed);
    report.row("members", options.members);
    report.row("load for", format!("{} s", options.lasting.as_secs()));
    report.row(
        "threads that only burn",
        format!("{count} on {cores} cores"),
    );
    let (from, to) = options.slow_sync;
    report.row(
        "each sync takes longer by",
        match slow {
            true => format!("{from} to {to} ms"),
            false => "nothing".into(),
        },
    );
    report.row("elections", format!("0: term {term} throughout"));
    report.row("looks at a member without an answer", unanswered);
    report.row(
        "longest time without an acknowledged write",
        format!("{} ms", gap.as_millis()),
    );
    judgement(&mut report, &judged);
    Ok(report)
}
