//! The simulated world: one thread, virtual time, a seeded choice of which ready task runs next, machines that can be
//! killed, paused, cut off and switched off, disks that lose what was not synced, a network with partitions.
//! Promise: the same seed and the same code give the same run, to the poll ([`trace_hash`] tells). All state belongs
//! to the thread that called [`run`], so many worlds run side by side on different threads.
//! Not here: what a fault should do to the members; the harness decides when and where, `tests/sim` checks.
//!
//! Machines are called `n1`, `n2`, ... and found by these names on the network ([`NodeId`]); [`HARNESS`] is the tester's
//! own place, with a perfect clock, no faults and no name.

use std::future::Future;
use std::time::Duration;

use crate::{Env, Instant, Sleep, Task};

mod disk;
mod fs;
mod net;
mod node;
mod rng;
mod timer;
mod world;

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod tests;

pub use disk::{DiskFault, DiskOp, DiskProfile, SimDisk, SimFile, SimLock};
pub use net::{Link, SimConn, SimListener, SimNet, SimRead, SimWrite};
pub use world::run;
use world::{nanos, with};

/// A simulated machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// Where the future given to [`run`] lives: never killed, its clock is the virtual time itself.
pub const HARNESS: NodeId = NodeId(0);

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// The world below [`run`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SimEnv;

impl Env for SimEnv {
    type Disk = SimDisk;
    type Net = SimNet;

    fn now() -> Instant {
        with(|w| w.local(w.ambient))
    }
    fn sleep_until(at: Instant) -> Sleep {
        let node = with(|w| w.ambient);
        Box::pin(timer::Timer::new(node, at))
    }
    fn spawn<F>(name: &'static str, task: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let node = with(|w| w.ambient);
        spawn_on(node, name, task)
    }
    fn random() -> u64 {
        with(|w| w.rng.next())
    }
}

// Tasks and machines.

/// Starts a task on a machine, which must be powered.
pub fn spawn_on<F>(node: NodeId, name: &'static str, task: F) -> Task<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    world::spawn(node, name, task)
}

/// Runs `f` as if `node` did: its clock is the ambient one.
pub fn enter<T>(node: NodeId, f: impl FnOnce() -> T) -> T {
    world::enter(node, f)
}

/// kill -9 of everything on the machine: its tasks end where they stand, its connections break (its kernel says so to
/// the peers), its locks are given up. What it wrote to files is still there.
pub fn kill(node: NodeId) {
    world::kill(node, node::Death::Killed);
}

/// Pulls the plug: as [`kill`], but files keep only what was synced and a random part of the rest, peers hear
/// nothing, and the machine's boot clock starts anew. Stays off until [`power_on`].
pub fn power_off(node: NodeId) {
    world::kill(node, node::Death::PowerLoss);
}

/// The kernel is back (it answers old connections with a reset); tasks can be started again.
pub fn power_on(node: NodeId) {
    with(|w| {
        w.node(node).powered = true;
        w.net_resume();
    });
}

pub fn is_powered(node: NodeId) -> bool {
    with(|w| w.node(node).powered)
}

/// The machine whose task is running.
pub fn here() -> NodeId {
    with(|w| w.ambient)
}

/// SIGSTOP for a while: no task of the machine runs, time and network go on.
pub fn pause(node: NodeId, length: Duration) {
    with(|w| {
        let until = w.now.saturating_add(nanos(length));
        w.node(node).paused_until = until;
    });
}

/// Whether the machine stands still by [`pause`].
pub fn is_paused(node: NodeId) -> bool {
    with(|w| {
        let now = w.now;
        w.node(node).paused_until > now
    })
}

// Time and chance.

/// Virtual time since the run began.
pub fn elapsed() -> Duration {
    with(|w| Duration::from_nanos(w.now))
}

/// Sleeps in virtual time, whatever the ambient machine's clock shows.
pub fn sleep(d: Duration) -> Sleep {
    let at = with(|w| w.now.saturating_add(nanos(d)));
    Box::pin(timer::Timer::new(HARNESS, Instant(at)))
}

/// The reading of a machine's clock now.
pub fn clock(node: NodeId) -> Instant {
    with(|w| w.local(node))
}

/// When, in virtual time, the machine's clock shows (or showed) `at`, if it keeps its present rate. Instants from
/// before the clock was last set count as that moment.
pub fn virtual_time(node: NodeId, at: Instant) -> Duration {
    Duration::from_nanos(with(|w| w.node(node).clock.global(at)))
}

/// From now on the machine's clock runs `rate_ppm` parts per million too fast (negative: too slow). It does not jump.
pub fn set_clock_rate(node: NodeId, rate_ppm: i32) {
    with(|w| {
        let now = w.now;
        w.node(node).clock.set_rate(now, rate_ppm);
    });
}

/// Sets a machine's clock, as if it had booted at another time: before its first task, never under a running one.
pub fn set_clock(node: NodeId, shows: Duration, rate_ppm: i32) {
    world::set_clock(node, shows, rate_ppm);
}

/// Random bits of the seed.
pub fn random() -> u64 {
    with(|w| w.rng.next())
}
/// In `0..bound`.
pub fn below(bound: u64) -> u64 {
    with(|w| w.rng.below(bound))
}
pub fn chance(probability: f64) -> bool {
    with(|w| w.rng.chance(probability))
}
/// A random duration between the two, both included.
pub fn between(low: Duration, high: Duration) -> Duration {
    Duration::from_nanos(with(|w| w.rng.between(nanos(low), nanos(high))))
}

/// A digest of everything that happened so far: which task ran when, what the disks and the network did.
pub fn trace_hash() -> u64 {
    with(|w| w.trace.value())
}
/// Adds a fact of the harness to the trace.
pub fn note(fact: u64) {
    with(|w| w.trace.note(fact));
}
/// How often a task was polled so far.
pub fn polls() -> u64 {
    with(|w| w.polls)
}

// Disks.

/// The machine's file system; it outlives kills and, as far as it was synced, power losses.
pub fn disk(node: NodeId) -> SimDisk {
    SimDisk { node }
}
pub fn set_disk(node: NodeId, profile: DiskProfile) {
    with(|w| w.node(node).disk.profile = profile);
}
/// No operation of this disk completes before `length` has passed.
pub fn stall_disk(node: NodeId, length: Duration) {
    with(|w| {
        let until = w.now.saturating_add(nanos(length));
        w.node(node).disk.stalled_until = until;
    });
}
/// Operations of the given kind fail from now on; `None` ends it.
pub fn fail_disk(node: NodeId, fault: Option<DiskFault>) {
    with(|w| w.node(node).disk.fault = fault);
}
/// Operations on open files with `text` in their path do not complete before `length` has passed, the others do: as if the
/// log and the rows lay on two disks. A power loss ends it.
pub fn hang_files(node: NodeId, text: &str, length: Duration) {
    with(|w| {
        let until = w.now.saturating_add(nanos(length));
        w.node(node).disk.hanging = Some((text.to_owned(), until));
    });
}
/// Whether the disk, or some of its files, hang.
pub fn is_stalled(node: NodeId) -> bool {
    with(|w| {
        let now = w.now;
        let disk = &w.node(node).disk;
        let hanging = disk.hanging.as_ref().map_or(0, |(_, until)| *until);
        disk.stalled_until.max(hanging) > now
    })
}
/// How many operations planted faults have failed on this disk so far.
pub fn disk_failures(node: NodeId) -> u64 {
    with(|w| w.node(node).disk.failures)
}
/// Flips one bit of a byte that was synced, in a random file with `within` in its path, whether it is open or not. Says
/// where; `None`: there is no such byte.
pub fn flip_bit(node: NodeId, within: &str) -> Option<(std::path::PathBuf, u64)> {
    with(|w| {
        let mut rng = w.rng.clone();
        let flipped = w.node(node).disk.flip(&mut rng, within);
        w.rng = rng;
        flipped
    })
}
/// Empties a machine's file system; nothing may run on it.
pub fn wipe_disk(node: NodeId) {
    with(|w| w.node(node).disk.wipe());
}
/// What the disk tells of its room; `None`: as much as anybody wants. Writing does not change it.
pub fn set_disk_space(node: NodeId, space: Option<crate::Space>) {
    with(|w| w.node(node).disk.space = space);
}

// Network.

/// The machine's network.
pub fn net(node: NodeId) -> SimNet {
    SimNet { node }
}
/// How bytes travel from one machine to another (one direction).
pub fn set_link(from: NodeId, to: NodeId, link: Link) {
    with(|w| w.net.set_link(from, to, link));
}
/// Every link not set otherwise.
pub fn set_default_link(link: Link) {
    with(|w| w.net.set_default_link(link));
}
/// Nothing passes between the two any more, in either direction.
pub fn partition(a: NodeId, b: NodeId) {
    partition_one_way(a, b);
    partition_one_way(b, a);
}
/// Nothing passes from `from` to `to` any more; the other direction still works.
pub fn partition_one_way(from: NodeId, to: NodeId) {
    with(|w| w.net.block(from, to));
}
/// The two hear each other again; what TCP still holds arrives after its retransmission timer.
pub fn heal(a: NodeId, b: NodeId) {
    with(|w| {
        w.net.unblock(a, b);
        w.net.unblock(b, a);
        w.net_resume();
    });
}
/// Ends every partition.
pub fn heal_all() {
    with(|w| {
        w.net.unblock_all();
        w.net_resume();
    });
}
/// Resets every connection between the two, as a rebooted middlebox does.
pub fn break_connections(a: NodeId, b: NodeId) {
    with(|w| w.net_break(a, b));
}
/// The connections of this moment between the two carry nothing any more, though neither end is told; new ones work. As
/// behind a firewall that forgot its state.
pub fn blacken_connections(a: NodeId, b: NodeId) {
    with(|w| w.net_blacken(a, b));
}
/// `on` loses its connections with `other`, and `other` believes in them until it sends something: half-open ones.
pub fn forget_connections(on: NodeId, other: NodeId) {
    with(|w| w.net_forget(on, other));
}
