//! Scripted sequences: the schedules that the first two guards are for.

use std::time::Duration;

use barque_store_env::sim;

use super::{Fault, MS, Step};
use crate::cluster::End;

impl Fault {
    /// Guard 1's case. A leader's disk hangs, so its followers commit what it has not stored; then it loses power and
    /// is back before anybody could miss it.
    pub(super) async fn torn_leader(&self) -> Step {
        let Some(leader) = self.cluster.leader() else {
            return Ok(());
        };
        let lease = self.cluster.plan.lease();
        self.fires(leader, "leads, and its disk hangs")?;
        sim::stall_disk(leader, lease);
        self.wait(2 * MS, lease / 2).await?;
        self.cluster.end(leader, End::PowerLoss);
        self.wait(Duration::ZERO, lease / 10).await?;
        self.cluster.start(leader);
        Ok(())
    }

    /// Guard 2's case. Followers that promised the leader its lease are restarted, and the leader is cut off in the
    /// same moment: whoever forgets the promise elects another.
    pub(super) async fn forgetful_followers(&self) -> Step {
        let Some(leader) = self.cluster.leader() else {
            return Ok(());
        };
        let lease = self.cluster.plan.lease();
        // The last of them has long stopped hearing the leader and asks for votes, or is down too; the others' leases
        // alone hold it back.
        let mut promised = self.cluster.others(leader);
        let Some(hungry) = promised.pop() else {
            return Ok(());
        };
        if sim::chance(0.5) {
            self.fires(hungry, format!("does not hear the leader {leader}"))?;
            sim::partition(leader, hungry);
            self.wait(lease * 2, lease * 4).await?;
        } else {
            self.fires(hungry, "is killed")?;
            self.cluster.end(hungry, End::Killed);
        }
        self.say(
            leader,
            format!("is cut off, and {promised:?} are restarted"),
        )?;
        for follower in &promised {
            self.cluster.end(*follower, End::Killed);
            sim::partition(leader, *follower);
        }
        sim::partition(leader, hungry);
        for follower in promised.iter().chain([&hungry]) {
            self.cluster.start(*follower);
        }
        self.wait(lease, lease * 4).await?;
        self.say(leader, "is heard again")?;
        for follower in promised.iter().chain([&hungry]) {
            sim::heal(leader, *follower);
        }
        Ok(())
    }
}
