//! Bodies of the peer protocol's frames and their meaning in openraft's types. PROTOCOL.md documents the fields.
//! Not here: bytes of a frame (`frame`), what is done with a message (`serve`, `network`).

use barque_store_env::Env;
use barque_store_state::{MemberId, Outcome, wire};
use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use prost::Message;

use crate::ProposeError;
use crate::record::{self, RecordError, VoteRecord};
use crate::types::{LogEntry, LogId, Types, Vote, inner, log_id, outer};

/// What bodies mean. A member refuses a peer whose range of versions does not meet its own.
pub const PROTOCOL: u32 = 1;
pub const PROTOCOL_OLDEST: u32 = 1;
/// Bits of optional abilities; unknown ones are ignored.
pub const FEATURES: u64 = crate::integrity::FEATURE | crate::forward::FEATURE;

/// What a connection is for, so that nothing big delays a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Lane {
    Unspecified = 0,
    /// Votes, heartbeats, transfers.
    Control = 1,
    /// One stream of appends.
    Append = 2,
    /// Forwarded commands and read indexes.
    Requests = 3,
    /// From somebody who does not know the cluster yet: who are its members?
    Join = 5,
    /// One state, from the member that connects to the one that accepts.
    Image = 4,
    /// One state, from the member that accepts to the one that connects, which cannot use its own.
    Fetch = 6,
}

#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    #[prost(fixed64, tag = "1")]
    pub cluster_id: u64,
    #[prost(fixed64, tag = "2")]
    pub from: u64,
    #[prost(fixed64, tag = "3")]
    pub to: u64,
    #[prost(uint32, tag = "4")]
    pub protocol: u32,
    #[prost(uint32, tag = "5")]
    pub protocol_oldest: u32,
    #[prost(uint64, tag = "6")]
    pub features: u64,
    #[prost(enumeration = "Lane", tag = "7")]
    pub lane: i32,
    /// Of the program, for logs only.
    #[prost(string, tag = "8")]
    pub version: String,
    /// Of the sender's data directory.
    #[prost(fixed64, tag = "9")]
    pub incarnation: u64,
}
impl Hello {
    /// Of this program, without a word about whose.
    pub fn of_nobody(lane: Lane) -> Self {
        Hello {
            protocol: PROTOCOL,
            protocol_oldest: PROTOCOL_OLDEST,
            features: FEATURES,
            lane: lane as i32,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Hello::default()
        }
    }
}
#[derive(Clone, PartialEq, Message)]
pub struct Welcome {
    /// The newest both speak.
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    #[prost(uint64, tag = "2")]
    pub features: u64,
    #[prost(string, tag = "3")]
    pub version: String,
    /// Of the sender's data directory.
    #[prost(fixed64, tag = "4")]
    pub incarnation: u64,
    /// The newest cluster version the sender's program can work in.
    #[prost(uint32, tag = "20")]
    pub newest_major: u32,
    #[prost(uint32, tag = "21")]
    pub newest_minor: u32,
}
#[derive(Clone, PartialEq, Message)]
pub struct Refused {
    #[prost(string, tag = "1")]
    pub reason: String,
    #[prost(enumeration = "Refusal", tag = "2")]
    pub code: i32,
}
/// Refusals that the refused member acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Refusal {
    Unspecified = 0,
    /// Guard 5: its data directory is not the one the cluster knows; it must stop.
    Wiped = 1,
    /// It was removed from the cluster; it must stop.
    Removed = 2,
}

#[derive(Clone, PartialEq, Message)]
pub struct LogIdBody {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// From 1.
    #[prost(uint64, tag = "2")]
    pub index: u64,
}
#[derive(Clone, PartialEq, Message)]
pub struct VoteBody {
    #[prost(message, optional, tag = "1")]
    pub vote: Option<VoteRecord>,
    #[prost(message, optional, tag = "2")]
    pub last: Option<LogIdBody>,
    #[prost(bool, tag = "3")]
    pub leadership_transfer: bool,
}
#[derive(Clone, PartialEq, Message)]
pub struct VoteReplyBody {
    #[prost(message, optional, tag = "1")]
    pub vote: Option<VoteRecord>,
    #[prost(bool, tag = "2")]
    pub granted: bool,
    #[prost(message, optional, tag = "3")]
    pub last: Option<LogIdBody>,
}
#[derive(Clone, PartialEq, Message)]
pub struct EntryBody {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub index: u64,
    /// The entry's record, as on disk.
    #[prost(bytes = "bytes", tag = "3")]
    pub record: Bytes,
}
#[derive(Clone, PartialEq, Message)]
pub struct AppendBody {
    #[prost(message, optional, tag = "1")]
    pub vote: Option<VoteRecord>,
    #[prost(message, optional, tag = "2")]
    pub prev: Option<LogIdBody>,
    #[prost(message, optional, tag = "3")]
    pub committed: Option<LogIdBody>,
    #[prost(message, repeated, tag = "4")]
    pub entries: Vec<EntryBody>,
}
#[derive(Clone, PartialEq, Message)]
pub struct AppendReplyBody {
    #[prost(oneof = "AppendResult", tags = "1, 2, 3")]
    pub result: Option<AppendResult>,
}
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum AppendResult {
    #[prost(message, tag = "1")]
    Matching(MatchingBody),
    #[prost(message, tag = "2")]
    Conflict(LogIdBody),
    #[prost(message, tag = "3")]
    HigherVote(VoteRecord),
}
#[derive(Clone, PartialEq, Message)]
pub struct MatchingBody {
    #[prost(message, optional, tag = "1")]
    pub upto: Option<LogIdBody>,
}
#[derive(Clone, PartialEq, Message)]
pub struct TransferBody {
    #[prost(message, optional, tag = "1")]
    pub from_leader: Option<VoteRecord>,
    #[prost(fixed64, tag = "2")]
    pub to: u64,
    #[prost(message, optional, tag = "3")]
    pub last: Option<LogIdBody>,
}
#[derive(Clone, PartialEq, Message)]
pub struct TransferReplyBody {
    /// Empty: accepted.
    #[prost(string, tag = "1")]
    pub refused: String,
}
#[derive(Clone, PartialEq, Message)]
pub struct ReadIndexBody {
    /// Clocks of two members have nothing in common: what is left of the deadline travels.
    #[prost(uint64, tag = "1")]
    pub timeout_ms: u64,
}
#[derive(Clone, PartialEq, Message)]
pub struct ReadIndexReplyBody {
    #[prost(uint64, tag = "1")]
    pub index: u64,
}
#[derive(Clone, PartialEq, Message)]
pub struct MembersBody {}
#[derive(Clone, PartialEq, Message)]
pub struct MembersReplyBody {
    #[prost(fixed64, tag = "1")]
    pub cluster_id: u64,
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<MemberBody>,
}
#[derive(Clone, PartialEq, Message)]
pub struct MemberBody {
    #[prost(fixed64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, repeated, tag = "3")]
    pub peer_urls: Vec<String>,
    #[prost(bool, tag = "4")]
    pub learner: bool,
}
#[derive(Clone, PartialEq, Message)]
pub struct ForwardBody {
    #[prost(uint64, tag = "1")]
    pub timeout_ms: u64,
    /// `barque_store_state`'s wire form of commands.
    #[prost(bytes = "bytes", tag = "2")]
    pub commands: Bytes,
}
#[derive(Clone, PartialEq, Message)]
pub struct ForwardReplyBody {
    /// One per command: 0 takes the next of `outcomes`, else an [`ErrorCode`].
    #[prost(uint32, repeated, tag = "1")]
    pub codes: Vec<u32>,
    #[prost(bytes = "bytes", tag = "2")]
    pub outcomes: Bytes,
    /// Hint for [`ErrorCode::NotLeader`].
    #[prost(fixed64, optional, tag = "3")]
    pub leader: Option<u64>,
}
/// A state that the sender has pinned.
#[derive(Clone, PartialEq, Message)]
pub struct OfferBody {
    #[prost(message, optional, tag = "1")]
    pub vote: Option<VoteRecord>,
    /// The last entry in it.
    #[prost(message, optional, tag = "2")]
    pub last: Option<LogIdBody>,
    /// The membership in force there, as in a `Mark`.
    #[prost(bytes = "bytes", tag = "3")]
    pub membership: Bytes,
    /// About so many.
    #[prost(uint64, tag = "4")]
    pub bytes: u64,
}
#[derive(Clone, PartialEq, Message)]
pub struct OfferReplyBody {
    /// The receiver's. Not above the offer's: the state is installed, or the receiver had more than it.
    #[prost(message, optional, tag = "1")]
    pub vote: Option<VoteRecord>,
}
#[derive(Clone, PartialEq, Message)]
pub struct AskPieceBody {
    /// Where it begins; empty: the first.
    #[prost(bytes = "bytes", tag = "1")]
    pub from: Bytes,
}
#[derive(Clone, PartialEq, Message)]
pub struct PieceBody {
    #[prost(bytes = "bytes", tag = "1")]
    pub body: Bytes,
    /// Where the next one begins; absent: this is the last.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub next: Option<Bytes>,
}
#[derive(Clone, PartialEq, Message)]
pub struct ErrorBody {
    #[prost(enumeration = "ErrorCode", tag = "1")]
    pub code: i32,
    #[prost(fixed64, optional, tag = "2")]
    pub leader: Option<u64>,
    #[prost(string, tag = "3")]
    pub text: String,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ErrorCode {
    Unspecified = 0,
    NotLeader = 1,
    Unknown = 2,
    Timeout = 3,
    Busy = 4,
    Stopped = 5,
    /// Guard 2: no vote so soon after a start.
    Guarded = 6,
    /// The call's body does not parse.
    Malformed = 7,
    /// The caller was removed from the cluster.
    Removed = 8,
    /// The outcome of a forwarded command is not known any more.
    Forgotten = 9,
}

#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl WireError {
    /// Whether it is of a version newer than this one.
    pub fn is_too_new(&self) -> bool {
        matches!(self, WireError::Record(RecordError::UnknownKind))
    }
}

pub fn id_body(id: &LogId) -> LogIdBody {
    LogIdBody {
        term: id.leader_id.term,
        index: outer(id.index),
    }
}
pub fn id_of(body: &LogIdBody) -> Result<LogId, WireError> {
    Ok(log_id(
        body.term,
        inner(body.index).ok_or(WireError::Missing("an index"))?,
    ))
}
fn opt_id(body: &Option<LogIdBody>) -> Result<Option<LogId>, WireError> {
    body.as_ref().map(id_of).transpose()
}
pub fn vote_of(body: &Option<VoteRecord>) -> Result<Vote, WireError> {
    Ok(Vote::from(
        body.as_ref().ok_or(WireError::Missing("a vote"))?,
    ))
}

impl VoteBody {
    pub fn new<E: Env>(req: &VoteRequest<Types<E>>) -> Self {
        VoteBody {
            vote: Some(VoteRecord::from(&req.vote)),
            last: req.last_log_id.as_ref().map(id_body),
            leadership_transfer: req.leadership_transfer,
        }
    }
    pub fn request<E: Env>(&self) -> Result<VoteRequest<Types<E>>, WireError> {
        let mut req = VoteRequest::new(vote_of(&self.vote)?, opt_id(&self.last)?);
        req.leadership_transfer = self.leadership_transfer;
        Ok(req)
    }
}
impl VoteReplyBody {
    pub fn new<E: Env>(r: &VoteResponse<Types<E>>) -> Self {
        VoteReplyBody {
            vote: Some(VoteRecord::from(&r.vote)),
            granted: r.vote_granted,
            last: r.last_log_id.as_ref().map(id_body),
        }
    }
    pub fn response<E: Env>(&self) -> Result<VoteResponse<Types<E>>, WireError> {
        Ok(VoteResponse::new(
            vote_of(&self.vote)?,
            opt_id(&self.last)?,
            self.granted,
        ))
    }
}
impl AppendBody {
    pub fn new<E: Env>(req: &AppendEntriesRequest<Types<E>>) -> Self {
        AppendBody {
            vote: Some(VoteRecord::from(&req.vote)),
            prev: req.prev_log_id.as_ref().map(id_body),
            committed: req.leader_commit.as_ref().map(id_body),
            entries: req
                .entries
                .iter()
                .map(|e| EntryBody {
                    term: e.log_id.leader_id.term,
                    index: outer(e.log_id.index),
                    record: record::of(&e.payload),
                })
                .collect(),
        }
    }
    pub fn request<E: Env>(self) -> Result<AppendEntriesRequest<Types<E>>, WireError> {
        let mut entries = Vec::with_capacity(self.entries.len());
        for e in self.entries {
            let index = inner(e.index).ok_or(WireError::Missing("an index"))?;
            entries.push(LogEntry {
                log_id: log_id(e.term, index),
                payload: record::parse(e.record)?,
            });
        }
        Ok(AppendEntriesRequest {
            vote: vote_of(&self.vote)?,
            prev_log_id: opt_id(&self.prev)?,
            leader_commit: opt_id(&self.committed)?,
            entries,
        })
    }
}
impl AppendReplyBody {
    pub fn new<E: Env>(result: &StreamAppendResult<Types<E>>) -> Self {
        let result = match result {
            Ok(upto) => AppendResult::Matching(MatchingBody {
                upto: upto.as_ref().map(id_body),
            }),
            Err(StreamAppendError::Conflict(id)) => AppendResult::Conflict(id_body(id)),
            Err(StreamAppendError::HigherVote(vote)) => {
                AppendResult::HigherVote(VoteRecord::from(vote))
            }
        };
        AppendReplyBody {
            result: Some(result),
        }
    }
    pub fn result<E: Env>(&self) -> Result<StreamAppendResult<Types<E>>, WireError> {
        match &self.result {
            None => Err(WireError::Missing("a result")),
            Some(AppendResult::Matching(m)) => Ok(Ok(opt_id(&m.upto)?)),
            Some(AppendResult::Conflict(id)) => Ok(Err(StreamAppendError::Conflict(id_of(id)?))),
            Some(AppendResult::HigherVote(v)) => {
                Ok(Err(StreamAppendError::HigherVote(Vote::from(v))))
            }
        }
    }
}
impl TransferBody {
    pub fn new<E: Env>(req: &TransferLeaderRequest<Types<E>>) -> Self {
        TransferBody {
            from_leader: Some(VoteRecord::from(req.from_leader())),
            to: *req.to_node_id(),
            last: req.last_log_id().map(id_body),
        }
    }
    pub fn request<E: Env>(&self) -> Result<TransferLeaderRequest<Types<E>>, WireError> {
        Ok(TransferLeaderRequest::new(
            vote_of(&self.from_leader)?,
            self.to,
            opt_id(&self.last)?,
        ))
    }
}

fn code_of(error: &ProposeError) -> ErrorCode {
    match error {
        ProposeError::NotLeader { .. } => ErrorCode::NotLeader,
        ProposeError::Unknown => ErrorCode::Unknown,
        ProposeError::Forgotten => ErrorCode::Forgotten,
        ProposeError::Timeout => ErrorCode::Timeout,
        ProposeError::Busy => ErrorCode::Busy,
        ProposeError::Stopped => ErrorCode::Stopped,
    }
}
fn leader_of(error: &ProposeError) -> Option<u64> {
    match error {
        ProposeError::NotLeader { leader } => leader.map(|m| m.0),
        _ => None,
    }
}
/// What a code of a peer's means here. A code of a newer version is an unknown outcome: the safe reading.
fn error_of(code: u32, leader: Option<u64>) -> ProposeError {
    match i32::try_from(code)
        .ok()
        .and_then(|c| ErrorCode::try_from(c).ok())
    {
        Some(ErrorCode::NotLeader) => ProposeError::NotLeader {
            leader: leader.map(MemberId),
        },
        Some(ErrorCode::Timeout) => ProposeError::Timeout,
        Some(ErrorCode::Busy) => ProposeError::Busy,
        // That member stops; it did not propose. Another one will lead.
        Some(ErrorCode::Stopped) => ProposeError::NotLeader { leader: None },
        // It is older than some command, and would refuse it the next time as well.
        Some(ErrorCode::Forgotten | ErrorCode::Malformed) => ProposeError::Forgotten,
        _ => ProposeError::Unknown,
    }
}

impl ErrorBody {
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        ErrorBody {
            code: code as i32,
            leader: None,
            text: text.into(),
        }
    }
    pub fn propose(error: &ProposeError) -> Self {
        ErrorBody {
            code: code_of(error) as i32,
            leader: leader_of(error),
            text: error.to_string(),
        }
    }
    pub fn propose_error(&self) -> ProposeError {
        error_of(self.code as u32, self.leader)
    }
}

impl ForwardReplyBody {
    /// Results whose outcomes take more than `max` bytes together lose the largest of them: those are told as forgotten.
    pub fn new(mut results: Vec<Result<Outcome, ProposeError>>, max: usize) -> Self {
        let mut body = ForwardReplyBody::of(&results);
        if body.outcomes.len() > max {
            let alone = |result: &Result<Outcome, ProposeError>| match result {
                Ok(outcome) => wire::encode_outcomes(std::slice::from_ref(outcome)).len(),
                Err(_) => 0,
            };
            let mut sizes: Vec<(usize, usize)> = results.iter().map(alone).zip(0..).collect();
            sizes.sort_unstable();
            // Each alone counts the few bytes around it: the sum is never less than what they take together.
            let mut sum: usize = sizes.iter().map(|(size, _)| size).sum();
            while sum > max
                && let Some((size, i)) = sizes.pop()
            {
                results[i] = Err(ProposeError::Forgotten);
                sum -= size;
            }
            tracing::warn!(
                bytes = body.outcomes.len(),
                "the answers to forwarded commands are too long for one frame; the longest are left out"
            );
            body = ForwardReplyBody::of(&results);
        }
        body
    }
    fn of(results: &[Result<Outcome, ProposeError>]) -> Self {
        let mut codes = Vec::with_capacity(results.len());
        let mut outcomes = Vec::with_capacity(results.len());
        let mut leader = None;
        for result in results {
            match result {
                Ok(outcome) => {
                    codes.push(0);
                    outcomes.push(outcome.clone());
                }
                Err(e) => {
                    codes.push(code_of(e) as u32);
                    leader = leader.or(leader_of(e));
                }
            }
        }
        ForwardReplyBody {
            codes,
            outcomes: wire::encode_outcomes(&outcomes),
            leader,
        }
    }
    /// One result per command; `None` when the reply is not one for `commands` of them.
    pub fn results(&self, commands: usize) -> Option<Vec<Result<Outcome, ProposeError>>> {
        if self.codes.len() != commands {
            return None;
        }
        let mut outcomes = wire::decode_outcomes(&self.outcomes).ok()?.into_iter();
        let mut results = Vec::with_capacity(commands);
        for code in &self.codes {
            results.push(match code {
                0 => Ok(outcomes.next()?),
                code => Err(error_of(*code, self.leader)),
            });
        }
        outcomes.next().is_none().then_some(results)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use barque_store_state::{Answer, KeyValue, Revision};

    use super::*;

    #[test]
    fn an_answer_too_long_for_a_frame_is_forgotten_and_costs_no_other() {
        let deleted = |bytes: usize| {
            Ok(Outcome {
                revision: Revision(3),
                result: Ok(Answer::DeleteRange {
                    deleted: 1,
                    prev: vec![Arc::new(KeyValue {
                        value: vec![7; bytes].into(),
                        ..KeyValue::default()
                    })],
                }),
            })
        };
        let results = vec![
            deleted(100),
            deleted(5000),
            Err(ProposeError::Busy),
            deleted(700),
        ];
        let whole = ForwardReplyBody::new(results.clone(), 10_000);
        assert_eq!(whole.results(4), Some(results.clone()));
        let cut = ForwardReplyBody::new(results.clone(), 1000);
        assert!(cut.outcomes.len() <= 1000);
        let mut told = results;
        told[1] = Err(ProposeError::Forgotten);
        assert_eq!(cut.results(4), Some(told));
    }
}
