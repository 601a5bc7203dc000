//! The judgement of a loaded run: everything its clients were told, against the one history its first watcher saw.

use std::collections::BTreeMap;
use std::sync::Arc;

use barque_tests_checkers::{
    Delivered, History, Life, Verdict, check_acknowledged, check_history, check_lives,
    check_orders, check_registers, check_watch,
};

use crate::history::{Plain, Row};
use crate::journal::{HashSample, Journal, Told, nanos};
use crate::limits::LEASE_SLACK;
use crate::model::{Compared, Evidence, replay};
use crate::value;
use crate::watchers::{FIRST, Watcher};

/// What a run did and what was looked at, for its report.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    pub acknowledged: u64,
    pub unknown: u64,
    /// Unknown writes that did happen.
    pub unknown_happened: u64,
    pub registers: u64,
    pub register_operations: u64,
    pub ordered: u64,
    pub events: u64,
    pub connections: u64,
    pub leases: u64,
    pub leases_ended_alone: u64,
    pub compactions: u64,
    pub behind: u64,
    /// What requests without a known outcome ended with.
    pub errors: BTreeMap<String, u64>,
    pub compared: Compared,
}

/// Judges a run whose watchers have all seen revision `last`. All that is wrong, or what was right.
pub fn judge(
    journal: &Journal,
    watchers: &[Arc<Watcher>],
    last: u64,
) -> Result<Judged, Vec<String>> {
    let mut wrong = journal.violations();
    let mut told = std::mem::take(&mut *journal.told.lock());
    let mut judged = Judged {
        connections: told.reconnects + watchers.len() as u64,
        compactions: told.compactions_acknowledged,
        behind: told.behind,
        errors: std::mem::take(&mut told.errors),
        events: watchers.iter().map(|w| w.events()).sum(),
        ..Judged::default()
    };
    let lease_ends = watchers.first().map_or(Vec::new(), |w| w.lease_ends());
    let mut taken: Vec<_> = watchers.iter().map(|w| (w, w.take(last))).collect();

    // The first watcher wants everything: what it saw is the history, once it has no hole.
    let (_, (first, _)) = &taken[0];
    let mut truth = History::<Row>::new();
    for message in &first.delivered {
        if let Delivered::Changes { revision, changes } = message {
            truth.entry(*revision).or_insert_with(|| changes.clone());
        }
    }
    if let Err(fault) = check_history(&truth, FIRST, last) {
        wrong.push(fault.to_string());
    }
    let mut previous = Vec::new();
    for (watcher, (watched, rows_before)) in &mut taken {
        if let Err(fault) = check_watch(&truth, watched, |row| watcher.wanted.matches(row)) {
            wrong.push(fault.to_string());
        }
        if watcher.next() <= last {
            wrong.push(format!(
                "{} was not told that it has seen {last}",
                watched.name
            ));
        }
        previous.append(rows_before);
    }
    drop(taken);

    judged.acknowledged = told.acknowledged.len() as u64;
    let plain: History<Plain> = truth
        .iter()
        .map(|(r, c)| (*r, c.iter().map(Row::plain).collect()))
        .collect();
    if let Err(lost) = check_acknowledged(&plain, &told.acknowledged) {
        wrong.push(format!("lost write: {lost}"));
    }
    drop(plain);
    values(journal, &told, &truth, &mut judged, &mut wrong);
    if let Err(fault) = check_orders(&told.placed) {
        wrong.push(fault.to_string());
    }
    judged.ordered = told.placed.len() as u64;
    registers(&told, &mut judged, &mut wrong);
    leases(&told.lives, &lease_ends, &mut judged, &mut wrong);
    hashes(&told, &mut wrong);
    let evidence = Evidence {
        samples: std::mem::take(&mut told.samples),
        hashes: std::mem::take(&mut told.hashes),
        previous,
        cleared: std::mem::take(&mut told.cleared),
    };
    match replay(&truth, evidence) {
        Ok(compared) => judged.compared = compared,
        Err(fault) => wrong.push(fault),
    }
    if wrong.is_empty() {
        Ok(judged)
    } else {
        Err(wrong)
    }
}

/// Each value at most once, none that nobody wrote; of those without an answer, how many are there.
fn values(
    journal: &Journal,
    told: &Told,
    truth: &History<Row>,
    judged: &mut Judged,
    wrong: &mut Vec<String>,
) {
    let mut at: BTreeMap<u64, u64> = BTreeMap::new();
    for row in truth.values().flatten() {
        let Some(number) = row.value else { continue };
        if let Some(earlier) = at.insert(number, row.modified) {
            let (client, n) = value::parts(number);
            let key = &row.key;
            wrong.push(format!(
                "write {n} of client {client} to {key} stands twice: at revisions {earlier} and {}",
                row.modified
            ));
        }
        let (client, n) = value::parts(number);
        let made = journal
            .made
            .get(client as usize)
            .map(|m| m.load(std::sync::atomic::Ordering::SeqCst));
        if made.is_none_or(|made| n >= made) {
            wrong.push(format!("nobody wrote {row:?}"));
        }
    }
    judged.unknown = told.unknown_values.len() as u64 + told.unknown_others;
    judged.unknown_happened = told
        .unknown_values
        .iter()
        .filter(|n| at.contains_key(n))
        .count() as u64;
}

fn registers(told: &Told, judged: &mut Judged, wrong: &mut Vec<String>) {
    match check_registers(&told.operations) {
        Verdict::Linearizable(searched) => {
            judged.registers = searched.keys as u64;
            judged.register_operations = searched.operations as u64;
        }
        Verdict::Undecided { key } => wrong.push(format!("the check of {key} grew too large")),
        Verdict::NotLinearizable { key, stuck, around } => {
            let around: Vec<String> = around.iter().map(|o| format!("\n    {o}")).collect();
            let around = around.concat();
            wrong.push(format!(
                "{key} is not linearizable at {stuck}; around it:{around}"
            ));
        }
    }
}

fn leases(lives: &[Life], ends: &[(i64, u64)], judged: &mut Judged, wrong: &mut Vec<String>) {
    let ends: BTreeMap<i64, u64> = ends.iter().copied().collect();
    let mut lives = lives.to_vec();
    for life in &mut lives {
        if let Some(deleted) = ends.get(&life.lease) {
            life.gone = Some(life.gone.map_or(*deleted, |gone| gone.min(*deleted)));
        }
    }
    judged.leases = lives.len() as u64;
    let alone = |life: &&Life| life.revoke_called.is_none() && life.gone.is_some();
    judged.leases_ended_alone = lives.iter().filter(alone).count() as u64;
    if let Err(early) = check_lives(&lives, nanos(LEASE_SLACK)) {
        wrong.push(early.to_string());
    }
}

/// One revision and one compaction have one hash, whoever is asked and whenever; an acknowledged compaction stays.
fn hashes(told: &Told, wrong: &mut Vec<String>) {
    let mut seen: BTreeMap<(u64, i64), HashSample> = BTreeMap::new();
    for sample in &told.hashes {
        let first = seen
            .entry((sample.revision, sample.compacted))
            .or_insert(*sample);
        if first.hash != sample.hash {
            wrong.push(format!("two hashes of one state: {first:?}, {sample:?}"));
        }
        let compacted = u64::try_from(sample.compacted).unwrap_or(0);
        if compacted < sample.acknowledged_compaction {
            wrong.push(format!("an acknowledged compaction is undone: {sample:?}"));
        }
        if compacted > 0 && !told.compactions_asked.contains(&compacted) {
            wrong.push(format!("a compaction that nobody asked for: {sample:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u64, modified: u64) -> Row {
        Row {
            key: "k".into(),
            value: Some(number),
            create: modified,
            modified,
            version: 1,
            lease: 0,
        }
    }

    #[test]
    fn writes_that_stand_twice_or_that_nobody_made_are_found() {
        let journal = Journal::new(Vec::new(), 2);
        journal.made[1].store(2, std::sync::atomic::Ordering::SeqCst);
        let judged = |history: History<Row>| {
            let mut told = Told::default();
            told.unknown_values
                .extend([value::number(1, 0), value::number(1, 7)]);
            let (mut judged, mut wrong) = (Judged::default(), Vec::new());
            values(&journal, &told, &history, &mut judged, &mut wrong);
            (judged.unknown, judged.unknown_happened, wrong)
        };
        let (first, second) = (value::number(1, 0), value::number(1, 1));
        let right = [(2, vec![row(first, 2)]), (3, vec![row(second, 3)])];
        assert_eq!(judged(right.into()), (2, 1, Vec::new()));
        let twice = [(2, vec![row(first, 2)]), (3, vec![row(first, 3)])];
        assert!(judged(twice.into()).2[0].contains("stands twice"));
        for phantom in [value::number(1, 2), value::number(2, 0)] {
            let wrong = judged([(2, vec![row(phantom, 2)])].into()).2;
            assert!(wrong[0].contains("nobody wrote"), "{wrong:?}");
        }
    }

    #[test]
    fn two_hashes_of_one_state_and_undone_compactions_are_found() {
        let sample = |compacted, hash, acknowledged_compaction| HashSample {
            member: 0,
            revision: 9,
            compacted,
            hash,
            acknowledged_compaction,
        };
        let wrong = |samples: &[HashSample]| {
            let mut told = Told::default();
            told.compactions_asked.extend([3, 5]);
            told.hashes.extend_from_slice(samples);
            let mut wrong = Vec::new();
            hashes(&told, &mut wrong);
            wrong.len()
        };
        assert_eq!(
            wrong(&[
                sample(-1, 1, 0),
                sample(3, 2, 0),
                sample(3, 2, 3),
                sample(5, 4, 3)
            ]),
            0
        );
        assert_eq!(wrong(&[sample(3, 2, 0), sample(3, 1, 0)]), 1, "two hashes");
        assert_eq!(wrong(&[sample(3, 2, 5)]), 1, "undone");
        assert_eq!(wrong(&[sample(-1, 2, 3)]), 1, "undone before the first");
        assert_eq!(wrong(&[sample(4, 2, 3)]), 1, "nobody asked for it");
    }
}
