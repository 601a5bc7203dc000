//! etcd's Maintenance service but for snapshots: status, alarms, hashes, defragmentation (nothing to do), who leads, downgrades.

use std::rc::Rc;

use barque_proto::etcdserverpb as pb;
use barque_store_env::Env;
use barque_store_node::ProposeError;
use barque_store_node::TransferError;
use barque_store_rpc::{Code, Framed, Frames, Reply, Status};
use barque_store_state::{Alarm, AlarmCause, AlarmKind, Answer, Command, MemberId, Revision};
use bytes::Bytes;
use prost::Message;

use crate::core::Core;
use crate::metrics::quota;
use crate::status::{invalid, malformed, not_proposed, refused};
use crate::{ETCD_API_VERSION, version_text};

/// Frames a message of the cold paths.
pub(crate) fn framed(message: &impl Message) -> Framed {
    Frames::one(message.encoded_len(), |buf| {
        // A BytesMut grows: encoding into it cannot fail.
        let _ = message.encode(buf);
    })
}

pub(crate) fn header<E: Env>(core: &Core<E>, revision: Revision) -> Option<pb::ResponseHeader> {
    let header = core.header(revision);
    Some(pb::ResponseHeader {
        cluster_id: header.cluster_id,
        member_id: header.member_id,
        revision: signed(header.revision.0),
        raft_term: header.raft_term,
    })
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn status<E: Env>(core: &Core<E>, reply: Reply) {
    let status = core.store.status();
    let mut errors = match status.leader {
        Some(_) => Vec::new(),
        None => vec![ProposeError::NoLeader.to_string()],
    };
    errors.extend(core.store.alarms().iter().map(alarm_text));
    reply.ok(framed(&pb::StatusResponse {
        header: header(core, status.revision),
        version: ETCD_API_VERSION.to_owned(),
        db_size: signed(status.db_size),
        leader: status.leader.map_or(0, |leader| leader.0),
        raft_index: status.raft_index,
        raft_term: status.term,
        raft_applied_index: status.applied_index,
        errors,
        db_size_in_use: signed(status.db_size_in_use),
        is_learner: core.store.is_learner(),
        storage_version: status
            .cluster_version
            .map_or_else(String::new, version_text),
        db_size_quota: quota(status.quota_bytes),
        downgrade_info: Some(pb::DowngradeInfo::default()),
    }));
}

/// Every HashKV begins with the CRC32C of "key".
const HASH_OF_NO_ROWS: u32 = 0x40a4_756d;

pub(crate) fn hash_kv<E: Env>(core: &Rc<Core<E>>, request: Bytes, reply: Reply) {
    let asked = match pb::HashKvRequest::decode(request) {
        Ok(request) => request.revision,
        Err(error) => return reply.err(malformed(&error)),
    };
    let revision = u64::try_from(asked).ok().filter(|r| *r > 0);
    let core = core.clone();
    // Every row is read: other calls of this core must not wait for all of them.
    barque_store_rpc::spawn_local(async move {
        let hash = core.store.hash_kv_in_turns(revision.map(Revision)).await;
        reply.done(match hash {
            Err(refusal) => Err(refused(&refusal)),
            Ok(hash) => Ok(framed(&pb::HashKvResponse {
                header: header(&core, core.store.revision()),
                // No row is at or before a negative revision.
                hash: if asked < 0 {
                    HASH_OF_NO_ROWS
                } else {
                    hash.hash
                },
                // etcd's sign for "never compacted".
                compact_revision: if hash.compacted {
                    signed(hash.compact_revision.0)
                } else {
                    -1
                },
                hash_revision: if asked < 0 {
                    asked
                } else {
                    signed(hash.revision.0)
                },
            })),
        });
    });
}

/// etcd hashes its whole database file here. We have no such file: the hash is over everything replicated, equal on members
/// that applied the same entries.
pub(crate) fn hash<E: Env>(core: &Core<E>, reply: Reply) {
    let (_, whole) = core.store.whole_hash();
    reply.ok(framed(&pb::HashResponse {
        header: header(core, core.store.revision()),
        hash: (whole ^ (whole >> 32)) as u32,
    }));
}

fn alarm_type(kind: AlarmKind) -> pb::AlarmType {
    match kind {
        AlarmKind::NoSpace => pb::AlarmType::Nospace,
        AlarmKind::Corrupt => pb::AlarmType::Corrupt,
    }
}

fn alarm_kind(kind: pb::AlarmType) -> Option<AlarmKind> {
    match kind {
        pb::AlarmType::None => None,
        pb::AlarmType::Nospace => Some(AlarmKind::NoSpace),
        pb::AlarmType::Corrupt => Some(AlarmKind::Corrupt),
    }
}

/// As etcd prints one among the errors of a status.
fn alarm_text(alarm: &Alarm) -> String {
    let kind = alarm_type(alarm.kind).as_str_name();
    match alarm.member.0 {
        0 => format!("alarm:{kind}"),
        member => format!("memberID:{member} alarm:{kind}"),
    }
}

fn alarms<E: Env>(core: &Core<E>, revision: Revision, alarms: Vec<Alarm>) -> Framed {
    framed(&pb::AlarmResponse {
        header: header(core, revision),
        alarms: alarms
            .into_iter()
            .map(|alarm| pb::AlarmMember {
                member_id: alarm.member.0,
                alarm: alarm_type(alarm.kind).into(),
            })
            .collect(),
    })
}

/// Lists alarms as of now, or changes one through the log and answers with what was touched. As in etcd, a change without a
/// kind of alarm does nothing, and member 0 stands for no member but itself.
pub(crate) fn alarm<E: Env>(core: &Rc<Core<E>>, request: Bytes, reply: Reply) {
    use pb::alarm_request::AlarmAction;
    let request = match pb::AlarmRequest::decode(request) {
        Ok(request) => request,
        Err(error) => return reply.err(malformed(&error)),
    };
    let kind = alarm_kind(request.alarm());
    let member = MemberId(request.member_id);
    let at = core.clone();
    let command = match (request.action(), kind) {
        (AlarmAction::Get, kind) => {
            return core.reads.linearizable(move |ready| {
                reply.done(ready.map(|()| {
                    let mut listed = at.store.alarms();
                    listed.retain(|alarm| kind.is_none_or(|kind| kind == alarm.kind));
                    alarms(&at, at.store.revision(), listed)
                }));
            });
        }
        (_, None) => return reply.ok(alarms(core, core.store.revision(), Vec::new())),
        (AlarmAction::Activate, Some(kind)) => Command::AlarmRaise(Alarm {
            kind,
            member,
            cause: AlarmCause::Operator,
        }),
        (AlarmAction::Deactivate, Some(kind)) => Command::AlarmClear {
            kind,
            member,
            only: None,
        },
    };
    barque_store_rpc::spawn_local(async move {
        let outcome = at.store.propose(command, at.deadline()).await;
        reply.done(match outcome {
            Err(error) => Err(not_proposed(&error)),
            Ok(outcome) => match outcome.result {
                Err(refusal) => Err(refused(&refusal)),
                Ok(Answer::Alarms(touched)) => Ok(alarms(&at, outcome.revision, touched)),
                Ok(_) => Err(Status::new(Code::Internal, "an answer of another kind")),
            },
        });
    });
}

const NOT_LEADER: &str = "etcdserver: not leader";
const BAD_TRANSFEREE: &str = "etcdserver: bad leader transferee";

/// Only the leader moves leadership, and only to a voter; to itself there is nothing to do.
pub(crate) fn move_leader<E: Env>(core: &Rc<Core<E>>, request: Bytes, reply: Reply) {
    let target = match pb::MoveLeaderRequest::decode(request) {
        Ok(request) => MemberId(request.target_id),
        Err(error) => return reply.err(malformed(&error)),
    };
    let status = core.store.status();
    if status.leader != Some(status.member) {
        return reply.err(Status::new(Code::FailedPrecondition, NOT_LEADER));
    }
    let members = core.store.members();
    if !members.iter().any(|m| m.id == target && !m.learner) {
        return reply.err(Status::new(Code::FailedPrecondition, BAD_TRANSFEREE));
    }
    let core = core.clone();
    barque_store_rpc::spawn_local(async move {
        let moved = match target == status.member {
            true => Ok(()),
            false => core.store.move_leader(target, core.deadline()).await,
        };
        reply.done(match moved {
            Ok(()) => Ok(framed(&pb::MoveLeaderResponse {
                header: header(&core, core.store.revision()),
            })),
            Err(TransferError::NotLeader) => Err(Status::new(Code::FailedPrecondition, NOT_LEADER)),
            Err(TransferError::NotReady | TransferError::Timeout) => Err(Status::new(
                Code::Unavailable,
                "etcdserver: request timed out, leader transfer took too long",
            )),
        });
    });
}

/// There is no older form of this store to go back to, so no version is a valid target, and no downgrade is ever under way.
pub(crate) fn downgrade(request: Bytes, reply: Reply) {
    use pb::downgrade_request::DowngradeAction;
    let request = match pb::DowngradeRequest::decode(request) {
        Ok(request) => request,
        Err(error) => return reply.err(malformed(&error)),
    };
    reply.err(match request.action() {
        DowngradeAction::Cancel => Status::new(
            Code::FailedPrecondition,
            "etcdserver: no inflight downgrade job",
        ),
        DowngradeAction::Validate | DowngradeAction::Enable if !is_version(&request.version) => {
            invalid("etcdserver: wrong downgrade target version format")
        }
        DowngradeAction::Validate | DowngradeAction::Enable => {
            invalid("etcdserver: invalid downgrade target version")
        }
    });
}

/// `MAJOR.MINOR` or `MAJOR.MINOR.PATCH`, with whatever follows a dash or plus.
fn is_version(text: &str) -> bool {
    let numbers = text.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<&str> = numbers.split('.').collect();
    (2..=3).contains(&parts.len()) && parts.iter().all(|part| part.parse::<u32>().is_ok())
}

/// Space is given back continuously, so there is nothing to wait for. As etcd, the answer has no header.
pub(crate) fn defragment(reply: Reply) {
    reply.ok(framed(&pb::DefragmentResponse { header: None }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_two_or_three_numbers() {
        for good in ["3.5", "3.5.0", "3.7.1-rc.0"] {
            assert!(is_version(good), "{good}");
        }
        for bad in ["", "3", "v3.5.0", "3.x", "3.5.0.1"] {
            assert!(!is_version(bad), "{bad}");
        }
    }

    #[test]
    fn alarms_print_as_etcd_prints_them() {
        let alarm = |member| Alarm {
            kind: AlarmKind::NoSpace,
            member: MemberId(member),
            cause: AlarmCause::Quota,
        };
        assert_eq!(alarm_text(&alarm(7)), "memberID:7 alarm:NOSPACE");
        assert_eq!(alarm_text(&alarm(0)), "alarm:NOSPACE");
    }
}
