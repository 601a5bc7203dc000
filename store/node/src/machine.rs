//! What consensus drives: the state, and the watchers that are told of its changes.
//! Promise: a watcher sees a revision exactly when the state has it: both change under the hub's lock. From the first
//! damage found on, nothing is applied and nothing is answered.
//! Lock order: state, then hub; nobody who holds the hub waits for the state. So a long read of the state, which an apply
//! has to wait for, holds up no watch. Readers take the state alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use barque_store_consensus::{
    self as consensus, Fence, HashAt, ImageRules, Mark, Offer, Pinned, Staging, Working,
};
use barque_store_engine::{Engine, Images, Space};
use barque_store_env::{Env, Instant, watch};
use barque_store_state::*;
use barque_store_watch::{History, HistoryError, Hub, Past};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::clock::{Estimate, LeaderClock};
use crate::figures::Counters;
use crate::glance::Glance;
use crate::ledger::Ledger;
use crate::limits::*;
use crate::marks::{Fenced, Marks};
use crate::pieces::{Present, Sent};
use crate::progress::Ticks;
use crate::space::Gate;
use crate::staging::Depot;
use crate::trouble::Trouble;
use crate::{persister, refetch, versions};

pub(crate) struct Machine<E: Env> {
    pub(crate) member: MemberId,
    /// The members that the flags named; told until the state knows the members.
    founders: Vec<MemberInfo>,
    /// Whether this member was removed from the cluster.
    removed: watch::Sender<bool>,
    /// Whether it is in the cluster as a learner.
    learner: AtomicBool,
    pub(crate) state: RwLock<State>,
    pub(crate) hub: Mutex<Hub>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) counters: Counters,
    pub(crate) glance: Glance,
    pub(crate) marks: Marks,
    /// What became of commands that may be sent again. Nobody who holds it waits for anything.
    pub(crate) ledger: Mutex<Ledger>,
    pub(crate) ticks: Ticks,
    estimate: Mutex<Estimate>,
    leader_clock: Mutex<LeaderClock>,
    /// Of the entry applied last; changes under the state's lock.
    mark: Mutex<Mark>,
    /// What the entry applied next brings in.
    next_membership: Mutex<Option<Bytes>>,
    /// Bytes of rows that the engine does not have: those of no batch yet, and those of the batch on its way.
    fresh: AtomicU64,
    leaving: AtomicU64,
    /// Wakes the persister before its time.
    due: Arc<Notify>,
    closed: AtomicBool,
    space: Mutex<Space>,
    /// Pins the engine's states, to be sent to others.
    images: RwLock<Arc<dyn Images>>,
    /// How often the state was exchanged; goes on after `images` has.
    exchanges: Arc<AtomicU64>,
    rules: ImageRules,
    /// Where states of others are received.
    depot: Arc<Depot<E>>,
    /// Why this member can no longer trust its data.
    failure: watch::Sender<Option<String>>,
    failed: AtomicBool,
}

/// Whose machine it is, and what it works with.
pub(crate) struct Setting<E: Env> {
    pub(crate) member: MemberId,
    /// The members that the flags named, if they found the cluster.
    pub(crate) founders: Vec<MemberInfo>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) rules: ImageRules,
    pub(crate) depot: Arc<Depot<E>>,
    pub(crate) progress_interval: Duration,
}

impl<E: Env> Machine<E> {
    pub(crate) fn new(
        setting: Setting<E>,
        state: State,
        mark: Option<Mark>,
        engine: &impl Engine<E>,
    ) -> Self {
        let Setting {
            member,
            founders,
            gate,
            rules,
            depot,
            progress_interval,
        } = setting;
        gate.applied(&state);
        let estimate = Estimate {
            stamp: state.time(),
            applied_at: E::now(),
        };
        Machine {
            removed: watch::channel(state.cluster().is_removed(member)).0,
            learner: AtomicBool::new(learns(&state, member)),
            member,
            founders,
            gate,
            counters: Counters::default(),
            glance: Glance::of(&state),
            marks: Marks::new(E::now()),
            ledger: Mutex::new(Ledger::new(state.applied())),
            ticks: Ticks::new(progress_interval),
            // What the state begins with is not published again.
            hub: Mutex::new(Hub::after(
                barque_store_watch::Limits::default(),
                state.revision(),
            )),
            state: RwLock::new(state),
            leader_clock: Mutex::new(LeaderClock::default()),
            estimate: Mutex::new(estimate),
            mark: Mutex::new(mark.unwrap_or(Mark {
                index: LogIndex(0),
                term: 0,
                membership: Bytes::new(),
            })),
            next_membership: Mutex::new(None),
            fresh: AtomicU64::new(0),
            leaving: AtomicU64::new(0),
            due: depot.due(),
            closed: AtomicBool::new(false),
            space: Mutex::new(engine.space()),
            images: RwLock::new(engine.images()),
            exchanges: Arc::default(),
            rules,
            depot,
            failure: watch::channel(None).0,
            failed: AtomicBool::new(false),
        }
    }
    /// The leader's stamp for what it proposes or decides at `now` in `term`. The first one of a term starts its clock.
    pub(crate) fn stamp(&self, term: u64, now: Instant) -> ClusterTime {
        self.leader_clock
            .lock()
            .stamp(term, self.glance.time(), now)
    }
    /// This member's estimate of cluster time at `now`.
    pub(crate) fn cluster_time(&self, now: Instant) -> ClusterTime {
        self.estimate.lock().at(now)
    }
}

fn learns(state: &State, member: MemberId) -> bool {
    let wanted = state.cluster().wanted();
    wanted.get(&member).is_some_and(|m| m.learner)
}

/// Who is in the cluster.
impl<E: Env> Machine<E> {
    pub(crate) fn members(&self) -> Vec<MemberInfo> {
        let state = self.state.read();
        if !state.cluster().wanted().is_empty() {
            return state.members();
        }
        // Their client URLs may have been published already.
        let told = |member: &MemberInfo| MemberInfo {
            client_urls: match state.published().get(&member.id) {
                Some(told) => told.client_urls.clone(),
                None => member.client_urls.clone(),
            },
            ..member.clone()
        };
        self.founders.iter().map(told).collect()
    }
    /// Resolves once this member was removed.
    pub(crate) async fn removed(&self) {
        self.removed.until(|removed| removed.then_some(())).await;
    }
    /// What this member's own place is, after it may have changed.
    fn note_cluster(&self, state: &State) {
        if state.cluster().is_removed(self.member) {
            self.removed.send(true);
        }
        self.learner
            .store(learns(state, self.member), Ordering::Relaxed);
    }
    pub(crate) fn is_learner(&self) -> bool {
        self.learner.load(Ordering::Relaxed)
    }
    /// The term of the entry applied last.
    pub(crate) fn applied_term(&self) -> u64 {
        self.mark.lock().term
    }
}

/// Reads, fenced.
impl<E: Env> Machine<E> {
    /// What a client is told of a read; damage ends the member.
    pub(crate) fn answer<T>(&self, read: Result<T, ReadError>) -> Result<T, Refusal> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(Refusal::Stopped);
        }
        read.map_err(|error| match error {
            ReadError::Refused(refusal) => refusal,
            ReadError::Unreadable(row) => {
                self.lose(&row.to_string());
                Refusal::Stopped
            }
        })
    }

    /// Whether what is read there is of a state that was exchanged meanwhile.
    pub(crate) fn is_exchanged(&self, archive: &Arc<dyn Archive>) -> bool {
        let state = self.state.read();
        (state.archive()).is_none_or(|present| !Arc::ptr_eq(present, archive))
    }

    /// Fences the member: it applies and answers nothing any more.
    pub(crate) fn fail(&self, reason: &str) {
        if self.fence() {
            self.end(reason);
        }
    }
    /// Serves nothing from now on; whether it did until now.
    fn fence(&self) -> bool {
        !self.failed.swap(true, Ordering::Relaxed)
    }
    /// The same for damage of the persisted state, which another member can make good: the directory is marked before the
    /// process ends (`integrity::end_fenced`).
    pub(crate) fn lose(&self, reason: &str) {
        if self.fence() {
            self.lost(reason);
        }
    }
    fn lost(&self, reason: &str) {
        tracing::error!("{reason}");
        self.marks.fence(Fenced::Damaged(reason.to_owned()));
    }
    /// Lets the process of a member that is fenced end.
    pub(crate) fn end(&self, reason: &str) {
        tracing::error!("{reason}; this member stops");
        self.failure.send(Some(reason.to_owned()));
    }
    /// Whether it is fenced; then [`Machine::failure`] resolves soon.
    pub(crate) fn is_fenced(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
    /// Resolves with the reason when the member is fenced.
    pub(crate) async fn failure(&self) -> String {
        self.failure.until(Option::clone).await
    }
}

/// What the persister does.
impl<E: Env> Machine<E> {
    /// Waits for so long, or until a batch is due. True: the member stops.
    pub(crate) async fn pause(&self, time: Duration) -> bool {
        if !self.closed.load(Ordering::Acquire) {
            // Whichever comes first; the time passing is no error.
            let _ = E::timeout(time, self.due.notified()).await;
        }
        self.closed.load(Ordering::Acquire)
    }
    /// The persister ends after one more batch.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.due.notify_one();
    }
    /// Everything applied since `persisted`, and how far that is; `None` when there is nothing.
    pub(crate) fn begin_batch(&self, persisted: LogIndex) -> Option<(Batch, Mark)> {
        if self.failed.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.state.write();
        if state.applied() == persisted {
            return None;
        }
        self.leaving
            .store(state.unpersisted_bytes(), Ordering::Relaxed);
        self.fresh.store(0, Ordering::Relaxed);
        Some((state.begin_batch(), self.mark.lock().clone()))
    }
    pub(crate) fn batch_done(&self, space: Space) {
        self.state.write().batch_done();
        self.leaving.store(0, Ordering::Relaxed);
        self.set_space(space);
    }
    /// Puts another state in the place of the present one: it has all of it and more. Watches read what they missed from its
    /// history, or are told that it was compacted.
    pub(crate) fn replace(&self, state: State, mark: Mark, images: Arc<dyn Images>, space: Space) {
        let mut held = self.state.write();
        let mut hub = self.hub.lock();
        let (revision, stamp) = (state.revision(), state.time());
        let old = std::mem::replace(&mut *held, state);
        *self.mark.lock() = mark;
        *self.next_membership.lock() = None;
        self.fresh.store(0, Ordering::Relaxed);
        self.leaving.store(0, Ordering::Relaxed);
        *self.images.write() = images;
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        self.glance.update(&held);
        self.note_cluster(&held);
        self.gate.applied(&held);
        self.ledger.lock().jump(held.applied());
        let wake = hub.jump(revision);
        drop(hub);
        drop(held);
        // Waking runs other tasks' code, and giving a whole state back takes its time: not under the locks.
        drop(wake);
        drop(old);
        self.set_space(space);
        *self.estimate.lock() = Estimate {
            stamp,
            applied_at: E::now(),
        };
    }
    pub(crate) fn index_chunk(&self, after: Option<&Bytes>, keys: usize) -> Option<(Bytes, Bytes)> {
        self.state.read().index_chunk(after, keys)
    }
    pub(crate) fn trim_cache(&self) {
        let mut left = TRIM_TURNS;
        while left > 0 && self.state.read().is_over_budget() {
            self.state.write().trim_cache(TRIM_KEYS);
            left -= 1;
        }
    }
    pub(crate) fn set_space(&self, space: Space) {
        *self.space.lock() = space;
    }
    /// What the engine takes on disk.
    pub(crate) fn space(&self) -> Space {
        *self.space.lock()
    }
}

impl<E: Env> consensus::Machine for Machine<E> {
    fn apply(
        &self,
        index: LogIndex,
        term: u64,
        entry: Option<&Entry>,
    ) -> Result<Vec<Outcome>, String> {
        if self.failed.load(Ordering::Relaxed) {
            return Err("this member's data is damaged".to_owned());
        }
        let Some(entry) = entry else {
            let mut state = self.state.write();
            state.skip(index);
            self.ledger.lock().applied(index, term, &[], &[]);
            self.note(&state, index, term);
            drop(state);
            // A new leader's first entry: the time without one did not count.
            self.estimate.lock().applied_at = E::now();
            return Ok(Vec::new());
        };
        let begun = E::now();
        let faulty = self.marks.faulty(entry);
        let entry = faulty.as_ref().unwrap_or(entry);
        let mut state = self.state.write();
        let mut hub = self.hub.lock();
        let applied = state
            .apply(index, entry, previous_wanted(&hub))
            .map_err(|row| Trouble::Damage(row.to_string()))
            .and_then(|applied| Ok(versions::check(&state).map(|()| applied)?));
        if let Ok(applied) = &applied {
            self.marks.applied::<E>(index, applied, &state);
            // Before the mark says that this entry was applied.
            let (origins, outcomes) = (&entry.origins, &applied.outcomes);
            self.ledger.lock().applied(index, term, origins, outcomes);
        }
        // It may be half carried out: nobody reads it.
        let fenced_now = applied.is_err() && self.fence();
        self.note(&state, index, term);
        let stamp = state.time();
        if entry
            .commands
            .iter()
            .any(|c| matches!(c, Command::Members(_)))
        {
            self.note_cluster(&state);
        }
        self.gate.applied(&state);
        drop(state);
        let applied = match applied {
            Ok(applied) => applied,
            Err(trouble) => {
                drop(hub);
                match &trouble {
                    _ if !fenced_now => {}
                    Trouble::Damage(reason) => self.lost(reason),
                    Trouble::Other(reason) => self.end(reason),
                }
                return Err(trouble.to_string());
            }
        };
        self.counters.applied(&entry.commands, &applied);
        let wake = hub.publish(&applied.events);
        drop(hub);
        // Waking runs other tasks' code: not under the lock.
        drop(wake);
        let applied_at = E::now();
        if applied_at.saturating_since(begun) > APPLY_SLOW {
            self.counters.slow_apply();
        }
        *self.estimate.lock() = Estimate { stamp, applied_at };
        Ok(applied.outcomes)
    }

    fn is_removed(&self, member: MemberId) -> bool {
        self.state.read().cluster().is_removed(member)
    }

    fn members(&self) -> Vec<MemberInfo> {
        Machine::members(self)
    }

    fn membership(&self, membership: Bytes) {
        *self.next_membership.lock() = Some(membership);
    }

    fn is_busy(&self) -> bool {
        let unpersisted = self.fresh.load(Ordering::Relaxed) + self.leaving.load(Ordering::Relaxed);
        unpersisted >= OVERLAY_BYTES_MAX && !self.failed.load(Ordering::Relaxed)
    }

    fn incarnations(&self) -> BTreeMap<MemberId, u64> {
        let state = self.state.read();
        let told = |(id, member): (&MemberId, &PublishedMember)| {
            (member.incarnation != 0).then_some((*id, member.incarnation))
        };
        state.published().iter().filter_map(told).collect()
    }

    fn pin(&self) -> Result<Option<Pinned>, String> {
        // A state that differs is not for others.
        if self.is_fenced() {
            return Err("this member is fenced".to_owned());
        }
        let present = Present::now(&self.exchanges);
        let images = self.images.read().clone();
        let pinned = images.pin().map_err(|damage| damage.to_string());
        let image = pinned.inspect_err(|reason| {
            if present.is_still() {
                self.lose(reason);
            }
        })?;
        let Some(mark) = persister::mark(image.meta())? else {
            return Ok(None);
        };
        Ok(Some(Pinned {
            mark,
            bytes: image.bytes(),
            image: Arc::new(Sent {
                image,
                present,
                piece_bytes: self.rules.piece_bytes,
            }),
        }))
    }

    fn stage(&self, offer: Offer) -> Working<'static, Box<dyn Staging>> {
        Box::pin(self.depot.clone().stage(offer))
    }

    fn live_bytes(&self) -> u64 {
        self.space().live_bytes
    }

    fn damaged(&self, reason: &str) {
        self.lose(reason);
    }
    fn hash_at(&self, index: LogIndex) -> HashAt {
        // How far it is first: what is known by then is kept by then.
        let applied = self.mark.lock().index;
        match self.marks.hash(index) {
            Some(hash) => HashAt::Known(hash),
            None if index <= applied => HashAt::Forgotten,
            None => HashAt::NotYet,
        }
    }

    fn unfit(&self, reason: &str) {
        self.fail(reason);
    }

    fn fence(&self, fence: Fence) -> bool {
        // Facts of one entry stay facts, whoever leads by now; anything else is not about this state.
        if fence.right == fence.wrong || self.marks.hash(fence.index) != Some(fence.wrong) {
            tracing::warn!(?fence, "told to fence itself for a state it does not have");
            return false;
        }
        if !self.failed.swap(true, Ordering::Relaxed) {
            self.marks.fence(Fenced::Differs(refetch::reason(&fence)));
        }
        true
    }
}

/// Whether a watcher wants the rows before the changes. One that comes later is told of later changes only.
fn previous_wanted(hub: &Hub) -> Previous {
    match hub.wants_previous() {
        true => Previous::Told,
        false => Previous::LeftOut,
    }
}

impl<E: Env> Machine<E> {
    /// A piece of history for a watch that catches up.
    pub(crate) fn history(
        &self,
        range: &KeyRange,
        from: Revision,
        max_revisions: usize,
    ) -> Result<Past, HistoryError> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(HistoryError::Failed("this member is fenced".to_owned()));
        }
        let state = self.state.read();
        let past = History::read(&*state, range, from, max_revisions);
        if let Err(HistoryError::Failed(reason)) = &past {
            self.lose(reason);
        }
        past
    }

    /// Under the state's lock: how far it is now.
    fn note(&self, state: &State, index: LogIndex, term: u64) {
        let mut mark = self.mark.lock();
        self.glance.update(state);
        mark.index = index;
        mark.term = term;
        if let Some(membership) = self.next_membership.lock().take() {
            mark.membership = membership;
        }
        let bytes = state.unpersisted_bytes();
        let before = self.fresh.swap(bytes, Ordering::Relaxed);
        if before < BATCH_BYTES && bytes >= BATCH_BYTES {
            self.due.notify_one();
        }
    }
}
