//! Keeps a compaction going while nobody writes: versions go with the entries that are applied, so the leader proposes empty
//! ones until there is nothing left to take away.

use std::sync::Arc;

use barque_store_env::Env;
use barque_store_state::{Command, LogIndex};

use crate::Shared;
use crate::limits::{SWEEP_IDLE_INTERVAL, SWEEP_LOOK_INTERVAL};

pub(crate) async fn sweep<E: Env>(shared: Arc<Shared<E>>) {
    let mut seen = LogIndex(0);
    loop {
        let (sweeping, applied) = {
            let state = shared.machine.state.read();
            (state.is_sweeping(), state.applied())
        };
        if !sweeping {
            E::sleep(SWEEP_LOOK_INTERVAL).await;
            continue;
        }
        // Somebody writes: those entries do it.
        let idle = seen == applied;
        seen = applied;
        if idle && shared.leads(E::now()) {
            let deadline = E::now() + shared.request_timeout;
            // Renews nothing. Whatever becomes of it, the next round looks again.
            drop(
                shared
                    .propose(Command::LeaseKeepAlive { ids: Vec::new() }, deadline)
                    .await,
            );
            seen = shared.machine.state.read().applied();
        }
        E::sleep(SWEEP_IDLE_INTERVAL).await;
    }
}
