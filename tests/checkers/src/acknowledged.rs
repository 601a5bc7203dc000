//! No acknowledged write may be lost: each stands in the history at the revision its client was told.

use std::fmt::Debug;

use crate::History;

/// A write a client was told is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged<C> {
    pub revision: u64,
    pub change: C,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "acknowledged at revision {revision}: {change:?}, but there stands {there:?} (last revision {last})"
)]
pub struct LostWrite<C: Debug> {
    pub revision: u64,
    pub change: C,
    pub there: Option<Vec<C>>,
    pub last: u64,
}

/// Compares every acknowledged write with the final history.
pub fn check_acknowledged<C: PartialEq + Clone + Debug>(
    history: &History<C>,
    acknowledged: &[Acknowledged<C>],
) -> Result<(), LostWrite<C>> {
    for write in acknowledged {
        let there = history.get(&write.revision);
        if !there.is_some_and(|changes| changes.contains(&write.change)) {
            return Err(LostWrite {
                revision: write.revision,
                change: write.change.clone(),
                there: there.cloned(),
                last: history.keys().next_back().copied().unwrap_or(0),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_and_overwritten_writes_are_found() {
        let history: History<&str> = [(2, vec!["a=1"]), (3, vec!["b=1", "c=1"])].into();
        let ack = |revision, change| Acknowledged { revision, change };
        assert_eq!(
            check_acknowledged(&history, &[ack(2, "a=1"), ack(3, "c=1")]),
            Ok(())
        );
        let lost = check_acknowledged(&history, &[ack(2, "a=1"), ack(4, "d=1")]).unwrap_err();
        assert_eq!((lost.revision, lost.there, lost.last), (4, None, 3));
        let replaced = check_acknowledged(&history, &[ack(2, "x=9")]).unwrap_err();
        assert_eq!(replaced.there, Some(vec!["a=1"]));
    }
}
