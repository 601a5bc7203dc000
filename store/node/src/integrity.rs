//! All members' whole states are equal at equal entries: looked at every minute and after each compaction, by whoever leads.
//! Promise: a member whose state differs from a majority's serves nothing from the moment that is known, says why, marks its
//! directory and ends; where no majority tells who is right, nothing more is written until one does. Both stand as an alarm
//! CORRUPT, which the leader takes back when a later comparison finds the member's state equal. A member whose persisted state
//! is damaged is marked and ends likewise, without an alarm: it returns by itself.
//! Not here: what is hashed (`state`), how members are asked (`consensus`), how a state is taken anew (`anew`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use barque_store_consensus::{Fence, HashAt, Machine as _};
use barque_store_env::Env;
use barque_store_state::*;
use tracing::{error, info, warn};

use crate::limits::*;
use crate::marks::Fenced;
use crate::verdict::{Verdict, judge};
use crate::{Shared, refetch};

/// Proposes marks while this member leads, and compares what the members had at them.
pub(crate) async fn compare_states<E: Env>(shared: Arc<Shared<E>>) {
    let marks = &shared.machine.marks;
    loop {
        // Marks of earlier leaders count: else leaders that come and go would never look.
        let due = marks.last_at() + INTEGRITY_INTERVAL;
        if !marks.is_wanted() && E::now() < due {
            // Whichever comes first; the time passing is no error.
            let _ = E::timeout_at(due, marks.wanted()).await;
        }
        if !shared.leads(E::now()) || shared.consensus.abilities().is_empty() {
            marks.taken();
            E::sleep(INTEGRITY_PAUSE).await;
            continue;
        }
        if !marks.is_wanted() && E::now() < marks.last_at() + INTEGRITY_INTERVAL {
            continue;
        }
        marks.taken();
        let deadline = E::now() + INTEGRITY_PROPOSAL_TIMEOUT;
        let marked = shared.propose(Command::IntegrityMark, deadline).await;
        if marked.is_ok()
            && let Some((index, hash)) = marks.newest()
        {
            let comparison = Comparison {
                shared: shared.clone(),
                index,
                told: BTreeMap::from([(shared.member, hash)]),
                dealt: BTreeSet::new(),
            };
            comparison.run().await;
        }
        E::sleep(INTEGRITY_PAUSE).await;
    }
}

/// What is known of one mark.
struct Comparison<E: Env> {
    shared: Arc<Shared<E>>,
    index: LogIndex,
    told: BTreeMap<MemberId, u64>,
    /// Members that are wrong, and were told.
    dealt: BTreeSet<MemberId>,
}

impl<E: Env> Comparison<E> {
    async fn run(mut self) {
        let mut open: BTreeSet<MemberId> = self.shared.consensus.abilities().into_keys().collect();
        let members = open.len() + 1;
        let patience = E::now() + INTEGRITY_PATIENCE;
        loop {
            self.ask(&mut open).await;
            let over = open.is_empty() || E::now() >= patience;
            match judge(&self.told, members) {
                Verdict::Majority { right, wrong } => {
                    for member in wrong {
                        self.deal_with(member, right).await;
                    }
                    if self.dealt.contains(&self.shared.member) {
                        return;
                    }
                    if over {
                        return self.close(right).await;
                    }
                }
                Verdict::Split if over => return self.raise_undecided().await,
                Verdict::Split | Verdict::Open if over => return,
                Verdict::Split | Verdict::Open => {}
            }
            E::sleep(INTEGRITY_RETRY).await;
        }
    }

    /// Asks those that have not told theirs, all at once.
    async fn ask(&mut self, open: &mut BTreeSet<MemberId>) {
        let deadline = E::now() + INTEGRITY_ASK_TIMEOUT;
        let (consensus, index) = (&self.shared.consensus, self.index);
        let asked = open.iter().map(|member| async move {
            let answer = consensus.ask_hash(*member, index, deadline).await;
            (*member, answer)
        });
        for (member, answer) in futures::future::join_all(asked).await {
            match answer {
                Some(HashAt::Known(hash)) => {
                    self.told.insert(member, hash);
                    open.remove(&member);
                }
                Some(HashAt::Forgotten) => {
                    open.remove(&member);
                }
                Some(HashAt::NotYet) | None => {}
            }
        }
    }

    async fn deal_with(&mut self, member: MemberId, right: u64) {
        if !self.dealt.insert(member) {
            return;
        }
        let shared = self.shared.clone();
        let fence = Fence {
            index: self.index,
            right,
            wrong: self.told[&member],
        };
        let differing = &shared.machine.counters.integrity_differing;
        differing.fetch_add(1, Ordering::Relaxed);
        error!(
            member = %member,
            index = fence.index.0,
            "{:x} found data inconsistency with peers: its hash is {:016x}, a majority has {right:016x}; it is fenced",
            member.0,
            fence.wrong
        );
        let alarm = Alarm {
            kind: AlarmKind::Corrupt,
            member,
            cause: AlarmCause::Fenced,
        };
        if member == shared.member {
            // The alarm first: a fenced member proposes nothing. No longer than a proposal may take.
            self.raise(alarm, 1).await;
            shared.machine.fence(fence);
            return;
        }
        let deadline = E::now() + INTEGRITY_ASK_TIMEOUT;
        if !shared.consensus.fence(member, fence, deadline).await {
            // It is asked again at the next mark, if it is there then.
            warn!(
                member = %member,
                "it did not confirm that it serves nothing any more"
            );
        }
        self.raise(alarm, INTEGRITY_ALARM_ATTEMPTS).await;
    }

    async fn raise_undecided(&self) {
        let differing = &self.shared.machine.counters.integrity_differing;
        differing.fetch_add(1, Ordering::Relaxed);
        error!(
            index = self.index.0,
            hashes = ?self.told,
            "members' states differ, and no majority has the same: nothing is written until one has (alarm CORRUPT)"
        );
        // As etcd: no member is named when none is known to be wrong.
        let alarm = Alarm {
            kind: AlarmKind::Corrupt,
            member: MemberId(0),
            cause: AlarmCause::Undecided,
        };
        self.raise(alarm, INTEGRITY_ALARM_ATTEMPTS).await;
    }

    async fn raise(&self, alarm: Alarm, attempts: u32) {
        for _ in 0..attempts {
            if self.propose(Command::AlarmRaise(alarm)).await {
                return;
            }
        }
        warn!(?alarm, "the alarm could not be raised");
    }

    /// Everybody who can tell has told, and a majority agrees: what was raised for less than that ends.
    async fn close(&self, right: u64) {
        let compared = &self.shared.machine.counters.integrity_compared;
        compared.fetch_add(1, Ordering::Relaxed);
        let over = |alarm: &Alarm| match alarm.cause {
            AlarmCause::Undecided => true,
            AlarmCause::Fenced => self.told.get(&alarm.member) == Some(&right),
            AlarmCause::Operator | AlarmCause::Quota | AlarmCause::Disk => false,
        };
        let up: Vec<Alarm> = {
            let state = self.shared.machine.state.read();
            state.alarms().iter().filter(over).collect()
        };
        for alarm in up {
            info!(?alarm, "members' states are equal again: the alarm ends");
            self.propose(Command::AlarmClear {
                kind: alarm.kind,
                member: alarm.member,
                only: Some(alarm.cause),
            })
            .await;
        }
    }

    /// Whether it is known to be carried out.
    async fn propose(&self, command: Command) -> bool {
        let deadline = E::now() + INTEGRITY_PROPOSAL_TIMEOUT;
        self.shared.propose(command, deadline).await.is_ok()
    }
}

/// Waits until this member is fenced, marks its directory and lets it end: its next start takes the state anew. One without
/// others is not marked: it could never start again, and the damage may be of a row that nobody reads.
pub(crate) async fn end_fenced<E: Env>(shared: Arc<Shared<E>>, disk: E::Disk, member: PathBuf) {
    let reason = match shared.machine.marks.fenced().await {
        Fenced::Damaged(reason) if shared.consensus.abilities().is_empty() => {
            return shared.machine.end(&reason);
        }
        Fenced::Damaged(reason) => refetch::damage(&reason),
        Fenced::Differs(reason) => reason,
    };
    let marked = E::timeout(REFETCH_MARK_TIMEOUT, refetch::mark(&disk, &member)).await;
    let told = match marked {
        Ok(Ok(())) => reason,
        Ok(Err(failed)) => format!("{reason} ({failed})"),
        Err(_) => format!("{reason} (its disk does not answer; the directory is not marked)"),
    };
    shared.machine.end(&told);
}
