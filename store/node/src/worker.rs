//! The one task that turns waiting commands into Raft entries, or sends them to the member that leads.
//! Promise: a command is tried again until its deadline, and carried out once. Before there may be an earlier attempt of it in
//! some log, that needs nothing; after it, the number it has from its first attempt (guard 13: `ledger` here, and the proof in
//! `store/consensus`, `forward.rs`).
//! Not here: what waits, and how it is answered (`queue`); what is under way (`course`).

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use barque_store_consensus::{Consensus, Guards, Numbering, View};
use barque_store_env::{Env, Instant};
use barque_store_state::*;
use futures::future::{Either, select};
use futures::stream::StreamExt;

use crate::course::{Course, Decided, latest, runs};
use crate::ledger::{Known, Name};
use crate::limits::*;
use crate::machine::Machine;
use crate::queue::{Failure, Number, Queue, Waiting, refused_outcome};
use crate::versions::Program;
use crate::{membership, versions};

pub(crate) struct Worker<E: Env> {
    pub(crate) member: MemberId,
    /// Tells this start's numbers from those of others.
    pub(crate) boot: u64,
    pub(crate) queue: Arc<Queue>,
    pub(crate) machine: Arc<Machine<E>>,
    pub(crate) consensus: Consensus<E>,
    pub(crate) strict_reconfig: bool,
    pub(crate) election: Duration,
    pub(crate) guards: Guards,
    pub(crate) program: Program,
}

/// What to do with a command that is to be proposed.
enum Verdict {
    Propose,
    /// It can only be decided in a moment.
    Later,
    Answer(Result<Outcome, Failure>),
    /// It was carried out: what came of it.
    Known(Outcome),
}

impl<E: Env> Worker<E> {
    pub(crate) async fn run(self) {
        let mut course = Course::new();
        let mut changes = self.consensus.changes();
        // After a refusal: not again before this instant, so that a stale hint does not spin.
        let mut retry_at = None;
        loop {
            if self.queue.is_closed() && course.batches.is_empty() {
                return;
            }
            // Set after a refusal or while nobody leads: look again at a change, at the next deadline, or soon.
            let mut wait_until = retry_at.take().filter(|at| *at > E::now());
            while wait_until.is_none()
                && course.batches.len() < ENTRIES_IN_FLIGHT_MAX
                && !self.queue.is_empty()
            {
                wait_until = self.start(&mut course);
            }
            let arrived = self.queue.arrived();
            let wake = async {
                match wait_until {
                    // The outcome does not matter: either way the loop looks again.
                    Some(at) => drop(select(pin!(changes.changed()), E::sleep_until(at)).await),
                    None => arrived.await,
                }
            };
            let mut wake = pin!(wake);
            if course.batches.is_empty() {
                wake.await;
                continue;
            }
            let settled = match select(course.batches.next(), wake.as_mut()).await {
                Either::Left((settled, _)) => settled,
                Either::Right(_) => None,
            };
            if let Some(decided) = settled
                && let Some(pause) = self.settle(&mut course, decided)
            {
                retry_at = Some(E::now() + pause);
            }
        }
    }

    /// Puts the next batch on its way; until when to wait when that cannot be now.
    fn start(&self, course: &mut Course) -> Option<Instant> {
        let now = E::now();
        let view = self.consensus.view();
        match view.leader {
            Some(leader) if leader == self.member && view.leads_until.is_some() => {
                if self.queue.holds_again() && !self.knows_earlier_terms(view.term) {
                    self.queue.expire_late(now);
                    return Some(now + OWN_TERM_POLL);
                }
                self.propose(&view, course)
            }
            Some(leader) if leader != self.member => {
                if self.queue.holds_peers() {
                    self.queue.expire(now, Some(leader));
                    return None;
                }
                self.forward(leader, &view, course);
                None
            }
            leader => {
                let soon = now + LEADER_POLL;
                let earliest = self.queue.expire(now, leader);
                Some(earliest.map_or(soon, |e| e.min(soon)))
            }
        }
    }

    /// Whether everything that earlier terms have committed, or ever will, was applied here.
    fn knows_earlier_terms(&self, term: u64) -> bool {
        self.machine.applied_term() == term
    }

    /// Puts the next entry on its way, unless there is nothing in it to propose. Until when to wait, when there is something
    /// that cannot be decided yet.
    fn propose(&self, view: &View, course: &mut Course) -> Option<Instant> {
        let term = view.term;
        let mut batch = Vec::new();
        let mut answered = Vec::new();
        let mut refused = Vec::new();
        let mut later = Vec::new();
        let mut grows = 0;
        // The ledger hears of them all at once below: two attempts of one command may have waited here side by side.
        let mut taken = BTreeSet::new();
        for waiting in self.queue.take() {
            let pending = course.growing.saturating_add(grows);
            let name = waiting.number.map(|number| self.name(&number));
            if name.is_some_and(|name| taken.contains(&name)) && self.guards.resend_once {
                answered.push((waiting.reply, Err(Failure::Unknown)));
                continue;
            }
            match self.verdict(&waiting, term, pending, &mut course.changing) {
                Verdict::Propose => {
                    grows += growth(&waiting.command);
                    taken.extend(name);
                    batch.push(waiting);
                }
                Verdict::Later => later.push(waiting),
                Verdict::Known(outcome) => answered.push((waiting.reply, Ok(outcome))),
                Verdict::Answer(answer) => {
                    // The attempt before this one may still be on its way.
                    if let (Some(number), Ok(_)) = (waiting.number, &answer)
                        && number.again
                    {
                        taken.extend(name);
                        refused.push(number);
                    }
                    answered.push((waiting.reply, answer));
                }
            }
        }
        let wait = (!later.is_empty()).then(|| E::now() + OWN_TERM_POLL);
        self.queue.push_front(later);
        // Alone, nobody else could lead, and nothing is ever sent again.
        if !self.consensus.is_alone() {
            course.number(&mut batch, view.applied);
        }
        let lowest = course.begin(&batch);
        // Not before all that was taken is under way, waits or is known: the ledger forgets what is not asked for any more.
        for number in refused {
            let open = (number.from).map_or_else(|| self.open(course), |from| from.open);
            let mut ledger = self.machine.ledger.lock();
            ledger.refused(self.name(&number), open);
        }
        self.queue.answer(answered);
        if batch.is_empty() {
            return wait;
        }
        course.growing += grows;
        let time = self.machine.stamp(term, E::now());
        let origins = self.origins(&batch, self.open(course));
        self.machine.ledger.lock().proposed(term, &origins);
        let entry = Entry {
            time,
            commands: batch.iter().map(|w| w.command.clone()).collect(),
            origins: origins.clone(),
        };
        let deadline = latest(&batch);
        let consensus = self.consensus.clone();
        course.batches.push(Box::pin(async move {
            let proposed = consensus.propose_in(term, entry);
            let results = match E::timeout_at(deadline, proposed).await {
                Ok(Ok(outcomes)) => {
                    assert_eq!(
                        outcomes.len(),
                        batch.len(),
                        "an entry answers each of its commands once"
                    );
                    outcomes.into_iter().map(Ok).collect()
                }
                Ok(Err(failure)) => vec![Err(failure); batch.len()],
                Err(_) => vec![Err(Failure::Unknown); batch.len()],
            };
            Decided {
                batch,
                results,
                growth: grows,
                origins,
                lowest,
            }
        }));
        wait
    }

    /// What may have been carried out is looked up first: whatever is refused now, it was not refused then.
    fn verdict(&self, waiting: &Waiting, term: u64, pending: u64, changing: &mut bool) -> Verdict {
        if self.machine.is_fenced() {
            return Verdict::Answer(Err(Failure::Unknown));
        }
        if let Some(number) = waiting.number {
            if number
                .from
                .is_some_and(|from| from.term != term && self.guards.own_term)
            {
                return Verdict::Answer(Err(Failure::NotLeader { leader: None }));
            }
            if number.again && !self.knows_earlier_terms(term) {
                return Verdict::Later;
            }
            if self.guards.resend_once {
                let again = number.again.then_some(number.since);
                match self
                    .machine
                    .ledger
                    .lock()
                    .find(self.name(&number), term, again)
                {
                    Known::New => {}
                    Known::UnderWay => return Verdict::Answer(Err(Failure::Unknown)),
                    Known::Done(outcome) => return Verdict::Known(outcome),
                    Known::Forgotten => return Verdict::Answer(Err(Failure::Forgotten)),
                }
            }
            // The queue takes these as they are.
            if number.again
                && let Some(refusal) = self.machine.gate.refusal(&waiting.command)
            {
                return Verdict::Answer(Ok(refused_outcome(refusal)));
            }
        }
        let (machine, consensus) = (&self.machine, &self.consensus);
        if let Some(too_old) =
            versions::unread_by_some(machine, consensus, &self.program, &waiting.command)
        {
            // An earlier term may have changed the members, or raised the version.
            if !self.knows_earlier_terms(term) {
                return Verdict::Later;
            }
            let refusal = Refusal::TooOld(too_old);
            return Verdict::Answer(Ok(refused_outcome(refusal)));
        }
        // Decided on the members there are: an earlier term may have changed them.
        if matches!(waiting.command, Command::Members(_)) && !self.knows_earlier_terms(term) {
            return Verdict::Later;
        }
        if let Some(refusal) = self.unsafe_change(&waiting.command, changing) {
            return Verdict::Answer(Ok(refused_outcome(refusal)));
        }
        match self.machine.gate.within_quota(&waiting.command, pending) {
            true => Verdict::Propose,
            false => Verdict::Answer(Ok(refused_outcome(Refusal::NoSpace))),
        }
    }

    fn name(&self, number: &Number) -> Name {
        let (member, boot) = match number.from {
            Some(from) => (from.member, from.boot),
            None => (self.member, self.boot),
        };
        Name {
            member,
            boot,
            number: number.number,
        }
    }

    /// This member asks for none of its numbers below this one any more.
    fn open(&self, course: &Course) -> u64 {
        let waiting = self.queue.lowest();
        let lowest = course.lowest.first().copied();
        [waiting, lowest]
            .into_iter()
            .flatten()
            .fold(course.next, u64::min)
    }

    /// Who asks for which commands of an entry.
    fn origins(&self, batch: &[Waiting], open: u64) -> Vec<Origin> {
        let mut origins: Vec<Origin> = Vec::new();
        for (at, waiting) in (0..).zip(batch) {
            let Some(number) = waiting.number else {
                continue;
            };
            let Name {
                member,
                boot,
                number: first,
            } = self.name(&number);
            let open = number.from.map_or(open, |from| from.open);
            match origins.last_mut() {
                Some(last)
                    if (last.member, last.boot) == (member, boot)
                        && last.at + last.count == at
                        && last.end() == first =>
                {
                    last.count += 1;
                    last.open = last.open.max(open);
                }
                Some(_) | None => origins.push(Origin {
                    at,
                    count: 1,
                    member,
                    boot,
                    first,
                    open,
                }),
            }
        }
        origins
    }

    /// Why a change of members is not to be proposed now. `changing`: one is on its way already, and the next is decided on
    /// what comes of it.
    fn unsafe_change(&self, command: &Command, changing: &mut bool) -> Option<Refusal> {
        let Command::Members(change) = command else {
            return None;
        };
        if *changing {
            return Some(Refusal::Unhealthy);
        }
        let (machine, consensus) = (&self.machine, &self.consensus);
        let strict = self.strict_reconfig;
        let refusal = membership::refusal(machine, consensus, change, strict, self.election);
        *changing = refusal.is_none();
        refusal
    }

    /// What may have been carried out is sent all the same: no old member leads after that, and nobody may call it refused.
    fn unread_by(&self, leader: MemberId, waiting: &Waiting) -> Option<TooOld> {
        if waiting.is_again() {
            return None;
        }
        let (machine, consensus) = (&self.machine, &self.consensus);
        versions::unread_by(leader, machine, consensus, &self.program, &waiting.command)
    }

    fn forward(&self, leader: MemberId, view: &View, course: &mut Course) {
        let mut batch = Vec::new();
        let mut answered = Vec::new();
        for waiting in self.queue.take() {
            if waiting.is_forwarded() {
                // It came after the look at the queue; its own member sends it on.
                let leader = Some(leader);
                answered.push((waiting.reply, Err(Failure::NotLeader { leader })));
            } else if let Some(too_old) = self.unread_by(leader, &waiting) {
                let refusal = Refusal::TooOld(too_old);
                answered.push((waiting.reply, Ok(refused_outcome(refusal))));
            } else {
                batch.push(waiting);
            }
        }
        self.queue.answer(answered);
        if batch.is_empty() {
            return;
        }
        course.number(&mut batch, view.applied);
        let lowest = course.begin(&batch);
        let numbering = Numbering {
            member: self.member,
            boot: self.boot,
            open: self.open(course),
            term: view.term,
            runs: runs(&batch),
        };
        let commands: Vec<Command> = batch.iter().map(|w| w.command.clone()).collect();
        let deadline = latest(&batch);
        let consensus = self.consensus.clone();
        course.batches.push(Box::pin(async move {
            let sent = consensus.forward(leader, commands, Some(numbering), deadline);
            let results = sent.await;
            assert_eq!(
                results.len(),
                batch.len(),
                "a forward answers each command once"
            );
            Decided {
                batch,
                results,
                growth: 0,
                origins: Vec::new(),
                lowest,
            }
        }));
    }

    /// Answers what is decided and puts back what is to be tried again. When anything was put back: how long to wait before that.
    fn settle(&self, course: &mut Course, decided: Decided) -> Option<Duration> {
        course.growing -= decided.growth;
        course.changing &= !decided.changes_members();
        let not_appended = |result: &Result<Outcome, Failure>| {
            matches!(result, Err(Failure::NotLeader { .. } | Failure::Busy))
        };
        if decided.results.iter().any(not_appended) {
            // An entry is appended as a whole or not at all.
            self.machine.ledger.lock().withdrawn(&decided.origins);
        }
        let pause = match decided.results.contains(&Err(Failure::Busy)) {
            true => BUSY_PAUSE,
            false => RESEND_PAUSE,
        };
        let now = E::now();
        let mut done = Vec::with_capacity(decided.batch.len());
        let mut again = Vec::new();
        for (mut waiting, result) in decided.batch.into_iter().zip(decided.results) {
            let failure = match result {
                Ok(outcome) => {
                    done.push((waiting.reply, Ok(outcome)));
                    continue;
                }
                Err(failure) => failure,
            };
            if waiting.is_forwarded() {
                done.push((waiting.reply, Err(failure)));
                continue;
            }
            if failure == Failure::Unknown
                && let Some(number) = &mut waiting.number
            {
                number.again = true;
            }
            let resent = match failure {
                Failure::NotLeader { .. } => true,
                Failure::Unknown => waiting.number.is_some(),
                Failure::Busy => waiting.is_again(),
                Failure::Forgotten | Failure::Timeout | Failure::Stopped => false,
            };
            if resent && waiting.deadline > now {
                again.push(waiting);
                continue;
            }
            // Given up at its deadline: a client is told what etcd tells it.
            let late =
                waiting.deadline <= now && (failure == Failure::Unknown || waiting.is_again());
            done.push(match late {
                true => (waiting.reply, Err(Failure::Timeout)),
                false => waiting.failed(failure),
            });
        }
        self.queue.answer(done);
        let retry = (!again.is_empty()).then_some(pause);
        self.queue.push_front(again);
        // Only now: what was put back waits with its number, so that it stays asked for.
        if let Some(lowest) = decided.lowest {
            course.lowest.remove(&lowest);
        }
        retry
    }
}
