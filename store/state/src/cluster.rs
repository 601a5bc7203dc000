//! Who is to be in the cluster, as replicated state: what clients ask for and are told. Raft's own membership follows it,
//! one step at a time (`store/node`).
//! Promise: an id that was removed never comes back; the checks and their texts are etcd's (membership/cluster.go).
//! Not here: whether a change is safe at this moment (`store/node` asks that before it is proposed).

use std::collections::{BTreeMap, BTreeSet};

use crate::command::{MemberChange, MemberInfo, PublishedMember, Refusal};
use crate::digest;
use crate::limits::LEARNERS_MAX;
use crate::types::{LogIndex, MemberId};

/// A member that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedMember {
    /// From the first members' flags; what the member publishes itself takes its place.
    pub name: String,
    /// Never empty.
    pub peer_urls: Vec<String>,
    pub learner: bool,
    /// The entry that brought it in.
    pub added: LogIndex,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    wanted: BTreeMap<MemberId, WantedMember>,
    removed: BTreeSet<MemberId>,
}

impl Cluster {
    /// Empty until the first leader has told the members the cluster was founded with.
    pub fn wanted(&self) -> &BTreeMap<MemberId, WantedMember> {
        &self.wanted
    }
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }
    pub(crate) fn removed(&self) -> &BTreeSet<MemberId> {
        &self.removed
    }
    pub(crate) fn restore(
        wanted: BTreeMap<MemberId, WantedMember>,
        removed: BTreeSet<MemberId>,
    ) -> Self {
        Cluster { wanted, removed }
    }

    /// The members as a client is told of them, by id.
    pub fn list(&self, published: &BTreeMap<MemberId, PublishedMember>) -> Vec<MemberInfo> {
        let info = |(id, wanted): (&MemberId, &WantedMember)| {
            let told = published.get(id);
            MemberInfo {
                id: *id,
                name: told.map_or_else(|| wanted.name.clone(), |told| told.name.clone()),
                peer_urls: wanted.peer_urls.clone(),
                client_urls: told
                    .map(|told| told.client_urls.clone())
                    .unwrap_or_default(),
                learner: wanted.learner,
            }
        };
        self.wanted.iter().map(info).collect()
    }

    pub(crate) fn change(&mut self, change: &MemberChange, at: LogIndex) -> Result<(), Refusal> {
        match change {
            MemberChange::Found { members } => {
                // Every leader of a new cluster tells them until it sees them told: the first one counts.
                if self.wanted.is_empty() && self.removed.is_empty() {
                    for member in members {
                        let wanted = WantedMember {
                            name: member.name.clone(),
                            peer_urls: member.peer_urls.clone(),
                            learner: false,
                            added: at,
                        };
                        self.wanted.insert(member.id, wanted);
                    }
                }
            }
            MemberChange::Add {
                id,
                peer_urls,
                learner,
            } => {
                if self.removed.contains(id) {
                    return Err(Refusal::MemberNotFound);
                }
                if self.wanted.contains_key(id) {
                    return Err(Refusal::MemberExists);
                }
                self.are_free(peer_urls, None)?;
                let learners = self.wanted.values().filter(|m| m.learner).count();
                if *learner && learners >= LEARNERS_MAX {
                    return Err(Refusal::TooManyLearners);
                }
                let wanted = WantedMember {
                    name: String::new(),
                    peer_urls: peer_urls.clone(),
                    learner: *learner,
                    added: at,
                };
                self.wanted.insert(*id, wanted);
            }
            MemberChange::Remove { id } => {
                let leaving = self.wanted.get(id).ok_or(Refusal::MemberNotFound)?;
                // Whoever asked for it could not know: another removal came between.
                let voters = self.wanted.values().filter(|m| !m.learner).count();
                if !leaving.learner && voters < 2 {
                    return Err(Refusal::NotEnoughStarted);
                }
                self.wanted.remove(id);
                self.removed.insert(*id);
            }
            MemberChange::Update { id, peer_urls } => {
                self.known(*id)?;
                self.are_free(peer_urls, Some(*id))?;
                self.known(*id)?.peer_urls.clone_from(peer_urls);
            }
            MemberChange::Promote { id } => {
                let member = self.known(*id)?;
                if !member.learner {
                    return Err(Refusal::NotLearner);
                }
                member.learner = false;
            }
            MemberChange::Only { id, peer_urls, .. } => {
                let gone = self.gone_with(change);
                let own = self.wanted.remove(id);
                let mut own = own.unwrap_or_else(|| WantedMember {
                    name: String::new(),
                    peer_urls: peer_urls.clone(),
                    learner: false,
                    added: at,
                });
                own.learner = false;
                self.wanted = BTreeMap::from([(*id, own)]);
                self.removed.extend(gone);
                // Whoever was removed may be all that is left.
                self.removed.remove(id);
            }
        }
        Ok(())
    }

    /// Whom the change takes out of the cluster.
    pub(crate) fn gone_with(&self, change: &MemberChange) -> BTreeSet<MemberId> {
        match change {
            MemberChange::Remove { id } => BTreeSet::from([*id]),
            MemberChange::Only { id, others, .. } => {
                let wanted = self.wanted.keys().chain(others);
                wanted.copied().filter(|other| other != id).collect()
            }
            MemberChange::Found { .. }
            | MemberChange::Add { .. }
            | MemberChange::Update { .. }
            | MemberChange::Promote { .. } => BTreeSet::new(),
        }
    }

    fn known(&mut self, id: MemberId) -> Result<&mut WantedMember, Refusal> {
        self.wanted.get_mut(&id).ok_or(Refusal::MemberNotFound)
    }

    fn are_free(&self, urls: &[String], except: Option<MemberId>) -> Result<(), Refusal> {
        let others = self.wanted.iter().filter(|(id, _)| Some(**id) != except);
        let mut taken = others.flat_map(|(_, member)| &member.peer_urls);
        match taken.any(|url| urls.contains(url)) {
            true => Err(Refusal::PeerUrlsExist),
            false => Ok(()),
        }
    }

    /// For `State::whole_hash`.
    pub(crate) fn digest(&self) -> u64 {
        let mut words = Vec::new();
        for (id, member) in &self.wanted {
            words.extend([id.0, u64::from(member.learner), member.added.0]);
            words.push(digest::text(&member.name));
            words.extend(member.peer_urls.iter().map(|url| digest::text(url)));
        }
        words.push(self.wanted.len() as u64);
        words.extend(self.removed.iter().map(|id| id.0));
        digest::words(&words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(id: u64, url: &str, learner: bool) -> MemberChange {
        MemberChange::Add {
            id: MemberId(id),
            peer_urls: vec![url.to_owned()],
            learner,
        }
    }

    #[test]
    fn changes_are_checked_as_etcd_checks_them() {
        let mut cluster = Cluster::default();
        let founder = |id, url: &str| MemberInfo {
            id: MemberId(id),
            name: format!("m{id}"),
            peer_urls: vec![url.to_owned()],
            client_urls: Vec::new(),
            learner: false,
        };
        let found = MemberChange::Found {
            members: vec![founder(1, "http://a:1"), founder(2, "http://b:1")],
        };
        let mut change = |change: &MemberChange| cluster.change(change, LogIndex(7));
        assert_eq!(change(&found), Ok(()));
        assert_eq!(change(&add(3, "http://c:1", true)), Ok(()));
        assert_eq!(
            change(&add(4, "http://d:1", true)),
            Err(Refusal::TooManyLearners)
        );
        assert_eq!(
            change(&add(3, "http://d:1", false)),
            Err(Refusal::MemberExists)
        );
        assert_eq!(
            change(&add(4, "http://b:1", false)),
            Err(Refusal::PeerUrlsExist)
        );
        let promote = |id| MemberChange::Promote { id: MemberId(id) };
        assert_eq!(change(&promote(3)), Ok(()));
        assert_eq!(change(&promote(3)), Err(Refusal::NotLearner));
        assert_eq!(change(&promote(9)), Err(Refusal::MemberNotFound));
        let update = |id, url: &str| MemberChange::Update {
            id: MemberId(id),
            peer_urls: vec![url.to_owned()],
        };
        assert_eq!(
            change(&update(3, "http://a:1")),
            Err(Refusal::PeerUrlsExist)
        );
        assert_eq!(change(&update(3, "http://c:1")), Ok(()), "its own");
        assert_eq!(change(&update(3, "http://c:2")), Ok(()));
        let remove = MemberChange::Remove { id: MemberId(3) };
        assert_eq!(change(&remove), Ok(()));
        assert_eq!(change(&remove), Err(Refusal::MemberNotFound));
        assert_eq!(
            change(&add(3, "http://e:1", false)),
            Err(Refusal::MemberNotFound)
        );
        let remove = |id| MemberChange::Remove { id: MemberId(id) };
        assert_eq!(change(&remove(2)), Ok(()));
        assert_eq!(change(&remove(1)), Err(Refusal::NotEnoughStarted));
        // A leader that told the first members again changes nothing.
        assert_eq!(change(&found), Ok(()));
        assert!(cluster.is_removed(MemberId(3)));
        assert_eq!(cluster.wanted().len(), 1);
    }

    #[test]
    fn the_only_member_is_a_voter_and_all_others_are_removed() {
        let mut cluster = Cluster::default();
        let only = |id: u64, others: &[u64]| MemberChange::Only {
            id: MemberId(id),
            peer_urls: vec!["http://new:1".to_owned()],
            others: others.iter().map(|id| MemberId(*id)).collect(),
        };
        let mut change = |change: MemberChange| {
            cluster.change(&change, LogIndex(7)).expect("taken");
            cluster.clone()
        };
        // Before the first members were told: Raft's are all that is known.
        let alone = change(only(1, &[1, 2, 3]));
        assert_eq!(alone.removed, BTreeSet::from([MemberId(2), MemberId(3)]));
        assert_eq!(alone.wanted[&MemberId(1)].peer_urls, ["http://new:1"]);
        change(add(4, "http://d:1", false));
        change(add(5, "http://e:1", true));
        // A learner; one that is wanted, and not Raft's yet.
        let alone = change(only(5, &[1]));
        assert_eq!(alone.wanted.len(), 1);
        let own = &alone.wanted[&MemberId(5)];
        assert_eq!(own.peer_urls, ["http://e:1"], "its own stay");
        assert!(!own.learner);
        assert!(
            [1, 2, 3, 4]
                .iter()
                .all(|id| alone.is_removed(MemberId(*id)))
        );
        // One that had been removed.
        let alone = change(only(2, &[]));
        assert!(!alone.is_removed(MemberId(2)) && alone.is_removed(MemberId(5)));
        assert_eq!(change(only(2, &[])), alone, "again");
    }
}
