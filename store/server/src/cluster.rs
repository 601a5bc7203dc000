//! etcd's Cluster service: who the members are, and changing them.

use std::rc::Rc;

use barque_proto::etcdserverpb as pb;
use barque_store_env::Env;
use barque_store_rpc::{Framed, Reply, Status};
use barque_store_state::{MemberChange, MemberId, MemberInfo, Revision};
use bytes::Bytes;
use prost::Message;

use crate::core::Core;
use crate::maintenance::{framed, header};
use crate::status::{BAD_URLS, invalid, malformed, not_proposed, refused};

pub(crate) fn member_list<E: Env>(core: &Rc<Core<E>>, request: Bytes, reply: Reply) {
    let list = |core: &Core<E>| {
        framed(&pb::MemberListResponse {
            // Answers about the cluster carry no revision in etcd.
            header: header(core, Revision(0)),
            members: members(core.store.members()),
        })
    };
    match pb::MemberListRequest::decode(request) {
        Err(error) => reply.err(malformed(&error)),
        Ok(request) if request.linearizable => {
            let at = core.clone();
            core.reads
                .linearizable(move |ready| reply.done(ready.map(|()| list(&at))));
        }
        Ok(_) => reply.ok(list(core)),
    }
}

fn member(member: MemberInfo) -> pb::Member {
    pb::Member {
        id: member.id.0,
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner: member.learner,
    }
}

fn members(mut all: Vec<MemberInfo>) -> Vec<pb::Member> {
    all.sort_by_key(|member| member.id);
    all.into_iter().map(member).collect()
}

/// The request, or the client is told that it is none.
fn decoded<M: Message + Default>(request: Bytes, reply: Reply) -> Option<(M, Reply)> {
    match M::decode(request) {
        Ok(request) => Some((request, reply)),
        Err(error) => {
            reply.err(malformed(&error));
            None
        }
    }
}

/// etcd's check of peer URLs (pkg/types/urls.go), sorted as it sorts them.
fn checked_urls(mut urls: Vec<String>) -> Result<Vec<String>, Status> {
    let valid = |url: &String| {
        let rest = url
            .strip_prefix("http://")
            .or_else(|| url.strip_prefix("https://"));
        let port = rest.and_then(|rest| rest.rsplit_once(':'));
        port.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    if urls.is_empty() || !urls.iter().all(valid) {
        return Err(invalid(BAD_URLS));
    }
    urls.sort_unstable();
    Ok(urls)
}

pub(crate) fn member_add<E: Env>(core: &Rc<Core<E>>, request: Bytes, reply: Reply) {
    let Some((request, reply)) = decoded::<pb::MemberAddRequest>(request, reply) else {
        return;
    };
    let urls = match checked_urls(request.peer_ur_ls) {
        Ok(urls) => urls,
        Err(status) => return reply.err(status),
    };
    let core = core.clone();
    barque_store_rpc::spawn_local(async move {
        let deadline = core.deadline();
        let added = core.store.member_add(urls, request.is_learner, deadline);
        reply.done(match added.await {
            Err(error) => Err(not_proposed(&error)),
            Ok(Err(refusal)) => Err(refused(&refusal)),
            Ok(Ok((id, all))) => Ok(framed(&pb::MemberAddResponse {
                header: header(&core, Revision(0)),
                member: all.iter().find(|m| m.id == id).cloned().map(member),
                members: members(all),
            })),
        });
    });
}

/// Proposes the change and answers with what `answer` makes of the members after it.
fn change<E: Env>(
    core: &Rc<Core<E>>,
    change: MemberChange,
    reply: Reply,
    answer: impl FnOnce(&Core<E>, Vec<pb::Member>) -> Framed + 'static,
) {
    let core = core.clone();
    barque_store_rpc::spawn_local(async move {
        let changed = core.store.member_change(change, core.deadline());
        reply.done(match changed.await {
            Err(error) => Err(not_proposed(&error)),
            Ok(Err(refusal)) => Err(refused(&refusal)),
            Ok(Ok(all)) => Ok(answer(&core, members(all))),
        });
    });
}

pub(crate) fn member_remove<E: Env>(core: &Rc<Core<E>>, request: Bytes, reply: Reply) {
    let Some((request, reply)) = decoded::<pb::MemberRemoveRequest>(request, reply) else {
        return;
    };
    let id = MemberId(request.id);
    change(core, MemberChange::Remove { id }, reply, |core, members| {
        framed(&pb::MemberRemoveResponse {
            header: header(core, Revision(0)),
            members,
        })
    });
}

pub(crate) fn member_update<E: Env>(core: &Rc<Core<E>>, request: Bytes, reply: Reply) {
    let Some((request, reply)) = decoded::<pb::MemberUpdateRequest>(request, reply) else {
        return;
    };
    let peer_urls = match checked_urls(request.peer_ur_ls) {
        Ok(urls) => urls,
        Err(status) => return reply.err(status),
    };
    let id = MemberId(request.id);
    let update = MemberChange::Update { id, peer_urls };
    change(core, update, reply, |core, members| {
        framed(&pb::MemberUpdateResponse {
            header: header(core, Revision(0)),
            members,
        })
    });
}

pub(crate) fn member_promote<E: Env>(core: &Rc<Core<E>>, request: Bytes, reply: Reply) {
    let Some((request, reply)) = decoded::<pb::MemberPromoteRequest>(request, reply) else {
        return;
    };
    let id = MemberId(request.id);
    change(
        core,
        MemberChange::Promote { id },
        reply,
        |core, members| {
            framed(&pb::MemberPromoteResponse {
                header: header(core, Revision(0)),
                members,
            })
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_urls_are_checked_as_etcd_checks_them() {
        let urls = |urls: &[&str]| checked_urls(urls.iter().map(|u| (*u).to_owned()).collect());
        let good = urls(&["https://b:2380", "http://a:2380"]).expect("both are URLs");
        assert_eq!(good, ["http://a:2380", "https://b:2380"]);
        for bad in [
            &[][..],
            &["a:2380"],
            &["http://a"],
            &["http://a:x"],
            &["ftp://a:1"],
        ] {
            let status = urls(bad).expect_err("no URLs");
            assert_eq!(status.message.as_ref(), BAD_URLS);
        }
    }
}
