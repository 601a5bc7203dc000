//! What a log entry and a vote look like on disk and between members (guard 6: our own protobuf, none of openraft's
//! derives). An entry's record is made once, by the leader, and kept byte for byte everywhere.

use std::collections::{BTreeMap, BTreeSet};

use barque_store_state::{Entry, WireError, wire};
use bytes::Bytes;
use prost::Message;

use crate::Peer;
use crate::types::{Data, LeaderId, LogId, Membership, Payload, Vote, inner, log_id, outer};

/// A membership and the entry that brought it in, for a [`crate::Mark`].
#[derive(Clone, PartialEq, Message)]
struct StoredMembershipRecord {
    #[prost(uint64, tag = "1")]
    index: u64,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(message, optional, tag = "3")]
    membership: Option<MembershipRecord>,
}

pub fn stored_membership(id: LogId, m: &Membership) -> Bytes {
    let record = StoredMembershipRecord {
        index: outer(id.index),
        term: id.leader_id.term,
        membership: Some(membership_record(m)),
    };
    record.encode_to_vec().into()
}

pub fn parse_stored_membership(record: Bytes) -> Result<(LogId, Membership), RecordError> {
    let malformed = |cause| RecordError::Malformed {
        what: "a membership",
        cause,
    };
    let record = StoredMembershipRecord::decode(record).map_err(malformed)?;
    let index = inner(record.index).ok_or(RecordError::UnknownKind)?;
    let members = record.membership.ok_or(RecordError::UnknownKind)?;
    Ok((log_id(record.term, index), membership(members)?))
}

/// A record this binary cannot read. The member stops: skipping it would make it differ from the others.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{what} does not parse: {cause}")]
    Malformed {
        what: &'static str,
        cause: prost::DecodeError,
    },
    #[error("an entry of a kind this version does not know; upgrade it")]
    UnknownKind,
    #[error("a membership that is none: {0}")]
    Membership(String),
    #[error("commands: {0}")]
    Commands(#[from] WireError),
}

#[derive(Clone, PartialEq, Message)]
struct EntryRecord {
    #[prost(oneof = "Kind", tags = "1, 2, 3")]
    kind: Option<Kind>,
}
#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Blank(BlankRecord),
    /// `barque_store_state`'s wire form of an `Entry`.
    #[prost(bytes = "bytes", tag = "2")]
    Normal(Bytes),
    #[prost(message, tag = "3")]
    Membership(MembershipRecord),
}
#[derive(Clone, PartialEq, Message)]
struct BlankRecord {}
#[derive(Clone, PartialEq, Message)]
struct MembershipRecord {
    /// One set of voters, or two while the membership changes.
    #[prost(message, repeated, tag = "1")]
    voters: Vec<VotersRecord>,
    /// Voters and learners.
    #[prost(message, repeated, tag = "2")]
    nodes: Vec<NodeRecord>,
}
#[derive(Clone, PartialEq, Message)]
struct VotersRecord {
    #[prost(fixed64, repeated, tag = "1")]
    ids: Vec<u64>,
}
#[derive(Clone, PartialEq, Message)]
struct NodeRecord {
    #[prost(fixed64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    addr: String,
}
#[derive(Clone, PartialEq, Message)]
pub struct VoteRecord {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(fixed64, tag = "2")]
    pub voted_for: u64,
    #[prost(bool, tag = "3")]
    pub committed: bool,
}

fn encode(kind: Kind) -> Bytes {
    EntryRecord { kind: Some(kind) }.encode_to_vec().into()
}

pub fn normal(entry: &Entry) -> Bytes {
    encode(Kind::Normal(wire::encode_entry(entry)))
}

/// The record of a log entry's payload.
pub fn of(payload: &Payload) -> Bytes {
    match payload {
        Payload::Blank => encode(Kind::Blank(BlankRecord {})),
        Payload::Normal(data) => data.record().clone(),
        Payload::Membership(m) => encode(Kind::Membership(membership_record(m))),
    }
}

fn membership_record(m: &Membership) -> MembershipRecord {
    MembershipRecord {
        voters: m
            .get_joint_config()
            .iter()
            .map(|ids| VotersRecord {
                ids: ids.iter().copied().collect(),
            })
            .collect(),
        nodes: m
            .nodes()
            .map(|(id, node)| NodeRecord {
                id: *id,
                addr: node.addr.clone(),
            })
            .collect(),
    }
}

/// Bytes [`of`] gives, without making them where that would cost something.
pub fn len(payload: &Payload) -> usize {
    match payload {
        Payload::Blank => 2,
        Payload::Normal(data) => data.record().len(),
        Payload::Membership(_) => of(payload).len(),
    }
}

pub fn parse(record: Bytes) -> Result<Payload, RecordError> {
    Ok(match kind(record.clone())? {
        Kind::Blank(_) => Payload::Blank,
        Kind::Normal(_) => Payload::Normal(Data::recorded(record)),
        Kind::Membership(m) => Payload::Membership(membership(m)?),
    })
}

/// The commands of a normal record.
pub fn entry(record: &Bytes) -> Result<Entry, RecordError> {
    match kind(record.clone())? {
        Kind::Normal(entry) => Ok(wire::decode_entry(&entry)?),
        Kind::Blank(_) | Kind::Membership(_) => Err(RecordError::UnknownKind),
    }
}

fn kind(record: Bytes) -> Result<Kind, RecordError> {
    EntryRecord::decode(record)
        .map_err(|cause| RecordError::Malformed {
            what: "an entry",
            cause,
        })?
        .kind
        .ok_or(RecordError::UnknownKind)
}

fn membership(m: MembershipRecord) -> Result<Membership, RecordError> {
    let voters: Vec<BTreeSet<u64>> = m
        .voters
        .into_iter()
        .map(|v| v.ids.into_iter().collect())
        .collect();
    let nodes: BTreeMap<u64, Peer> = m
        .nodes
        .into_iter()
        .map(|n| (n.id, Peer { addr: n.addr }))
        .collect();
    Membership::new(voters, nodes).map_err(|e| RecordError::Membership(e.to_string()))
}

impl From<&Vote> for VoteRecord {
    fn from(vote: &Vote) -> Self {
        VoteRecord {
            term: vote.leader_id.term,
            voted_for: vote.leader_id.voted_for,
            committed: vote.committed,
        }
    }
}
impl From<&VoteRecord> for Vote {
    fn from(record: &VoteRecord) -> Self {
        Vote {
            leader_id: LeaderId {
                term: record.term,
                voted_for: record.voted_for,
            },
            committed: record.committed,
        }
    }
}

pub fn vote(vote: &Vote) -> Bytes {
    VoteRecord::from(vote).encode_to_vec().into()
}
pub fn parse_vote(record: Bytes) -> Result<Vote, RecordError> {
    let record = VoteRecord::decode(record).map_err(|cause| RecordError::Malformed {
        what: "a vote",
        cause,
    })?;
    Ok(Vote::from(&record))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(addr: &str) -> Peer {
        Peer { addr: addr.into() }
    }

    #[test]
    fn payloads_and_votes_come_back() {
        let joint = Membership::new(
            vec![BTreeSet::from([1, u64::MAX]), BTreeSet::from([1])],
            BTreeMap::from([
                (1, peer("a:1")),
                (u64::MAX, peer("b:2")),
                (7, peer("learner:3")),
            ]),
        )
        .expect("every voter has a node");
        for payload in [Payload::Blank, Payload::Membership(joint)] {
            let record = of(&payload);
            assert_eq!(record.len(), len(&payload));
            assert_eq!(parse(record).expect("own record"), payload);
        }
        let v = Vote::new_committed(9, u64::MAX - 3);
        assert_eq!(parse_vote(vote(&v)).expect("own record"), v);
    }

    #[test]
    fn what_it_does_not_know_is_refused() {
        assert!(matches!(parse(Bytes::new()), Err(RecordError::UnknownKind)));
        // Field 9, a later version's kind.
        assert!(matches!(
            parse(Bytes::from_static(&[0x4a, 0])),
            Err(RecordError::UnknownKind)
        ));
        assert!(matches!(
            parse(Bytes::from_static(&[0x12, 9, 1])),
            Err(RecordError::Malformed { .. })
        ));
        let nobody = encode(Kind::Membership(MembershipRecord {
            voters: vec![VotersRecord { ids: vec![1] }],
            nodes: vec![],
        }));
        assert!(matches!(parse(nobody), Err(RecordError::Membership(_))));
    }
}
