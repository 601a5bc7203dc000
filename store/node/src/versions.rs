//! Members of different versions. The cluster's version is raised by whoever leads, as soon as every member's program can work
//! in it; what needs a version is proposed only once the cluster has it.
//! Promise: it is raised only when all members have said so themselves; a program that is too old for the version that
//! stands stops, at its start or when the entry comes. So no entry needs a version that does not stand in the log before it.
//! Not here: what needs which version (`store/state`, `read_since`), what a version allows (`state`).

use std::collections::BTreeSet;
use std::sync::Arc;

use barque_store_consensus::{Consensus, Membership};
use barque_store_env::Env;
use barque_store_state::{ClusterVersion, Command, MemberId, OldMember, State, TooOld, read_since};
use tracing::info;

use crate::Shared;
use crate::limits::{VERSION_LOOK_INTERVAL, VERSION_PROPOSAL_TIMEOUT};
use crate::machine::Machine;

/// What a program can work in, and what its commands ask of others'. Only tests change it: they have one program to play
/// two of different versions with.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The newest cluster version it says it can work in.
    pub newest: ClusterVersion,
    /// The first version whose programs read a command.
    pub read_since: fn(&Command) -> ClusterVersion,
}

impl Default for Program {
    fn default() -> Self {
        Program {
            newest: ClusterVersion::NEWEST,
            read_since,
        }
    }
}

/// Why this program must not go on with the state.
pub(crate) fn check(state: &State) -> Result<(), String> {
    match state.cluster_version() {
        Some(version) if version > ClusterVersion::NEWEST => Err(format!(
            "the cluster works in version {version}, and this program only up to {}; it must be upgraded",
            ClusterVersion::NEWEST
        )),
        _ => Ok(()),
    }
}

/// Raises the version while there is something to raise it to.
pub(crate) async fn raise<E: Env>(shared: Arc<Shared<E>>) {
    let mut changes = shared.consensus.changes();
    let newest = shared.program.newest;
    while shared.machine.glance.version() < Some(newest) {
        if shared.leads(E::now())
            && let Some(version) = common(&shared)
            && shared.machine.glance.version() < Some(version)
        {
            info!(%version, "every member can work in this version: the cluster does from now on");
            let deadline = E::now() + VERSION_PROPOSAL_TIMEOUT;
            // Whatever becomes of it, the next round looks at the state.
            drop(
                shared
                    .propose(Command::ClusterVersionSet(version), deadline)
                    .await,
            );
        }
        // A new leader decides at once; what the others can do is heard of without any sign.
        if let Ok(Err(_)) = E::timeout(VERSION_LOOK_INTERVAL, changes.changed()).await {
            return;
        }
    }
}

/// The newest version that every member can work in; `None` while one has not said or says none.
fn common<E: Env>(shared: &Shared<E>) -> Option<ClusterVersion> {
    let actual = shared.consensus.membership();
    // The committed one may have others in it.
    if !actual.settled {
        return None;
    }
    let members = told(&shared.machine, &shared.consensus, &actual, &shared.program);
    // One that has not said counts as less than any.
    let common = members.iter().map(|member| member.newest).min()??;
    (common != ClusterVersion::default()).then_some(common)
}

/// All members, those that are wanted and those that Raft has, and what each one's program has said at its last handshake.
fn told<E: Env>(
    machine: &Machine<E>,
    consensus: &Consensus<E>,
    actual: &Membership,
    program: &Program,
) -> Vec<OldMember> {
    let abilities = consensus.abilities();
    let wanted = machine.members();
    let ids = wanted.iter().map(|member| member.id);
    let ids: BTreeSet<MemberId> = ids.chain(actual.nodes.keys().copied()).collect();
    let told = |id: MemberId| OldMember {
        id,
        name: wanted
            .iter()
            .find(|member| member.id == id)
            .map(|member| member.name.clone())
            .unwrap_or_default(),
        newest: match id == machine.member {
            true => Some(program.newest),
            false => abilities.get(&id).copied().flatten().map(|a| a.newest),
        },
    };
    ids.into_iter().map(told).collect()
}

/// Why a command must not be proposed. `stands`: the cluster's version. `members`: what each has said; asked only where that
/// version does not say enough.
fn unread(
    needs: ClusterVersion,
    stands: Option<ClusterVersion>,
    members: impl FnOnce() -> Vec<OldMember>,
) -> Option<TooOld> {
    if needs <= stands.unwrap_or(ClusterVersion::EVERY) {
        return None;
    }
    let mut members = members();
    members.retain(|member| member.newest < Some(needs));
    // Also where nobody is left: one that comes back with an older program must find the version before what it cannot read.
    Some(TooOld { needs, members })
}

/// Why the leader, which this member is, must not propose the command.
pub(crate) fn unread_by_some<E: Env>(
    machine: &Machine<E>,
    consensus: &Consensus<E>,
    program: &Program,
    command: &Command,
) -> Option<TooOld> {
    let all = || told(machine, consensus, &consensus.membership(), program);
    unread((program.read_since)(command), machine.glance.version(), all)
}

/// Why the command is not sent to a leader whose program would not know what to do with it. One that has not said yet is
/// sent it: it says so when it is connected to.
pub(crate) fn unread_by<E: Env>(
    leader: MemberId,
    machine: &Machine<E>,
    consensus: &Consensus<E>,
    program: &Program,
    command: &Command,
) -> Option<TooOld> {
    let mut too_old = unread_by_some(machine, consensus, program, command)?;
    too_old
        .members
        .retain(|member| member.id == leader && member.newest.is_some());
    (!too_old.members.is_empty()).then_some(too_old)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(minor: u32) -> ClusterVersion {
        ClusterVersion { major: 3, minor }
    }
    fn members(newest: &[Option<ClusterVersion>]) -> Vec<OldMember> {
        let member = |(id, newest): (u64, &Option<ClusterVersion>)| OldMember {
            id: MemberId(id),
            name: format!("m{id}"),
            newest: *newest,
        };
        (1..).zip(newest).map(member).collect()
    }

    #[test]
    fn what_every_version_reads_is_asked_of_nobody() {
        for stands in [None, Some(version(7))] {
            let asked = || panic!("nobody needs to be asked");
            assert_eq!(unread(ClusterVersion::EVERY, stands, asked), None);
        }
    }

    #[test]
    fn what_is_newer_waits_for_the_clusters_version() {
        let needs = version(8);
        let (old, new) = (Some(version(7)), Some(version(8)));
        let newer = Some(version(9));
        let lacks = |members: &[Option<ClusterVersion>], at: &[usize]| {
            let all = self::members(members);
            Some(TooOld {
                needs,
                members: at.iter().map(|at| all[*at].clone()).collect(),
            })
        };
        for (stands, told, expected) in [
            // It stands for what all members have said, also of those that a new leader has not reached yet.
            (new, [new, None, None], None),
            (newer, [new, None, None], None),
            (None, [new, new, newer], lacks(&[], &[])),
            (old, [new, new, newer], lacks(&[], &[])),
            (old, [new, old, new], lacks(&[new, old, new], &[1])),
            (None, [new, old, None], lacks(&[new, old, None], &[1, 2])),
            // One row of the table is ahead of the program: no member is asked to read it.
            (old, [old, old, old], lacks(&[old, old, old], &[0, 1, 2])),
        ] {
            assert_eq!(
                unread(needs, stands, || members(&told)),
                expected,
                "{stands:?} {told:?}"
            );
        }
    }
}
