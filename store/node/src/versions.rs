//! The cluster's version: raised by whoever leads, as soon as every member's program can work in it.
//! Promise: it is raised only when all members have said so themselves; a program that is too old for the version that
//! stands stops, at its start or when the entry comes.
//! Not here: what a version allows (`state`).

use std::sync::Arc;

use barque_store_env::Env;
use barque_store_state::{ClusterVersion, Command, State};
use tracing::info;

use crate::Shared;
use crate::limits::{VERSION_LOOK_INTERVAL, VERSION_PROPOSAL_TIMEOUT};

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
    while shared.machine.glance.version() < Some(ClusterVersion::NEWEST) {
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
    let mut common = ClusterVersion::NEWEST;
    for ability in shared.consensus.abilities().into_values() {
        common = common.min(ability?.newest);
    }
    (common != ClusterVersion::default()).then_some(common)
}
