//! The end of a run: faults cease, everybody comes back, and the judges look at what was recorded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use barque_store_env::Env;
use barque_store_env::sim::{self, DiskProfile, Link, NodeId, SimEnv};
use barque_store_state::{Command, KeyRange, Put, Revision};
use barque_store_watch::Delivery;
use barque_tests_checkers::{
    History, Searched, Verdict, check_acknowledged, check_history, check_lives, check_orders,
    check_registers_within, check_watch,
};

use crate::cluster::{Cluster, MACHINES};
use crate::resolve::resolve;
use crate::truth::{Change, FIRST, change};
use crate::work::lessees::{PREFIX as LEASES, TTL_MAX_S, key as lease_key};
use crate::work::registers::PREFIX as REGISTERS;
use crate::work::watchers::{Watcher, stream};
use crate::work::{OldRead, Told, of_key, of_prefix};

/// Virtual time the members have to agree again. Elections, restarts and TCP's timers together take a few seconds.
pub const CONVERGE: Duration = Duration::from_secs(30);
/// Bytes of a state that a member receives in a virtual second at least, in the smallest pieces over the usual network.
const RECEIVES: u64 = 150_000;
/// Virtual time watchers have to see the end.
const CATCH_UP: Duration = Duration::from_secs(30);
const REQUEST: Duration = Duration::from_secs(2);
/// Virtual time in which a lease that nobody renews is gone, beyond its own.
const EXPIRES_WITHIN: Duration = Duration::from_secs(3);
/// Parts per thousand of a lease that the leader's clock may be fast by: two of them are off by one per cent each.
const CLOCK_ERROR: u64 = 20;
/// Steps of the search for an order of a register, about a second. Many swaps and deletions of one register at once, some of
/// them unanswered, can take any number.
const SEARCH_STEPS: u64 = 1_000_000;
/// The last digit of the store's own clock.
const MILLISECOND: u64 = 1_000_000;

fn repair(cluster: &Arc<Cluster>) {
    sim::heal_all();
    sim::set_default_link(Link::default());
    for node in (1..=MACHINES).map(NodeId) {
        sim::pause(node, Duration::ZERO);
        sim::stall_disk(node, Duration::ZERO);
        sim::hang_files(node, "/", Duration::ZERO);
        sim::fail_disk(node, None);
        sim::set_disk_space(node, None);
        sim::set_disk(node, DiskProfile::default());
    }
    for node in cluster.members() {
        cluster.start(node);
    }
}

/// Lets the members recover until each has carried out a write and all stand at one place. Returns the last revision.
pub async fn converge(cluster: &Arc<Cluster>) -> Result<u64, String> {
    repair(cluster);
    let begun = sim::elapsed();
    let mut written: BTreeMap<NodeId, bool> = BTreeMap::new();
    let mut within = CONVERGE;
    while sim::elapsed() < begun + within {
        if sim::elapsed() > begun + within / 2 {
            cluster.forget_the_forgotten();
        }
        let sound = cluster.sound();
        // Some may need all of it.
        let states = sound.iter().filter_map(|node| cluster.status(*node));
        let largest = states.map(|s| s.db_size_in_use).max().unwrap_or(0);
        within = within.max(CONVERGE + Duration::from_secs(largest / RECEIVES));
        for node in &sound {
            // One may still have ended for what its disk did before.
            cluster.start(*node);
            if !written.get(node).is_some_and(|done| *done) {
                written.insert(*node, mark(cluster, *node).await);
            }
        }
        if sound.iter().all(|node| written[node])
            && let Some(revision) = equal_place(cluster, &sound).await
        {
            let took = sim::elapsed() - begun;
            let text = format!("converged after {took:?} at revision {revision}");
            cluster.journal.event(crate::journal::HARNESS, text);
            return Ok(revision);
        }
        sim::sleep(Duration::from_millis(100)).await;
    }
    let states: Vec<String> = cluster
        .members()
        .iter()
        .map(|node| match cluster.status(*node) {
            Some(s) => format!(
                "{node}: leader {:x?} term {} log {} applied {} revision {}",
                s.leader, s.term, s.raft_index, s.applied_index, s.revision.0
            ),
            None => format!("{node}: not up, {:?}", cluster.condition(*node)),
        })
        .collect();
    Err(format!(
        "did not converge within {within:?}: writes {written:?}; {}",
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
    // Refused for want of room, it is tried again: the alarm takes itself back.
    matches!(answer.await, Ok(Ok(outcome)) if outcome.result.is_ok())
}

/// The revision, once every sound member serves linearizable reads at the same one.
async fn equal_place(cluster: &Arc<Cluster>, sound: &[NodeId]) -> Option<u64> {
    for node in sound {
        let answer = cluster.request(*node, REQUEST, async move |store, deadline| {
            store.read_index(deadline).await.is_ok()
        });
        if answer.await != Ok(true) {
            return None;
        }
    }
    let mut places = sound.iter().map(|node| {
        let status = cluster.status(*node)?;
        Some((status.revision.0, status.applied_index))
    });
    let first = places.next()??;
    places.all(|place| place == Some(first)).then_some(first.0)
}

/// Every lease has lost its holder by now: all must be gone, with what hung on them.
pub async fn leases_end(cluster: &Arc<Cluster>) -> Result<(), String> {
    let deadline = sim::elapsed() + Duration::from_secs(TTL_MAX_S) + EXPIRES_WITHIN;
    loop {
        let left: Vec<(NodeId, usize, u64)> = cluster
            .sound()
            .into_iter()
            .filter_map(|node| {
                let store = cluster.store(node)?;
                let keys = store.range(&of_prefix(LEASES)).1.map_or(0, |r| r.count);
                Some((node, store.leases().len(), keys))
            })
            .filter(|(_, leases, keys)| *leases > 0 || *keys > 0)
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        if sim::elapsed() >= deadline {
            return Err(format!(
                "leases that nobody renews are still there (member, leases, keys): {left:?}"
            ));
        }
        sim::sleep(Duration::from_millis(50)).await;
    }
}

/// All judgements. The error names the first that failed.
pub async fn judge(
    cluster: &Arc<Cluster>,
    told: &Told,
    watchers: &[Arc<Watcher>],
    last: u64,
) -> Result<Searched, String> {
    wiped_are_refused(cluster).await?;
    let oldest = equal_hashes(cluster, last)?;
    let acknowledged = *told.compacted.lock();
    if oldest < acknowledged || oldest > cluster.truth.compacted() {
        return Err(format!(
            "compacted to {oldest}; {acknowledged} was acknowledged, {} asked for",
            cluster.truth.compacted()
        ));
    }
    taps_end(cluster, last).await?;
    let truth = cluster.truth.history();
    check_history(&truth, FIRST, last).map_err(|e| e.to_string())?;
    written_once(&truth)?;
    let from = oldest.max(FIRST - 1) + 1;
    for node in up_at(cluster, last) {
        let history = match history(cluster, node, from, last).await {
            Ok(history) => history,
            // A bit was flipped in what it had to read, and it said so. (It will return; that is judged where members converge.)
            Err(_) if cluster.condition(node).may_be_unreadable() => continue,
            Err(e) => return Err(e),
        };
        if !history.iter().eq(truth.range(from..)) {
            return Err(format!(
                "{node}'s history from {from} on is not what was told"
            ));
        }
    }
    check_acknowledged(&truth, &told.acknowledged.lock())
        .map_err(|e| format!("lost write: {e}"))?;
    check_orders(&told.placed.lock()).map_err(|e| format!("order: {e}"))?;
    old_reads(&truth, &told.old_reads.lock())?;
    lives(cluster, told)?;

    let deadline = sim::elapsed() + CATCH_UP;
    while watchers.iter().any(|w| w.next() <= last) && sim::elapsed() < deadline {
        sim::sleep(Duration::from_millis(50)).await;
    }
    for watcher in watchers {
        for watched in watcher.watched(last) {
            check_watch(&truth, &watched, |c| watcher.wanted.matches(c))
                .map_err(|e| e.to_string())?;
        }
        if watcher.next() <= last {
            let (name, next) = (&watcher.name, watcher.next());
            return Err(format!(
                "{name} was not told by {next} that it has seen {last}"
            ));
        }
    }
    let told_at = |revision| cluster.truth.told_at(revision);
    let operations = resolve(&told.operations.lock(), &truth, told_at);
    match check_registers_within(&operations, SEARCH_STEPS) {
        Verdict::Linearizable(searched) => Ok(searched),
        // Its answers have been judged by their revisions already.
        Verdict::Undecided { .. } => {
            cluster.journal.count(|c| c.undecided += 1);
            Ok(Searched::default())
        }
        Verdict::NotLinearizable { key, stuck, around } => {
            let around: Vec<String> = around.iter().map(|o| format!("\n    {o}")).collect();
            Err(format!(
                "{key} is not linearizable at {stuck}; around it:{}",
                around.concat()
            ))
        }
    }
}

/// Members that run and have come this far.
fn up_at(cluster: &Cluster, last: u64) -> Vec<NodeId> {
    let there = |node: &NodeId| {
        cluster
            .store(*node)
            .is_some_and(|store| store.revision().0 == last)
    };
    cluster.members().into_iter().filter(there).collect()
}

/// A member that lost its disk must have been told to go.
async fn wiped_are_refused(cluster: &Arc<Cluster>) -> Result<(), String> {
    let deadline = sim::elapsed() + Duration::from_secs(10);
    for node in cluster.members() {
        while cluster.condition(node).wiped && !cluster.is_ruined(node) {
            if sim::elapsed() > deadline {
                return Err(format!("{node} lost its disk and takes part all the same"));
            }
            cluster.start(node);
            sim::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// What the members' own watches still have to tell.
async fn taps_end(cluster: &Cluster, last: u64) -> Result<(), String> {
    let deadline = sim::elapsed() + CATCH_UP;
    while cluster.truth.known() < last {
        if sim::elapsed() > deadline {
            return Err(format!(
                "nobody told revision {} of {last}",
                cluster.truth.known() + 1
            ));
        }
        sim::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// An acknowledged write that a member is past but does not have, looked for without waiting for anything.
pub fn lost_on_a_member(cluster: &Cluster, told: &Told) -> Option<String> {
    let acknowledged = told.acknowledged.lock();
    for node in cluster.members() {
        let Some(store) = cluster.store(node) else {
            continue;
        };
        let (here, oldest) = (store.revision(), store.compact_revision());
        let visible = |revision: u64| revision <= here.0 && revision >= oldest.0;
        for write in acknowledged.iter().filter(|w| visible(w.revision)) {
            let mut range = of_key(&write.change.key);
            range.revision = Some(Revision(write.revision));
            let (_, Ok(result)) = store.range(&range) else {
                continue;
            };
            let kv = result.kvs.first();
            let kept = match (&write.change.value, kv) {
                (None, None) => true,
                (Some(value), Some(kv)) => {
                    kv.mod_revision.0 == write.revision && value.as_bytes() == &kv.value[..]
                }
                _ => false,
            };
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

/// Every hash there is, equal between all that serve. Returns the compaction's revision.
fn equal_hashes(cluster: &Arc<Cluster>, last: u64) -> Result<u64, String> {
    let mut first = None;
    let mut oldest = 0;
    for node in up_at(cluster, last) {
        let store = cluster
            .store(node)
            .ok_or_else(|| format!("{node} is gone"))?;
        let compacted = store.compact_revision();
        let half = Revision(compacted.0 + (last - compacted.0) / 2);
        let mut hashes = Vec::new();
        for at in [None, Some(half.max(Revision(1)))] {
            match store.hash_kv(at) {
                Ok(kv) => hashes.push((kv.revision, kv.compact_revision, kv.hash)),
                Err(_) if cluster.condition(node).may_be_unreadable() => break,
                Err(e) => return Err(format!("{node}: hash at {at:?}: {e}")),
            }
        }
        if hashes.len() < 2 {
            continue;
        }
        oldest = compacted.0;
        let hashes = (hashes, store.whole_hash(), compacted);
        let (by, expected) = first.get_or_insert_with(|| (node, hashes.clone()));
        if *expected != hashes {
            return Err(format!(
                "hashes differ: {by} {expected:?}, {node} {hashes:?}"
            ));
        }
    }
    Ok(oldest)
}

/// A member's history from a revision on, as its watch replays it.
async fn history(
    cluster: &Arc<Cluster>,
    node: NodeId,
    from: u64,
    last: u64,
) -> Result<History<Change>, String> {
    let mut history = History::<Change>::new();
    if from > last {
        return Ok(history);
    }
    let store = cluster
        .store(node)
        .ok_or_else(|| format!("{node} is gone"))?;
    let mut batches = stream(node, store, KeyRange::prefix(b""), from);
    while history.keys().next_back().is_none_or(|seen| *seen < last) {
        let batch = SimEnv::timeout(CATCH_UP, batches.recv()).await;
        let Ok(Some(batch)) = batch else {
            let seen = history.keys().next_back();
            return Err(format!(
                "{node}'s history from {from} on ends at {seen:?} instead of {last}"
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

/// Every write to a register has a value of its own: one that is there twice was carried out twice.
fn written_once(truth: &History<Change>) -> Result<(), String> {
    let mut seen: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for (revision, changes) in truth {
        let registers = changes.iter().filter(|c| c.key.starts_with(REGISTERS));
        for change in registers {
            let Some(value) = &change.value else { continue };
            if let Some(before) = seen.insert((&change.key, value), *revision) {
                return Err(format!(
                    "{change:?} was carried out twice: at revision {before} and at {revision}"
                ));
            }
        }
    }
    Ok(())
}

/// What a key was at a revision must be what the history says.
fn old_reads(truth: &History<Change>, reads: &[OldRead]) -> Result<(), String> {
    let mut versions: BTreeMap<&str, BTreeMap<u64, Option<&str>>> = BTreeMap::new();
    for (revision, changes) in truth {
        for change in changes {
            let of_key = versions.entry(&change.key).or_default();
            of_key.insert(*revision, change.value.as_deref());
        }
    }
    for read in reads {
        let of_key = versions.get(read.key.as_str());
        let then = of_key.and_then(|v| v.range(..=read.revision).next_back());
        let value = then.and_then(|(_, value)| *value);
        if value != read.found.as_deref() {
            return Err(format!("{read:?}, but it was {value:?} ({then:?})"));
        }
    }
    Ok(())
}

/// No lease ends before its time.
fn lives(cluster: &Cluster, told: &Told) -> Result<(), String> {
    for life in told.lives.lock().iter() {
        let mut life = *life;
        let seen = cluster.truth.gone(&lease_key(life.lease));
        life.gone = [life.gone, seen].into_iter().flatten().min();
        let slack = life.ttl / 1_000 * CLOCK_ERROR + MILLISECOND;
        check_lives(&[life], slack).map_err(|e| e.to_string())?;
        if life.gone.is_some() && life.revoke_called.is_none() {
            cluster.journal.count(|c| c.expiries += 1);
        }
    }
    Ok(())
}
