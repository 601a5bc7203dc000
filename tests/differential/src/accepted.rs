//! The differences that are meant. Each has a name, and each name stands with its reason in `accepted.md`; a test holds the
//! two together. Everything else is a fault.

use std::collections::BTreeSet;

use barque_proto::etcdserverpb as pb;
use prost::Message;

use crate::call::unframed;
use crate::fields::Fields;
use crate::limits::{ENVELOPE_MAX, REQUEST_MAX};
use crate::step::Step;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Accepted {
    Identity,
    RaftNumbers,
    VersionsAndSizes,
    NewerFields,
    MalformedText,
    RemainingTtl,
    LeaseOrder,
    UnknownSort,
    ReadOnlyTxnSize,
    StoredHash,
    NegativeWatchStart,
    CompactedWatchLingers,
    ProgressBeforeStart,
}

impl Accepted {
    pub const ALL: &[Accepted] = &[
        Accepted::Identity,
        Accepted::RaftNumbers,
        Accepted::VersionsAndSizes,
        Accepted::NewerFields,
        Accepted::MalformedText,
        Accepted::RemainingTtl,
        Accepted::LeaseOrder,
        Accepted::UnknownSort,
        Accepted::ReadOnlyTxnSize,
        Accepted::StoredHash,
        Accepted::NegativeWatchStart,
        Accepted::CompactedWatchLingers,
        Accepted::ProgressBeforeStart,
    ];

    /// As in `accepted.md`.
    pub fn name(self) -> &'static str {
        match self {
            Accepted::Identity => "identity",
            Accepted::RaftNumbers => "raft-numbers",
            Accepted::VersionsAndSizes => "versions-and-sizes",
            Accepted::NewerFields => "newer-fields",
            Accepted::MalformedText => "malformed-text",
            Accepted::RemainingTtl => "remaining-ttl",
            Accepted::LeaseOrder => "lease-order",
            Accepted::UnknownSort => "unknown-sort",
            Accepted::ReadOnlyTxnSize => "read-only-txn-size",
            Accepted::StoredHash => "stored-hash",
            Accepted::NegativeWatchStart => "negative-watch-start",
            Accepted::CompactedWatchLingers => "compacted-watch-lingers",
            Accepted::ProgressBeforeStart => "progress-before-start",
        }
    }
}

/// Two values of one field; `None` where a side does not have it.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    pub etcd: Option<&'a str>,
    pub barque: Option<&'a str>,
}

/// The reason why this field of this answer may differ.
pub fn accepted(step: &Step, path: &str, values: Values<'_>) -> Option<Accepted> {
    let name = step.name();
    let last = path.rsplit('.').next().unwrap_or(path);
    let nonzero = || {
        let set = |value: Option<&str>| value.is_some_and(|v| v != "0" && v != "\"\"");
        set(values.etcd) && set(values.barque)
    };
    match (name, last) {
        (_, "cluster_id" | "member_id") if path.contains("header.") && nonzero() => {
            Some(Accepted::Identity)
        }
        ("MemberList", _) if path.starts_with("members[0].") && nonzero() => {
            matches!(last, "ID" | "peerURLs[0]" | "clientURLs[0]").then_some(Accepted::Identity)
        }
        ("Status", "leader") if nonzero() => Some(Accepted::Identity),
        (_, "raft_term") if path.contains("header.") && nonzero() => Some(Accepted::RaftNumbers),
        ("Status", "raftIndex" | "raftTerm" | "raftAppliedIndex") if nonzero() => {
            Some(Accepted::RaftNumbers)
        }
        ("Status", "version" | "dbSize" | "dbSizeInUse") if nonzero() => {
            Some(Accepted::VersionsAndSizes)
        }
        ("Status", _)
            if ["storageVersion", "dbSizeQuota", "downgradeInfo"]
                .iter()
                .any(|new| path.starts_with(new)) =>
        {
            values.etcd.is_none().then_some(Accepted::NewerFields)
        }
        ("HashKV", "hash_revision") => values.etcd.is_none().then_some(Accepted::NewerFields),
        (_, "grpc-message") => both_start(values, "grpc: error unmarshalling request: ")
            .then_some(Accepted::MalformedText),
        ("LeaseTimeToLive" | "LeaseKeepAlive", "TTL") => {
            let number = |value: Option<&str>| value.and_then(|v| v.parse::<i64>().ok());
            let (etcd, barque) = (number(values.etcd)?, number(values.barque)?);
            (etcd > 0 && barque > 0 && etcd.abs_diff(barque) <= 2).then_some(Accepted::RemainingTtl)
        }
        _ => None,
    }
}

/// The reason why the whole answer may be another one. `compactions`: the revisions compacted so far.
pub fn accepted_whole(
    step: &Step,
    etcd: &Fields,
    barque: &Fields,
    compactions: &BTreeSet<i64>,
) -> Option<Accepted> {
    let refused =
        |fields: &Fields, text: &str| fields.get("grpc-message").is_some_and(|told| told == text);
    let Step::Call { path, sent } = step else {
        return None;
    };
    let messages = unframed(sent.body.clone())?;
    let [message] = messages.as_slice() else {
        return None;
    };
    let message = message.clone();
    match path.as_str() {
        "/etcdserverpb.KV/Range" => {
            let range = pb::RangeRequest::decode(message).ok()?;
            let unknown = !(0..=2).contains(&range.sort_order) && !range.key.is_empty();
            (unknown && refused(barque, "etcdserver: invalid sort option"))
                .then_some(Accepted::UnknownSort)
        }
        "/etcdserverpb.KV/Txn" => {
            let large = message.len() > REQUEST_MAX - ENVELOPE_MAX;
            let answered = etcd.get("grpc-status").is_some_and(|code| code == "0");
            (large && answered && refused(barque, "etcdserver: request is too large"))
                .then_some(Accepted::ReadOnlyTxnSize)
        }
        "/etcdserverpb.Maintenance/HashKV" => {
            let asked = pb::HashKvRequest::decode(message).ok()?.revision;
            compactions.contains(&asked).then_some(Accepted::StoredHash)
        }
        _ => None,
    }
}

fn both_start(values: Values<'_>, with: &str) -> bool {
    [values.etcd, values.barque]
        .iter()
        .all(|value| value.is_some_and(|v| v.starts_with(with)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_for_people_and_the_one_in_code_are_the_same() {
        let page = include_str!("../accepted.md");
        let told: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("- `")?.split('`').next())
            .collect();
        let known: Vec<&str> = Accepted::ALL.iter().map(|a| a.name()).collect();
        assert_eq!(told, known);
        for line in page.lines().filter(|line| line.starts_with("- `")) {
            let reason = line.split_once(": ").map_or("", |(_, reason)| reason);
            assert!(reason.len() > 20, "no reason is given: {line}");
        }
    }

    #[test]
    fn a_field_that_one_side_lacks_is_not_accepted_as_another_value() {
        let step = Step::call(
            "/etcdserverpb.KV/Put",
            &barque_proto::etcdserverpb::PutRequest::default(),
        );
        let of = |etcd, barque| accepted(&step, "header.cluster_id", Values { etcd, barque });
        assert_eq!(of(Some("1"), Some("2")), Some(Accepted::Identity));
        assert_eq!(of(Some("1"), None), None);
    }
}
