//! What the flags say: whether the timing can work, who this member and its cluster are by them, and whether they fit a directory
//! that is in use.
//! Promise: as in etcd, flags of a first start that no longer hold are no reason to refuse a directory that names its member; but
//! a directory given to another member by mistake would vote in the wrong name, and is refused.

use std::path::Path;

use barque_store_env::Disk;
use barque_store_state::{MemberId, MemberInfo, State};
use tracing::warn;

use crate::identity::{Owner, has_log};
use crate::limits::ELECTION_MAX;
use crate::{Config, StartError, ids};

/// `host:port` of a peer URL; `flag` names where it stands.
pub(crate) fn peer_address(flag: &str, url: &str) -> Result<String, StartError> {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"));
    match rest.map(|r| r.trim_end_matches('/')) {
        Some(address)
            if address
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) =>
        {
            Ok(address.to_owned())
        }
        _ => Err(StartError::Config(format!(
            "{flag}: {url:?} is not a peer URL; it should look like http://HOST:PORT"
        ))),
    }
}

impl Config {
    /// Whether members can elect a leader at this timing. The texts are etcd's.
    pub fn check_timing(&self) -> Result<(), StartError> {
        let (heartbeat, election) = (self.heartbeat.as_millis(), self.election.as_millis());
        let refused = |text| Err(StartError::Config(text));
        if heartbeat == 0 {
            return refused("--heartbeat-interval must be >0 (set to 0ms)".to_owned());
        }
        if election < heartbeat * 5 {
            return refused(format!(
                "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
            ));
        }
        if self.election > ELECTION_MAX {
            return refused(format!(
                "--election-timeout[{election}ms] is too long, and should be set less than {}ms",
                ELECTION_MAX.as_millis()
            ));
        }
        Ok(())
    }

    /// This member's, as far as the flags say.
    pub(crate) fn own_peer_urls(&self) -> Vec<String> {
        match self.advertise_peer_urls.is_empty() {
            false => self.advertise_peer_urls.clone(),
            true => self
                .initial_cluster
                .get(&self.name)
                .cloned()
                .unwrap_or_default(),
        }
    }

    /// What to do when the cluster knows the member with another directory.
    pub(crate) fn if_wiped(&self, member: MemberId) -> String {
        format!(
            "Restore its data directory. Or replace it: run `etcdctl member remove {:x}` and `etcdctl member add {} --peer-urls={}` on \
             another member, empty this one's directory {}, and start it with --initial-cluster-state=existing",
            member.0,
            self.name,
            self.own_peer_urls().join(","),
            self.data_dir.display()
        )
    }

    /// A directory without a member is none that a cluster could go on with; passing the flag over would begin an empty cluster.
    pub(crate) async fn check_force<D: Disk>(
        &self,
        disk: &D,
        member: &Path,
    ) -> Result<(), StartError> {
        let log = has_log(disk, &member.join("wal")).await;
        match log {
            Ok(false) => Err(StartError::Config(format!(
                "--force-new-cluster: there is no member's data in {}. Give the flag with --data-dir of a member of the cluster that \
                 lost its majority; without the flag, this start makes a new, empty cluster",
                self.data_dir.display()
            ))),
            // Whose it is will be told, or why it cannot be used.
            Ok(true) | Err(_) => Ok(()),
        }
    }

    /// That the list names this member, and with the URLs that it advertises.
    fn check_own(&self) -> Result<(), String> {
        let Some(listed) = self.initial_cluster.get(&self.name) else {
            let names: Vec<&str> = self.initial_cluster.keys().map(String::as_str).collect();
            return Err(format!(
                "--initial-cluster does not name this member: --name is {:?}, the list has {}",
                self.name,
                names.join(", ")
            ));
        };
        let sorted = |urls: &[String]| {
            let mut urls = urls.to_vec();
            urls.sort();
            urls
        };
        let (listed, advertised) = (sorted(listed), sorted(&self.advertise_peer_urls));
        if advertised.is_empty() || listed == advertised {
            return Ok(());
        }
        Err(format!(
            "--initial-cluster has {}={} but --initial-advertise-peer-urls is {}; they must be equal",
            self.name,
            listed.join(","),
            advertised.join(",")
        ))
    }
}

/// The cluster by the flags.
#[derive(Debug)]
pub(crate) struct Named {
    /// By id.
    pub(crate) founders: Vec<MemberInfo>,
    /// Which of them this member is. Always there where the directory has no owner yet.
    pub(crate) own: Option<MemberId>,
    /// What would be refused at a first start.
    mistake: Option<String>,
}

impl Named {
    /// Refuses what can never work; and, where the directory has no owner, what a first start needs to be right.
    pub(crate) fn by(config: &Config, owner: Option<Owner>) -> Result<Named, StartError> {
        let mistake = match (config.check_own(), owner) {
            (Ok(()), _) => None,
            (Err(mistake), Some(_)) => Some(mistake),
            (Err(mistake), None) => return Err(StartError::Config(mistake)),
        };
        let mut founders = Vec::with_capacity(config.initial_cluster.len());
        let mut own = None;
        for (name, peer_urls) in &config.initial_cluster {
            let Some(first) = peer_urls.first() else {
                return Err(StartError::Config(format!(
                    "--initial-cluster: member {name:?} has no peer URL"
                )));
            };
            peer_address("--initial-cluster", first)?;
            let id = ids::member_id(peer_urls, &config.cluster_token);
            let mut client_urls = Vec::new();
            if *name == config.name {
                own = Some(id);
                client_urls.clone_from(&config.advertise_client_urls);
            }
            founders.push(MemberInfo {
                id,
                name: name.clone(),
                peer_urls: peer_urls.clone(),
                client_urls,
                learner: false,
            });
        }
        founders.sort_by_key(|m| m.id);
        if founders.windows(2).any(|pair| pair[0].id == pair[1].id) {
            return Err(StartError::Config(
                "--initial-cluster: two members have the same peer URLs".into(),
            ));
        }
        // A member with another name than it was founded with is still the one with its id.
        let by_id = || owner.filter(|o| founders.iter().any(|m| m.id == o.member));
        let own = own.or_else(|| by_id().map(|owner| owner.member));
        Ok(Named {
            founders,
            own,
            mistake,
        })
    }

    /// Whether the directory is the one that the flags mean. Flags that are passed over are told in one warning.
    pub(crate) fn fits(&self, config: &Config, owner: Owner, state: &State) -> Result<(), String> {
        let passed_over = |why: &str| {
            warn!(
                "{why}; ignored, as are all flags of a first start: the data directory is in use"
            );
        };
        let wanted = state.cluster().wanted();
        // Joined, or found elsewhere since: its peer URLs say that it is this one.
        let told = wanted.get(&owner.member).map(|m| &m.peer_urls);
        let listed = config.initial_cluster.get(&config.name);
        let same = self.own == Some(owner.member)
            || config.joins
            || told.is_some() && (self.own.is_none() || told == listed);
        if same {
            if let Some(mistake) = &self.mistake {
                passed_over(mistake);
            }
            return Ok(());
        }
        let Some(own) = self.own else {
            return Err(self.mistake.clone().unwrap_or_default());
        };
        if !wanted.is_empty() && !wanted.contains_key(&own) {
            passed_over(
                "--initial-cluster names another cluster or other peer URLs than the directory",
            );
            return Ok(());
        }
        Err(format!(
            "it belongs to member {:x} of cluster {:x}, but the flags name member {:x} of cluster {:x}; \
             check --data-dir, --initial-cluster, --initial-cluster-token and --name",
            owner.member.0,
            owner.cluster_id,
            own.0,
            ids::cluster_id(self.founders.iter().map(|m| m.id))
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    fn flags(name: &str, cluster: &[(&str, &str)], advertised: &str) -> Config {
        let urls = |url: &str| vec![url.to_owned()];
        Config {
            name: name.to_owned(),
            initial_cluster: cluster
                .iter()
                .map(|(name, url)| ((*name).to_owned(), urls(url)))
                .collect::<BTreeMap<_, _>>(),
            advertise_peer_urls: urls(advertised),
            ..Config::default()
        }
    }

    const THREE: &[(&str, &str)] = &[
        ("a", "http://a:1"),
        ("b", "http://b:1"),
        ("c", "http://c:1"),
    ];

    fn id(url: &str) -> MemberId {
        ids::member_id(&[url.to_owned()], &Config::default().cluster_token)
    }

    #[test]
    fn a_first_start_needs_what_a_later_one_passes_over() {
        let owner = Owner {
            cluster_id: 7,
            member: id("http://a:1"),
        };
        let state = State::default();
        for (config, text) in [
            (flags("a", THREE, "http://new:1"), "they must be equal"),
            (
                flags("new", THREE, "http://a:1"),
                "does not name this member",
            ),
        ] {
            let refused = Named::by(&config, None).unwrap_err().to_string();
            assert!(refused.contains(text), "{refused}");
            let named = Named::by(&config, Some(owner)).unwrap();
            assert_eq!(named.own, Some(owner.member));
            named.fits(&config, owner, &state).unwrap();
        }
        // The directory of another member.
        let config = flags("b", THREE, "http://b:1");
        let named = Named::by(&config, Some(owner)).unwrap();
        let refused = named.fits(&config, owner, &state).unwrap_err();
        assert!(refused.contains("it belongs to member"), "{refused}");
        // A state that does not know this member yet cannot say whose the flags are.
        let config = flags("x", &THREE[1..], "http://x:1");
        let named = Named::by(&config, Some(owner)).unwrap();
        let refused = named.fits(&config, owner, &state).unwrap_err();
        assert!(refused.contains("does not name this member"), "{refused}");
    }

    #[test]
    fn timing_is_bounded_on_both_sides() {
        let timing = |heartbeat, election| {
            let config = Config {
                heartbeat: Duration::from_millis(heartbeat),
                election: Duration::from_millis(election),
                ..Config::default()
            };
            config.check_timing().map_err(|e| e.to_string())
        };
        assert_eq!(timing(100, 500), Ok(()));
        assert_eq!(timing(100, 50_000), Ok(()));
        for (heartbeat, election, text) in [
            (0, 1000, "must be >0"),
            (100, 499, "at least as 5 times"),
            (
                100,
                50_001,
                "--election-timeout[50001ms] is too long, and should be set less than 50000ms",
            ),
        ] {
            let refused = timing(heartbeat, election).unwrap_err();
            assert!(refused.contains(text), "{refused}");
        }
    }
}
