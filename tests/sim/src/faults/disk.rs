//! Faults of disks. One that fails an operation must end the member, at once and for everybody to see; one that changed or
//! lost bytes must never be served.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use barque_store_env::Space;
use barque_store_env::sim::{self, DiskFault, DiskOp, DiskProfile, NodeId};

use super::{Fault, Kind, MS, S, Step};
use crate::cluster::End;

/// Virtual time that a member has to end after an operation of its disk failed, pauses aside.
const ENDS_WITHIN: Duration = S;
/// Virtual time before which no disk is emptied: all members must know the data directory of each, which they learn when
/// it first votes, and have that on disk.
const KNOWN_AFTER: Duration = Duration::from_secs(8);

/// What a flipped bit of a file spoils.
enum Rot {
    /// The persisted state: the other members have it as well, and a member that took it anew has nothing left of it.
    Rows,
    /// What the other members have as well, but a file that stays when the state is taken anew.
    Peers,
    /// What no other member has.
    Lasting,
}

fn rots(path: &Path) -> Rot {
    let mut names = path.iter().filter_map(|name| name.to_str());
    match names.find(|name| name.starts_with("rows") || *name == "peers") {
        Some("peers" | "rows.current") => Rot::Peers,
        Some(_) => Rot::Rows,
        None => Rot::Lasting,
    }
}

impl Fault {
    pub(super) async fn disk(&self) -> Step {
        match self.kind {
            Kind::Stall => self.stall(),
            Kind::HangingLog => self.hanging(),
            Kind::SlowDisk => self.slow_disk().await,
            Kind::FailedWrite => self.fails(DiskOp::Write, ErrorKind::Other).await,
            Kind::FailedSync => self.fails(DiskOp::Sync, ErrorKind::Other).await,
            Kind::FailedDirSync => self.fails(DiskOp::SyncDir, ErrorKind::Other).await,
            Kind::FailedRename => self.fails(DiskOp::Rename, ErrorKind::Other).await,
            Kind::FullDisk => self.full_disk().await,
            Kind::LowDisk => self.low_disk().await,
            Kind::FlippedBit => {
                let within = ["/wal/", "/rows", "/member/"][sim::below(3) as usize];
                self.flipped_bits(within, 3).await
            }
            // Many: most of a member's rows are not read again for a while.
            Kind::RottenRows => self.flipped_bits("/rows", 12).await,
            _ => self.wiped_disk().await,
        }
    }

    fn stall(&self) -> Step {
        let (node, lease) = (self.victim(), self.cluster.plan.lease());
        let length = sim::between(lease / 4, lease * 4);
        self.fires(node, format!("has a disk that hangs for {length:?}"))?;
        self.cluster.disk_hangs(node, length);
        sim::stall_disk(node, length);
        Ok(())
    }

    /// Log and rows as if on two disks, one of which hangs.
    fn hanging(&self) -> Step {
        let (node, lease) = (self.victim(), self.cluster.plan.lease());
        let length = sim::between(lease / 4, lease * 4);
        let dir = if sim::chance(0.7) { "/wal/" } else { "/rows/" };
        self.fires(node, format!("has files in {dir} that hang for {length:?}"))?;
        if dir == "/wal/" {
            self.cluster.disk_hangs(node, length);
        }
        sim::hang_files(node, dir, length);
        Ok(())
    }

    async fn slow_disk(&self) -> Step {
        let node = self.victim();
        let slow = DiskProfile {
            sync: (5 * MS, 120 * MS),
            access: (MS / 10, 5 * MS),
            ..DiskProfile::default()
        };
        self.fires(node, "has a slow disk")?;
        sim::set_disk(node, slow);
        self.wait(500 * MS, 4_000 * MS).await?;
        self.say(node, "has a quick disk again")?;
        sim::set_disk(node, DiskProfile::default());
        Ok(())
    }

    /// Plants the fault; takes it away once it has hit, for the kernel may well call the next attempt a success.
    async fn fails(&self, on: DiskOp, error: ErrorKind) -> Step {
        let node = self.victim();
        if self.cluster.store(node).is_none() {
            return Ok(());
        }
        self.cluster
            .set_condition(node, |condition| condition.failing_disk += 1);
        let after = sim::below(30);
        self.say(
            node,
            format!("will see {error:?} after {after} more of {on:?}"),
        )?;
        let outcome = self.failing(node, DiskFault { on, after, error }).await;
        sim::fail_disk(node, None);
        self.cluster
            .set_condition(node, |condition| condition.failing_disk -= 1);
        outcome?;
        self.wait(Duration::ZERO, Self::downtime()).await?;
        self.cluster.start(node);
        Ok(())
    }

    async fn failing(&self, node: NodeId, fault: DiskFault) -> Step {
        let (failures, ends) = (sim::disk_failures(node), self.cluster.ends(node));
        sim::fail_disk(node, Some(fault));
        let give_up = sim::elapsed() + 5 * S;
        while sim::disk_failures(node) == failures {
            if sim::elapsed() > give_up {
                return Ok(());
            }
            self.wait(MS, MS).await?;
        }
        self.fires(node, format!("{:?} on {:?}", fault.error, fault.on))?;
        if sim::chance(0.5) {
            // The next attempt would succeed: the trap of fsync.
            sim::fail_disk(node, None);
        }
        self.must_end(node, ends, &format!("{:?} failed", fault.on))
            .await;
        Ok(())
    }

    /// The process of now has seen an error that must end it. Whatever the run does meanwhile: this is judged to its end.
    async fn must_end(&self, node: NodeId, ends: u64, why: &str) {
        let starts = self.cluster.starts(node);
        let mut left = ENDS_WITHIN;
        let lives = || {
            self.cluster.ends(node) == ends
                && self.cluster.starts(node) == starts
                && !self.cluster.is_down(node)
        };
        while lives() {
            sim::sleep(MS).await;
            if !sim::is_paused(node) && !sim::is_stalled(node) {
                left = left.saturating_sub(MS);
            }
            if left.is_zero() {
                let text = format!("{node} goes on {ENDS_WITHIN:?} after {why}");
                return self.cluster.journal.violation(text);
            }
        }
    }

    /// Writes run into the end of the disk; a start is refused until there is room.
    async fn full_disk(&self) -> Step {
        let node = self.victim();
        self.cluster
            .set_condition(node, |condition| condition.full = true);
        let (failures, ends) = (sim::disk_failures(node), self.cluster.ends(node));
        let outcome = self.no_room(node).await;
        sim::fail_disk(node, None);
        if sim::disk_failures(node) > failures && self.cluster.ends(node) == ends {
            self.must_end(node, ends, "its disk was full").await;
        }
        sim::set_disk_space(node, None);
        self.cluster
            .set_condition(node, |condition| condition.full = false);
        outcome?;
        self.say(node, "has room again")?;
        self.cluster.start(node);
        Ok(())
    }

    async fn no_room(&self, node: NodeId) -> Step {
        self.fires(node, "has a full disk")?;
        sim::set_disk_space(
            node,
            Some(Space {
                free: 0,
                total: 1 << 30,
            }),
        );
        let full = DiskFault {
            on: DiskOp::Write,
            after: sim::below(3),
            error: ErrorKind::StorageFull,
        };
        sim::fail_disk(node, Some(full));
        self.a_while().await?;
        self.cluster.start(node);
        self.wait(Duration::ZERO, S).await
    }

    /// Nearly full: growth is refused, by all, until there is room; nothing ends.
    async fn low_disk(&self) -> Step {
        let node = self.victim();
        self.fires(node, "has little room on its disk")?;
        // Below every reserve, and enough for a first start, which needs two files of the log.
        let little = Space {
            free: 80 << 20,
            total: 1 << 40,
        };
        sim::set_disk_space(node, Some(little));
        let waited = self.wait(S, 4 * S).await;
        sim::set_disk_space(node, None);
        self.say(node, "has room on its disk")?;
        waited
    }

    /// Bit rot, of a member that runs or of one that is down.
    async fn flipped_bits(&self, within: &str, most: u64) -> Step {
        let node = self.victim();
        let expendable = self.cluster.plan.expendable();
        let before = self.cluster.condition(node);
        let again = before.flipped || before.rotten;
        if self.cluster.doomed() >= expendable && !again {
            return Ok(());
        }
        let stopped = sim::chance(0.5);
        if stopped {
            self.cluster.end(node, End::Killed);
        }
        for _ in 0..1 + sim::below(most) {
            if let Some((path, offset)) = sim::flip_bit(node, within) {
                match rots(&path) {
                    Rot::Rows => self.cluster.rows_rot(node, true),
                    Rot::Peers => self.cluster.rows_rot(node, false),
                    Rot::Lasting => self.cluster.set_condition(node, |c| c.flipped = true),
                }
                let text = format!("has a flipped bit in {} at {offset}", path.display());
                self.fires(node, text)?;
            }
        }
        self.a_while().await?;
        // Whatever it does now, it must decide at its next start.
        self.cluster.end(node, End::Killed);
        self.cluster.start(node);
        Ok(())
    }

    /// A machine that was replaced: the same name and address, nothing on its disk.
    async fn wiped_disk(&self) -> Step {
        let node = self.victim();
        let known = |other: &NodeId| {
            let store = self.cluster.store(*other);
            store.is_some_and(|s| s.members().iter().all(|m| !m.client_urls.is_empty()))
        };
        let all_know = self.cluster.members().iter().all(known);
        let early = sim::elapsed() < KNOWN_AFTER;
        let expendable = self.cluster.plan.expendable();
        if self.cluster.doomed() >= expendable || early || !all_know {
            return Ok(());
        }
        // What all have applied now, their next start must find again.
        self.wait(S, S).await?;
        if self.cluster.doomed() >= expendable || self.cluster.is_ruined(node) {
            return Ok(());
        }
        self.cluster.end(node, End::Killed);
        self.cluster
            .set_condition(node, |condition| condition.wiped = true);
        sim::wipe_disk(node);
        self.fires(node, "has lost its whole disk")?;
        self.wait(Duration::ZERO, Self::downtime()).await?;
        self.cluster.start(node);
        Ok(())
    }
}
