//! What became of requests that were not answered: the members' own history tells. A write that it does not have never
//! happened; one that it has took effect before the first member told of it. Without this the search for an order of the
//! registers has to try every moment up to the end for each of them.

use std::collections::BTreeMap;

use barque_tests_checkers::{Action, History, Operation};

use crate::truth::Change;
use crate::work::registers::digits;

/// The operations with what the history says of the unanswered ones. `told_at`: when each revision was first told of.
pub fn resolve(
    operations: &[Operation],
    history: &History<Change>,
    told_at: impl Fn(u64) -> Option<u64>,
) -> Vec<Operation> {
    let mut written: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    let mut deletions: BTreeMap<&str, usize> = BTreeMap::new();
    for (revision, changes) in history {
        for Change { key, value } in changes {
            match value.as_deref().map(digits) {
                Some(Some(value)) => drop(written.insert((key, value), *revision)),
                Some(None) => {}
                None => *deletions.entry(key).or_default() += 1,
            }
        }
    }
    for operation in operations {
        if let (Some(_), Action::Delete { existed: true }) = (operation.returned, operation.action)
            && let Some(left) = deletions.get_mut(operation.key.as_str())
        {
            *left = left.saturating_sub(1);
        }
    }
    let of_history = |operation: &Operation| {
        if operation.returned.is_some() {
            return Some(operation.clone());
        }
        let mut known = operation.clone();
        match &mut known.action {
            Action::Get { .. } => return None,
            // Which one it was that deleted cannot be told, only that there was one.
            Action::Delete { .. } => {
                let unexplained = deletions.get(operation.key.as_str()).copied();
                return (unexplained.unwrap_or(0) > 0).then_some(known);
            }
            Action::Put { .. } => {}
            Action::Cas { swapped, .. } => *swapped = true,
        }
        let (Action::Put { value } | Action::Cas { value, .. }) = known.action else {
            unreachable!("the others have returned above");
        };
        let revision = *written.get(&(operation.key.as_str(), value))?;
        known.returned = told_at(revision).map(|at| at.max(known.called));
        Some(known)
    };
    operations.iter().filter_map(of_history).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(called: u64, returned: Option<u64>, action: Action) -> Operation {
        Operation {
            client: 1,
            key: "reg/0".into(),
            called,
            returned,
            action,
        }
    }

    #[test]
    fn the_history_decides_what_nobody_answered() {
        let change = |value: Option<&str>| Change {
            key: "reg/0".into(),
            value: value.map(str::to_owned),
        };
        let history: History<Change> = [
            (2, vec![change(Some("7.."))]),
            (3, vec![change(None)]),
            (4, vec![change(Some("9"))]),
        ]
        .into();
        let put = |value| Action::Put { value };
        let swap = Action::Cas {
            expected: None,
            value: 9,
            swapped: false,
        };
        let gone = Action::Delete { existed: false };
        let asked = [
            operation(10, None, put(7)),
            operation(11, None, put(8)),
            operation(12, None, swap),
            operation(13, None, gone),
            operation(14, None, Action::Get { found: None }),
        ];
        let found = resolve(&asked, &history, |revision| Some(revision * 100));
        let swapped = Action::Cas {
            expected: None,
            value: 9,
            swapped: true,
        };
        assert_eq!(
            found,
            [
                operation(10, Some(200), put(7)),
                operation(12, Some(400), swapped),
                operation(13, None, gone),
            ]
        );
        let deleted = operation(9, Some(20), Action::Delete { existed: true });
        let found = resolve(&[deleted.clone(), asked[3].clone()], &history, |_| None);
        assert_eq!(found, [deleted], "the one deletion is explained");
    }
}
