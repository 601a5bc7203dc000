//! What goes wrong in a run. Faults overlap: each is a task that undoes itself. Besides the plain ones there are a few
//! scripted sequences, which lead where chance alone seldom goes.

use std::sync::Arc;
use std::time::Duration;

use barque_store_env::sim::{self, Link, NodeId};

use crate::cluster::{Cluster, End, MEMBERS, any_member};
use crate::journal::HARNESS;

const MS: Duration = Duration::from_millis(1);

/// Injects faults until the run calms down.
pub async fn inject(cluster: Arc<Cluster>) {
    // First the cluster comes up.
    sim::sleep(cluster.election * 3).await;
    while !cluster.is_calm() {
        sim::sleep(sim::between(100 * MS, 1_200 * MS)).await;
        if cluster.is_calm() {
            return;
        }
        cluster.journal.count(|c| c.faults += 1);
        let fault = Fault(cluster.clone());
        sim::spawn_on(sim::HARNESS, "fault", async move {
            fault.one().await;
        });
    }
}

struct Fault(Arc<Cluster>);

/// The run has calmed down: nothing more is broken.
struct Calm;
type Step = Result<(), Calm>;

fn others(node: NodeId) -> [NodeId; 2] {
    let at = MEMBERS.iter().position(|n| *n == node).expect("a member");
    let rest = [MEMBERS[(at + 1) % 3], MEMBERS[(at + 2) % 3]];
    if sim::chance(0.5) {
        rest
    } else {
        [rest[1], rest[0]]
    }
}

impl Fault {
    async fn one(&self) {
        let done = match sim::below(100) {
            0..10 => self.crash(End::Killed).await,
            10..20 => self.crash(End::PowerLoss).await,
            20..25 => self.crash_all().await,
            25..37 => self.pause().await,
            37..47 => self.isolate().await,
            47..57 => self.one_way().await,
            57..65 => self.bad_network().await,
            65..70 => self.break_connections(),
            70..80 => self.stall().await,
            80..84 => self.clock_rate(),
            84..92 => self.torn_leader().await,
            _ => self.forgetful_followers().await,
        };
        if done.is_err() {
            self.0
                .journal
                .event(HARNESS, "a fault ends early: the run calms down");
        }
    }

    fn say(&self, place: impl std::fmt::Display, what: impl AsRef<str>) -> Step {
        if self.0.is_calm() {
            return Err(Calm);
        }
        self.0.journal.event(place, what);
        Ok(())
    }

    /// Waits; says whether faults may still be injected.
    async fn wait(&self, low: Duration, high: Duration) -> Step {
        sim::sleep(sim::between(low, high)).await;
        if self.0.is_calm() { Err(Calm) } else { Ok(()) }
    }

    /// More often than not the leader: it has most to lose.
    fn victim(&self) -> NodeId {
        match self.0.leader() {
            Some(leader) if sim::chance(0.5) => leader,
            _ => any_member(),
        }
    }

    /// A crash with quick restarts and slow ones.
    async fn crash(&self, how: End) -> Step {
        let node = self.victim();
        self.0.end(node, how);
        let downtime = [5 * MS, 300 * MS, 3_000 * MS][sim::below(3) as usize];
        self.wait(Duration::ZERO, downtime).await?;
        self.0.start(node);
        Ok(())
    }

    async fn crash_all(&self) -> Step {
        let how = if sim::chance(0.5) {
            End::Killed
        } else {
            End::PowerLoss
        };
        self.say(HARNESS, format!("everybody at once: {how:?}"))?;
        for node in MEMBERS {
            self.0.end(node, how);
        }
        for node in MEMBERS {
            self.wait(Duration::ZERO, 500 * MS).await?;
            self.0.start(node);
        }
        Ok(())
    }

    /// SIGSTOP, also for longer than the lease.
    async fn pause(&self) -> Step {
        let node = self.victim();
        let length = sim::between(self.0.lease() / 2, self.0.lease() * 4);
        self.say(node, format!("is paused for {length:?}"))?;
        sim::pause(node, length);
        Ok(())
    }

    async fn isolate(&self) -> Step {
        let node = self.victim();
        self.say(node, "is cut off from the others")?;
        let rest = others(node);
        for other in rest {
            sim::partition(node, other);
        }
        self.wait(self.0.lease() / 2, self.0.lease() * 6).await?;
        self.say(node, "is heard again")?;
        for other in rest {
            sim::heal(node, other);
        }
        Ok(())
    }

    /// A member that can only send, or only hear, or a single direction of a single link.
    async fn one_way(&self) -> Step {
        let node = self.victim();
        let rest = others(node);
        let cut: Vec<(NodeId, NodeId)> = match sim::below(4) {
            0 => rest.map(|other| (node, other)).into(),
            1 => rest.map(|other| (other, node)).into(),
            2 => vec![(node, rest[0])],
            _ => vec![(rest[0], node), (node, rest[1])],
        };
        let names: Vec<String> = cut.iter().map(|(a, b)| format!("{a}→{b}")).collect();
        self.say(node, format!("is cut one way: {}", names.join(" ")))?;
        for (from, to) in &cut {
            sim::partition_one_way(*from, *to);
        }
        self.wait(self.0.lease() / 2, self.0.lease() * 6).await?;
        self.say(node, "is heard and hears again")?;
        for (from, to) in cut {
            sim::heal(from, to);
        }
        Ok(())
    }

    async fn bad_network(&self) -> Step {
        let worst = [5, 50, 300][sim::below(3) as usize] * MS;
        let link = Link {
            delay: (Duration::ZERO, worst),
            loss: [0.0, 0.01, 0.1][sim::below(3) as usize],
            reset: [0.0, 0.001, 0.01][sim::below(3) as usize],
        };
        self.say(HARNESS, format!("bad network: {link:?}"))?;
        sim::set_default_link(link);
        self.wait(500 * MS, 4_000 * MS).await?;
        self.say(HARNESS, "good network")?;
        sim::set_default_link(Link::default());
        Ok(())
    }

    fn break_connections(&self) -> Step {
        let node = self.victim();
        let other = others(node)[0];
        self.say(node, format!("loses its connections with {other}"))?;
        sim::break_connections(node, other);
        Ok(())
    }

    async fn stall(&self) -> Step {
        let node = self.victim();
        let length = sim::between(self.0.lease() / 4, self.0.lease() * 4);
        self.say(node, format!("has a disk that hangs for {length:?}"))?;
        sim::stall_disk(node, length);
        Ok(())
    }

    /// Within one per cent: what the guards' margins must cover many times over.
    fn clock_rate(&self) -> Step {
        let node = any_member();
        let ppm = sim::below(20_001) as i32 - 10_000;
        self.say(node, format!("has a clock that is off by {ppm} ppm"))?;
        sim::set_clock_rate(node, ppm);
        Ok(())
    }

    /// Guard 1's case. A leader's disk hangs, so its followers commit what it has not stored; then it loses power and
    /// is back before anybody could miss it.
    async fn torn_leader(&self) -> Step {
        let Some(leader) = self.0.leader() else {
            return Ok(());
        };
        self.say(leader, "leads, and its disk hangs")?;
        sim::stall_disk(leader, self.0.lease());
        self.wait(2 * MS, self.0.lease() / 2).await?;
        self.0.end(leader, End::PowerLoss);
        self.wait(Duration::ZERO, self.0.lease() / 10).await?;
        self.0.start(leader);
        Ok(())
    }

    /// Guard 2's case. Followers that promised the leader its lease are restarted, and the leader is cut off in the
    /// same moment: whoever forgets the promise elects another.
    async fn forgetful_followers(&self) -> Step {
        let Some(leader) = self.0.leader() else {
            return Ok(());
        };
        let [a, b] = others(leader);
        if sim::chance(0.5) {
            // b has long stopped hearing the leader and asks for votes; a's lease alone holds it back.
            self.say(b, format!("does not hear the leader {leader}"))?;
            sim::partition(leader, b);
            self.wait(self.0.lease() * 2, self.0.lease() * 4).await?;
        } else {
            self.0.end(b, End::Killed);
        }
        self.say(a, format!("is restarted, and {leader} cut off"))?;
        self.0.end(a, End::Killed);
        sim::partition(leader, a);
        sim::partition(leader, b);
        self.0.start(a);
        self.0.start(b);
        self.wait(self.0.lease(), self.0.lease() * 4).await?;
        self.say(leader, "is heard again")?;
        sim::heal(leader, a);
        sim::heal(leader, b);
        Ok(())
    }
}
