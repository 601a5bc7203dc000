//! Commands ⇄ their messages.

use super::alarms::{alarm_from_pb, alarm_to_pb, cause_code, cause_from, kind_code, kind_from};
use super::{WireError, all, known};
use super::{members, pb};
use crate::command::*;
use crate::types::{ClusterTime, KeyRange, LeaseId, MemberId, Revision};
use crate::version::ClusterVersion;

pub fn to_pb(command: &Command) -> pb::Command {
    use pb::CommandKind as Kind;
    let kind = match command {
        Command::Put(put) => Kind::Put(put_to_pb(put)),
        Command::DeleteRange(delete) => Kind::DeleteRange(delete_to_pb(delete)),
        Command::Txn(txn) => Kind::Txn(txn_to_pb(txn)),
        Command::Compact { revision } => Kind::Compact(revision.0),
        Command::LeaseGrant { id, ttl_s } => Kind::LeaseGrant(pb::LeaseGrant {
            id: id.0,
            ttl_s: *ttl_s,
        }),
        Command::LeaseRevoke { id } => Kind::LeaseRevoke(id.0),
        Command::LeaseKeepAlive { ids } => Kind::LeaseKeepAlive(pb::LeaseKeepAlive {
            ids: ids.iter().map(|id| id.0).collect(),
        }),
        Command::LeaseExpire { id, deadline_seen } => Kind::LeaseExpire(pb::LeaseExpire {
            id: id.0,
            deadline_seen: deadline_seen.0,
        }),
        Command::MemberPublish {
            member,
            name,
            client_urls,
            incarnation,
        } => Kind::MemberPublish(pb::MemberPublish {
            member: member.0,
            name: name.clone(),
            client_urls: client_urls.clone(),
            incarnation: *incarnation,
        }),
        Command::Members(change) => Kind::Members(members::change_to_pb(change)),
        Command::AlarmRaise(alarm) => Kind::AlarmRaise(alarm_to_pb(alarm)),
        Command::AlarmClear { kind, member, only } => Kind::AlarmClear(pb::Alarm {
            kind: kind_code(*kind),
            member: member.0,
            cause: only.map_or(0, cause_code),
        }),
        Command::IntegrityMark => Kind::IntegrityMark(pb::Nothing {}),
        Command::ClusterVersionSet(version) => Kind::ClusterVersionSet(version_to_pb(version)),
    };
    pb::Command { kind: Some(kind) }
}

pub fn from_pb(command: pb::Command) -> Result<Command, WireError> {
    use pb::CommandKind as Kind;
    Ok(match known(command.kind, "command")? {
        Kind::Put(put) => Command::Put(put_from_pb(put)),
        Kind::DeleteRange(delete) => Command::DeleteRange(delete_from_pb(delete)),
        Kind::Txn(txn) => Command::Txn(txn_from_pb(txn)?),
        Kind::Compact(revision) => Command::Compact {
            revision: Revision(revision),
        },
        Kind::LeaseGrant(grant) => Command::LeaseGrant {
            id: LeaseId(grant.id),
            ttl_s: grant.ttl_s,
        },
        Kind::LeaseRevoke(id) => Command::LeaseRevoke { id: LeaseId(id) },
        Kind::LeaseKeepAlive(renewals) => Command::LeaseKeepAlive {
            ids: renewals.ids.into_iter().map(LeaseId).collect(),
        },
        Kind::LeaseExpire(expire) => Command::LeaseExpire {
            id: LeaseId(expire.id),
            deadline_seen: ClusterTime(expire.deadline_seen),
        },
        Kind::MemberPublish(publish) => Command::MemberPublish {
            member: MemberId(publish.member),
            name: publish.name,
            client_urls: publish.client_urls,
            incarnation: publish.incarnation,
        },
        Kind::Members(change) => Command::Members(members::change_from_pb(change)?),
        Kind::AlarmRaise(alarm) => Command::AlarmRaise(alarm_from_pb(alarm)?),
        Kind::AlarmClear(clear) => Command::AlarmClear {
            kind: kind_from(clear.kind)?,
            member: MemberId(clear.member),
            only: match clear.cause {
                0 => None,
                cause => Some(cause_from(cause)?),
            },
        },
        Kind::IntegrityMark(_) => Command::IntegrityMark,
        Kind::ClusterVersionSet(version) => Command::ClusterVersionSet(version_from_pb(version)),
    })
}

pub fn origin_to_pb(origin: &Origin) -> pb::Origin {
    pb::Origin {
        at: origin.at,
        count: origin.count,
        member: origin.member.0,
        boot: origin.boot,
        first: origin.first,
        open: origin.open,
    }
}

pub fn origin_from_pb(origin: &pb::Origin) -> Origin {
    Origin {
        at: origin.at,
        count: origin.count,
        member: MemberId(origin.member),
        boot: origin.boot,
        first: origin.first,
        open: origin.open,
    }
}

pub fn version_to_pb(version: &ClusterVersion) -> pb::Version {
    pb::Version {
        major: version.major,
        minor: version.minor,
    }
}

pub fn version_from_pb(version: pb::Version) -> ClusterVersion {
    ClusterVersion {
        major: version.major,
        minor: version.minor,
    }
}

fn put_to_pb(put: &Put) -> pb::Put {
    pb::Put {
        key: put.key.clone(),
        value: put.value.clone(),
        lease: put.lease.0,
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    }
}

fn put_from_pb(put: pb::Put) -> Put {
    Put {
        key: put.key,
        value: put.value,
        lease: LeaseId(put.lease),
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    }
}

fn delete_to_pb(delete: &DeleteRange) -> pb::DeleteRange {
    pb::DeleteRange {
        key: delete.range.key.clone(),
        end: delete.range.end.clone(),
        prev_kv: delete.prev_kv,
    }
}

fn delete_from_pb(delete: pb::DeleteRange) -> DeleteRange {
    DeleteRange {
        range: KeyRange {
            key: delete.key,
            end: delete.end,
        },
        prev_kv: delete.prev_kv,
    }
}

fn txn_to_pb(txn: &Txn) -> pb::Txn {
    pb::Txn {
        compare: txn.compare.iter().map(compare_to_pb).collect(),
        success: txn.success.iter().map(op_to_pb).collect(),
        failure: txn.failure.iter().map(op_to_pb).collect(),
    }
}

fn txn_from_pb(txn: pb::Txn) -> Result<Txn, WireError> {
    Ok(Txn {
        compare: all(txn.compare, compare_from_pb)?,
        success: all(txn.success, op_from_pb)?,
        failure: all(txn.failure, op_from_pb)?,
    })
}

fn op_to_pb(op: &TxnOp) -> pb::TxnOp {
    use pb::TxnOpKind as Kind;
    pb::TxnOp {
        kind: Some(match op {
            TxnOp::Range(range) => Kind::Range(range_to_pb(range)),
            TxnOp::Put(put) => Kind::Put(put_to_pb(put)),
            TxnOp::DeleteRange(delete) => Kind::DeleteRange(delete_to_pb(delete)),
            TxnOp::Txn(txn) => Kind::Txn(txn_to_pb(txn)),
        }),
    }
}

fn op_from_pb(op: pb::TxnOp) -> Result<TxnOp, WireError> {
    use pb::TxnOpKind as Kind;
    Ok(match known(op.kind, "operation")? {
        Kind::Range(range) => TxnOp::Range(range_from_pb(range)?),
        Kind::Put(put) => TxnOp::Put(put_from_pb(put)),
        Kind::DeleteRange(delete) => TxnOp::DeleteRange(delete_from_pb(delete)),
        Kind::Txn(txn) => TxnOp::Txn(txn_from_pb(txn)?),
    })
}

fn range_to_pb(range: &Range) -> pb::Range {
    pb::Range {
        key: range.range.key.clone(),
        end: range.range.end.clone(),
        limit: range.limit,
        revision: range.revision.map(|revision| revision.0),
        sort_target: match range.sort_target {
            SortTarget::Key => 0,
            SortTarget::Version => 1,
            SortTarget::Create => 2,
            SortTarget::Mod => 3,
            SortTarget::Value => 4,
        },
        sort_order: match range.sort_order {
            SortOrder::None => 0,
            SortOrder::Ascend => 1,
            SortOrder::Descend => 2,
        },
        keys_only: range.keys_only,
        count_only: range.count_only,
        min_mod_revision: range.min_mod_revision,
        max_mod_revision: range.max_mod_revision,
        min_create_revision: range.min_create_revision,
        max_create_revision: range.max_create_revision,
    }
}

fn range_from_pb(range: pb::Range) -> Result<Range, WireError> {
    Ok(Range {
        range: KeyRange {
            key: range.key,
            end: range.end,
        },
        limit: range.limit,
        revision: range.revision.map(Revision),
        sort_target: match range.sort_target {
            0 => SortTarget::Key,
            1 => SortTarget::Version,
            2 => SortTarget::Create,
            3 => SortTarget::Mod,
            4 => SortTarget::Value,
            other => return Err(WireError::malformed(format!("sort target {other}"))),
        },
        sort_order: match range.sort_order {
            0 => SortOrder::None,
            1 => SortOrder::Ascend,
            2 => SortOrder::Descend,
            other => return Err(WireError::malformed(format!("sort order {other}"))),
        },
        keys_only: range.keys_only,
        count_only: range.count_only,
        min_mod_revision: range.min_mod_revision,
        max_mod_revision: range.max_mod_revision,
        min_create_revision: range.min_create_revision,
        max_create_revision: range.max_create_revision,
    })
}

fn compare_to_pb(compare: &Compare) -> pb::Compare {
    use pb::CompareTarget as Target;
    pb::Compare {
        key: compare.range.key.clone(),
        end: compare.range.end.clone(),
        result: match compare.result {
            CompareResult::Equal => 0,
            CompareResult::Greater => 1,
            CompareResult::Less => 2,
            CompareResult::NotEqual => 3,
            CompareResult::Unknown => 4,
        },
        target: Some(match &compare.target {
            CompareTarget::Version(n) => Target::Version(*n),
            CompareTarget::Create(n) => Target::Create(*n),
            CompareTarget::Mod(n) => Target::Mod(*n),
            CompareTarget::Value(value) => Target::Value(value.clone()),
            CompareTarget::Lease(n) => Target::Lease(*n),
        }),
    }
}

fn compare_from_pb(compare: pb::Compare) -> Result<Compare, WireError> {
    use pb::CompareTarget as Target;
    Ok(Compare {
        range: KeyRange {
            key: compare.key,
            end: compare.end,
        },
        result: match compare.result {
            0 => CompareResult::Equal,
            1 => CompareResult::Greater,
            2 => CompareResult::Less,
            3 => CompareResult::NotEqual,
            4 => CompareResult::Unknown,
            other => return Err(WireError::malformed(format!("compare result {other}"))),
        },
        target: match known(compare.target, "compare target")? {
            Target::Version(n) => CompareTarget::Version(n),
            Target::Create(n) => CompareTarget::Create(n),
            Target::Mod(n) => CompareTarget::Mod(n),
            Target::Value(value) => CompareTarget::Value(value),
            Target::Lease(n) => CompareTarget::Lease(n),
        },
    })
}
