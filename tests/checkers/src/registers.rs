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
    /// `existed` is what the client was told; it means nothing when the outcome is unknown.
    Delete {
        existed: bool,
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
    check_registers_within(history, STEPS_MAX)
}

/// As [`check_registers`], giving up on a key after so many steps.
pub fn check_registers_within(history: &[Operation], steps_max: u64) -> Verdict {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(&operation.key).or_default().push(operation);
    }
    let mut searched = Searched::default();
    for (key, operations) in keys {
        let known = bounded(&operations);
        // What nobody saw happen need not have happened; only when that explains nothing is the wider search worth it.
        let seen: Vec<&Operation> = known.iter().filter(|o| o.returned.is_some()).collect();
        let mut search = Search::new(&seen, steps_max);
        let mut outcome = search.run();
        let mut steps = search.steps;
        let relevant = relevant(&known);
        if !matches!(outcome, Outcome::Explained) && relevant.len() > seen.len() {
            let mut search = Search::new(&relevant, steps_max);
            outcome = search.run();
            steps += search.steps;
        }
        match outcome {
            Outcome::Explained => {
                searched.keys += 1;
                searched.operations += operations.len();
                searched.steps += steps;
            }
            Outcome::TooLong => {
                return Verdict::Undecided {
                    key: key.to_owned(),
                };
            }
            Outcome::Stuck(stuck) => {
                let mut around = operations;
                around.sort_by_key(|o| o.called.abs_diff(stuck.called));
                around.truncate(AROUND);
                around.sort_by_key(|o| o.called);
                return Verdict::NotLinearizable {
                    key: key.to_owned(),
                    stuck: Box::new(stuck),
                    around: around.into_iter().cloned().collect(),
                };
            }
        }
    }
    Verdict::Linearizable(searched)
}

/// Turns unknown writes whose value somebody saw into known ones: a value that only one operation writes was written
/// before the first time it was seen. What is left unknown, nobody saw. Reads without an answer go.
fn bounded(operations: &[&Operation]) -> Vec<Operation> {
    let mut known: Vec<Operation> = operations
        .iter()
        .filter(|o| o.returned.is_some() || !matches!(o.action, Action::Get { .. }))
        .map(|o| (*o).clone())
        .collect();
    let mut writers: BTreeMap<u64, usize> = BTreeMap::new();
    for operation in &known {
        if let Action::Put { value } | Action::Cas { value, .. } = operation.action {
            *writers.entry(value).or_default() += 1;
        }
    }
    // A swap that is found to have happened has itself seen its old value: until nothing changes.
    loop {
        let mut first_seen: BTreeMap<u64, u64> = BTreeMap::new();
        for operation in &known {
            let seen = match operation.action {
                Action::Get { found } => found,
                Action::Cas {
                    expected,
                    swapped: true,
                    ..
                } => expected,
                _ => None,
            };
            if let (Some(value), Some(returned)) = (seen, operation.returned) {
                let first = first_seen.entry(value).or_insert(returned);
                *first = returned.min(*first);
            }
        }
        let mut changed = false;
        for operation in known.iter_mut().filter(|o| o.returned.is_none()) {
            let (Action::Put { value } | Action::Cas { value, .. }) = operation.action else {
                continue;
            };
            if let Some(seen) = first_seen.get(&value)
                && writers[&value] == 1
            {
                operation.returned = Some(operation.called.max(*seen));
                if let Action::Cas { swapped, .. } = &mut operation.action {
                    *swapped = true;
                }
                changed = true;
            }
        }
        if !changed {
            return known;
        }
    }
}

/// Leaves out what explains nothing: unknown writes whose value nobody saw, which no swap can have failed because of and
/// no deletion can have found.
fn relevant(operations: &[Operation]) -> Vec<&Operation> {
    let seen: HashSet<u64> = operations
        .iter()
        .filter_map(|o| match o.action {
            Action::Get { found } => found,
            Action::Cas { expected, .. } => expected,
            Action::Put { .. } | Action::Delete { .. } => None,
        })
        .collect();
    let last_hint = operations
        .iter()
        .filter(|o| {
            matches!(
                o.action,
                Action::Cas { swapped: false, .. } | Action::Delete { existed: true }
            )
        })
        .filter_map(|o| o.returned)
        .max()
        .unwrap_or(0);
    operations
        .iter()
        .filter(|o| match o.action {
            // A deletion leaves no value by which to know it.
            Action::Get { .. } | Action::Delete { .. } => true,
            Action::Put { value } | Action::Cas { value, .. } => {
                o.returned.is_some() || seen.contains(&value) || o.called <= last_hint
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
        Action::Delete { existed } => {
            (operation.returned.is_none() || existed == state.is_some()).then_some(None)
        }
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
    Stuck(Operation),
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
    steps_max: u64,
}

impl<'a> Search<'a> {
    fn new(operations: &'a [&'a Operation], steps_max: u64) -> Self {
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
            steps_max,
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
            if self.steps > self.steps_max {
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
                        return Outcome::Stuck(self.operations[stuck].clone());
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
mod tests;
