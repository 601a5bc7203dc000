//! Commands that a follower sends to the leader, and what makes it safe to send them again (guard 13).
//!
//! Promise: each command with a number is appended to the committed log at most once, however often it is sent.
//! Why that holds, in three parts:
//! - An attempt is bound to the term it was made in. Whoever proposes it does so only as that term's leader, and Raft's core
//!   looks at the term right before it appends (`Consensus::propose_in`). A frame that waited in a socket, or in the queue of a
//!   leader that stood still, is worth nothing once its term is over, also when the same member leads again.
//! - The sender goes to another leader only in a later term; its terms never go back. A leader that has applied an entry of
//!   its own term has applied every committed entry of all earlier terms, and what is not among those never will be: so it
//!   can look whether an earlier attempt came through. The entry carries the numbers, and each member remembers those of
//!   the entries it has applied, with their outcomes, until the sender says that it asks no more (`store/node`, the ledger).
//! - Within one term all attempts end at the same leader, which finds earlier ones in that memory or among what it has
//!   proposed. It cannot have forgotten them by a restart: a restarted leader does not resume its term (guard 1). An attempt that
//!   is still on its way when a later one is refused is found there as well: a refusal is remembered for the rest of the term.
//!
//! A member that cannot tell (it has restored or received a state that may have the command in it, or the memory was full)
//! says so, and the outcome stays unknown. A program that does not know numbers is sent none, and nothing twice.
//! Not here: the memory, and who sends again when (`store/node`).

use std::pin::pin;
use std::time::Duration;

use barque_store_env::{Env, Instant};
use barque_store_state::{Command, LogIndex, MemberId, Outcome, wire as commands};
use bytes::Bytes;
use futures::future::{Either, select};
use openraft_rt::WatchReceiver;
use prost::Message;

use crate::member::Inner;
use crate::reads::left_ms;
use crate::transport::Link;
use crate::transport::call::CallError;
use crate::transport::frame::{Frame, Kind};
use crate::transport::serve::{Answered, Served, malformed};
use crate::transport::wire::{ErrorBody, ForwardBody, ForwardReplyBody, ReadIndexBody};
use crate::{ProposeError, limits};

/// Bit of the handshake's features: numbered forwards (kind 26) are understood.
pub const FEATURE: u64 = 1 << 5;

/// The numbers of forwarded commands, and who gave them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbering {
    /// Whose numbers they are.
    pub member: MemberId,
    /// Drawn at each start of that member's process.
    pub boot: u64,
    /// It asks for no number below this one any more.
    pub open: u64,
    /// The attempt counts only in this term.
    pub term: u64,
    /// In the order of the commands, which they cover.
    pub runs: Vec<Run>,
}

/// Commands that follow each other, with numbers that do so too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub first: u64,
    pub count: u32,
    /// An earlier attempt may have been appended.
    pub again: bool,
    /// The entry that the sender had applied when it first sent them: what was appended came after it.
    pub since: LogIndex,
}

impl Numbering {
    pub fn count(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.count)).sum()
    }
    fn is_again(&self) -> bool {
        self.runs.iter().any(|run| run.again)
    }
}

#[derive(Clone, PartialEq, Message)]
struct NumberedBody {
    #[prost(uint64, tag = "1")]
    timeout_ms: u64,
    /// `barque_store_state`'s wire form of commands.
    #[prost(bytes = "bytes", tag = "2")]
    commands: Bytes,
    #[prost(uint64, tag = "3")]
    term: u64,
    #[prost(fixed64, tag = "4")]
    boot: u64,
    #[prost(uint64, tag = "5")]
    open: u64,
    #[prost(message, repeated, tag = "6")]
    runs: Vec<RunBody>,
}
#[derive(Clone, PartialEq, Message)]
struct RunBody {
    #[prost(uint64, tag = "1")]
    first: u64,
    #[prost(uint32, tag = "2")]
    count: u32,
    #[prost(bool, tag = "3")]
    again: bool,
    #[prost(uint64, tag = "4")]
    since: u64,
}

impl NumberedBody {
    fn new(timeout_ms: u64, commands: Bytes, numbering: &Numbering) -> Self {
        let run = |run: &Run| RunBody {
            first: run.first,
            count: run.count,
            again: run.again,
            since: run.since.0,
        };
        NumberedBody {
            timeout_ms,
            commands,
            term: numbering.term,
            boot: numbering.boot,
            open: numbering.open,
            runs: numbering.runs.iter().map(run).collect(),
        }
    }
    fn numbering(&self, member: MemberId) -> Numbering {
        let run = |run: &RunBody| Run {
            first: run.first,
            count: run.count,
            again: run.again,
            since: LogIndex(run.since),
        };
        Numbering {
            member,
            boot: self.boot,
            open: self.open,
            term: self.term,
            runs: self.runs.iter().map(run).collect(),
        }
    }
}

impl<E: Env> Inner<E> {
    pub async fn forward(
        &self,
        leader: MemberId,
        commands: Vec<Command>,
        numbering: Option<Numbering>,
        deadline: Instant,
    ) -> Vec<Result<Outcome, ProposeError>> {
        let count = commands.len();
        match self
            .try_forward(leader, commands, numbering, deadline)
            .await
        {
            Ok(results) => results,
            Err(e) => vec![Err(e); count],
        }
    }

    async fn try_forward(
        &self,
        leader: MemberId,
        commands: Vec<Command>,
        numbering: Option<Numbering>,
        deadline: Instant,
    ) -> Result<Vec<Result<Outcome, ProposeError>>, ProposeError> {
        let nobody = || ProposeError::NotLeader { leader: None };
        let link = self.links.get(leader).ok_or_else(nobody)?;
        let count = commands.len();
        let encoded = commands::encode_commands(&commands);
        drop(commands);
        if encoded.len() > limits::ENTRY_BYTES_MAX {
            return Err(ProposeError::Busy);
        }
        let timeout_ms = left_ms(deadline, E::now()).ok_or(ProposeError::Timeout)?;
        let term = numbering.as_ref().map(|numbering| numbering.term);
        let numbered = match numbering {
            Some(numbering) if self.takes_numbers(&link, deadline).await? => Some(numbering),
            // It would be appended a second time. The rest goes without them, the next time.
            Some(numbering) if numbering.is_again() => return Ok(kept_back(&numbering)),
            Some(_) | None => None,
        };
        // Where the numbers stay here, the outcome of what may have been appended is known to nobody.
        let (unknown, answer) = match numbered {
            Some(numbering) => {
                let body = NumberedBody::new(timeout_ms, encoded, &numbering);
                let call = link.requests.call(Kind::Numbered, body, deadline);
                (ProposeError::Unknown, self.within(term, call).await)
            }
            None => {
                let body = ForwardBody {
                    timeout_ms,
                    commands: encoded,
                };
                let call = link.requests.call(Kind::Forward, body, deadline);
                (ProposeError::Forgotten, self.within(term, call).await)
            }
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(CallError::NotSent(_)) if E::now() >= deadline => {
                return Err(ProposeError::Timeout);
            }
            Err(CallError::NotSent(_)) => return Err(nobody()),
            Err(CallError::Lost(_)) => return Err(unknown),
        };
        let read = match answer.kind {
            Kind::ForwardReply => answer
                .parse::<ForwardReplyBody>()
                .ok()
                .and_then(|reply| reply.results(count)),
            Kind::Error => {
                let error = answer.parse::<ErrorBody>().ok();
                let error = error.map_or(ProposeError::Unknown, |e| e.propose_error());
                Some(vec![Err(error); count])
            }
            _ => None,
        };
        let mut results = read.unwrap_or_else(|| vec![Err(ProposeError::Unknown); count]);
        for result in &mut results {
            if *result == Err(ProposeError::Unknown) {
                *result = Err(unknown.clone());
            }
        }
        Ok(results)
    }
}

/// For a leader that knows no numbers: what may have been appended is not sent, and the rest not yet.
fn kept_back(numbering: &Numbering) -> Vec<Result<Outcome, ProposeError>> {
    let of_run = |run: &Run| {
        let error = match run.again {
            true => ProposeError::Forgotten,
            false => ProposeError::NotLeader { leader: None },
        };
        vec![Err(error); run.count as usize]
    };
    numbering.runs.iter().flat_map(of_run).collect()
}

impl<E: Env> Inner<E> {
    /// Whether the member's program knows numbers; asks it for something harmless when it was never connected to.
    async fn takes_numbers(&self, link: &Link<E>, deadline: Instant) -> Result<bool, ProposeError> {
        if link.peer.abilities.get().is_none() {
            let wait = self.timing.lease;
            let body = ReadIndexBody {
                timeout_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            };
            let until = deadline.min(E::now() + wait);
            // The answer does not matter: the handshake has told what is asked here.
            let _ = link.requests.call(Kind::ReadIndex, body, until).await;
        }
        match link.peer.abilities.get() {
            Some(ability) => Ok(ability.has(FEATURE)),
            None => Err(ProposeError::NotLeader { leader: None }),
        }
    }

    pub fn is_alone(&self) -> bool {
        let metrics = self.metrics.borrow_watched();
        metrics.membership_config.nodes().count() < 2
    }

    /// The call's answer, unless a later term has a leader first: one that stands still would be waited for until its
    /// connection is given up.
    async fn within(
        &self,
        term: Option<u64>,
        call: impl Future<Output = Result<Frame, CallError>>,
    ) -> Result<Frame, CallError> {
        let Some(term) = term else {
            return call.await;
        };
        let (call, superseded) = (pin!(call), pin!(self.superseded(term)));
        match select(call, superseded).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => Err(CallError::Lost("another member leads".into())),
        }
    }

    /// Resolves once a leader of a later term is known here: whatever was sent to this term's is decided by the next one.
    pub async fn superseded(&self, term: u64) {
        let mut changes = self.changes();
        loop {
            let view = self.view();
            if view.term > term && view.leader.is_some() {
                return;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

pub async fn serve<E: Env>(served: &Served<E>, from: MemberId, frame: &Frame) -> Answered {
    let (timeout_ms, encoded, numbering) = match frame.kind {
        Kind::Numbered => {
            let body = frame.parse::<NumberedBody>().map_err(malformed)?;
            let numbering = body.numbering(from);
            (body.timeout_ms, body.commands, Some(numbering))
        }
        _ => {
            let body = frame.parse::<ForwardBody>().map_err(malformed)?;
            (body.timeout_ms, body.commands, None)
        }
    };
    let commands = commands::decode_commands(&encoded).map_err(malformed)?;
    let count = commands.len();
    if numbering
        .as_ref()
        .is_some_and(|n| n.count() != count as u64)
    {
        return Err(malformed("not one number for each command"));
    }
    let deadline = E::now() + Duration::from_millis(timeout_ms);
    let proposed = served.forwarded.propose(commands, numbering, deadline);
    let mut results = proposed.await;
    if results.len() != count {
        tracing::error!("{count} commands got {} answers", results.len());
        results = vec![Err(ProposeError::Unknown); count];
    }
    Ok(Frame::encode(
        Kind::ForwardReply,
        frame.id,
        &ForwardReplyBody::new(results, limits::FORWARD_OUTCOMES_BYTES_MAX),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbering() -> Numbering {
        let run = |first, count, again| Run {
            first,
            count,
            again,
            since: LogIndex(first * 10),
        };
        Numbering {
            member: MemberId(7),
            boot: u64::MAX,
            open: 3,
            term: 9,
            runs: vec![run(3, 2, true), run(8, 3, false)],
        }
    }

    #[test]
    fn numbers_travel() {
        let numbering = numbering();
        let body = NumberedBody::new(5, Bytes::from_static(b"commands"), &numbering);
        let read = NumberedBody::decode(Bytes::from(body.encode_to_vec())).expect("own bytes");
        assert_eq!(read.numbering(MemberId(7)), numbering);
        assert_eq!(numbering.count(), 5);
    }

    #[test]
    fn what_may_have_been_appended_is_kept_from_a_leader_without_numbers() {
        let forgotten = Err(ProposeError::Forgotten);
        let later = Err(ProposeError::NotLeader { leader: None });
        let expected = [&forgotten, &forgotten, &later, &later, &later].map(Clone::clone);
        assert_eq!(kept_back(&numbering()), expected);
    }
}
