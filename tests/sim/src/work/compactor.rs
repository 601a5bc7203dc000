//! The compactor, who also compares hashes: at one revision and one compaction all members must give one HashKV.

use std::collections::BTreeMap;
use std::time::Duration;

use barque_store_env::sim;
use barque_store_state::{Answer, Command, Revision};

use super::{Desk, Unanswered, never, patience};

pub async fn run(desk: Desk) {
    let mut turn = desk.client as usize;
    let mut hashes = Hashes::default();
    let mean = desk.cluster.plan.work.compaction;
    let step = mean.unwrap_or(Duration::from_secs(1));
    while !desk.cluster.is_calm() {
        sim::sleep(sim::between(step / 2, step * 3 / 2)).await;
        if mean.is_some() {
            let node = desk.next_member(&mut turn);
            compact(&desk, node).await;
        }
        if sim::chance(0.5) {
            hashes.compare(&desk).await;
        }
    }
}

async fn compact(desk: &Desk, node: sim::NodeId) {
    let truth = &desk.cluster.truth;
    // Only what is known already: the history must survive.
    let (from, known) = (truth.compacted(), truth.known());
    if known < 2 {
        return;
    }
    let keep = [0, 5, 50][sim::below(3) as usize];
    let revision = known.saturating_sub(keep).max(from).max(1);
    truth.compacting(revision);
    let command = Command::Compact {
        revision: Revision(revision),
    };
    match desk.propose(node, patience(), command, never).await {
        Ok((_, Answer::Compacted)) => {
            let mut compacted = desk.told.compacted.lock();
            *compacted = (*compacted).max(revision);
            drop(compacted);
            desk.cluster.journal.count(|c| c.compactions += 1);
        }
        Ok((_, other)) => {
            let text = format!("a compaction was answered {other:?}");
            desk.cluster.journal.violation(text);
        }
        // Compacted further already, or nobody knows.
        Err(Unanswered::Refused | Unanswered::Unknown) => {}
    }
}

#[derive(Default)]
struct Hashes {
    /// By revision and compaction: the hash, and who gave it first.
    known: BTreeMap<(u64, u64), (u32, sim::NodeId)>,
}

impl Hashes {
    async fn compare(&mut self, desk: &Desk) {
        let truth = &desk.cluster.truth;
        let (oldest, known) = (truth.compacted(), truth.known());
        if known <= oldest.max(1) {
            return;
        }
        let revision = oldest.max(1) + 1 + sim::below(known - oldest.max(1));
        for node in desk.cluster.members() {
            let answer = desk
                .cluster
                .request(node, patience(), async move |store, _| {
                    store.hash_kv(Some(Revision(revision)))
                });
            // One that is behind, or that has compacted meanwhile, refuses.
            let Ok(Ok(hash)) = answer.await else { continue };
            let place = (revision, hash.compact_revision.0);
            match self.known.get(&place) {
                None => {
                    self.known.insert(place, (hash.hash, node));
                }
                Some((first, _)) if *first == hash.hash => {
                    desk.cluster.journal.count(|c| c.equal_hashes += 1);
                }
                Some((first, by)) => desk.cluster.journal.violation(format!(
                    "HashKV at revision {revision}, compacted to {}: {by} gave {first:08x}, {node} {:08x}",
                    place.1, hash.hash
                )),
            }
        }
    }
}
