//! One seed: a cluster comes up, clients work, things break, everything heals, the judges decide.

use std::sync::Arc;
use std::time::Duration;

use barque_store_consensus::Guards;
use barque_store_env::sim;
use barque_tests_checkers::Searched;

use crate::clients::{Client, PATIENCE_MAX, Told};
use crate::cluster::{Cluster, MEMBERS};
use crate::faults;
use crate::journal::{Counts, Journal};
use crate::settle;
use crate::watchers::{Wanted, Watcher};

const CLIENTS: u64 = 6;
/// How often the members are looked into.
const INSPECT: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub seed: u64,
    /// Virtual seconds under faults; healing comes on top.
    pub seconds: u64,
    pub guards: Guards,
    /// One line per event.
    pub verbose: bool,
}

impl Options {
    pub fn new(seed: u64) -> Self {
        Options {
            seed,
            seconds: 30,
            guards: Guards::default(),
            verbose: false,
        }
    }

    /// The command that repeats the run and shows its events.
    pub fn command(&self) -> String {
        let off = |flag, on| {
            if on {
                String::new()
            } else {
                format!(" --{flag} off")
            }
        };
        format!(
            "cargo run -p barque-tests-sim -- --seed {} --seconds {}{}{} -v",
            self.seed,
            self.seconds,
            off("guard1", self.guards.no_leader_restore),
            off("guard2", self.guards.vote_after_lease),
        )
    }
}

/// A run in which nothing was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    pub options: Options,
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
}

/// Runs one seed on this thread.
pub fn simulate(options: Options) -> Result<Report, Failure> {
    sim::run(options.seed, async move {
        scenario(options).await.map_err(|what| Failure {
            options,
            at: sim::elapsed(),
            what,
            trace: sim::trace_hash(),
        })
    })
}

async fn scenario(options: Options) -> Result<Report, String> {
    let journal = Arc::new(Journal::new(options.verbose));
    let cluster = Arc::new(Cluster::new(options, journal.clone()));
    let timing = (cluster.heartbeat, cluster.election);
    journal.event(
        crate::journal::HARNESS,
        format!("heartbeat, election: {timing:?}"),
    );
    for node in MEMBERS {
        let shows = sim::between(Duration::ZERO, Duration::from_secs(100_000));
        sim::set_clock(node, shows, sim::below(401) as i32 - 200);
        cluster.start(node);
    }
    let told = Arc::new(Told::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|id| Client::new(id, cluster.clone(), told.clone()))
        .map(|client| sim::spawn_on(sim::HARNESS, "client", client.run()))
        .collect();
    let watchers: Vec<_> = Wanted::several()
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
        journal.event(crate::journal::HARNESS, "calm");
        let last = settle::converge(&cluster).await?;
        // Their last requests run into their timeouts at most.
        for client in clients {
            client.await.map_err(|_| "a client died".to_owned())?;
        }
        // What they gave up may still be carried out, until its own deadline.
        sim::sleep(2 * PATIENCE_MAX).await;
        let last = last.max(settle::converge(&cluster).await?);
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
    if let Some(what) = journal.violated() {
        return Err(what);
    }
    Ok(Report {
        options,
        trace: sim::trace_hash(),
        polls: sim::polls(),
        virtual_time: sim::elapsed(),
        counts: journal.counts(),
        searched,
    })
}
