//! Client messages to commands, refused in etcd's order: of two faults in one request the first one met is told, and some
//! (an unknown sort, an empty operation) a command cannot even say. So each part is checked as it is converted. What looks at
//! a whole transaction (duplicate keys) follows in [`State::check`](barque_store_state::State::check).

use barque_proto::etcdserverpb as pb;
use barque_store_rpc::Status;
use barque_store_state::limits::TXN_OPS_MAX;
use barque_store_state::{
    Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, LeaseId, Put, Range, Refusal,
    Revision, SortOrder, SortTarget, Txn, TxnOp,
};
use bytes::Bytes;

use crate::status::{INVALID_SORT, invalid, refused};

/// 0 and below mean "unset" wherever etcd counts or names revisions.
fn positive(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn key_given(key: &Bytes) -> Result<(), Status> {
    if key.is_empty() {
        return Err(refused(&Refusal::EmptyKey));
    }
    Ok(())
}

pub(crate) fn range(request: pb::RangeRequest) -> Result<Range, Status> {
    key_given(&request.key)?;
    let sort_order = match request.sort_order {
        0 => SortOrder::None,
        1 => SortOrder::Ascend,
        2 => SortOrder::Descend,
        _ => return Err(invalid(INVALID_SORT)),
    };
    let sort_target = match request.sort_target {
        0 => SortTarget::Key,
        1 => SortTarget::Version,
        2 => SortTarget::Create,
        3 => SortTarget::Mod,
        4 => SortTarget::Value,
        _ => return Err(invalid(INVALID_SORT)),
    };
    // A negative bound is a filter all the same, and a filtered range is fetched whole before it is sorted and cut off. No
    // row has a revision of 1, which the empty store has: as the lower bound it leaves all, as the upper one nothing.
    let bound = |bound: i64| if bound < 0 { 1 } else { positive(bound) };
    Ok(Range {
        range: KeyRange {
            key: request.key,
            end: request.range_end,
        },
        limit: positive(request.limit),
        revision: Some(Revision(positive(request.revision))).filter(|r| r.0 > 0),
        sort_target,
        sort_order,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: bound(request.min_mod_revision),
        max_mod_revision: bound(request.max_mod_revision),
        min_create_revision: bound(request.min_create_revision),
        max_create_revision: bound(request.max_create_revision),
    })
}

pub(crate) fn put(request: pb::PutRequest) -> Result<Put, Status> {
    key_given(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(refused(&Refusal::ValueProvided));
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(refused(&Refusal::LeaseProvided));
    }
    Ok(Put {
        key: request.key,
        value: request.value,
        lease: LeaseId(request.lease),
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    })
}

pub(crate) fn delete_range(request: pb::DeleteRangeRequest) -> Result<DeleteRange, Status> {
    key_given(&request.key)?;
    Ok(DeleteRange {
        range: KeyRange {
            key: request.key,
            end: request.range_end,
        },
        prev_kv: request.prev_kv,
    })
}

/// Nesting is bounded by the decoder (prost refuses a hundred levels).
pub(crate) fn txn(request: pb::TxnRequest) -> Result<Txn, Status> {
    level(request, TXN_OPS_MAX)
}

/// `ops_left`: what the transactions around this one left of the bound.
fn level(request: pb::TxnRequest, ops_left: usize) -> Result<Txn, Status> {
    let ops = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    let Some(ops_left) = ops_left.checked_sub(ops) else {
        return Err(refused(&Refusal::TooManyOps));
    };
    let convert = |ops: Vec<pb::RequestOp>| {
        ops.into_iter()
            .map(|op| txn_op(op, ops_left))
            .collect::<Result<Vec<_>, Status>>()
    };
    let mut compares = Vec::with_capacity(request.compare.len());
    for request in request.compare {
        key_given(&request.key)?;
        compares.push(compare(request));
    }
    Ok(Txn {
        compare: compares,
        success: convert(request.success)?,
        failure: convert(request.failure)?,
    })
}

fn txn_op(op: pb::RequestOp, ops_left: usize) -> Result<TxnOp, Status> {
    use pb::request_op::Request;
    Ok(match op.request {
        Some(Request::RequestRange(request)) => {
            // Here a negative revision is not simply unset: the state decides.
            let negative = Some(request.revision).filter(|revision| *revision < 0);
            let range = range(request)?;
            TxnOp::Range(Range {
                revision: negative
                    .map(|revision| Revision(revision.cast_unsigned()))
                    .or(range.revision),
                ..range
            })
        }
        Some(Request::RequestPut(request)) => TxnOp::Put(put(request)?),
        Some(Request::RequestDeleteRange(request)) => TxnOp::DeleteRange(delete_range(request)?),
        Some(Request::RequestTxn(request)) => TxnOp::Txn(level(request, ops_left)?),
        // etcd's answer to an empty operation.
        None => return Err(refused(&Refusal::KeyNotFound)),
    })
}

/// Whether every operation is a range that may be answered from this member's own state.
pub(crate) fn is_serializable(request: &pb::TxnRequest) -> bool {
    use pb::request_op::Request;
    request
        .success
        .iter()
        .chain(&request.failure)
        .all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

fn compare(request: pb::Compare) -> Compare {
    use pb::compare::TargetUnion;
    let range = KeyRange {
        key: request.key,
        end: request.range_end,
    };
    let result = match request.result {
        0 => CompareResult::Equal,
        1 => CompareResult::Greater,
        2 => CompareResult::Less,
        3 => CompareResult::NotEqual,
        _ => CompareResult::Unknown,
    };
    // A union member other than the target's counts as its zero.
    let union = request.target_union;
    let target = match (request.target, union) {
        (0, Some(TargetUnion::Version(version))) => CompareTarget::Version(version),
        (0, _) => CompareTarget::Version(0),
        (1, Some(TargetUnion::CreateRevision(revision))) => CompareTarget::Create(revision),
        (1, _) => CompareTarget::Create(0),
        (2, Some(TargetUnion::ModRevision(revision))) => CompareTarget::Mod(revision),
        (2, _) => CompareTarget::Mod(0),
        (3, Some(TargetUnion::Value(value))) => CompareTarget::Value(value),
        (3, _) => CompareTarget::Value(Bytes::new()),
        (4, Some(TargetUnion::Lease(lease))) => CompareTarget::Lease(lease),
        (4, _) => CompareTarget::Lease(0),
        // A target etcd does not know compares as equal, whatever the row.
        (_, _) => {
            return Compare {
                range,
                result: match result {
                    CompareResult::Equal | CompareResult::Unknown => CompareResult::Unknown,
                    _ => CompareResult::Less,
                },
                target: CompareTarget::Version(i64::MIN),
            };
        }
    };
    Compare {
        range,
        result,
        target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn text<T: std::fmt::Debug>(result: Result<T, Status>) -> String {
        result.unwrap_err().message.into_owned()
    }

    #[test]
    fn an_empty_operation_is_a_key_not_found() {
        let request = pb::TxnRequest {
            success: vec![pb::RequestOp { request: None }],
            ..Default::default()
        };
        assert_eq!(text(txn(request)), "etcdserver: key not found");
    }

    #[test]
    fn negative_numbers_are_unset_and_unknown_sorts_are_refused() {
        let request = pb::RangeRequest {
            key: "k".into(),
            limit: -3,
            revision: -1,
            ..Default::default()
        };
        let got = range(request.clone()).unwrap();
        assert_eq!((got.limit, got.revision), (0, None));
        let sorted = pb::RangeRequest {
            sort_target: 9,
            ..request
        };
        assert_eq!(text(range(sorted)), "etcdserver: invalid sort option");
    }

    #[test]
    fn the_first_of_two_faults_is_told() {
        use pb::request_op::Request;
        let empty = pb::RequestOp { request: None };
        let keyless = pb::RequestOp {
            request: Some(Request::RequestPut(pb::PutRequest::default())),
        };
        let of = |success: Vec<&pb::RequestOp>| {
            text(txn(pb::TxnRequest {
                success: success.into_iter().cloned().collect(),
                ..Default::default()
            }))
        };
        assert_eq!(
            of(vec![&keyless, &empty]),
            "etcdserver: key is not provided"
        );
        assert_eq!(of(vec![&empty, &keyless]), "etcdserver: key not found");
        let sorted = pb::RangeRequest {
            sort_order: 9,
            ..Default::default()
        };
        assert_eq!(text(range(sorted)), "etcdserver: key is not provided");
    }

    #[test]
    fn a_negative_bound_is_a_filter_that_leaves_all_or_nothing() {
        let request = pb::RangeRequest {
            key: "k".into(),
            min_mod_revision: -1,
            max_create_revision: -1,
            ..Default::default()
        };
        let got = range(request).unwrap();
        assert_eq!((got.min_mod_revision, got.max_create_revision), (1, 1));
    }

    #[test]
    fn a_target_of_another_union_member_compares_with_zero() {
        let request = pb::Compare {
            target: 1,
            key: "k".into(),
            target_union: Some(pb::compare::TargetUnion::Version(7)),
            ..Default::default()
        };
        assert_eq!(compare(request).target, CompareTarget::Create(0));
    }

    #[test]
    fn only_serializable_ranges_make_a_serializable_transaction() {
        use pb::request_op::Request;
        let get = |serializable| pb::RequestOp {
            request: Some(Request::RequestRange(pb::RangeRequest {
                serializable,
                ..Default::default()
            })),
        };
        let txn = |success, failure| pb::TxnRequest {
            success: vec![get(success)],
            failure: vec![get(failure)],
            ..Default::default()
        };
        assert!(is_serializable(&txn(true, true)));
        assert!(!is_serializable(&txn(true, false)));
    }
}
