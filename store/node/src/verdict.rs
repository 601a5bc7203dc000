//! Who is wrong when members' hashes differ. Pure.

use std::collections::BTreeMap;

use barque_store_state::MemberId;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Too few have told theirs, and nothing speaks against any of them.
    Open,
    /// A majority has the hash; `wrong` have told another one.
    Majority { right: u64, wrong: Vec<MemberId> },
    /// Hashes differ, and no one of them is a majority's.
    Split,
}

/// `told`: the hashes told so far. `members`: how many there are; a majority is of all of them, for a state that half of
/// them have may be the wrong one.
pub(crate) fn judge(told: &BTreeMap<MemberId, u64>, members: usize) -> Verdict {
    let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
    for hash in told.values() {
        *votes.entry(*hash).or_default() += 1;
    }
    match votes.iter().find(|(_, count)| **count * 2 > members) {
        Some((right, _)) => {
            let differs = |(_, hash): &(&MemberId, &u64)| *hash != right;
            Verdict::Majority {
                right: *right,
                wrong: told.iter().filter(differs).map(|(id, _)| *id).collect(),
            }
        }
        None if votes.len() > 1 => Verdict::Split,
        None => Verdict::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(hashes: &[(u64, u64)]) -> BTreeMap<MemberId, u64> {
        hashes
            .iter()
            .map(|(id, hash)| (MemberId(*id), *hash))
            .collect()
    }

    #[test]
    fn only_a_majority_of_all_members_says_who_is_wrong() {
        let majority = |right, wrong: &[u64]| Verdict::Majority {
            right,
            wrong: wrong.iter().copied().map(MemberId).collect(),
        };
        for (hashes, members, verdict) in [
            (told(&[(1, 7)]), 3, Verdict::Open),
            (told(&[(1, 7), (2, 7)]), 3, majority(7, &[])),
            (told(&[(1, 7), (2, 8)]), 3, Verdict::Split),
            (told(&[(1, 7), (2, 8), (3, 8)]), 3, majority(8, &[1])),
            (told(&[(1, 7), (2, 8), (3, 9)]), 3, Verdict::Split),
            (told(&[(1, 7), (2, 8)]), 2, Verdict::Split),
            (told(&[(1, 7), (2, 7)]), 2, majority(7, &[])),
            (told(&[(1, 7), (2, 7)]), 4, Verdict::Open),
            (told(&[(1, 7), (2, 7), (3, 8), (4, 8)]), 4, Verdict::Split),
            (
                told(&[(1, 6), (2, 7), (3, 7), (4, 7), (5, 8)]),
                5,
                majority(7, &[1, 5]),
            ),
        ] {
            assert_eq!(judge(&hashes, members), verdict, "{hashes:?} of {members}");
        }
    }
}
