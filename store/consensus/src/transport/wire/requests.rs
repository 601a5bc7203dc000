//! What members ask of the leader: read indexes and commands that are sent on. And how a call is refused, whatever it asked.
//! Promise: an error of a peer that may have had an effect is never read as one that had none.

use barque_store_state::{MemberId, Outcome, wire};
use bytes::Bytes;
use prost::Message;

use crate::ProposeError;

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
