//! What became of commands with numbers: those this member has proposed, and the outcomes of those it has applied, until
//! their sender asks no more. So a command that is sent again is answered and not carried out twice (guard 13; the proof is in
//! `store/consensus`, `forward.rs`). In memory only: what this member did not see is told as such.
//! Promise: a command is called new only when no earlier attempt of it can ever be carried out.
//! Not here: clocks, locks, who asks (`worker`).

use std::collections::{BTreeMap, BTreeSet};

use barque_store_state::*;

use crate::limits::*;

/// A member, and one start of its process.
type Sender = (MemberId, u64);

/// One command, as its sender calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) member: MemberId,
    pub(crate) boot: u64,
    pub(crate) number: u64,
}

/// What is known of a command before it is proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// No attempt of it was, or ever will be, carried out.
    New,
    /// It was proposed in this term, and may still be carried out.
    UnderWay,
    Done(Outcome),
    /// Whether it was carried out, or how, cannot be told (any more).
    Forgotten,
}

/// Commands of one sender that an entry carried together, and their outcomes; `None`: too large to be kept.
#[derive(Debug)]
struct Done {
    outcomes: Vec<Option<Outcome>>,
    bytes: usize,
    /// Its place in `Ledger::order`.
    turn: u64,
}

#[derive(Debug, Default)]
struct Numbers {
    /// Nothing is known of those below: the sender asks no more, or there was no room.
    from: u64,
    /// By the first number.
    done: BTreeMap<u64, Done>,
    /// By the first number: how many, and the term they were proposed in.
    proposed: BTreeMap<u64, (u64, u64)>,
    /// Refused for good in the present term: an earlier attempt, which may still be on its way, must not be carried out.
    refused: BTreeSet<u64>,
    /// When it was heard last, in turns.
    heard: u64,
}

impl Numbers {
    fn done(&self, number: u64) -> Option<&Option<Outcome>> {
        let (first, run) = self.done.range(..=number).next_back()?;
        run.outcomes.get(usize::try_from(number - first).ok()?)
    }
    fn is_under_way(&self, number: u64, term: u64) -> bool {
        // A few entries at most are under way: those of earlier terms go when their sender asks no more.
        let covers = |(first, (count, of)): (&u64, &(u64, u64))| {
            *of == term && *first <= number && number - first < *count
        };
        self.proposed.range(..=number).any(covers)
    }
}

#[derive(Debug)]
pub(crate) struct Ledger {
    /// Every entry after this one that was applied is in here, less what `Numbers::from` leaves out.
    since: LogIndex,
    /// The entry that was applied last, and its term.
    applied: LogIndex,
    term: u64,
    senders: BTreeMap<Sender, Numbers>,
    /// What was applied, oldest first.
    order: BTreeMap<u64, (Sender, u64)>,
    /// Counts what was applied or proposed.
    turn: u64,
    /// Invariant: the sums over all `done`.
    commands: usize,
    bytes: usize,
}

impl Ledger {
    /// Of a member whose state goes up to `since`.
    pub(crate) fn new(since: LogIndex) -> Self {
        Ledger {
            since,
            applied: since,
            term: 0,
            senders: BTreeMap::new(),
            order: BTreeMap::new(),
            turn: 0,
            commands: 0,
            bytes: 0,
        }
    }

    /// What is known of a command that is to be proposed in `term`. `again`: the entry after which an earlier attempt may have
    /// been appended; then an entry of `term` must have been applied here.
    pub(crate) fn find(&self, name: Name, term: u64, again: Option<LogIndex>) -> Known {
        if let Some(numbers) = self.senders.get(&(name.member, name.boot)) {
            if name.number < numbers.from {
                return Known::Forgotten;
            }
            match numbers.done(name.number) {
                Some(Some(outcome)) => return Known::Done(outcome.clone()),
                Some(None) => return Known::Forgotten,
                None => {}
            }
            if numbers.is_under_way(name.number, term) {
                return Known::UnderWay;
            }
            if numbers.refused.contains(&name.number) {
                return Known::Forgotten;
            }
        }
        match again {
            Some(after) if after < self.since => Known::Forgotten,
            Some(_) | None => Known::New,
        }
    }

    /// These are about to be proposed in `term`.
    pub(crate) fn proposed(&mut self, term: u64, origins: &[Origin]) {
        for origin in origins {
            let numbers = self.numbers((origin.member, origin.boot), origin.open);
            let run = (u64::from(origin.count), term);
            numbers.proposed.insert(origin.first, run);
        }
    }

    /// They were not appended.
    pub(crate) fn withdrawn(&mut self, origins: &[Origin]) {
        for origin in origins {
            if let Some(numbers) = self.senders.get_mut(&(origin.member, origin.boot)) {
                numbers.proposed.remove(&origin.first);
            }
        }
    }

    /// An attempt of this one that is not the first is answered with a refusal. No other attempt is carried out after it: not in
    /// this term, for it is noted here, and not in a later one, for attempts are bound to their term. `open`: as in [`Origin`].
    pub(crate) fn refused(&mut self, name: Name, open: u64) {
        let sender = (name.member, name.boot);
        let numbers = self.numbers(sender, open);
        numbers.refused.insert(name.number);
        if numbers.refused.len() > LEDGER_REFUSED_MAX
            && let Some(lowest) = numbers.refused.pop_first()
        {
            self.heard(sender, lowest.saturating_add(1));
        }
    }

    /// The entry at `index` was applied.
    pub(crate) fn applied(
        &mut self,
        index: LogIndex,
        term: u64,
        origins: &[Origin],
        outcomes: &[Outcome],
    ) {
        self.applied = index;
        if self.term < term {
            // What was proposed in an earlier term and did not come before this entry never will.
            self.term = term;
            for numbers in self.senders.values_mut() {
                numbers.proposed.retain(|_, (_, of)| *of >= term);
                // Those were of an earlier term too: nothing is refused before an entry of the present one was applied.
                numbers.refused.clear();
            }
        }
        for origin in origins {
            let sender = (origin.member, origin.boot);
            let at = origin.at as usize;
            // Made by a leader: a run that does not fit its entry says nothing.
            let Some(of_run) = outcomes.get(at..at + origin.count as usize) else {
                continue;
            };
            let numbers = self.numbers(sender, origin.open);
            numbers.proposed.remove(&origin.first);
            if origin.end() <= numbers.from {
                // The sender has given them up since, or there was no room for older ones.
                continue;
            }
            let kept = |outcome: &Outcome| {
                (bytes_of(outcome) <= LEDGER_OUTCOME_BYTES_MAX).then(|| outcome.clone())
            };
            let outcomes: Vec<Option<Outcome>> = of_run.iter().map(kept).collect();
            let bytes = outcomes.iter().flatten().map(bytes_of).sum();
            self.turn += 1;
            let done = Done {
                outcomes,
                bytes,
                turn: self.turn,
            };
            self.insert(sender, origin.first, done);
        }
        while self.commands > LEDGER_COMMANDS_MAX || self.bytes > LEDGER_BYTES_MAX {
            let Some((_, (sender, first))) = self.order.pop_first() else {
                return;
            };
            self.give_up(sender, first);
        }
    }

    /// The state is another one now, which goes up to `since`; what it did on the way there was not seen.
    pub(crate) fn jump(&mut self, since: LogIndex) {
        self.since = self.since.max(since);
        self.applied = self.applied.max(since);
    }

    /// The sender's, after hearing how far it has come.
    fn numbers(&mut self, sender: Sender, open: u64) -> &mut Numbers {
        self.turn += 1;
        let turn = self.turn;
        self.heard(sender, open);
        if self.senders.len() >= LEDGER_SENDERS_MAX && !self.senders.contains_key(&sender) {
            self.give_up_oldest();
        }
        let numbers = self.senders.entry(sender).or_default();
        numbers.heard = turn;
        numbers.from = numbers.from.max(open);
        numbers
    }

    /// Forgets what the sender asks for no more.
    fn heard(&mut self, sender: Sender, open: u64) {
        let Some(numbers) = self.senders.get_mut(&sender) else {
            return;
        };
        if open <= numbers.from {
            return;
        }
        numbers.from = open;
        while let Some(entry) = numbers.done.first_entry()
            && entry.get().end(*entry.key()) <= open
        {
            let done = entry.remove();
            self.order.remove(&done.turn);
            self.commands -= done.outcomes.len();
            self.bytes -= done.bytes;
        }
        numbers.refused = numbers.refused.split_off(&open);
        while let Some(entry) = numbers.proposed.first_entry()
            && entry.key().saturating_add(entry.get().0) <= open
        {
            entry.remove();
        }
    }

    fn insert(&mut self, sender: Sender, first: u64, done: Done) {
        let Some(numbers) = self.senders.get_mut(&sender) else {
            return;
        };
        self.commands += done.outcomes.len();
        self.bytes += done.bytes;
        self.order.insert(done.turn, (sender, first));
        if let Some(before) = numbers.done.insert(first, done) {
            // Only without guard 13: a command is applied once.
            self.order.remove(&before.turn);
            self.commands -= before.outcomes.len();
            self.bytes -= before.bytes;
        }
    }

    /// There is no room for it: nothing up to it is known any more.
    fn give_up(&mut self, sender: Sender, first: u64) {
        let Some(numbers) = self.senders.get_mut(&sender) else {
            return;
        };
        let Some(done) = numbers.done.remove(&first) else {
            return;
        };
        self.commands -= done.outcomes.len();
        self.bytes -= done.bytes;
        self.heard(sender, done.end(first));
    }

    /// The sender that was not heard for the longest time has ended, or asks for nothing. Should it ask all the same for what it
    /// sent before now, nobody can tell. One that has something under way is kept: what is not applied yet is not in `since`.
    fn give_up_oldest(&mut self) {
        let quiet = self.senders.iter().filter(|(_, n)| n.proposed.is_empty());
        let oldest = quiet
            .min_by_key(|(_, n)| (!n.refused.is_empty(), n.heard))
            .map(|(sender, _)| *sender);
        if let Some(oldest) = oldest {
            self.heard(oldest, u64::MAX);
            self.senders.remove(&oldest);
            self.since = self.since.max(self.applied);
        }
    }
}

impl Done {
    /// The number after the last.
    fn end(&self, first: u64) -> u64 {
        first.saturating_add(self.outcomes.len() as u64)
    }
}

/// What an outcome holds in memory, about.
fn bytes_of(outcome: &Outcome) -> usize {
    const FIXED: usize = 64;
    fn rows<'a>(rows: impl IntoIterator<Item = &'a std::sync::Arc<KeyValue>>) -> usize {
        let row = |kv: &std::sync::Arc<KeyValue>| FIXED + kv.key.len() + kv.value.len();
        rows.into_iter().map(row).sum()
    }
    fn txn(result: &TxnResult) -> usize {
        let of = |result: &OpResult| match result {
            OpResult::Range(range) => FIXED + rows(&range.kvs),
            OpResult::Put { prev } => FIXED + rows(prev),
            OpResult::DeleteRange { prev, .. } => FIXED + rows(prev),
            OpResult::Txn(inner) => FIXED + txn(inner),
        };
        result.results.iter().map(of).sum()
    }
    FIXED
        + match &outcome.result {
            Ok(Answer::Put { prev }) => rows(prev),
            Ok(Answer::DeleteRange { prev, .. }) => rows(prev),
            Ok(Answer::Txn(result)) => txn(result),
            Ok(Answer::Members(members)) => members.len() * 4 * FIXED,
            Ok(Answer::Alarms(alarms)) => alarms.len() * FIXED,
            Ok(Answer::LeaseRenewed { ttls_s }) => ttls_s.len() * 16,
            Ok(_) | Err(_) => 0,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    const F: MemberId = MemberId(7);

    fn origin(first: u64, count: u32, open: u64) -> Origin {
        Origin {
            at: 0,
            count,
            member: F,
            boot: 1,
            first,
            open,
        }
    }
    fn outcomes(revision: u64, count: u64) -> Vec<Outcome> {
        let one = |n| Outcome {
            revision: Revision(revision + n),
            result: Ok(Answer::Put { prev: None }),
        };
        (0..count).map(one).collect()
    }
    fn name(number: u64) -> Name {
        Name {
            member: F,
            boot: 1,
            number,
        }
    }
    fn done(revision: u64) -> Known {
        Known::Done(outcomes(revision, 1).remove(0))
    }
    const START: LogIndex = LogIndex(10);

    #[test]
    fn what_was_applied_is_answered_until_its_sender_asks_no_more() {
        let mut ledger = Ledger::new(START);
        assert_eq!(ledger.find(name(1), 2, None), Known::New);
        ledger.proposed(2, &[origin(1, 3, 1)]);
        assert_eq!(ledger.find(name(3), 2, None), Known::UnderWay);
        assert_eq!(ledger.find(name(4), 2, None), Known::New);
        ledger.applied(LogIndex(11), 2, &[origin(1, 3, 1)], &outcomes(5, 3));
        assert_eq!(ledger.find(name(1), 2, Some(START)), done(5));
        assert_eq!(ledger.find(name(3), 9, Some(START)), done(7));
        // Two of the three were answered.
        ledger.applied(LogIndex(12), 2, &[origin(4, 1, 3)], &outcomes(8, 1));
        assert_eq!(ledger.find(name(2), 2, Some(START)), Known::Forgotten);
        assert_eq!(ledger.find(name(3), 2, Some(START)), done(7));
        ledger.applied(LogIndex(13), 2, &[origin(5, 1, 5)], &outcomes(9, 1));
        assert_eq!(ledger.find(name(4), 2, Some(START)), Known::Forgotten);
        assert_eq!((ledger.commands, ledger.order.len()), (1, 1));
        // Another start of the same member has numbers of its own.
        let other = Name { boot: 2, ..name(5) };
        assert_eq!(ledger.find(other, 2, Some(START)), Known::New);
    }

    #[test]
    fn what_a_deposed_leader_proposed_is_under_way_only_in_its_term() {
        let mut ledger = Ledger::new(START);
        ledger.proposed(2, &[origin(1, 2, 1)]);
        ledger.withdrawn(&[origin(1, 2, 1)]);
        assert_eq!(ledger.find(name(1), 2, Some(START)), Known::New);
        ledger.proposed(2, &[origin(1, 2, 1)]);
        assert_eq!(ledger.find(name(2), 2, Some(START)), Known::UnderWay);
        assert_eq!(ledger.find(name(2), 3, Some(START)), Known::New);
        ledger.applied(LogIndex(11), 3, &[], &[]);
        assert!(ledger.senders.values().all(|n| n.proposed.is_empty()));
    }

    /// The sender gave up two commands of a run while it was under way: the others are found all the same.
    #[test]
    fn a_run_that_is_given_up_in_part_is_kept() {
        let mut ledger = Ledger::new(START);
        ledger.proposed(2, &[origin(10, 4, 10)]);
        ledger.proposed(2, &[origin(20, 1, 12)]);
        assert_eq!(ledger.find(name(12), 2, Some(START)), Known::UnderWay);
        ledger.applied(LogIndex(11), 2, &[origin(10, 4, 10)], &outcomes(5, 4));
        assert_eq!(ledger.find(name(12), 2, Some(START)), done(7));
        assert_eq!(ledger.find(name(11), 2, Some(START)), Known::Forgotten);
    }

    #[test]
    fn what_was_not_seen_is_not_called_new() {
        let mut ledger = Ledger::new(START);
        assert_eq!(ledger.find(name(1), 2, Some(START)), Known::New);
        assert_eq!(ledger.find(name(1), 2, Some(LogIndex(9))), Known::Forgotten);
        assert_eq!(ledger.find(name(1), 2, None), Known::New);
        ledger.jump(LogIndex(50));
        assert_eq!(
            ledger.find(name(1), 2, Some(LogIndex(49))),
            Known::Forgotten
        );
        assert_eq!(ledger.find(name(1), 2, Some(LogIndex(50))), Known::New);
    }

    /// A sender for which there is no room any more has whatever the received state holds behind it.
    #[test]
    fn forgetting_a_sender_after_a_jump_does_not_go_back() {
        let mut ledger = Ledger::new(START);
        ledger.applied(LogIndex(50), 2, &[], &[]);
        ledger.jump(LogIndex(100));
        for boot in 0..=LEDGER_SENDERS_MAX as u64 {
            let origin = Origin {
                boot: boot + 2,
                ..origin(1, 1, 1)
            };
            ledger.proposed(3, &[origin]);
            ledger.withdrawn(&[origin]);
        }
        assert_eq!(
            ledger.find(name(1), 3, Some(LogIndex(60))),
            Known::Forgotten
        );
    }

    /// The answer to a second attempt says that nothing was done; then the first, which was held up, must not be.
    #[test]
    fn what_was_refused_is_not_carried_out_by_an_attempt_that_comes_late() {
        let mut ledger = Ledger::new(START);
        ledger.applied(LogIndex(11), 2, &[], &[]);
        assert_eq!(ledger.find(name(5), 2, Some(START)), Known::New);
        ledger.refused(name(5), 4);
        assert_eq!(ledger.find(name(5), 2, None), Known::Forgotten);
        assert_eq!(ledger.find(name(6), 2, None), Known::New);
        // It goes when its sender asks no more, and in the next term, in which the late one does not count.
        ledger.proposed(2, &[origin(7, 1, 6)]);
        assert!(ledger.senders[&(F, 1)].refused.is_empty());
        ledger.refused(name(8), 6);
        ledger.applied(LogIndex(12), 3, &[], &[]);
        assert_eq!(ledger.find(name(8), 3, None), Known::New);
        for number in 0..=LEDGER_REFUSED_MAX as u64 {
            ledger.refused(name(20 + number), 6);
        }
        assert_eq!(ledger.senders[&(F, 1)].refused.len(), LEDGER_REFUSED_MAX);
        assert_eq!(ledger.find(name(20), 3, None), Known::Forgotten);
    }

    #[test]
    fn too_large_an_outcome_is_not_kept_but_known_to_be_there() {
        let row = KeyValue {
            value: vec![0; LEDGER_OUTCOME_BYTES_MAX].into(),
            ..KeyValue::default()
        };
        let large = Outcome {
            revision: Revision(3),
            result: Ok(Answer::Put {
                prev: Some(row.into()),
            }),
        };
        let mut ledger = Ledger::new(START);
        ledger.applied(LogIndex(11), 2, &[origin(1, 1, 1)], &[large]);
        assert_eq!(ledger.find(name(1), 2, Some(START)), Known::Forgotten);
        assert_eq!(ledger.bytes, 0);
    }

    #[test]
    fn it_stays_within_its_bounds_and_says_what_it_gave_up() {
        let mut ledger = Ledger::new(START);
        let (runs, of) = (LEDGER_COMMANDS_MAX as u64 / 512 + 10, 512);
        for n in 0..runs {
            let origin = origin(1 + n * of, of as u32, 1);
            ledger.applied(LogIndex(11 + n), 2, &[origin], &outcomes(n * of, of));
        }
        assert!(ledger.commands <= LEDGER_COMMANDS_MAX);
        assert_eq!(ledger.commands, ledger.order.len() * of as usize);
        assert_eq!(ledger.find(name(1), 2, Some(START)), Known::Forgotten);
        assert_eq!(
            ledger.find(name(runs * of), 2, Some(START)),
            done(runs * of - 1)
        );
        // Senders come and go.
        let applied = ledger.applied;
        for boot in 2..LEDGER_SENDERS_MAX as u64 + 10 {
            let origin = Origin {
                boot,
                ..origin(1, 1, 1)
            };
            ledger.applied(applied, 2, &[origin], &outcomes(1, 1));
        }
        assert!(ledger.senders.len() <= LEDGER_SENDERS_MAX);
        assert_eq!(ledger.find(name(1), 2, Some(START)), Known::Forgotten);
        let held: usize = ledger.senders.values().map(|n| n.done.len()).sum();
        assert_eq!((held, ledger.commands), (ledger.order.len(), held));
        // A run that its entry does not have, whatever it says.
        let odd = Origin {
            at: u32::MAX,
            first: u64::MAX,
            ..origin(1, u32::MAX, u64::MAX)
        };
        ledger.applied(applied, 2, &[odd], &outcomes(1, 1));
    }
}
