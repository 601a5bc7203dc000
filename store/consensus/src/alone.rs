//! A cluster that has lost its majority for good goes on as one member (etcd's `--force-new-cluster`): before Raft starts, what this
//! member's log holds is taken as committed, and behind it come the command that leaves nobody else wanted and a membership of
//! this member alone.
//! Promise: nothing that its log holds is lost, acknowledged or not. Others that still run are looked for first, and one that is
//! found ends the start: two histories would go on. Nobody else is heard before it is done, and everybody it leaves is refused as
//! removed from then on. Given again, it changes nothing. The membership comes last: a start that was cut short does it again.
//! Not promised, because nobody can: that what was acknowledged without this member is there.

use std::collections::{BTreeMap, BTreeSet};

use barque_store_env::Env;
use barque_store_state::{ClusterTime, Command, Entry, MemberChange, MemberId};
use futures::future::join_all;

use crate::log_store::LogStore;
use crate::machine::StoredMembership;
use crate::transport::join;
use crate::types::{Data, Membership, Payload};
use crate::{Config, Peer, StartError, limits};

/// `restored`: the membership in force where the persisted state ends. `peer_urls`: this member's, where the cluster does not
/// know it.
pub async fn go_on<E: Env>(
    config: &Config,
    peer_urls: &[String],
    net: &E::Net,
    log: &LogStore<E>,
    restored: Option<&StoredMembership>,
) -> Result<(), StartError> {
    let refused = |why: &str| StartError::Alone(why.to_owned());
    let restored = restored.map(|stored| stored.membership().clone());
    let membership = log.membership().or(restored).unwrap_or_default();
    let me = config.member.0;
    if membership.voter_ids().next().is_none() {
        return Err(refused(
            "this member has not heard anything of its cluster yet, and has nothing to go on with",
        ));
    }
    let others = membership.nodes().filter(|(id, _)| **id != me);
    let others: BTreeMap<u64, &Peer> = others.map(|(id, peer)| (*id, peer)).collect();
    if others.is_empty() && membership.get_joint_config().len() == 1 {
        tracing::warn!(
            "this member is the only one of its cluster already: nothing is forced. Take the flag off, or it is done again to the \
             cluster that grows from here"
        );
        return Ok(());
    }
    if let Some(why) = running::<E>(config, net, others.values().map(|peer| &*peer.addr)).await {
        return Err(StartError::Alone(why));
    }
    let own = membership.get_node(&me).cloned();
    let own = own.or_else(|| {
        Some(Peer {
            addr: (config.address_of)(peer_urls)?,
        })
    });
    let own = own.ok_or_else(|| refused("the flags name no peer URL of this member's"))?;
    let alone = Membership::new(vec![BTreeSet::from([me])], BTreeMap::from([(me, own)]));
    let alone = alone.map_err(|e| StartError::Other(e.to_string()))?;
    let only = Command::Members(MemberChange::Only {
        id: config.member,
        peer_urls: peer_urls.to_vec(),
        others: others.keys().map(|id| MemberId(*id)).collect(),
    });
    let only = Data::propose(Entry {
        // The state's own is never before it.
        time: ClusterTime(0),
        commands: vec![only],
        origins: Vec::new(),
    });
    let names: Vec<String> = others.keys().map(|id| format!("{id:x}")).collect();
    tracing::warn!(
        others = names.join(", "),
        "forcing a new cluster: this member goes on as its only one, with all that its log holds; the others are removed, and \
         must not run again with the data they have"
    );
    let entries = [Payload::Normal(only), Payload::Membership(alone)];
    let done = log.append_alone(me, entries).await;
    done.map_err(StartError::Log)
}

/// Why a member that runs stands against it; `None`, when nobody answers.
async fn running<E: Env>(
    config: &Config,
    net: &E::Net,
    addresses: impl Iterator<Item = &str>,
) -> Option<String> {
    let asked = addresses.map(async |addr| {
        let known = join::ask::<E>(net, addr, limits::ALONE_ASK_MAX).await;
        let ours = known.is_ok_and(|known| known.cluster_id == config.cluster_id);
        ours.then(|| {
            format!(
                "another member of this cluster runs, at {addr}. A cluster goes on as one member only when its majority is lost \
                 for good: stop every other member first, and do not start it again with its data. If the cluster is well, take \
                 the flag off"
            )
        })
    });
    join_all(asked).await.into_iter().flatten().next()
}
