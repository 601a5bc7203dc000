//! Outcomes ⇄ their messages.

use std::sync::Arc;

use super::alarms::{alarm_from_pb, alarm_to_pb};
use super::commands::{version_from_pb, version_to_pb};
use super::members;
use super::pb;
use super::{WireError, all, known};

use crate::command::*;
use crate::types::{KeyValue, LeaseId, Revision};

pub fn to_pb(outcome: &Outcome) -> pb::Outcome {
    use pb::Result as Kind;
    let result = match &outcome.result {
        Err(refusal) => Kind::Refused(refusal_code(refusal)),
        Ok(Answer::Put { prev }) => Kind::Put(put_to_pb(prev.as_deref())),
        Ok(Answer::DeleteRange { deleted, prev }) => {
            Kind::DeleteRange(delete_to_pb(*deleted, prev))
        }
        Ok(Answer::Txn(txn)) => Kind::Txn(txn_to_pb(txn)),
        Ok(Answer::Compacted) => Kind::Compacted(pb::Nothing {}),
        Ok(Answer::LeaseGranted { id, ttl_s }) => Kind::LeaseGranted(pb::LeaseGrant {
            id: id.0,
            ttl_s: *ttl_s,
        }),
        Ok(Answer::LeaseRevoked) => Kind::LeaseRevoked(pb::Nothing {}),
        Ok(Answer::LeaseRenewed { ttls_s }) => Kind::LeaseRenewed(pb::LeaseRenewed {
            ttls_plus_one: ttls_s
                .iter()
                .map(|ttl_s| ttl_s.map_or(0, |ttl_s| ttl_s.saturating_add(1)))
                .collect(),
        }),
        Ok(Answer::LeaseExpired { removed }) => Kind::LeaseExpired(*removed),
        Ok(Answer::Published) => Kind::Published(pb::Nothing {}),
        Ok(Answer::Members(all)) => Kind::Members(members::list_to_pb(all)),
        Ok(Answer::Alarms(alarms)) => Kind::Alarms(pb::Alarms {
            alarms: alarms.iter().map(alarm_to_pb).collect(),
        }),
        Ok(Answer::Marked) => Kind::Marked(pb::Nothing {}),
        Ok(Answer::ClusterVersion(version)) => Kind::ClusterVersion(version_to_pb(version)),
    };
    pb::Outcome {
        revision: outcome.revision.0,
        result: Some(result),
        too_old: match &outcome.result {
            Err(Refusal::TooOld(too_old)) => Some(members::too_old_to_pb(too_old)),
            Ok(_) | Err(_) => None,
        },
    }
}

pub fn from_pb(outcome: pb::Outcome) -> Result<Outcome, WireError> {
    use pb::Result as Kind;
    let result = match known(outcome.result, "outcome")? {
        Kind::Refused(code) => Err(refusal(code, outcome.too_old)?),
        Kind::Put(put) => Ok(Answer::Put {
            prev: put.prev.map(kv_from_pb),
        }),
        Kind::DeleteRange(delete) => Ok(Answer::DeleteRange {
            deleted: delete.deleted,
            prev: kvs_from_pb(delete.prev),
        }),
        Kind::Txn(txn) => Ok(Answer::Txn(txn_from_pb(txn)?)),
        Kind::Compacted(_) => Ok(Answer::Compacted),
        Kind::LeaseGranted(grant) => Ok(Answer::LeaseGranted {
            id: LeaseId(grant.id),
            ttl_s: grant.ttl_s,
        }),
        Kind::LeaseRevoked(_) => Ok(Answer::LeaseRevoked),
        Kind::LeaseRenewed(renewed) => Ok(Answer::LeaseRenewed {
            ttls_s: renewed
                .ttls_plus_one
                .into_iter()
                .map(|ttl| ttl.checked_sub(1))
                .collect(),
        }),
        Kind::LeaseExpired(removed) => Ok(Answer::LeaseExpired { removed }),
        Kind::Published(_) => Ok(Answer::Published),
        Kind::Members(all) => Ok(Answer::Members(members::list_from_pb(all))),
        Kind::Alarms(alarms) => Ok(Answer::Alarms(all(alarms.alarms, alarm_from_pb)?)),
        Kind::Marked(_) => Ok(Answer::Marked),
        Kind::ClusterVersion(version) => Ok(Answer::ClusterVersion(version_from_pb(version))),
    };
    Ok(Outcome {
        revision: Revision(outcome.revision),
        result,
    })
}

/// The codes are part of the format: never reused.
fn refusal_code(refusal: &Refusal) -> u32 {
    match refusal {
        Refusal::Compacted => 1,
        Refusal::FutureRevision => 2,
        Refusal::EmptyKey => 3,
        Refusal::KeyNotFound => 4,
        Refusal::ValueProvided => 5,
        Refusal::LeaseProvided => 6,
        Refusal::TooManyOps => 7,
        Refusal::DuplicateKey => 8,
        Refusal::LeaseNotFound => 9,
        Refusal::LeaseExists => 10,
        Refusal::LeaseTtlTooLarge => 11,
        Refusal::NoSpace => 12,
        Refusal::Corrupt => 13,
        Refusal::MemberNotFound => 14,
        Refusal::MemberExists => 15,
        Refusal::PeerUrlsExist => 16,
        Refusal::NotLearner => 17,
        Refusal::LearnerNotReady => 18,
        Refusal::TooManyLearners => 19,
        Refusal::NotEnoughStarted => 20,
        Refusal::Unhealthy => 21,
        Refusal::Stopped => 22,
        Refusal::TooOld(_) => 23,
    }
}

fn refusal(code: u32, too_old: Option<pb::TooOld>) -> Result<Refusal, WireError> {
    Ok(match code {
        1 => Refusal::Compacted,
        2 => Refusal::FutureRevision,
        3 => Refusal::EmptyKey,
        4 => Refusal::KeyNotFound,
        5 => Refusal::ValueProvided,
        6 => Refusal::LeaseProvided,
        7 => Refusal::TooManyOps,
        8 => Refusal::DuplicateKey,
        9 => Refusal::LeaseNotFound,
        10 => Refusal::LeaseExists,
        11 => Refusal::LeaseTtlTooLarge,
        12 => Refusal::NoSpace,
        13 => Refusal::Corrupt,
        14 => Refusal::MemberNotFound,
        15 => Refusal::MemberExists,
        16 => Refusal::PeerUrlsExist,
        17 => Refusal::NotLearner,
        18 => Refusal::LearnerNotReady,
        19 => Refusal::TooManyLearners,
        20 => Refusal::NotEnoughStarted,
        21 => Refusal::Unhealthy,
        22 => Refusal::Stopped,
        23 => Refusal::TooOld(members::too_old_from_pb(known(too_old, "list of members")?)),
        other => return Err(WireError::malformed(format!("refusal {other}"))),
    })
}

fn kv_to_pb(kv: &KeyValue) -> pb::KeyValue {
    pb::KeyValue {
        key: kv.key.clone(),
        create_revision: kv.create_revision.0,
        mod_revision: kv.mod_revision.0,
        version: kv.version,
        value: kv.value.clone(),
        lease: kv.lease.0,
    }
}

fn kv_from_pb(kv: pb::KeyValue) -> Arc<KeyValue> {
    Arc::new(KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: Revision(kv.create_revision),
        mod_revision: Revision(kv.mod_revision),
        version: kv.version,
        lease: LeaseId(kv.lease),
    })
}

fn kvs_to_pb(kvs: &[Arc<KeyValue>]) -> Vec<pb::KeyValue> {
    kvs.iter().map(|kv| kv_to_pb(kv)).collect()
}

fn kvs_from_pb(kvs: Vec<pb::KeyValue>) -> Vec<Arc<KeyValue>> {
    kvs.into_iter().map(kv_from_pb).collect()
}

fn put_to_pb(prev: Option<&KeyValue>) -> pb::PutResult {
    pb::PutResult {
        prev: prev.map(kv_to_pb),
    }
}

fn delete_to_pb(deleted: u64, prev: &[Arc<KeyValue>]) -> pb::DeleteRangeResult {
    pb::DeleteRangeResult {
        deleted,
        prev: kvs_to_pb(prev),
    }
}

fn txn_to_pb(txn: &TxnResult) -> pb::TxnResult {
    use pb::OpResultKind as Kind;
    let result = |result: &OpResult| pb::OpResult {
        kind: Some(match result {
            OpResult::Range(range) => Kind::Range(pb::RangeResult {
                kvs: kvs_to_pb(&range.kvs),
                more: range.more,
                count: range.count,
            }),
            OpResult::Put { prev } => Kind::Put(put_to_pb(prev.as_deref())),
            OpResult::DeleteRange { deleted, prev } => {
                Kind::DeleteRange(delete_to_pb(*deleted, prev))
            }
            OpResult::Txn(txn) => Kind::Txn(txn_to_pb(txn)),
        }),
    };
    pb::TxnResult {
        succeeded: txn.succeeded,
        results: txn.results.iter().map(result).collect(),
        revision: txn.revision.0,
    }
}

fn txn_from_pb(txn: pb::TxnResult) -> Result<TxnResult, WireError> {
    use pb::OpResultKind as Kind;
    let result = |result: pb::OpResult| {
        Ok(match known(result.kind, "result")? {
            Kind::Range(range) => OpResult::Range(RangeResult {
                kvs: kvs_from_pb(range.kvs),
                more: range.more,
                count: range.count,
            }),
            Kind::Put(put) => OpResult::Put {
                prev: put.prev.map(kv_from_pb),
            },
            Kind::DeleteRange(delete) => OpResult::DeleteRange {
                deleted: delete.deleted,
                prev: kvs_from_pb(delete.prev),
            },
            Kind::Txn(txn) => OpResult::Txn(txn_from_pb(txn)?),
        })
    };
    Ok(TxnResult {
        succeeded: txn.succeeded,
        results: all(txn.results, result)?,
        revision: Revision(txn.revision),
    })
}
