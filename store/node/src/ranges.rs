//! Range reads: few keys at once, many in turns, so that neither the state's lock nor the caller's thread is kept while all of them
//! are looked at.
//! Promise: the answer is of one revision, which is given with it.
//! Not here: what the answer consists of (`state`).

use std::sync::Arc;

use barque_store_env::{Env, others_first};
use barque_store_state::*;

use crate::Store;
use crate::limits::{RANGE_AT_ONCE, RANGE_ATTEMPTS, RANGE_TURN_ROWS};
use crate::machine::Machine;

/// The revision that is the newest when it was answered, the header's, and the answer.
pub type Answered = (Revision, Result<RangeResult, Refusal>);

impl<E: Env> Store<E> {
    /// Reads at once from this member's state. Keeps the thread until it is done: see [`Store::range_in_turns`].
    pub fn range(&self, range: &Range) -> Answered {
        match self.range_of_few(range) {
            Ok(answered) => answered,
            Err(mut large) => loop {
                if let Some(answered) = large.go_on() {
                    return answered;
                }
            },
        }
    }

    /// The same, if it does not take long; else what is left, for [`LargeRange::in_turns`].
    pub fn range_of_few(&self, range: &Range) -> Result<Answered, Box<LargeRange<E>>> {
        let machine = &self.shared.machine;
        machine.counters.range();
        machine.few(range).ok_or_else(|| {
            Box::new(LargeRange {
                machine: machine.clone(),
                range: range.clone(),
                attempts: 0,
                phase: Phase::Begin,
            })
        })
    }

    /// As [`Store::range`], and lets the thread's other tasks run after each millisecond or two.
    pub async fn range_in_turns(&self, range: &Range) -> Answered {
        match self.range_of_few(range) {
            Ok(answered) => answered,
            Err(large) => large.in_turns().await,
        }
    }
}

/// A range over many keys, or with many rows that are not in memory.
pub struct LargeRange<E: Env> {
    machine: Arc<Machine<E>>,
    range: Range,
    attempts: usize,
    phase: Phase,
}

enum Phase {
    Begin,
    Looking(RangeRun),
    Reading(RangeRun, Option<Arc<dyn Archive>>),
}

impl<E: Env> LargeRange<E> {
    /// The rest of it, a millisecond or two at a time; in between, others have the thread.
    pub async fn in_turns(mut self) -> Answered {
        loop {
            if let Some(answered) = self.go_on() {
                return answered;
            }
            others_first().await;
        }
    }

    fn go_on(&mut self) -> Option<Answered> {
        let stepped = match std::mem::replace(&mut self.phase, Phase::Begin) {
            Phase::Begin => self.begin(),
            Phase::Looking(run) => self.look(run),
            Phase::Reading(run, archive) => self.read(run, archive),
        };
        match stepped {
            Ok(Some((revision, result))) => Some((revision, self.machine.answer(Ok(result)))),
            Ok(None) => None,
            Err(error) => {
                let revision = self.machine.glance.revision();
                Some((revision, self.machine.answer(Err(error))))
            }
        }
    }

    fn begin(&mut self) -> Result<Option<(Revision, RangeResult)>, ReadError> {
        let state = self.machine.state.read();
        if self.attempts == RANGE_ATTEMPTS {
            return Ok(Some((state.revision(), state.range(&self.range)?)));
        }
        self.attempts += 1;
        let run = state.range_begin(&self.range)?;
        drop(state);
        self.phase = Phase::Looking(run);
        Ok(None)
    }

    fn look(&mut self, mut run: RangeRun) -> Result<Option<(Revision, RangeResult)>, ReadError> {
        let state = self.machine.state.read();
        let all = state.range_on(&mut run, RANGE_AT_ONCE.keys)?;
        let archive = state.archive().cloned();
        drop(state);
        self.phase = match all {
            true => Phase::Reading(run, archive),
            false => Phase::Looking(run),
        };
        Ok(None)
    }

    fn read(
        &mut self,
        mut run: RangeRun,
        archive: Option<Arc<dyn Archive>>,
    ) -> Result<Option<(Revision, RangeResult)>, ReadError> {
        let rows = match &archive {
            Some(archive) => run.read_on(&**archive, RANGE_TURN_ROWS),
            // Nothing was persisted yet, so everything is in memory.
            None => run.read_on(&Nothing, RANGE_TURN_ROWS),
        };
        match rows {
            Ok(Reading::Done(result)) => return Ok(Some((run.revision(), result))),
            Ok(Reading::Unfinished) => self.phase = Phase::Reading(run, archive),
            // The state knows what stands in the place of a row that went.
            Ok(Reading::Gone) => {}
            // Damage in there is of no interest any more.
            Err(_) if archive.is_some_and(|archive| self.machine.is_exchanged(&archive)) => {}
            Err(row) => return Err(row.into()),
        }
        Ok(None)
    }
}

/// Where no row is.
struct Nothing;

impl Archive for Nothing {
    fn read(&self, _id: RowId) -> Result<Option<bytes::Bytes>, Unreadable> {
        Ok(None)
    }
    fn scan(
        &self,
        _from: RowId,
        _max_rows: usize,
        _max_bytes: usize,
    ) -> Result<Vec<(RowId, bytes::Bytes)>, Unreadable> {
        Ok(Vec::new())
    }
}

impl<E: Env> Machine<E> {
    /// What is answered in one short hold of the state, and few missing rows read after it; `None`: it would take longer.
    fn few(&self, range: &Range) -> Option<Answered> {
        let (revision, outline, archive) = {
            let state = self.state.read();
            let outline = state.outline(range, RANGE_AT_ONCE);
            (state.revision(), outline, state.archive().cloned())
        };
        let outline = match outline {
            Ok(outline) => outline?,
            Err(error) => return Some((revision, self.answer(Err(error)))),
        };
        if outline.to_read() > RANGE_TURN_ROWS {
            return None;
        }
        let outline = match outline.ready() {
            Ok(result) => return Some((revision, self.answer(Ok(result)))),
            Err(outline) => outline,
        };
        match outline.read(&*archive?) {
            Ok(result) => Some((revision, self.answer(Ok(result?)))),
            // What was read is of a state that was exchanged, or that one is damaged: the other way finds out.
            Err(_) => None,
        }
    }
}
