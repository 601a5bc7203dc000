//! Faults of whole machines: their processes end, stand still, stop in order, give leadership away; their clocks are off.

use barque_store_env::{Env, sim};

use super::{Fault, Kind, MS, S, Step};
use crate::cluster::End;
use crate::journal::HARNESS;

impl Fault {
    pub(super) async fn machine(&self) -> Step {
        match self.kind {
            Kind::Kill => self.crash(End::Killed).await,
            Kind::PowerLoss => self.crash(End::PowerLoss).await,
            Kind::KillAll => self.crash_all(End::Killed).await,
            Kind::PowerLossAll => self.crash_all(End::PowerLoss).await,
            Kind::StopRestart => self.stop_and_restart().await,
            Kind::Pause => self.pause(),
            Kind::HandOver => self.hand_over(),
            _ => self.clock_rate(),
        }
    }

    async fn crash(&self, how: End) -> Step {
        let node = self.victim();
        self.fires(node, format!("{how:?}"))?;
        self.cluster.end(node, how);
        self.wait(std::time::Duration::ZERO, Self::downtime())
            .await?;
        self.cluster.start(node);
        Ok(())
    }

    async fn crash_all(&self, how: End) -> Step {
        self.fires(HARNESS, format!("everybody at once: {how:?}"))?;
        let members = self.cluster.members();
        for node in &members {
            self.cluster.end(*node, how);
        }
        for node in members {
            self.wait(std::time::Duration::ZERO, 500 * MS).await?;
            self.cluster.start(node);
        }
        Ok(())
    }

    /// SIGTERM: the process hands leadership over, writes what it has, and goes.
    async fn stop_and_restart(&self) -> Step {
        let node = self.victim();
        let Some(store) = self.cluster.store(node) else {
            return Ok(());
        };
        self.fires(node, "is asked to stop")?;
        let stopping = sim::spawn_on(node, "stop", async move { store.shutdown().await });
        let stopped = sim::SimEnv::timeout(20 * S, stopping).await;
        self.cluster.end(node, End::Killed);
        let how = if stopped.is_ok() { "" } else { "not " };
        self.say(node, format!("did {how}stop by itself"))?;
        self.wait(std::time::Duration::ZERO, Self::downtime())
            .await?;
        self.cluster.start(node);
        Ok(())
    }

    /// SIGSTOP, also for longer than the lease.
    fn pause(&self) -> Step {
        let (node, lease) = (self.victim(), self.cluster.plan.lease());
        let length = sim::between(lease / 2, lease * 4);
        self.fires(node, format!("is paused for {length:?}"))?;
        sim::pause(node, length);
        Ok(())
    }

    fn hand_over(&self) -> Step {
        let Some(leader) = self.cluster.leader() else {
            return Ok(());
        };
        let Some(store) = self.cluster.store(leader) else {
            return Ok(());
        };
        self.fires(leader, "is asked to hand leadership over")?;
        sim::spawn_on(leader, "hand over", async move {
            store.hand_over(sim::SimEnv::now() + S).await;
        });
        Ok(())
    }

    /// Within one per cent: what the guards' margins must cover many times over.
    fn clock_rate(&self) -> Step {
        let node = self.cluster.any_member();
        let ppm = sim::below(20_001) as i32 - 10_000;
        self.fires(node, format!("has a clock that is off by {ppm} ppm"))?;
        sim::set_clock_rate(node, ppm);
        Ok(())
    }
}
