//! Members come and go while everything else goes wrong: machines that were never used join, as voters or by way of a
//! learner, and members are removed, the leader among them. Removed ones must end by themselves, and never come back.

use barque_store_env::sim::{self, NodeId};
use barque_store_state::{MemberChange, MemberId, MemberInfo};

use super::{Fault, Kind, MS, S, Step};
use crate::cluster::{Cluster, End};
use crate::journal::HARNESS;

/// Members that a run grows to at most.
const MEMBERS_MAX: usize = 5;

impl Fault {
    pub(super) async fn members(&self) -> Step {
        match self.kind {
            Kind::AddMember => self.add_member().await,
            _ => self.remove_member().await,
        }
    }

    async fn change(&self, change: MemberChange) -> Option<Vec<MemberInfo>> {
        let asked = self.cluster.any_member();
        let answer = self
            .cluster
            .request(asked, 2 * S, async move |store, deadline| {
                store.member_change(change, deadline).await
            });
        match answer.await {
            Ok(Ok(Ok(members))) => Some(members),
            // Refused, lost or perhaps done: what came of it shows in the members' own state.
            _ => None,
        }
    }

    async fn add_member(&self) -> Step {
        let Some(node) = self.cluster.unused() else {
            return Ok(());
        };
        if self.cluster.members().len() >= MEMBERS_MAX {
            return Ok(());
        }
        let learner = sim::chance(0.4);
        self.fires(node, format!("is to join (learner: {learner})"))?;
        let asked = self.cluster.any_member();
        let urls = vec![Cluster::peer_url(node)];
        let answer = self
            .cluster
            .request(asked, 2 * S, async move |store, deadline| {
                store.member_add(urls, learner, deadline).await
            });
        let id = match answer.await {
            Ok(Ok(Ok((id, members)))) => {
                self.cluster.joins(node, id, &members);
                id
            }
            Ok(Ok(Err(refusal))) => {
                self.cluster.give_back(node);
                return self.say(node, format!("may not join: {refusal}"));
            }
            // Perhaps it was added: the machine is not used for anything else, and the member stays unstarted.
            _ => return self.say(node, "nobody knows whether it was added"),
        };
        self.cluster.start(node);
        // A learner is promoted as soon as the cluster lets it.
        while learner && self.cluster.members().contains(&node) {
            self.wait(100 * MS, 600 * MS).await?;
            if self.change(MemberChange::Promote { id }).await.is_some() {
                self.say(node, "is promoted")?;
                break;
            }
        }
        Ok(())
    }

    async fn remove_member(&self) -> Step {
        let node = self.victim();
        let Some(id) = self.cluster.id(node) else {
            return Ok(());
        };
        if self.cluster.members().len() < 2 {
            return Ok(());
        }
        self.fires(node, "is to leave")?;
        let done = self.change(MemberChange::Remove { id }).await.is_some();
        if done && sim::chance(0.5) {
            self.say(node, "is taken away, as it was removed")?;
            self.cluster.end(node, End::PowerLoss);
            self.cluster.leaves(node);
        }
        // Whether it was done or not: it ends by itself when it was, and until then its vote may be needed.
        Ok(())
    }
}

impl Cluster {
    /// Takes away who was removed while it was cut off, and knows only members that have left since: nobody can tell it. (etcd's
    /// member would stay for ever, too.) Whom somebody that runs could tell must hear it.
    pub fn forget_the_forgotten(&self) {
        let Some(leader) = self.leader().and_then(|node| self.store(node)) else {
            return;
        };
        let wanted: Vec<MemberId> = leader.members().iter().map(|m| m.id).collect();
        let running: Vec<(NodeId, MemberId)> = self
            .members()
            .into_iter()
            .filter_map(|node| Some((node, self.id(node)?)))
            .collect();
        for (node, id) in &running {
            let Some(store) = self.store(*node) else {
                continue;
            };
            let known = sim::enter(*node, || store.membership()).nodes;
            let told_by_somebody = running
                .iter()
                .any(|(_, other)| other != id && known.contains_key(other));
            if !wanted.contains(id) && !told_by_somebody {
                let text = "is taken away: it was removed, and knows nobody who is left";
                self.journal.event(*node, text);
                self.end(*node, End::Killed);
                self.leaves(*node);
            }
        }
    }

    /// After the run: the members are those that somebody added and nobody removed, on every one of them, and Raft's voters are
    /// the same. What nobody knew the outcome of is settled by what they say.
    pub async fn members_agree(&self, sound: &[NodeId]) -> Result<(), String> {
        let mut first: Option<(NodeId, Vec<MemberId>)> = None;
        for node in sound {
            let Some(store) = self.store(*node) else {
                continue;
            };
            let wanted = store.members();
            let ids: Vec<MemberId> = wanted.iter().map(|m| m.id).collect();
            let (by, known) = first.get_or_insert_with(|| (*node, ids.clone()));
            if *known != ids {
                return Err(format!("members differ: {by} {known:x?}, {node} {ids:x?}"));
            }
            let own = self.id(*node);
            if own.is_some_and(|own| !ids.contains(&own)) {
                return Err(format!(
                    "{node} runs, but is not among the members {ids:x?}"
                ));
            }
        }
        self.journal.event(HARNESS, format!("members: {first:x?}"));
        Ok(())
    }
}
