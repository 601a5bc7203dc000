//! What a watcher must have seen: every change of its range from its start on, once, in order, whole revisions only,
//! across all its connections.

use std::collections::BTreeMap;
use std::fmt::Debug;

/// The truth: changes by revision, in order within one.
pub type History<C> = BTreeMap<u64, Vec<C>>;

/// One message to a watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivered<C> {
    Changes {
        revision: u64,
        changes: Vec<C>,
    },
    /// "You have seen everything up to here."
    Progress {
        revision: u64,
    },
}

/// A watcher's whole life, reconnections included.
#[derive(Clone, Debug)]
pub struct Watched<C> {
    pub name: String,
    /// First revision wanted.
    pub start: u64,
    pub delivered: Vec<Delivered<C>>,
    /// The run gave it time to see everything up to here.
    pub complete_to: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchFault<C: Debug> {
    #[error("{watch}: revision {revision} came after {after}")]
    Order {
        watch: String,
        revision: u64,
        after: u64,
    },
    #[error("{watch}: saw {next}, but not revision {missing} before it: {changes:?}")]
    Gap {
        watch: String,
        missing: u64,
        changes: Vec<C>,
        next: String,
    },
    #[error("{watch}: revision {revision} came as {seen:?}, but is {truth:?}")]
    Altered {
        watch: String,
        revision: u64,
        seen: Vec<C>,
        truth: Vec<C>,
    },
    #[error("{watch}: began at {start} but was sent revision {revision}")]
    BeforeStart {
        watch: String,
        start: u64,
        revision: u64,
    },
    #[error("the history itself has no revision {missing}")]
    History { missing: u64 },
}

/// A history must be whole before it may judge others: every revision from `first` to `last` is there and not empty.
pub fn check_history<C: Debug>(
    history: &History<C>,
    first: u64,
    last: u64,
) -> Result<(), WatchFault<C>> {
    for revision in first..=last {
        if history.get(&revision).is_none_or(Vec::is_empty) {
            return Err(WatchFault::History { missing: revision });
        }
    }
    match history.keys().next_back() {
        Some(beyond) if *beyond > last => Err(WatchFault::History { missing: last + 1 }),
        _ => Ok(()),
    }
}

/// Checks one watcher, which wants the changes `wanted` says yes to.
pub fn check_watch<C: PartialEq + Clone + Debug>(
    history: &History<C>,
    watched: &Watched<C>,
    wanted: impl Fn(&C) -> bool,
) -> Result<(), WatchFault<C>> {
    let watch = || watched.name.clone();
    let truth = |revision: u64| -> Vec<C> {
        let changes = history.get(&revision).map_or(&[][..], Vec::as_slice);
        changes.iter().filter(|c| wanted(c)).cloned().collect()
    };
    // Everything before this revision has been seen.
    let mut next = watched.start;
    let no_gap = |next: u64, before: u64, what: String| {
        for (missing, changes) in history.range(next..before.max(next)) {
            if changes.iter().any(&wanted) {
                let changes = changes.clone();
                return Err(WatchFault::Gap {
                    watch: watch(),
                    missing: *missing,
                    changes,
                    next: what,
                });
            }
        }
        Ok(())
    };
    for message in &watched.delivered {
        match message {
            Delivered::Changes { revision, changes } => {
                if *revision < watched.start {
                    let (start, revision) = (watched.start, *revision);
                    return Err(WatchFault::BeforeStart {
                        watch: watch(),
                        start,
                        revision,
                    });
                }
                if *revision < next {
                    return Err(WatchFault::Order {
                        watch: watch(),
                        revision: *revision,
                        after: next - 1,
                    });
                }
                no_gap(next, *revision, format!("revision {revision}"))?;
                let truth = truth(*revision);
                if *changes != truth {
                    let (revision, seen) = (*revision, changes.clone());
                    return Err(WatchFault::Altered {
                        watch: watch(),
                        revision,
                        seen,
                        truth,
                    });
                }
                next = revision + 1;
            }
            Delivered::Progress { revision } => {
                no_gap(next, revision + 1, format!("progress {revision}"))?;
                next = next.max(revision + 1);
            }
        }
    }
    no_gap(next, watched.complete_to + 1, "the end".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    type Change = (&'static str, u64);

    fn history() -> History<Change> {
        (2..=20)
            .map(|r| (r, vec![(if r % 3 == 0 { "b" } else { "a" }, r), ("c", r)]))
            .collect()
    }
    fn seen(from: u64) -> Watched<Change> {
        let delivered = history()
            .into_iter()
            .filter(|(r, _)| *r >= from)
            .map(|(revision, mut changes)| {
                changes.retain(|c| c.0 == "a");
                Delivered::Changes { revision, changes }
            })
            .filter(|d| !matches!(d, Delivered::Changes { changes, .. } if changes.is_empty()))
            .collect();
        Watched {
            name: "w".into(),
            start: from,
            delivered,
            complete_to: 20,
        }
    }
    fn check(watched: &Watched<Change>) -> Result<(), WatchFault<Change>> {
        check_watch(&history(), watched, |c| c.0 == "a")
    }

    #[test]
    fn the_truth_passes() {
        for from in 2..=20 {
            check(&seen(from)).unwrap();
        }
        check_history(&history(), 2, 20).unwrap();
    }

    #[test]
    fn gaps_duplicates_disorder_and_lies_are_found() {
        for seed in 0..200 {
            let mut chance = Chance::new(seed);
            let mut watched = seen(2);
            let count = watched.delivered.len() as u64;
            let at = chance.below(count - 1) as usize;
            match chance.below(5) {
                0 => {
                    watched.delivered.remove(at);
                    assert!(matches!(check(&watched), Err(WatchFault::Gap { .. })));
                }
                1 => {
                    let again = watched.delivered[at].clone();
                    watched
                        .delivered
                        .insert(at + 1 + chance.below(3) as usize % 2, again);
                    assert!(matches!(check(&watched), Err(WatchFault::Order { .. })));
                }
                2 => {
                    watched.delivered.swap(at, at + 1);
                    assert!(matches!(check(&watched), Err(WatchFault::Gap { .. })));
                }
                3 => {
                    let Delivered::Changes { changes, .. } = &mut watched.delivered[at] else {
                        unreachable!("only changes here");
                    };
                    changes[0].1 += 1;
                    assert!(matches!(check(&watched), Err(WatchFault::Altered { .. })));
                }
                _ => {
                    watched.delivered.truncate(at + 1);
                    assert!(
                        matches!(check(&watched), Err(WatchFault::Gap { .. })),
                        "never caught up"
                    );
                }
            }
        }
    }

    #[test]
    fn progress_is_a_promise() {
        let mut watched = seen(2);
        watched
            .delivered
            .insert(3, Delivered::Progress { revision: 6 });
        // Revisions 2, 4, 5 came before: right.
        check(&watched).unwrap();
        watched.delivered[3] = Delivered::Progress { revision: 7 };
        assert!(matches!(
            check(&watched),
            Err(WatchFault::Gap { missing: 7, .. })
        ));
    }

    #[test]
    fn half_a_revision_and_foreign_ones_are_found() {
        let history: History<Change> = [(2, vec![("a", 1), ("a", 2)])].into();
        let part = |start, revision| Watched {
            name: "w".into(),
            start,
            delivered: vec![Delivered::Changes {
                revision,
                changes: vec![("a", 1)],
            }],
            complete_to: 0,
        };
        let half = check_watch(&history, &part(2, 2), |_| true);
        assert!(matches!(half, Err(WatchFault::Altered { .. })));
        let early = check_watch(&history, &part(3, 2), |_| true);
        assert!(matches!(early, Err(WatchFault::BeforeStart { .. })));
    }

    #[test]
    fn a_history_with_holes_judges_nobody() {
        let mut history = history();
        history.remove(&9);
        assert!(matches!(
            check_history(&history, 2, 20),
            Err(WatchFault::History { missing: 9 })
        ));
        assert!(check_history(&super::tests::history(), 2, 19).is_err());
    }
}
