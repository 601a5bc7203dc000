//! Which keys a number of ranges cover together: disjoint intervals, merged as they come, so that a transaction of very
//! many operations is checked in n log n.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::types::KeyRange;

#[derive(Clone, Debug, Default)]
pub struct Cover {
    /// Start → end (excluded; `None`: no end). Invariant: disjoint and not touching.
    intervals: BTreeMap<Bytes, Option<Bytes>>,
}

impl Cover {
    pub fn add(&mut self, range: &KeyRange) {
        let end = if range.is_point() {
            Some([&range.key[..], b"\0"].concat().into())
        } else if range.end.as_ref() == b"\0" {
            None
        } else {
            Some(range.end.clone())
        };
        self.add_interval(range.key.clone(), end);
    }
    pub fn merge(&mut self, other: Cover) {
        for (start, end) in other.intervals {
            self.add_interval(start, end);
        }
    }
    fn add_interval(&mut self, mut start: Bytes, mut end: Option<Bytes>) {
        if end.as_ref().is_some_and(|end| *end <= start) {
            return;
        }
        // Swallow every interval that overlaps or touches, last first.
        loop {
            let upto = match &end {
                Some(end) => self.intervals.range::<Bytes, _>(..=end).next_back(),
                None => self.intervals.iter().next_back(),
            };
            let Some((other_start, other_end)) = upto else {
                break;
            };
            if other_end.as_ref().is_some_and(|other| *other < start) {
                break;
            }
            let (other_start, other_end) = (other_start.clone(), other_end.clone());
            self.intervals.remove(&other_start);
            start = start.min(other_start);
            end = match (end, other_end) {
                (Some(a), Some(b)) => Some(a.max(b)),
                _ => None,
            };
        }
        self.intervals.insert(start, end);
    }
    pub fn contains(&self, key: &[u8]) -> bool {
        self.intervals
            .range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(key)))
            .next_back()
            .is_some_and(|(_, end)| end.as_ref().is_none_or(|end| key < &end[..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_exactly_what_its_ranges_contain() {
        let mut word = 7u64;
        let mut next = |n: u64| {
            word = word.wrapping_mul(6364136223846793005).wrapping_add(1);
            (word >> 33) % n
        };
        for _ in 0..300 {
            let mut cover = Cover::default();
            let mut ranges = Vec::new();
            for _ in 0..next(8) {
                let letter = |n: u64| Bytes::from(vec![b'a' + n as u8]);
                let range = match next(4) {
                    0 => KeyRange::point(letter(next(10))),
                    1 if next(6) == 0 => KeyRange {
                        key: letter(next(10)),
                        end: Bytes::from_static(b"\0"),
                    },
                    _ => KeyRange {
                        key: letter(next(10)),
                        end: letter(next(10)),
                    },
                };
                if next(2) == 0 {
                    cover.add(&range);
                } else {
                    let mut other = Cover::default();
                    other.add(&range);
                    cover.merge(other);
                }
                ranges.push(range);
            }
            for key in (b'a'..=b'l').flat_map(|c| [vec![c], vec![c, 0], vec![c, b'x']]) {
                let expected = ranges.iter().any(|range| range.contains(&key));
                assert_eq!(cover.contains(&key), expected, "{key:?} in {ranges:?}");
            }
        }
    }
}
