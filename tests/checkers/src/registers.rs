//! Linearizability of registers: the search of Wing and Gong with Lowe's memory of visited states, key by key (a
//! history is linearizable exactly when each key's part is).
//! Operations whose outcome is unknown may take effect at any time after their call, or never.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// What a client did to a register and what it was told. Values are told apart by number; `None` is "no such key".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Get {
        found: Option<u64>,
    },
    Put {
        value: u64,
    },
    /// `swapped` is what the client was told; it means nothing when the outcome is unknown.
    Cas {
        expected: Option<u64>,
        value: u64,
        swapped: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub client: u64,
    pub key: String,
    pub called: u64,
    /// `None`: the outcome is unknown.
    pub returned: Option<u64>,
    pub action: Action,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = self.returned.map_or("?".to_owned(), |t| t.to_string());
        write!(
            f,
            "{}..{until} client {} {:?} on {}",
            self.called, self.client, self.action, self.key
        )
    }
}

/// How the check went well, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable(Searched),
    /// No order explains the key's history; `stuck` could not be placed after the longest explained part.
    NotLinearizable {
        key: String,
        stuck: Box<Operation>,
        around: Vec<Operation>,
    },
    /// The search grew beyond its limit before it could tell.
    Undecided {
        key: String,
    },
}

/// What the search cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Searched {
    pub keys: usize,
    pub operations: usize,
    pub steps: u64,
}

/// Search steps per key. A history of a few hundred operations by a handful of clients takes thousands; a limit this
/// far above only stops a hopeless search from eating the machine.
const STEPS_MAX: u64 = 20_000_000;

/// How many operations around the stuck one are shown.
const AROUND: usize = 12;

/// Checks every key's history, starting from absent keys.
pub fn check_registers(history: &[Operation]) -> Verdict {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(&operation.key).or_default().push(operation);
    }
    let mut searched = Searched::default();
    for (key, operations) in keys {
        let operations = relevant(operations);
        let mut search = Search::new(&operations);
        match search.run() {
            Outcome::Explained => {
                searched.keys += 1;
                searched.operations += operations.len();
                searched.steps += search.steps;
            }
            Outcome::TooLong => {
                return Verdict::Undecided {
                    key: key.to_owned(),
                };
            }
            Outcome::Stuck(at) => {
                let stuck = operations[at];
                let mut around: Vec<&Operation> = operations.clone();
                around.sort_by_key(|o| o.called.abs_diff(stuck.called));
                around.truncate(AROUND);
                around.sort_by_key(|o| o.called);
                return Verdict::NotLinearizable {
                    key: key.to_owned(),
                    stuck: Box::new(stuck.clone()),
                    around: around.into_iter().cloned().collect(),
                };
            }
        }
    }
    Verdict::Linearizable(searched)
}

/// Leaves out what proves nothing and only widens the search: reads without an answer, and unknown writes whose value
/// nobody ever saw. A failed swap after such a write may have failed because of it, so then it stays.
fn relevant(operations: Vec<&Operation>) -> Vec<&Operation> {
    let seen: HashSet<u64> = operations
        .iter()
        .filter_map(|o| match o.action {
            Action::Get { found } if o.returned.is_some() => found,
            Action::Cas { expected, .. } => expected,
            _ => None,
        })
        .collect();
    let last_failed_swap = operations
        .iter()
        .filter(|o| matches!(o.action, Action::Cas { swapped: false, .. }))
        .filter_map(|o| o.returned)
        .max()
        .unwrap_or(0);
    operations
        .into_iter()
        .filter(|o| match o.action {
            _ if o.returned.is_some() => true,
            Action::Get { .. } => false,
            Action::Put { value } | Action::Cas { value, .. } => {
                seen.contains(&value) || o.called <= last_failed_swap
            }
        })
        .collect()
}

type State = Option<u64>;

/// The register after the operation, or `None` when the client could not have been told what it was told.
fn step(state: State, operation: &Operation) -> Option<State> {
    match operation.action {
        Action::Get { found } => (found == state).then_some(state),
        Action::Put { value } => Some(Some(value)),
        Action::Cas {
            expected,
            value,
            swapped,
        } => {
            let swaps = expected == state;
            if operation.returned.is_some() && swaps != swapped {
                return None;
            }
            Some(if swaps { Some(value) } else { state })
        }
    }
}

#[derive(Clone, Copy)]
enum Mark {
    Call(usize),
    Return(usize),
}

enum Outcome {
    Explained,
    Stuck(usize),
    TooLong,
}

/// Calls and returns in order of time, as a doubly linked list from which linearized operations are lifted out.
struct Search<'a> {
    operations: &'a [&'a Operation],
    marks: Vec<Mark>,
    /// Links are mark numbers + 1; 0 is the head and the end.
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Where each operation's return stands; unknown ones have none.
    returns: Vec<Option<usize>>,
    /// Operations with a known return that are not yet placed.
    open: usize,
    steps: u64,
}

impl<'a> Search<'a> {
    fn new(operations: &'a [&'a Operation]) -> Self {
        let mut marks: Vec<(u64, bool, Mark)> = Vec::with_capacity(operations.len() * 2);
        for (i, operation) in operations.iter().enumerate() {
            marks.push((operation.called, false, Mark::Call(i)));
            if let Some(returned) = operation.returned {
                assert!(
                    operation.called <= returned,
                    "returned before it was called: {operation}"
                );
                marks.push((returned, true, Mark::Return(i)));
            }
        }
        // A call at the instant of a return counts as concurrent with it.
        marks.sort_by_key(|(time, returns, _)| (*time, *returns));
        let marks: Vec<Mark> = marks.into_iter().map(|(_, _, mark)| mark).collect();
        let count = marks.len();
        let mut returns = vec![None; operations.len()];
        for (at, mark) in marks.iter().enumerate() {
            if let Mark::Return(i) = mark {
                returns[*i] = Some(at + 1);
            }
        }
        Search {
            operations,
            marks,
            next: (1..=count).chain([0]).collect(),
            previous: [count].into_iter().chain(0..count).collect(),
            open: returns.iter().flatten().count(),
            returns,
            steps: 0,
        }
    }

    fn unlink(&mut self, at: usize) {
        let (before, after) = (self.previous[at], self.next[at]);
        self.next[before] = after;
        self.previous[after] = before;
    }
    fn relink(&mut self, at: usize) {
        let (before, after) = (self.previous[at], self.next[at]);
        self.next[before] = at;
        self.previous[after] = at;
    }

    fn run(&mut self) -> Outcome {
        let mut placed = vec![0u64; self.operations.len().div_ceil(64)];
        let mut visited: HashSet<(Vec<u64>, State)> = HashSet::new();
        let mut path: Vec<(usize, State)> = Vec::new();
        let mut state: State = None;
        let (mut deepest, mut stuck) = (0, 0);
        let mut at = self.next[0];
        while self.open > 0 {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return Outcome::TooLong;
            }
            // The list never ends before a return: `open` counts those left.
            match self.marks[at - 1] {
                Mark::Call(i) => {
                    let after = step(state, self.operations[i]).filter(|after| {
                        placed[i / 64] |= 1 << (i % 64);
                        let new = visited.insert((placed.clone(), *after));
                        placed[i / 64] &= !(1 << (i % 64));
                        new
                    });
                    let Some(after) = after else {
                        at = self.next[at];
                        continue;
                    };
                    placed[i / 64] |= 1 << (i % 64);
                    path.push((at, state));
                    state = after;
                    self.unlink(at);
                    if let Some(back) = self.returns[i] {
                        self.unlink(back);
                        self.open -= 1;
                    }
                    at = self.next[0];
                }
                Mark::Return(i) => {
                    // Its call stands before it and could not be placed on this path.
                    if path.len() >= deepest {
                        deepest = path.len();
                        stuck = i;
                    }
                    let Some((call, before)) = path.pop() else {
                        return Outcome::Stuck(stuck);
                    };
                    let Mark::Call(i) = self.marks[call - 1] else {
                        unreachable!("only calls are placed");
                    };
                    if let Some(back) = self.returns[i] {
                        self.relink(back);
                        self.open += 1;
                    }
                    self.relink(call);
                    placed[i / 64] &= !(1 << (i % 64));
                    state = before;
                    at = self.next[call];
                }
            }
        }
        Outcome::Explained
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    fn op(called: u64, returned: Option<u64>, action: Action) -> Operation {
        Operation {
            client: 0,
            key: "k".into(),
            called,
            returned,
            action,
        }
    }
    fn put(called: u64, returned: u64, value: u64) -> Operation {
        op(called, Some(returned), Action::Put { value })
    }
    fn get(called: u64, returned: u64, found: Option<u64>) -> Operation {
        op(called, Some(returned), Action::Get { found })
    }
    fn cas(
        called: u64,
        returned: u64,
        expected: Option<u64>,
        value: u64,
        swapped: bool,
    ) -> Operation {
        op(
            called,
            Some(returned),
            Action::Cas {
                expected,
                value,
                swapped,
            },
        )
    }
    fn passes(history: &[Operation]) -> bool {
        match check_registers(history) {
            Verdict::Linearizable(_) => true,
            Verdict::NotLinearizable { .. } => false,
            Verdict::Undecided { .. } => panic!("undecided"),
        }
    }

    #[test]
    fn a_stale_read_is_found() {
        assert!(passes(&[put(0, 1, 1), put(2, 3, 2), get(4, 5, Some(2))]));
        assert!(!passes(&[put(0, 1, 1), put(2, 3, 2), get(4, 5, Some(1))]));
        // Concurrent with the write, both values are right, but not new and then old again.
        assert!(passes(&[
            put(0, 1, 1),
            put(2, 9, 2),
            get(3, 4, Some(1)),
            get(5, 6, Some(2))
        ]));
        assert!(!passes(&[
            put(0, 1, 1),
            put(2, 9, 2),
            get(3, 4, Some(2)),
            get(5, 6, Some(1))
        ]));
    }

    #[test]
    fn a_lost_write_is_found() {
        assert!(!passes(&[put(0, 1, 1), get(2, 3, None)]));
        assert!(!passes(&[
            cas(0, 1, None, 1, true),
            cas(2, 3, None, 2, true)
        ]));
        let Verdict::NotLinearizable { key, stuck, around } =
            check_registers(&[put(0, 1, 1), get(2, 3, None)])
        else {
            panic!("not found");
        };
        assert_eq!((key.as_str(), stuck.called, around.len()), ("k", 2, 2));
    }

    #[test]
    fn both_of_two_swaps_from_one_value_cannot_win() {
        let race = |second| {
            [
                put(0, 1, 1),
                cas(2, 5, Some(1), 2, true),
                cas(3, 6, Some(1), 3, second),
            ]
        };
        assert!(passes(&race(false)));
        assert!(!passes(&race(true)));
    }

    #[test]
    fn unknown_outcomes_may_happen_late_or_never_but_not_early() {
        let lost = op(2, None, Action::Put { value: 2 });
        let first = put(0, 1, 1);
        assert!(passes(&[
            first.clone(),
            lost.clone(),
            get(50, 51, Some(1)),
            get(90, 91, Some(2))
        ]));
        assert!(passes(&[first.clone(), lost.clone(), get(50, 51, Some(1))]));
        assert!(!passes(&[
            first.clone(),
            lost.clone(),
            get(50, 51, Some(2)),
            get(90, 91, Some(1))
        ]));
        let late = op(60, None, Action::Put { value: 2 });
        assert!(!passes(&[first.clone(), late, get(50, 51, Some(2))]));
        // A failed swap that only the unknown write explains.
        assert!(passes(&[first.clone(), lost, cas(5, 6, Some(1), 3, false)]));
        assert!(!passes(&[first, cas(5, 6, Some(1), 3, false)]));
        let maybe = op(
            2,
            None,
            Action::Cas {
                expected: Some(1),
                value: 5,
                swapped: false,
            },
        );
        assert!(passes(&[put(0, 1, 1), maybe.clone(), get(9, 10, Some(5))]));
        assert!(!passes(&[put(0, 1, 7), maybe, get(9, 10, Some(5))]));
    }

    #[test]
    fn keys_are_independent() {
        let mut other = get(4, 5, None);
        other.key = "other".into();
        assert!(passes(&[put(0, 1, 1), other.clone()]));
        other.action = Action::Get { found: Some(1) };
        assert!(!passes(&[put(0, 1, 1), other]));
    }

    /// A run of a real register, with each operation taking effect somewhere between call and return.
    fn random_history(chance: &mut Chance, clients: u64, operations: u64) -> Vec<Operation> {
        let mut history = Vec::new();
        let mut state = None;
        let mut free = vec![0u64; clients as usize];
        let mut effect = 10;
        for n in 0..operations {
            effect += 1 + chance.below(4);
            let client = chance.below(clients);
            if free[client as usize] >= effect {
                continue;
            }
            let earliest = free[client as usize].max(effect.saturating_sub(10));
            let called = earliest + chance.below(effect - earliest + 1);
            let returned = effect + chance.below(10);
            free[client as usize] = returned + 1;
            let value = n + 1;
            let action = match chance.below(3) {
                0 => Action::Get { found: state },
                1 => {
                    state = Some(value);
                    Action::Put { value }
                }
                _ => {
                    let expected = if chance.below(3) == 0 {
                        Some(n / 2)
                    } else {
                        state
                    };
                    let swapped = expected == state;
                    if swapped {
                        state = Some(value);
                    }
                    Action::Cas {
                        expected,
                        value,
                        swapped,
                    }
                }
            };
            let unknown = chance.below(8) == 0;
            let returned = (!unknown).then_some(returned);
            history.push(Operation {
                client,
                key: "k".into(),
                called,
                returned,
                action,
            });
        }
        history
    }

    #[test]
    fn true_histories_pass_and_quickly() {
        for seed in 0..40 {
            let history = random_history(&mut Chance::new(seed), 6, 600);
            let Verdict::Linearizable(searched) = check_registers(&history) else {
                panic!("seed {seed} refused");
            };
            assert!(searched.steps < 2_000_000, "{searched:?}");
        }
    }

    /// Tries every order.
    fn by_brute_force(rest: &[Operation], state: State) -> bool {
        if rest.iter().all(|o| o.returned.is_none()) {
            return true;
        }
        let first_return = rest
            .iter()
            .filter_map(|o| o.returned)
            .min()
            .unwrap_or(u64::MAX);
        (0..rest.len())
            .filter(|i| rest[*i].called <= first_return)
            .any(|i| {
                let mut rest = rest.to_vec();
                let placed = rest.remove(i);
                step(state, &placed).is_some_and(|state| by_brute_force(&rest, state))
            })
    }

    #[test]
    fn agrees_with_brute_force_on_true_and_falsified_histories() {
        let (mut yes, mut no) = (0, 0);
        for seed in 0..3_000 {
            let mut chance = Chance::new(seed);
            let mut history = random_history(&mut chance, 3, 9);
            if history.is_empty() {
                continue;
            }
            let at = chance.below(history.len() as u64) as usize;
            let lie = chance.below(9);
            match &mut history[at].action {
                Action::Get { found } => *found = Some(lie),
                Action::Put { value } => *value = lie,
                Action::Cas { swapped, .. } => *swapped = !*swapped,
            }
            let truth = by_brute_force(&history, None);
            assert_eq!(passes(&history), truth, "seed {seed}: {history:?}");
            if truth { yes += 1 } else { no += 1 }
        }
        assert!(yes > 300 && no > 300, "{yes} {no}");
    }
}
