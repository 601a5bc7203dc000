//! Those who keep the store busy beside its clients: one compacts close behind the watchers, one asks for hashes, one reads the past.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use barque_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use barque_proto::etcdserverpb::{CompactionRequest, HashKvRequest, RangeRequest};
use tonic::Code;

use crate::chance::Chance;
use crate::clients::{prefix_end, revision, sample};
use crate::journal::{HashSample, Journal};
use crate::line::{Line, Outcome};
use crate::member::kv;
use crate::watchers::Watcher;

/// Revisions left below the slowest watcher: it resumes there, and what it is sent may ask for the row before.
const BEHIND: u64 = 2;

/// Compacts every second or so, never past what a watcher still wants.
pub async fn compact(journal: Arc<Journal>, watchers: Vec<Arc<Watcher>>, seed: u64) {
    let mut chance = Chance::new(seed, 0xc0);
    let mut line = Line::new(journal.clone(), 0);
    let mut last = 0;
    while !journal.is_calm() {
        tokio::time::sleep(chance.between(Duration::from_millis(300), Duration::from_millis(1500)))
            .await;
        let slowest = watchers.iter().map(|w| w.next()).min().unwrap_or(0);
        let Some(target) = slowest.checked_sub(BEHIND + chance.below(300)) else {
            continue;
        };
        if target <= last {
            continue;
        }
        let Some(channel) = line.channel().await else {
            return;
        };
        journal.compaction_asked.fetch_max(target, Ordering::SeqCst);
        journal.told.lock().compactions_asked.insert(target);
        let request = CompactionRequest {
            revision: i64::try_from(target).expect("revisions fit"),
            physical: chance.below(2) == 0,
        };
        match line.outcome(kv(channel).compact(request)).await {
            Outcome::Done(_) => {
                last = target;
                journal
                    .compaction_acknowledged
                    .fetch_max(target, Ordering::SeqCst);
                journal.told.lock().compactions_acknowledged += 1;
            }
            // An attempt whose answer was lost may have been carried out before.
            Outcome::Refused(status) if status.message().contains("has been compacted") => {
                last = target;
            }
            Outcome::Refused(status) => {
                journal.violation(format!("compaction to {target} was refused: {status}"));
            }
            Outcome::Unknown => {}
        }
    }
}

/// Asks a member for its hash at a revision; again and again the same one, before and after restarts.
pub async fn hash(journal: Arc<Journal>, member: usize, seed: u64) {
    let mut chance = Chance::new(seed, 0x4a54 + member as u64);
    let mut line = Line::pinned(journal.clone(), member);
    let mut at = 0;
    while !journal.is_calm() {
        tokio::time::sleep(chance.between(Duration::from_millis(50), Duration::from_millis(400)))
            .await;
        // What is compacted past cannot be asked for any more.
        if at <= journal.compaction_asked.load(Ordering::SeqCst) || chance.below(2) == 0 {
            at = journal.known_revision.load(Ordering::SeqCst);
        }
        // Of several, one may not yet have carried out what the others acknowledged.
        let caught_up = journal.endpoints.len() == 1;
        hash_once(&journal, &mut line, member, at, caught_up).await;
    }
}

/// One question, one sample, if it is answered. `caught_up`: every acknowledged compaction must show in it.
pub async fn hash_once(
    journal: &Journal,
    line: &mut Line,
    member: usize,
    at: u64,
    caught_up: bool,
) {
    let Some(channel) = line.channel().await else {
        return;
    };
    let acknowledged_compaction = match caught_up {
        true => journal.compaction_acknowledged.load(Ordering::SeqCst),
        false => 0,
    };
    let request = HashKvRequest {
        revision: i64::try_from(at).expect("revisions fit"),
    };
    match line
        .outcome(MaintenanceClient::new(channel).hash_kv(request))
        .await
    {
        Outcome::Done(answer) => journal.told.lock().hashes.push(HashSample {
            member,
            revision: at,
            compacted: answer.compact_revision,
            hash: answer.hash,
            acknowledged_compaction,
        }),
        Outcome::Refused(status) if too_old_or_new(journal, &status, at) => {}
        Outcome::Refused(status) => {
            journal.violation(format!("HashKV at {at} was refused: {status}"));
        }
        Outcome::Unknown => {}
    }
}

/// Refusals that are right: the revision was compacted meanwhile, or this member has just started and is not there yet.
fn too_old_or_new(journal: &Journal, status: &tonic::Status, at: u64) -> bool {
    if status.code() != Code::OutOfRange {
        return false;
    }
    if status.message().contains("future revision") {
        journal.told.lock().behind += 1;
        return true;
    }
    status.message().contains("compacted") && at <= journal.compaction_asked.load(Ordering::SeqCst)
}

/// Reads the past: ranges at revisions that are not compacted.
pub async fn read_the_past(journal: Arc<Journal>, seed: u64) {
    const PREFIXES: [&str; 4] = ["b/0/", "b/1/", "t/1/", "l/"];
    let mut chance = Chance::new(seed, 0x9a57);
    let mut line = Line::new(journal.clone(), 0);
    while !journal.is_calm() {
        tokio::time::sleep(chance.between(Duration::from_millis(10), Duration::from_millis(80)))
            .await;
        let known = journal.known_revision.load(Ordering::SeqCst);
        let oldest = journal.compaction_asked.load(Ordering::SeqCst) + 1;
        if known <= oldest {
            continue;
        }
        let at = oldest + chance.below(known - oldest + 1);
        let prefix = PREFIXES[chance.below(PREFIXES.len() as u64) as usize];
        let request = RangeRequest {
            key: prefix.into(),
            range_end: prefix_end(prefix).into(),
            revision: i64::try_from(at).expect("revisions fit"),
            limit: chance.below(30) as i64,
            ..RangeRequest::default()
        };
        let Some(channel) = line.channel().await else {
            return;
        };
        match line.outcome(kv(channel).range(request.clone())).await {
            Outcome::Done(response) => {
                let now = revision(&response.header);
                journal.saw_revision(now);
                sample(&journal, at, request, &response);
            }
            Outcome::Refused(status)
                if !status.message().contains("future revision")
                    && too_old_or_new(&journal, &status, at) => {}
            Outcome::Refused(status) => {
                journal.violation(format!(
                    "a read at {at} of {now} was refused: {status}",
                    now = known
                ));
            }
            Outcome::Unknown => {}
        }
    }
}
