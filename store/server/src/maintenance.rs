//! etcd's Maintenance service as far as it is served: status, hashes, alarms (there are none yet), defragmentation (nothing to do).

use std::rc::Rc;

use barque_proto::etcdserverpb as pb;
use barque_store_env::Env;
use barque_store_node::ProposeError;
use barque_store_rpc::{Framed, Frames, Reply};
use barque_store_state::Revision;
use bytes::Bytes;
use prost::Message;

use crate::core::Core;
use crate::status::{malformed, not_served, refused};
use crate::{ETCD_API_VERSION, ETCD_CLUSTER_VERSION};

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
    let errors = match status.leader {
        Some(_) => Vec::new(),
        None => vec![ProposeError::NoLeader.to_string()],
    };
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
        is_learner: false,
        storage_version: ETCD_CLUSTER_VERSION.to_owned(),
        // No quota is enforced yet; 0 says so.
        db_size_quota: 0,
        downgrade_info: Some(pb::DowngradeInfo::default()),
    }));
}

pub(crate) fn hash_kv<E: Env>(core: &Rc<Core<E>>, request: Bytes, reply: Reply) {
    let revision = match pb::HashKvRequest::decode(request) {
        Ok(request) => u64::try_from(request.revision).ok().filter(|r| *r > 0),
        Err(error) => return reply.err(malformed(&error)),
    };
    reply.done(match core.store.hash_kv(revision.map(Revision)) {
        Err(refusal) => Err(refused(&refusal)),
        Ok(hash) => Ok(framed(&pb::HashKvResponse {
            header: header(core, core.store.revision()),
            hash: hash.hash,
            // etcd's sign for "never compacted".
            compact_revision: if hash.compacted {
                signed(hash.compact_revision.0)
            } else {
                -1
            },
            hash_revision: signed(hash.revision.0),
        })),
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

/// No alarm exists yet: there is none to list and none to disarm. Raising one would have no effect, so it is refused.
pub(crate) fn alarm<E: Env>(core: &Core<E>, request: Bytes, reply: Reply) {
    let request = match pb::AlarmRequest::decode(request) {
        Ok(request) => request,
        Err(error) => return reply.err(malformed(&error)),
    };
    if request.action() == pb::alarm_request::AlarmAction::Activate {
        return reply.err(not_served("activating an alarm"));
    }
    reply.ok(framed(&pb::AlarmResponse {
        header: header(core, core.store.revision()),
        alarms: Vec::new(),
    }));
}

/// Space is given back continuously, so there is nothing to wait for. As etcd, the answer has no header.
pub(crate) fn defragment(reply: Reply) {
    reply.ok(framed(&pb::DefragmentResponse { header: None }));
}
