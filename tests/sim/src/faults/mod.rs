//! What goes wrong in a run. Faults overlap: each is a task that undoes itself. Besides the plain ones there are a few
//! scripted sequences, which lead where chance alone seldom goes.

use std::sync::Arc;
use std::time::Duration;

use barque_store_env::sim::{self, NodeId};

use crate::cluster::Cluster;
use crate::journal::HARNESS;

mod disk;
mod machine;
mod members;
mod network;
mod scripts;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

macro_rules! kinds {
    ($($kind:ident $name:literal $weight:literal $one:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $($kind,)*
        }
        impl Kind {
            pub const ALL: [Kind; KINDS] = [$(Kind::$kind),*];
            pub fn name(self) -> &'static str {
                match self {
                    $(Kind::$kind => $name,)*
                }
            }
            /// Its greatest share among the faults of a run.
            pub fn weight(self) -> u64 {
                match self {
                    $(Kind::$kind => $weight,)*
                }
            }
            /// Whether it makes sense for a single member.
            pub fn suits_one(self) -> bool {
                match self {
                    $(Kind::$kind => $one,)*
                }
            }
        }
        pub const KINDS: usize = [$($name),*].len();
    };
}

kinds! {
    Kill "kill" 10 true,
    PowerLoss "power-loss" 10 true,
    KillAll "kill-all" 4 false,
    PowerLossAll "power-loss-all" 4 false,
    StopRestart "stop-restart" 5 true,
    Pause "pause" 12 true,
    HandOver "hand-over" 8 false,
    ClockRate "clock-rate" 4 true,
    Isolate "isolate" 10 false,
    OneWay "one-way" 10 false,
    Partial "partial" 8 false,
    Split "split" 6 false,
    BadNetwork "bad-network" 6 false,
    SlowLink "slow-link" 5 false,
    BreakConnections "break-connections" 6 false,
    BlackConnections "black-connections" 6 false,
    HalfOpen "half-open" 6 false,
    NoAnswer "no-answer" 6 false,
    Stall "disk-stall" 8 true,
    HangingLog "log-hangs" 6 true,
    SlowDisk "slow-disk" 5 true,
    FailedWrite "write-eio" 5 true,
    FailedSync "fdatasync-eio" 5 true,
    FailedDirSync "dir-sync-eio" 3 true,
    FailedRename "rename-eio" 3 true,
    FullDisk "disk-full" 4 true,
    LowDisk "disk-low" 4 true,
    FlippedBit "bit-flip" 3 false,
    RottenRows "rows-bit-flip" 6 false,
    WipedDisk "wiped-disk" 2 false,
    AddMember "add-member" 6 true,
    RemoveMember "remove-member" 5 true,
    TornLeader "torn-leader" 8 false,
    Forgetful "forgetful-followers" 8 false,
}

/// Injects the plan's faults until the run calms down.
pub async fn inject(cluster: Arc<Cluster>) {
    // First the cluster comes up.
    sim::sleep(cluster.plan.election * 3).await;
    let shares: u64 = cluster.plan.faults.iter().map(|(_, share)| share).sum();
    while !cluster.is_calm() {
        sim::sleep(sim::between(100 * MS, cluster.plan.calm)).await;
        if cluster.is_calm() {
            return;
        }
        let mut ticket = sim::below(shares);
        let drawn = cluster.plan.faults.iter().find(|(_, share)| {
            let hit = ticket < *share;
            ticket = ticket.saturating_sub(*share);
            hit
        });
        let (kind, _) = *drawn.expect("the ticket is within the shares");
        let fault = Fault {
            cluster: cluster.clone(),
            kind,
        };
        sim::spawn_on(sim::HARNESS, "fault", async move {
            fault.run().await;
        });
    }
}

struct Fault {
    cluster: Arc<Cluster>,
    kind: Kind,
}

/// The run has calmed down: nothing more is broken.
struct Calm;
type Step = Result<(), Calm>;

impl Fault {
    async fn run(&self) {
        let done = match self.kind {
            Kind::Kill
            | Kind::PowerLoss
            | Kind::KillAll
            | Kind::PowerLossAll
            | Kind::StopRestart
            | Kind::Pause
            | Kind::HandOver
            | Kind::ClockRate => self.machine().await,
            Kind::Isolate
            | Kind::OneWay
            | Kind::Partial
            | Kind::Split
            | Kind::BadNetwork
            | Kind::SlowLink
            | Kind::BreakConnections
            | Kind::BlackConnections
            | Kind::HalfOpen
            | Kind::NoAnswer => self.network().await,
            Kind::Stall
            | Kind::HangingLog
            | Kind::SlowDisk
            | Kind::FailedWrite
            | Kind::FailedSync
            | Kind::FailedDirSync
            | Kind::FailedRename
            | Kind::FullDisk
            | Kind::LowDisk
            | Kind::FlippedBit
            | Kind::RottenRows
            | Kind::WipedDisk => self.disk().await,
            Kind::AddMember | Kind::RemoveMember => self.members().await,
            Kind::TornLeader => self.torn_leader().await,
            Kind::Forgetful => self.forgetful_followers().await,
        };
        if done.is_err() {
            let text = format!("{} ends early: the run calms down", self.kind.name());
            self.cluster.journal.event(HARNESS, text);
        }
    }

    /// The fault happens now: counted and told.
    fn fires(&self, place: impl std::fmt::Display, what: impl AsRef<str>) -> Step {
        self.say(place, what)?;
        self.cluster.journal.fault(self.kind);
        Ok(())
    }

    fn say(&self, place: impl std::fmt::Display, what: impl AsRef<str>) -> Step {
        if self.cluster.is_calm() {
            return Err(Calm);
        }
        self.cluster.journal.event(place, what);
        Ok(())
    }

    /// Waits; says whether faults may still be injected.
    async fn wait(&self, low: Duration, high: Duration) -> Step {
        sim::sleep(sim::between(low, high)).await;
        if self.cluster.is_calm() {
            Err(Calm)
        } else {
            Ok(())
        }
    }

    /// Long enough to be missed, and up to several times as long.
    async fn a_while(&self) -> Step {
        let lease = self.cluster.plan.lease();
        self.wait(lease / 2, lease * 6).await
    }

    /// More often than not the leader: it has most to lose.
    fn victim(&self) -> NodeId {
        match self.cluster.leader() {
            Some(leader) if sim::chance(0.5) => leader,
            _ => self.cluster.any_member(),
        }
    }

    /// Between the restarts of a victim: quick ones and slow ones.
    fn downtime() -> Duration {
        [5 * MS, 300 * MS, 3_000 * MS][sim::below(3) as usize]
    }
}
