//! What Raft says to Raft: votes, appends, transfers of leadership; and the ids and votes in them.
//! Not here: an entry's own bytes (`record`), which are the same on disk.

use barque_store_env::Env;
use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use prost::Message;

use crate::record::{self, RecordError, VoteRecord};
use crate::types::{LogEntry, LogId, Types, Vote, inner, log_id, outer};

#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Raft's core takes a leader's word for it, and would end the process.
    #[error("{0}")]
    Inconsistent(&'static str),
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl WireError {
    /// Whether it is of a version newer than this one.
    pub fn is_too_new(&self) -> bool {
        matches!(self, WireError::Record(RecordError::UnknownKind))
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct LogIdBody {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// From 1.
    #[prost(uint64, tag = "2")]
    pub index: u64,
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

#[derive(Clone, PartialEq, Message)]
pub struct VoteBody {
    #[prost(message, optional, tag = "1")]
    pub vote: Option<VoteRecord>,
    #[prost(message, optional, tag = "2")]
    pub last: Option<LogIdBody>,
    #[prost(bool, tag = "3")]
    pub leadership_transfer: bool,
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

#[derive(Clone, PartialEq, Message)]
pub struct VoteReplyBody {
    #[prost(message, optional, tag = "1")]
    pub vote: Option<VoteRecord>,
    #[prost(bool, tag = "2")]
    pub granted: bool,
    #[prost(message, optional, tag = "3")]
    pub last: Option<LogIdBody>,
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
        let (vote, prev) = (vote_of(&self.vote)?, opt_id(&self.prev)?);
        let mut before = prev;
        for entry in &entries {
            let (id, term) = (entry.log_id, entry.log_id.leader_id.term);
            if id.index != before.map_or(0, |before| before.index + 1) {
                return Err(WireError::Inconsistent("entries do not follow each other"));
            }
            if before.is_some_and(|before| term < before.leader_id.term)
                || term > vote.leader_id.term
            {
                let what = "entries are of terms that they cannot be of";
                return Err(WireError::Inconsistent(what));
            }
            before = Some(id);
        }
        Ok(AppendEntriesRequest {
            vote,
            prev_log_id: prev,
            leader_commit: opt_id(&self.committed)?,
            entries,
        })
    }
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

#[derive(Clone, PartialEq, Message)]
pub struct TransferBody {
    #[prost(message, optional, tag = "1")]
    pub from_leader: Option<VoteRecord>,
    #[prost(fixed64, tag = "2")]
    pub to: u64,
    #[prost(message, optional, tag = "3")]
    pub last: Option<LogIdBody>,
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

#[derive(Clone, PartialEq, Message)]
pub struct TransferReplyBody {
    /// Empty: accepted.
    #[prost(string, tag = "1")]
    pub refused: String,
}
