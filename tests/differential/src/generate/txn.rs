//! Transactions: nested ones, compares of every kind, and what is wrong with them.

use barque_proto::etcdserverpb as pb;
use bytes::Bytes;
use pb::request_op::Request;

use super::Generator;
use crate::step::Step;

impl Generator {
    pub(super) fn txn(&mut self) {
        let txn = match self.random.below(40) {
            0 => self.many_ops(),
            1 => self.big_read_only(),
            _ => {
                let reads = self.random.once_in(4);
                self.txn_of(0, reads)
            }
        };
        let mut step = Step::call("/etcdserverpb.KV/Txn", &txn);
        if self.random.once_in(20) {
            step = step.with_metadata("hasleader", b"true");
        }
        self.queue.push_back(step);
    }

    fn txn_of(&mut self, depth: usize, reads: bool) -> pb::TxnRequest {
        let mut txn = pb::TxnRequest {
            compare: (0..self.random.below(4)).map(|_| self.compare()).collect(),
            success: (0..self.random.below(4))
                .map(|_| self.op(depth, reads))
                .collect(),
            failure: (0..self.random.below(4))
                .map(|_| self.op(depth, reads))
                .collect(),
        };
        if depth == 0 && deletes_open(&txn) && puts(&txn) {
            spare_etcd(&mut txn);
        }
        txn
    }

    fn op(&mut self, depth: usize, reads: bool) -> pb::RequestOp {
        let request = match self.random.below(40) {
            0 => None,
            1..5 if depth < 3 && !reads => {
                let inner_reads = self.random.once_in(4);
                Some(Request::RequestTxn(self.txn_of(depth + 1, inner_reads)))
            }
            5..20 if !reads => Some(Request::RequestPut(self.put())),
            20..27 if !reads => Some(Request::RequestDeleteRange(self.delete_range())),
            _ => Some(Request::RequestRange(self.range())),
        };
        pb::RequestOp { request }
    }

    fn compare(&mut self) -> pb::Compare {
        use pb::compare::TargetUnion;
        let (key, range_end) = if self.random.once_in(4) {
            self.interval(true)
        } else {
            (self.key(), Bytes::new())
        };
        let target = if self.random.once_in(30) {
            self.random.pick(&[5, 77, -1])
        } else {
            i32::try_from(self.random.below(5)).unwrap_or(0)
        };
        let number = self.random.pick(&[
            0,
            1,
            2,
            -1,
            self.known.revision,
            self.known.revision - 1,
            i64::MAX,
        ]);
        let of = if self.random.once_in(20) {
            i32::try_from(self.random.below(6)).unwrap_or(0)
        } else {
            target
        };
        let target_union = match of {
            0 => Some(TargetUnion::Version(number)),
            1 => Some(TargetUnion::CreateRevision(number)),
            2 => Some(TargetUnion::ModRevision(number)),
            3 => Some(TargetUnion::Value(self.value())),
            4 => Some(TargetUnion::Lease(self.lease_for_put())),
            _ => None,
        };
        pb::Compare {
            result: if self.random.once_in(30) {
                self.random.pick(&[4, 99, -1])
            } else {
                i32::try_from(self.random.below(4)).unwrap_or(0)
            },
            target,
            key,
            target_union,
            range_end,
        }
    }

    /// Around the bound of 128, which nesting shares.
    fn many_ops(&mut self) -> pb::TxnRequest {
        let get = || pb::RequestOp {
            request: Some(Request::RequestRange(pb::RangeRequest {
                key: "a".into(),
                count_only: true,
                ..Default::default()
            })),
        };
        let ops = |n: usize| (0..n).map(|_| get()).collect::<Vec<_>>();
        let outer = self.random.pick(&[1, 64, 127, 128, 129]);
        let mut success = ops(outer);
        if self.random.once_in(2) {
            let inner = self.random.pick(&[0, 1, 2, 63, 64, 127, 128]);
            success[0] = pb::RequestOp {
                request: Some(Request::RequestTxn(pb::TxnRequest {
                    failure: ops(inner),
                    ..Default::default()
                })),
            };
        }
        pb::TxnRequest {
            compare: (0..self.random.pick(&[0, 0, 1, 129]))
                .map(|_| self.compare())
                .collect(),
            success,
            failure: Vec::new(),
        }
    }

    /// Larger than a request that is proposed may be.
    fn big_read_only(&mut self) -> pb::TxnRequest {
        let key = vec![b'k'; (3 << 19) + 1000];
        pb::TxnRequest {
            success: vec![pb::RequestOp {
                request: Some(Request::RequestRange(pb::RangeRequest {
                    key: key.into(),
                    serializable: self.random.once_in(2),
                    ..Default::default()
                })),
            }],
            ..Default::default()
        }
    }
}

fn ops(txn: &pb::TxnRequest) -> impl Iterator<Item = &pb::RequestOp> {
    txn.success.iter().chain(&txn.failure)
}

fn puts(txn: &pb::TxnRequest) -> bool {
    ops(txn).any(|op| match &op.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(inner)) => puts(inner),
        _ => false,
    })
}

fn deletes_open(txn: &pb::TxnRequest) -> bool {
    ops(txn).any(|op| match &op.request {
        Some(Request::RequestDeleteRange(delete)) => delete.range_end.as_ref() == b"\0",
        Some(Request::RequestTxn(inner)) => deletes_open(inner),
        _ => false,
    })
}

/// Bounds every delete "from this key on": beside a put it can end etcd 3.5.16 with a panic.
fn spare_etcd(txn: &mut pb::TxnRequest) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Request::RequestDeleteRange(delete)) if delete.range_end.as_ref() == b"\0" => {
                delete.range_end = Bytes::from_static(b"\xff\xff");
            }
            Some(Request::RequestTxn(inner)) => spare_etcd(inner),
            _ => {}
        }
    }
}
