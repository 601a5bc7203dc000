//! Looks into the members from outside, at one instant: at most one may act as the leader, a term has one leader, and equal
//! logs gave equal states.

use std::collections::BTreeMap;

use barque_store_env::sim::{self, NodeId};
use barque_tests_checkers::{Claim, check_claims};

use crate::cluster::Cluster;

/// What was seen so far.
#[derive(Default)]
pub struct Seen {
    /// Who led each term.
    leaders: BTreeMap<u64, NodeId>,
    /// The state's hash at each applied index, and who had it first.
    hashes: BTreeMap<u64, (u64, NodeId)>,
    /// Where each member was when it was looked at last.
    last: BTreeMap<NodeId, u64>,
}

/// Hashes of so many indexes are remembered: more than a member falls behind the others while all run.
const HASHES: usize = 4_096;

impl Cluster {
    pub fn inspect(&self) {
        let now = sim::elapsed();
        let mut claims = Vec::new();
        for node in self.members() {
            let Some(store) = self.store(node) else {
                continue;
            };
            let status = sim::enter(node, || store.status());
            if let Some(until) = status.leads_until {
                let claim = Claim {
                    member: u64::from(node.0),
                    term: status.term,
                    until: sim::virtual_time(node, until).as_nanos() as u64,
                };
                claims.push(claim);
                self.led(node, status.term);
            }
            if self.condition(node).flipped || store.is_fenced() {
                // What it holds is not what it was told; it must not serve it, which the clients see to.
                continue;
            }
            let (applied, hash) = store.whole_hash();
            let mut seen = self.seen.lock();
            if seen.last.insert(node, applied.0) == Some(applied.0) {
                continue;
            }
            let (first, by) = *seen.hashes.entry(applied.0).or_insert((hash, node));
            if seen.hashes.len() > HASHES {
                seen.hashes.pop_first();
            }
            drop(seen);
            if first != hash {
                self.journal.violation(format!(
                    "states differ at index {}: {by} had {first:016x}, {node} has {hash:016x}",
                    applied.0
                ));
            }
        }
        if let Err(two) = check_claims(now.as_nanos() as u64, &claims) {
            self.journal.violation(format!("two lease holders: {two}"));
        }
    }

    fn led(&self, node: NodeId, term: u64) {
        let mut seen = self.seen.lock();
        match seen.leaders.get(&term) {
            None => {
                seen.leaders.insert(term, node);
                drop(seen);
                self.journal.count(|c| c.leaders += 1);
                self.journal.event(node, format!("▲ leads term {term}"));
            }
            Some(other) if *other != node => {
                let other = *other;
                drop(seen);
                self.journal
                    .violation(format!("{other} and {node} both led term {term}"));
            }
            Some(_) => {}
        }
    }
}
