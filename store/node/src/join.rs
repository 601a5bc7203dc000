//! How a member that joins a cluster finds out who it is: from the members that its flags name.
//! Promise: its flags and the cluster agree on every member's peer URLs, or the start is refused and says which do not.

use std::time::Duration;

use barque_store_consensus::{self as consensus, Known};
use barque_store_env::Env;
use barque_store_state::MemberId;

use crate::flags::peer_address;
use crate::limits::{JOIN_ASK_MAX, JOIN_ROUNDS};
use crate::{Config, StartError};

/// The cluster, and which of its members this one is.
pub(crate) async fn find<E: Env>(
    config: &Config,
    net: &E::Net,
) -> Result<(Known, MemberId), StartError> {
    let own = config.initial_cluster.get(&config.name).ok_or_else(|| {
        StartError::Config(format!(
            "--initial-cluster does not name this member ({})",
            config.name
        ))
    })?;
    let mut asked = Vec::new();
    for (name, urls) in &config.initial_cluster {
        if *name != config.name {
            for url in urls {
                asked.push(peer_address("--initial-cluster", url)?);
            }
        }
    }
    let mut why = "--initial-cluster names no other member".to_owned();
    // The one that answers may not have applied the member's addition yet.
    for round in 0..JOIN_ROUNDS {
        if round > 0 {
            E::sleep(Duration::from_millis(200)).await;
        }
        for addr in &asked {
            match consensus::ask_members::<E>(net, addr, JOIN_ASK_MAX).await {
                Ok(known) => match matched(config, own, &known) {
                    Ok(id) => return Ok((known, id)),
                    Err(reason) => why = reason,
                },
                Err(e) => why = e.to_string(),
            }
        }
    }
    Err(StartError::Config(format!(
        "--initial-cluster-state existing: cannot join: {why}. Add this member first \
         (etcdctl member add {} --peer-urls={}), and give --initial-cluster as that command prints it",
        config.name,
        own.join(",")
    )))
}

/// As etcd's ValidateClusterAndAssignIDs.
fn matched(config: &Config, own: &[String], known: &Known) -> Result<MemberId, String> {
    let same = |a: &[String], b: &[String]| {
        let sorted = |urls: &[String]| {
            let mut urls = urls.to_vec();
            urls.sort_unstable();
            urls
        };
        sorted(a) == sorted(b)
    };
    let id = known.members.iter().find(|m| same(&m.peer_urls, own));
    let id = id
        .ok_or("the cluster has no member with this one's peer URLs")?
        .id;
    if known.members.len() != config.initial_cluster.len() {
        return Err(format!(
            "error validating peerURLs: member count is unequal (the cluster has {}, --initial-cluster {})",
            known.members.len(),
            config.initial_cluster.len()
        ));
    }
    for (name, urls) in &config.initial_cluster {
        if !known.members.iter().any(|m| same(&m.peer_urls, urls)) {
            return Err(format!(
                "error validating peerURLs: unmatched member while checking PeerURLs ({name}={})",
                urls.join(",")
            ));
        }
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use barque_store_state::MemberInfo;
    use std::collections::BTreeMap;

    #[test]
    fn flags_and_cluster_must_agree() {
        let urls = |url: &str| vec![url.to_owned()];
        let member = |id, url: &str| MemberInfo {
            id: MemberId(id),
            peer_urls: urls(url),
            ..MemberInfo::default()
        };
        let known = Known {
            cluster_id: 1,
            members: vec![member(5, "http://a:1"), member(9, "http://b:1")],
        };
        let flags = |cluster: &[(&str, &str)]| Config {
            initial_cluster: cluster
                .iter()
                .map(|(name, url)| ((*name).to_owned(), urls(url)))
                .collect::<BTreeMap<_, _>>(),
            ..Config::default()
        };
        let good = flags(&[("a", "http://a:1"), ("b", "http://b:1")]);
        assert_eq!(matched(&good, &urls("http://b:1"), &known), Ok(MemberId(9)));
        let refused = |config: &Config, own: &str, why: &str| {
            let reason = matched(config, &urls(own), &known).expect_err(why);
            assert!(reason.contains(why), "{reason}");
        };
        refused(&good, "http://c:1", "no member with this one's");
        let fewer = flags(&[("b", "http://b:1")]);
        refused(&fewer, "http://b:1", "count is unequal");
        let other = flags(&[("a", "http://x:1"), ("b", "http://b:1")]);
        refused(&other, "http://b:1", "unmatched member");
    }
}
