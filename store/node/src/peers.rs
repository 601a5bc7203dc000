//! Where the other members were when they were last known: a small file that a start reads which cannot use its state, or has
//! none (FORMAT.md). The state itself has the members, and the log only the newest changes.
//! Promise: it follows Raft's membership within [`PEERS_INTERVAL`].
//! Not here: who asks them, and for what (`anew`, `consensus`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use barque_store_env::{Disk, Env};

use crate::flags::peer_address;
use crate::limits::PEERS_INTERVAL;
use crate::trouble::Trouble;
use crate::{Config, Shared, StartError, slip};

const NAME: &str = "peers";
const FORMAT: &str = "barque-peers 1";

/// Keeps the file for as long as it is polled, or until the disk fails: then why.
pub(crate) async fn keep<E: Env>(shared: Arc<Shared<E>>, disk: E::Disk, member: PathBuf) -> String {
    // What is damaged is written anew.
    let mut kept = slip::read(&disk, &member.join(NAME), FORMAT)
        .await
        .ok()
        .flatten();
    loop {
        let membership = shared.consensus.membership();
        // One that has just started knows none yet.
        if !membership.nodes.is_empty() {
            let others = membership
                .nodes
                .iter()
                .filter(|(id, _)| **id != shared.member);
            let addresses: Vec<&str> = others.map(|(_, peer)| peer.addr.as_str()).collect();
            let line = addresses.join(" ");
            if kept.as_ref() != Some(&line) {
                if let Err(why) = slip::write(&disk, &member, NAME, FORMAT, &line).await {
                    return why;
                }
                kept = Some(line);
            }
        }
        E::sleep(PEERS_INTERVAL).await;
    }
}

/// `host:port` where other members may be: those of the file and of `--initial-cluster`; empty, when neither names any.
pub(crate) async fn known<D: Disk>(
    config: &Config,
    disk: &D,
    member: &Path,
) -> Result<BTreeSet<String>, StartError> {
    let mut known = BTreeSet::new();
    match slip::read(disk, &member.join(NAME), FORMAT).await {
        // Without anybody in it, it does not overrule flags that name others: whoever is left of a cluster is told to set them.
        Ok(Some(line)) => {
            let addresses = line.split(' ').filter(|address| !address.is_empty());
            known.extend(addresses.map(str::to_owned));
        }
        Ok(None) => {}
        Err(Trouble::Damage(why) | Trouble::Other(why)) => {
            tracing::warn!("{why}; the flags tell where the other members are");
        }
    }
    for (name, urls) in &config.initial_cluster {
        if *name != config.name {
            for url in urls {
                known.insert(peer_address("--initial-cluster", url)?);
            }
        }
    }
    Ok(known)
}
