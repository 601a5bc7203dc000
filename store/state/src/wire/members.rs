//! Members and their changes ⇄ their messages.

use super::commands::{version_from_pb, version_to_pb};
use super::pb;
use super::{WireError, known};
use crate::command::{MemberChange, MemberInfo};
use crate::read_since::{OldMember, TooOld};
use crate::types::MemberId;

pub fn change_to_pb(change: &MemberChange) -> pb::MemberChange {
    use pb::MemberChangeKind as Kind;
    let member = |id: &MemberId, peer_urls: &[String], learner| pb::Member {
        id: id.0,
        peer_urls: peer_urls.to_vec(),
        learner,
        ..pb::Member::default()
    };
    let kind = match change {
        MemberChange::Found { members } => Kind::Found(list_to_pb(members)),
        MemberChange::Add {
            id,
            peer_urls,
            learner,
        } => Kind::Add(member(id, peer_urls, *learner)),
        MemberChange::Remove { id } => Kind::Remove(id.0),
        MemberChange::Update { id, peer_urls } => Kind::Update(member(id, peer_urls, false)),
        MemberChange::Promote { id } => Kind::Promote(id.0),
        MemberChange::Only {
            id,
            peer_urls,
            others,
        } => Kind::Only(pb::Only {
            id: id.0,
            peer_urls: peer_urls.clone(),
            others: others.iter().map(|id| id.0).collect(),
        }),
    };
    pb::MemberChange { kind: Some(kind) }
}

pub fn change_from_pb(change: pb::MemberChange) -> Result<MemberChange, WireError> {
    use pb::MemberChangeKind as Kind;
    Ok(match known(change.kind, "change of members")? {
        Kind::Found(members) => MemberChange::Found {
            members: list_from_pb(members),
        },
        Kind::Add(member) => MemberChange::Add {
            id: MemberId(member.id),
            peer_urls: member.peer_urls,
            learner: member.learner,
        },
        Kind::Remove(id) => MemberChange::Remove { id: MemberId(id) },
        Kind::Update(member) => MemberChange::Update {
            id: MemberId(member.id),
            peer_urls: member.peer_urls,
        },
        Kind::Promote(id) => MemberChange::Promote { id: MemberId(id) },
        Kind::Only(only) => MemberChange::Only {
            id: MemberId(only.id),
            peer_urls: only.peer_urls,
            others: only.others.into_iter().map(MemberId).collect(),
        },
    })
}

pub fn list_to_pb(members: &[MemberInfo]) -> pb::Members {
    let member = |member: &MemberInfo| pb::Member {
        id: member.id.0,
        name: member.name.clone(),
        peer_urls: member.peer_urls.clone(),
        client_urls: member.client_urls.clone(),
        learner: member.learner,
    };
    pb::Members {
        members: members.iter().map(member).collect(),
    }
}

pub fn list_from_pb(members: pb::Members) -> Vec<MemberInfo> {
    let member = |member: pb::Member| MemberInfo {
        id: MemberId(member.id),
        name: member.name,
        peer_urls: member.peer_urls,
        client_urls: member.client_urls,
        learner: member.learner,
    };
    members.members.into_iter().map(member).collect()
}

pub fn too_old_to_pb(too_old: &TooOld) -> pb::TooOld {
    let member = |member: &OldMember| pb::OldMember {
        id: member.id.0,
        name: member.name.clone(),
        newest: member.newest.as_ref().map(version_to_pb),
    };
    pb::TooOld {
        needs: Some(version_to_pb(&too_old.needs)),
        members: too_old.members.iter().map(member).collect(),
    }
}

pub fn too_old_from_pb(too_old: pb::TooOld) -> TooOld {
    let member = |member: pb::OldMember| OldMember {
        id: MemberId(member.id),
        name: member.name,
        newest: member.newest.map(version_from_pb),
    };
    TooOld {
        needs: version_from_pb(too_old.needs.unwrap_or_default()),
        members: too_old.members.into_iter().map(member).collect(),
    }
}
