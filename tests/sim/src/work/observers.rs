//! Observers: they ask every member in turn, with little patience, and so see what a client that waits for the right one
//! never sees. Reads at old revisions are compared with the history at the end.

use std::time::Duration;

use barque_store_env::sim;
use barque_store_state::{Refusal, Revision};

use super::{Desk, OldRead, of_key, of_prefix, registers};

const PATIENCE: Duration = Duration::from_millis(60);

pub async fn run(desk: Desk) {
    let mut turn = desk.client as usize;
    while !desk.cluster.is_calm() {
        let pause = sim::between(Duration::from_millis(1), Duration::from_millis(20));
        sim::sleep(pause).await;
        let node = desk.next_member(&mut turn);
        if sim::chance(0.2) {
            old(&desk, node).await;
        } else if desk
            .read(node, PATIENCE, of_prefix(registers::PREFIX))
            .await
            .is_some()
        {
            desk.cluster.journal.count(|c| c.observed += 1);
        }
    }
}

/// A read at a revision of the past, from whatever the member has.
async fn old(desk: &Desk, node: sim::NodeId) {
    let known = desk.cluster.truth.known();
    if known < 2 {
        return;
    }
    // Recent ones mostly: the others are soon compacted.
    let back = sim::below(known.min(if sim::chance(0.5) { 30 } else { known }));
    let revision = (known - back).max(1);
    let register = sim::below(desk.cluster.plan.work.registers) as usize;
    let key = registers::key(register);
    let mut range = of_key(&key);
    range.revision = Some(Revision(revision));
    // Whatever was acknowledged before must be known to whoever answers a linearizable read after it.
    let acknowledged = *desk.told.compacted.lock();
    let Some((_, result)) = desk.read(node, PATIENCE, range).await else {
        return;
    };
    let violation = match result {
        Ok(result) => {
            let value = result.kvs.first().map(|kv| kv.value.clone());
            desk.told.old_reads.lock().push(OldRead {
                member: node,
                key,
                revision,
                found: value.map(|v| String::from_utf8_lossy(&v).into_owned()),
            });
            (revision < acknowledged).then(|| {
                format!("{node} read revision {revision}, compacted up to {acknowledged} before")
            })
        }
        Err(Refusal::Compacted) => {
            let asked = desk.cluster.truth.compacted();
            (revision >= asked).then(|| {
                format!("{node} calls revision {revision} compacted, but {asked} was the highest asked for")
            })
        }
        Err(refusal) => Some(format!(
            "{node} refused to read revision {revision}: {refusal}"
        )),
    };
    if let Some(text) = violation {
        desk.cluster.journal.violation(text);
    }
}
