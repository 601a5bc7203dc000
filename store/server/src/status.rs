//! The only map from what went wrong to what a gRPC client is told. Codes and texts are etcd's: clients compare both.

use barque_store_node::ProposeError;
use barque_store_rpc::{Code, Status};
use barque_store_state::Refusal;

pub(crate) const REQUEST_TOO_LARGE: &str = "etcdserver: request is too large";
pub(crate) const INVALID_CLIENT_VERSION: &str = "etcdserver: invalid client api version";
pub(crate) const BAD_URLS: &str = "etcdserver: given member URLs are invalid";
pub(crate) const INVALID_SORT: &str = "etcdserver: invalid sort option";

pub(crate) fn refused(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::Compacted | Refusal::FutureRevision | Refusal::LeaseTtlTooLarge => {
            Code::OutOfRange
        }
        Refusal::EmptyKey
        | Refusal::KeyNotFound
        | Refusal::ValueProvided
        | Refusal::LeaseProvided
        | Refusal::TooManyOps
        | Refusal::DuplicateKey => Code::InvalidArgument,
        Refusal::LeaseNotFound | Refusal::MemberNotFound => Code::NotFound,
        Refusal::LeaseExists
        | Refusal::MemberExists
        | Refusal::PeerUrlsExist
        | Refusal::NotLearner
        | Refusal::LearnerNotReady
        | Refusal::TooManyLearners => Code::FailedPrecondition,
        // Worth another try at once.
        Refusal::TooOld(too_old) if too_old.members.is_empty() => Code::Unavailable,
        Refusal::TooOld(_) => Code::FailedPrecondition,
        // A status of its own in etcd's table, and an error without one on its way: it travels as Unknown.
        Refusal::NotEnoughStarted => Code::Unknown,
        Refusal::Unhealthy | Refusal::Stopped => Code::Unavailable,
        Refusal::NoSpace => Code::ResourceExhausted,
        Refusal::Corrupt => Code::DataLoss,
    };
    Status::new(code, refusal.to_string())
}

pub(crate) fn not_proposed(error: &ProposeError) -> Status {
    let code = match error {
        ProposeError::NoLeader
        | ProposeError::Timeout
        | ProposeError::LeaderChanged
        | ProposeError::Stopped => Code::Unavailable,
        // etcd maps this one to an error without a status, which travels as Unknown. Clients know it so.
        ProposeError::TooManyRequests => Code::Unknown,
    };
    Status::new(code, error.to_string())
}

/// This member lost rows that a watch needs. Unavailable: clients go on at another member, from where they were.
pub(crate) fn history_unreadable() -> Status {
    Status::new(
        Code::Unavailable,
        "etcdserver: this member cannot read its history",
    )
}

/// A learner has no vote and may be far behind.
pub(crate) fn not_for_learners() -> Status {
    Status::new(
        Code::FailedPrecondition,
        "etcdserver: rpc not supported for learner",
    )
}

pub(crate) fn invalid(message: &'static str) -> Status {
    Status::new(Code::InvalidArgument, message)
}

/// A request body that is not the message it should be; grpc-go's code and words.
pub(crate) fn malformed(error: &prost::DecodeError) -> Status {
    Status::new(
        Code::Internal,
        format!("grpc: error unmarshalling request: {error}"),
    )
}

/// A method of etcd's that this server knows of and does not serve.
pub(crate) fn not_served(method: &str) -> Status {
    Status::unimplemented(format!("{method} is not served by this version of Barque"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_texts_are_etcds() {
        let cases = [
            (
                Refusal::Compacted,
                11,
                "etcdserver: mvcc: required revision has been compacted",
            ),
            (
                Refusal::FutureRevision,
                11,
                "etcdserver: mvcc: required revision is a future revision",
            ),
            (Refusal::EmptyKey, 3, "etcdserver: key is not provided"),
            (Refusal::KeyNotFound, 3, "etcdserver: key not found"),
            (Refusal::ValueProvided, 3, "etcdserver: value is provided"),
            (Refusal::LeaseProvided, 3, "etcdserver: lease is provided"),
            (
                Refusal::TooManyOps,
                3,
                "etcdserver: too many operations in txn request",
            ),
            (
                Refusal::DuplicateKey,
                3,
                "etcdserver: duplicate key given in txn request",
            ),
            (
                Refusal::LeaseNotFound,
                5,
                "etcdserver: requested lease not found",
            ),
            (Refusal::LeaseExists, 9, "etcdserver: lease already exists"),
            (
                Refusal::LeaseTtlTooLarge,
                11,
                "etcdserver: too large lease TTL",
            ),
            (
                Refusal::NoSpace,
                8,
                "etcdserver: mvcc: database space exceeded",
            ),
            (Refusal::Corrupt, 15, "etcdserver: corrupt cluster"),
        ];
        for (refusal, code, text) in cases {
            let status = refused(&refusal);
            assert_eq!((status.code as i32, status.message.as_ref()), (code, text));
        }
    }
}
