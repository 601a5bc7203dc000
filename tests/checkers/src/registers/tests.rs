//! Planted violations, true histories, and every order tried by hand on small ones.

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
fn cas(called: u64, returned: u64, expected: Option<u64>, value: u64, swapped: bool) -> Operation {
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
fn deletions_know_what_they_found() {
    let delete = |called, existed| op(called, Some(called + 1), Action::Delete { existed });
    assert!(passes(&[
        put(0, 1, 1),
        delete(2, true),
        get(4, 5, None),
        delete(6, false)
    ]));
    assert!(!passes(&[
        put(0, 1, 1),
        delete(2, true),
        get(4, 5, Some(1))
    ]));
    assert!(!passes(&[put(0, 1, 1), delete(2, false)]));
    // What was found was written by somebody who never heard of it.
    let lost = op(0, None, Action::Put { value: 1 });
    assert!(passes(&[lost, delete(5, true)]));
    assert!(!passes(&[delete(5, true)]));
    let unknown = op(2, None, Action::Delete { existed: false });
    assert!(passes(&[
        put(0, 1, 1),
        unknown.clone(),
        get(4, 5, Some(1)),
        get(6, 7, None)
    ]));
    assert!(!passes(&[
        put(0, 1, 1),
        unknown,
        get(4, 5, None),
        get(6, 7, Some(1))
    ]));
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
        let action = match chance.below(4) {
            0 => Action::Get { found: state },
            3 => {
                let existed = state.take().is_some();
                Action::Delete { existed }
            }
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
            Action::Delete { existed } => *existed = !*existed,
        }
        let truth = by_brute_force(&history, None);
        assert_eq!(passes(&history), truth, "seed {seed}: {history:?}");
        if truth { yes += 1 } else { no += 1 }
    }
    assert!(yes > 300 && no > 300, "{yes} {no}");
}
