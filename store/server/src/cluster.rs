//! etcd's Cluster service: who the members are. Changing them is not served yet.

use std::rc::Rc;

use barque_proto::etcdserverpb as pb;
use barque_store_env::Env;
use barque_store_rpc::{Framed, Reply};
use barque_store_state::Revision;
use bytes::Bytes;
use prost::Message;

use crate::core::Core;
use crate::maintenance::{framed, header};
use crate::status::malformed;

pub(crate) fn member_list<E: Env>(core: &Rc<Core<E>>, request: Bytes, reply: Reply) {
    match pb::MemberListRequest::decode(request) {
        Err(error) => reply.err(malformed(&error)),
        Ok(request) if request.linearizable => {
            let at = core.clone();
            core.reads
                .linearizable(move |ready| reply.done(ready.map(|()| members(&at))));
        }
        Ok(_) => reply.ok(members(core)),
    }
}

fn members<E: Env>(core: &Core<E>) -> Framed {
    let mut members = core.store.members();
    members.sort_by_key(|member| member.id);
    framed(&pb::MemberListResponse {
        // Answers about the cluster carry no revision in etcd.
        header: header(core, Revision(0)),
        members: members
            .into_iter()
            .map(|member| pb::Member {
                id: member.id.0,
                name: member.name,
                peer_ur_ls: member.peer_urls,
                client_ur_ls: member.client_urls,
                is_learner: false,
            })
            .collect(),
    })
}
