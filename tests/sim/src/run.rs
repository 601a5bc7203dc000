//! One seed: a cluster comes up, clients work, things break, everything heals, the judges decide.

use std::sync::Arc;
use std::time::Duration;

use barque_store_consensus::Guards;
use barque_store_env::sim;
use barque_tests_checkers::Searched;

use crate::cluster::Cluster;
use crate::faults;
use crate::guards;
use crate::journal::{Counts, HARNESS, Journal};
use crate::plan::Plan;
use crate::settle;
use crate::work::watchers::{Wanted, Watcher};
use crate::work::{self, PATIENCE_MAX, Told};

/// How often the members are looked into.
const INSPECT: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub seed: u64,
    /// Virtual seconds under faults; healing comes on top.
    pub seconds: u64,
    pub guards: Guards,
    /// So many members instead of what the seed draws.
    pub members: Option<u32>,
    /// One line per event.
    pub verbose: bool,
}

impl Options {
    pub fn new(seed: u64) -> Self {
        Options {
            seed,
            seconds: 60,
            guards: Guards::default(),
            members: None,
            verbose: false,
        }
    }

    /// The command that repeats the run and shows its events.
    pub fn command(&self) -> String {
        let mut command = format!(
            "cargo run --release -p barque-tests-sim -- --seed {} --seconds {}",
            self.seed, self.seconds
        );
        if let Some(members) = self.members {
            command += &format!(" --members {members}");
        }
        for name in guards::off(&self.guards) {
            command += &format!(" --without {name}");
        }
        command
    }
}

/// A run in which nothing was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub options: Options,
    pub plan: Plan,
    /// Equal for equal runs.
    pub trace: u64,
    pub polls: u64,
    pub virtual_time: Duration,
    pub counts: Counts,
    pub searched: Searched,
}

/// A run in which something was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("FAILED seed {} at {:.3} s: {what}\nrepeat with: {}", options.seed, at.as_secs_f64(), options.command())]
pub struct Failure {
    pub options: Options,
    pub at: Duration,
    pub what: String,
    pub trace: u64,
    pub counts: Counts,
}

/// Runs one seed on this thread.
pub fn simulate(options: Options) -> Result<Report, Box<Failure>> {
    sim::run(options.seed, async move {
        let journal = Arc::new(Journal::new(options.verbose));
        let judged = scenario(options, journal.clone()).await;
        let counts = journal.counts();
        match judged {
            Ok((plan, searched)) => Ok(Report {
                options,
                plan,
                trace: sim::trace_hash(),
                polls: sim::polls(),
                virtual_time: sim::elapsed(),
                counts,
                searched,
            }),
            Err(what) => Err(Box::new(Failure {
                options,
                at: sim::elapsed(),
                what,
                trace: sim::trace_hash(),
                counts,
            })),
        }
    })
}

async fn scenario(options: Options, journal: Arc<Journal>) -> Result<(Plan, Searched), String> {
    let plan = Plan::draw(&options);
    journal.event(HARNESS, plan.to_string());
    let cluster = Arc::new(Cluster::new(options, plan.clone(), journal.clone()));
    for node in cluster.members() {
        let shows = sim::between(Duration::ZERO, Duration::from_secs(100_000));
        sim::set_clock(node, shows, sim::below(401) as i32 - 200);
        cluster.start(node);
    }
    let told = Arc::new(Told::default());
    let clients = work::start(&cluster, &told);
    let watchers: Vec<_> = Wanted::several(plan.work.watchers)
        .into_iter()
        .enumerate()
        .map(|(i, wanted)| Arc::new(Watcher::new(format!("w{i}"), wanted, cluster.clone())))
        .collect();
    for watcher in &watchers {
        sim::spawn_on(sim::HARNESS, "watcher", watcher.clone().run());
    }
    sim::spawn_on(sim::HARNESS, "faults", faults::inject(cluster.clone()));

    let inspector = {
        let cluster = cluster.clone();
        async move {
            loop {
                sim::sleep(INSPECT).await;
                cluster.inspect();
                if let Some(what) = cluster.journal.violated() {
                    return what;
                }
            }
        }
    };
    let work = async {
        sim::sleep(Duration::from_secs(options.seconds)).await;
        cluster.calm_down();
        journal.event(HARNESS, "calm");
        settle::converge(&cluster).await?;
        // Their last requests run into their timeouts at most.
        for client in clients {
            client.await.map_err(|_| "a client died".to_owned())?;
        }
        // What they gave up may still be carried out, until its own deadline.
        sim::sleep(2 * PATIENCE_MAX).await;
        settle::leases_end(&cluster).await?;
        let last = settle::converge(&cluster).await?;
        cluster.members_agree(&cluster.sound()).await?;
        settle::judge(&cluster, &told, &watchers, last).await
    };
    futures::pin_mut!(inspector, work);
    let searched = match futures::future::select(work, inspector).await {
        futures::future::Either::Left((judged, _)) => judged?,
        futures::future::Either::Right((violation, _)) => {
            // A violation often is the first sight of something worse.
            return Err(match settle::lost_on_a_member(&cluster, &told) {
                Some(lost) => format!("lost write: {lost} (it began with: {violation})"),
                None => violation,
            });
        }
    };
    match journal.violated() {
        Some(what) => Err(what),
        None => Ok((plan, searched)),
    }
}
