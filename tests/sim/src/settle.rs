//! The end of a run: faults cease, everybody comes back, and the judges look at what was recorded.

use std::sync::Arc;
use std::time::Duration;

use barque_store_env::Env;
use barque_store_env::sim::{self, Link, NodeId, SimEnv};
use barque_store_state::{Command, KeyRange, Put, Range, Revision};
use barque_store_watch::Delivery;
use barque_tests_checkers::{
    History, Searched, Verdict, check_acknowledged, check_history, check_registers, check_watch,
};

use crate::clients::{Change, Told};
use crate::cluster::{Cluster, MEMBERS};
use crate::watchers::{FIRST, Watcher, change, stream};

/// Virtual time the members have to agree again. Elections, restarts and TCP's timers together take a few seconds.
const CONVERGE: Duration = Duration::from_secs(60);
/// Virtual time watchers have to see the end.
const CATCH_UP: Duration = Duration::from_secs(30);
const REQUEST: Duration = Duration::from_secs(2);

fn repair(cluster: &Arc<Cluster>) {
    sim::heal_all();
    sim::set_default_link(Link::default());
    for node in MEMBERS {
        cluster.start(node);
        sim::pause(node, Duration::ZERO);
        sim::stall_disk(node, Duration::ZERO);
    }
}

/// Lets the members recover until each has carried out a write and all stand at one place. Returns the last revision.
pub async fn converge(cluster: &Arc<Cluster>) -> Result<u64, String> {
    repair(cluster);
    let deadline = sim::elapsed() + CONVERGE;
    let mut written = [false; MEMBERS.len()];
    while sim::elapsed() < deadline {
        for (at, node) in MEMBERS.into_iter().enumerate() {
            if !written[at] {
                written[at] = mark(cluster, node).await;
            }
        }
        if written == [true; MEMBERS.len()]
            && let Some(revision) = equal_place(cluster).await
        {
            return Ok(revision);
        }
        sim::sleep(Duration::from_millis(100)).await;
    }
    let states: Vec<String> = MEMBERS
        .iter()
        .map(|node| match cluster.status(*node) {
            Some(s) => format!(
                "{node}: leader {:?} term {} log {} applied {} revision {}",
                s.leader, s.term, s.raft_index, s.applied_index, s.revision.0
            ),
            None => format!("{node}: not up"),
        })
        .collect();
    Err(format!(
        "did not converge within {CONVERGE:?}: writes {written:?}; {}",
        states.join("; ")
    ))
}

async fn mark(cluster: &Arc<Cluster>, node: NodeId) -> bool {
    let put = Put {
        key: format!("end/{node}").into(),
        value: "here".into(),
        ..Put::default()
    };
    let answer = cluster.request(node, REQUEST, async move |store, deadline| {
        store.propose(Command::Put(put), deadline).await
    });
    matches!(answer.await, Ok(Ok(_)))
}

/// The revision, once every member serves linearizable reads at the same one.
async fn equal_place(cluster: &Arc<Cluster>) -> Option<u64> {
    for node in MEMBERS {
        let answer = cluster.request(node, REQUEST, async move |store, deadline| {
            store.read_index(deadline).await.is_ok()
        });
        if answer.await != Ok(true) {
            return None;
        }
    }
    let places: Vec<_> = MEMBERS.iter().filter_map(|n| cluster.status(*n)).collect();
    let place = |i: usize| (places[i].revision, places[i].applied_index);
    let equal = places.len() == MEMBERS.len() && place(0) == place(1) && place(1) == place(2);
    equal.then(|| places[0].revision.0)
}

/// All judgements. The error names the first that failed.
pub async fn judge(
    cluster: &Arc<Cluster>,
    told: &Told,
    watchers: &[Arc<Watcher>],
    last: u64,
) -> Result<Searched, String> {
    equal_hashes(cluster)?;
    let mut histories = Vec::new();
    for node in MEMBERS {
        histories.push(history(cluster, node, last).await?);
    }
    let truth = &histories[0];
    check_history(truth, FIRST, last).map_err(|e| e.to_string())?;
    for (node, history) in MEMBERS.iter().zip(&histories) {
        if history != truth {
            return Err(format!("{node}'s history is not {}'s", MEMBERS[0]));
        }
    }
    check_acknowledged(truth, &told.acknowledged.lock()).map_err(|e| format!("lost write: {e}"))?;

    let deadline = sim::elapsed() + CATCH_UP;
    while watchers.iter().any(|w| w.next() <= last) && sim::elapsed() < deadline {
        sim::sleep(Duration::from_millis(50)).await;
    }
    for watcher in watchers {
        let watched = watcher.watched(last);
        check_watch(truth, &watched, |c| watcher.wanted.matches(c)).map_err(|e| e.to_string())?;
        if watcher.next() <= last {
            let (name, next) = (&watcher.name, watcher.next());
            return Err(format!(
                "{name} was not told by {next} that it has seen {last}"
            ));
        }
    }
    match check_registers(&told.operations.lock()) {
        Verdict::Linearizable(searched) => Ok(searched),
        Verdict::Undecided { key } => Err(format!("the check of {key} grew too large")),
        Verdict::NotLinearizable { key, stuck, around } => {
            let around: Vec<String> = around.iter().map(|o| format!("\n    {o}")).collect();
            Err(format!(
                "{key} is not linearizable at {stuck}; around it:{}",
                around.concat()
            ))
        }
    }
}

/// An acknowledged write that a member is past but does not have, looked for without waiting for anything.
pub fn lost_on_a_member(cluster: &Cluster, told: &Told) -> Option<String> {
    let acknowledged = told.acknowledged.lock();
    for node in MEMBERS {
        let Some(store) = cluster.store(node) else {
            continue;
        };
        let here = store.revision();
        for write in acknowledged.iter().filter(|w| w.revision <= here.0) {
            let range = Range {
                range: KeyRange::point(write.change.key.clone().into()),
                revision: Some(Revision(write.revision)),
                ..Range::default()
            };
            let (_, result) = store.range(&range);
            let kv = result.ok().and_then(|r| r.kvs.first().cloned());
            let kept = kv.as_ref().is_some_and(|kv| {
                kv.mod_revision.0 == write.revision
                    && write.change.value.as_deref().map(str::as_bytes) == Some(&kv.value[..])
            });
            if !kept {
                return Some(format!(
                    "acknowledged at revision {}: {:?}, but {node}, at revision {}, has {kv:?}",
                    write.revision, write.change, here.0
                ));
            }
        }
    }
    None
}

fn equal_hashes(cluster: &Arc<Cluster>) -> Result<(), String> {
    let mut first = None;
    for node in MEMBERS {
        let store = cluster
            .store(node)
            .ok_or_else(|| format!("{node} is gone"))?;
        let kv = store
            .hash_kv(None)
            .map_err(|e| format!("{node}: hash: {e}"))?;
        let hashes = (
            kv.revision,
            kv.compact_revision,
            kv.hash,
            store.whole_hash(),
        );
        let (by, expected) = *first.get_or_insert((node, hashes));
        if expected != hashes {
            return Err(format!(
                "hashes differ: {by} {expected:?}, {node} {hashes:?}"
            ));
        }
    }
    Ok(())
}

/// A member's whole history, as its watch replays it.
async fn history(
    cluster: &Arc<Cluster>,
    node: NodeId,
    last: u64,
) -> Result<History<Change>, String> {
    let store = cluster
        .store(node)
        .ok_or_else(|| format!("{node} is gone"))?;
    let mut batches = stream(node, store, KeyRange::prefix(b""), FIRST);
    let mut history = History::<Change>::new();
    while history.keys().next_back().is_none_or(|seen| *seen < last) {
        let batch = SimEnv::timeout(CATCH_UP, batches.recv()).await;
        let Ok(Some(batch)) = batch else {
            let seen = history.keys().next_back();
            return Err(format!(
                "{node}'s history ends at {seen:?} instead of {last}"
            ));
        };
        for delivery in batch {
            let Delivery::Events { events, .. } = delivery else {
                continue;
            };
            for event in events {
                let at = history.entry(event.kv.mod_revision.0).or_default();
                at.push(change(&event));
            }
        }
    }
    Ok(history)
}
