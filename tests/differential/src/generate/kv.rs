//! Ranges, puts and deletes.

use barque_proto::etcdserverpb as pb;
use bytes::Bytes;
use prost::Message;

use super::Generator;
use crate::limits::{ENVELOPE_MAX, REQUEST_MAX};

/// Few, so that they meet; twelve at most below `z`, because Go's sort leaves ties of longer lists in no order.
const KEYS: &[&[u8]] = &[
    b"\0", b"\0\0", b"a", b"a\0", b"aa", b"ab", b"b", b"b\xff", b"c", b"c1", b"c2",
];
const ENDS: &[&[u8]] = &[
    b"\0", b"\x01", b"a", b"aa", b"ab\0", b"b", b"b\0", b"bb", b"c", b"c2", b"d", b"d\xff",
];
const OPEN_ENDS: &[&[u8]] = &[b"\0", b"z", b"z5", b"{", b"\xff", b"\xff\xff"];

impl Generator {
    pub(super) fn key(&mut self) -> Bytes {
        match self.random.below(40) {
            0 => Bytes::new(),
            1 => Bytes::from_static(b"\xff"),
            2..12 => format!("z{}", self.random.below(40)).into(),
            _ => Bytes::from_static(self.random.pick(KEYS)),
        }
    }

    /// Key and range end; `open`: may reach the keys from `z` on.
    pub(super) fn interval(&mut self, open: bool) -> (Bytes, Bytes) {
        let key = if open {
            self.key()
        } else {
            Bytes::from_static(self.random.pick(KEYS))
        };
        let end = match self.random.below(10) {
            0..3 => Bytes::new(),
            3..6 if open => Bytes::from_static(self.random.pick(OPEN_ENDS)),
            // Never `\0`, which means everything.
            _ => Bytes::from_static(self.random.pick(&ENDS[1..])),
        };
        (key, end)
    }

    /// A range on its own, which may be odder than one in a transaction.
    pub(super) fn lone_range(&mut self) -> pb::RangeRequest {
        let mut range = self.range();
        if self.random.once_in(50) {
            range.sort_order = self.random.pick(&[3, -1, 99]);
        }
        range
    }

    pub(super) fn range(&mut self) -> pb::RangeRequest {
        let sort_target = match self.random.below(3) {
            0 => i32::try_from(self.random.below(5)).unwrap_or(0),
            _ => 0,
        };
        let (key, range_end) = self.interval(sort_target == 0);
        let bound = |g: &mut Self| {
            if g.random.once_in(8) {
                if g.random.once_in(3) {
                    -1
                } else {
                    g.revision()
                }
            } else {
                0
            }
        };
        pb::RangeRequest {
            key,
            range_end,
            limit: self
                .random
                .pick(&[0, 0, 0, 0, 1, 2, 3, 5, 100, -1, i64::MIN, i64::MAX]),
            revision: if self.random.once_in(2) {
                0
            } else {
                self.revision()
            },
            sort_order: self.random.pick(&[0, 0, 0, 1, 2]),
            sort_target,
            serializable: self.random.once_in(3),
            keys_only: self.random.once_in(6),
            count_only: self.random.once_in(8),
            min_mod_revision: bound(self),
            max_mod_revision: bound(self),
            min_create_revision: bound(self),
            max_create_revision: bound(self),
        }
    }

    pub(super) fn value(&mut self) -> Bytes {
        match self.random.below(30) {
            0..4 => Bytes::new(),
            4 => vec![0xff; 300].into(),
            5 => vec![b'L'; 1 << self.random.below(19)].into(),
            _ => format!("v{}", self.random.below(5)).into(),
        }
    }

    pub(super) fn put(&mut self) -> pb::PutRequest {
        let ignore_value = self.random.once_in(10);
        let ignore_lease = self.random.once_in(10);
        let mut put = pb::PutRequest {
            key: self.key(),
            value: if ignore_value && !self.random.once_in(5) {
                Bytes::new()
            } else {
                self.value()
            },
            lease: if ignore_lease && !self.random.once_in(5) {
                0
            } else {
                self.lease_for_put()
            },
            prev_kv: self.random.once_in(3),
            ignore_value,
            ignore_lease,
        };
        if self.random.once_in(60) {
            self.oversize(&mut put);
        }
        put
    }

    /// Just below or above the largest request, or the largest message beyond it.
    fn oversize(&mut self, put: &mut pb::PutRequest) {
        let in_key = self.random.once_in(4);
        let mut rest = put.clone();
        if in_key {
            rest.key = Bytes::new();
        } else {
            rest.value = Bytes::new();
        }
        let head = rest.encoded_len();
        // Three bytes of length and one of tag come with a value or key this long.
        let largest = REQUEST_MAX - ENVELOPE_MAX - head - 4;
        let bytes = self.random.pick(&[
            largest - 1,
            largest,
            // One more is refused by half of all etcds.
            largest + 2,
            largest + 1000,
            REQUEST_MAX + (512 << 10) + 100,
        ]);
        if in_key {
            put.key = vec![b'k'; bytes].into();
        } else {
            put.value = vec![b'x'; bytes].into();
        }
    }

    pub(super) fn delete_range(&mut self) -> pb::DeleteRangeRequest {
        let open = self.random.once_in(3);
        let (key, range_end) = self.interval(open);
        pb::DeleteRangeRequest {
            key,
            range_end,
            prev_kv: self.random.once_in(2),
        }
    }

    pub(super) fn lease_for_put(&mut self) -> i64 {
        match self.random.below(12) {
            0 => self.random.pick(&[424_242, -424_242, i64::MAX]),
            1..4 if !self.leases.is_empty() => self.random.pick(&self.leases),
            _ => 0,
        }
    }
}
