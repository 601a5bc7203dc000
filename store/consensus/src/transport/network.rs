//! openraft's network traits over the transport's calls and append sessions.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use barque_store_env::{Env, Instant};
use barque_store_state::MemberId;
use futures::StreamExt;
use futures::future::{BoxFuture, Either, select};
use futures::stream::BoxStream;
use openraft::alias::SnapshotOf;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{Config, OptionalSend};
use prost::Message;

use super::call::CallError;
use super::frame::{Frame, FrameError, Kind};
use super::image;
use super::session::{self, broken, unreachable};
use super::wire::{
    AppendBody, AppendReplyBody, ErrorBody, ErrorCode, TransferBody, TransferReplyBody, VoteBody,
    VoteReplyBody,
};
use super::{Link, Links};
use crate::Peer;
use crate::machine::Snapshot;
use crate::pins::Use;
use crate::purge::Cut;
use crate::types::{Types, Vote};

/// Makes clients for openraft.
pub struct Factory<E: Env>(pub Arc<Links<E>>, pub Arc<Cut>);

impl<E: Env> RaftNetworkFactory<Types<E>> for Factory<E> {
    type Network = Client<E>;
    async fn new_client(&mut self, target: u64, node: &Peer) -> Client<E> {
        Client {
            link: self.0.to(MemberId(target), &node.addr),
            cut: self.1.clone(),
            heartbeats: None,
        }
    }
    async fn new_heartbeat_client(&mut self, target: u64, node: &Peer) -> Client<E> {
        Client {
            link: self.0.to(MemberId(target), &node.addr),
            cut: self.1.clone(),
            heartbeats: Some(Heartbeats::default()),
        }
    }
}

pub struct Client<E: Env> {
    link: Arc<Link<E>>,
    cut: Arc<Cut>,
    /// A heartbeat is one call among the votes, never behind entries.
    heartbeats: Option<Heartbeats>,
}

/// The heartbeats to one member in one term of leadership.
#[derive(Default)]
struct Heartbeats {
    /// When the newest began.
    begun: Option<Instant>,
}

impl Heartbeats {
    /// One begins; whether that is late. As etcd has it: more than two intervals after the one before. A member that does not
    /// answer is no reason, it is given up after an interval.
    fn begin(&mut self, now: Instant, interval: Duration) -> bool {
        let before = self.begun.replace(now);
        before.is_some_and(|before| now.saturating_since(before) > interval * 2)
    }
}

impl<E: Env> Client<E> {
    async fn call<M: Message + 'static>(
        &self,
        kind: Kind,
        body: M,
        timeout: Duration,
    ) -> Result<Frame, RPCError<Types<E>>> {
        let frame = self
            .link
            .control
            .call(kind, body, E::now() + timeout)
            .await
            .map_err(|e| match e {
                CallError::NotSent(_) => unreachable(e),
                CallError::Lost(_) => broken(e),
            })?;
        if frame.kind == Kind::Error {
            let error = frame.parse::<ErrorBody>().map_err(broken)?;
            if error.code == ErrorCode::Removed as i32 {
                self.link.peer.told_removed();
            }
            return Err(broken(error.text));
        }
        Ok(frame)
    }

    async fn ask_vote(
        &self,
        kind: Kind,
        rpc: VoteRequest<Types<E>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<E>>, RPCError<Types<E>>> {
        let frame = self
            .call(kind, VoteBody::new(&rpc), option.hard_ttl())
            .await?;
        expect(&frame, Kind::VoteReply)?;
        let reply: VoteReplyBody = frame.parse().map_err(broken)?;
        reply.response().map_err(broken)
    }

    async fn append(
        &self,
        rpc: AppendEntriesRequest<Types<E>>,
        option: RPCOption,
    ) -> Result<StreamAppendResult<Types<E>>, RPCError<Types<E>>> {
        let frame = self
            .call(Kind::Append, AppendBody::new(&rpc), option.hard_ttl())
            .await?;
        expect(&frame, Kind::AppendReply)?;
        let reply: AppendReplyBody = frame.parse().map_err(broken)?;
        reply.result().map_err(broken)
    }
}

fn expect<E: Env>(frame: &Frame, kind: Kind) -> Result<(), RPCError<Types<E>>> {
    if frame.kind == kind {
        Ok(())
    } else {
        Err(broken(FrameError::Kind(frame.kind as u8)))
    }
}

impl<E: Env> RaftNetworkV2<Types<E>> for Client<E> {
    type SnapshotData = Snapshot;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types<E>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<E>>, RPCError<Types<E>>> {
        let last = rpc.entries.last().map(|e| e.log_id).or(rpc.prev_log_id);
        let result = self.append(rpc, option).await?;
        Ok(match result {
            Ok(upto) if upto != last => AppendEntriesResponse::PartialSuccess(upto),
            other => other.into(),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<Types<E>>, RPCError<Types<E>>>>,
            RPCError<Types<E>>,
        >,
    >
    where
        S: futures::Stream<Item = AppendEntriesRequest<Types<E>>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            if let Some(heartbeats) = &mut self.heartbeats {
                // openraft waits for an answer as long as for the next heartbeat.
                if heartbeats.begin(E::now(), option.hard_ttl()) {
                    self.link.peer.traffic.late_heartbeat();
                }
                let Some(rpc) = input.next().await else {
                    return Ok(futures::stream::empty().boxed());
                };
                let result = self.append(rpc, option).await;
                return Ok(futures::stream::once(async { result }).boxed());
            }
            session::open(self.link.peer.clone(), input, self.cut.clone()).await
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types<E>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<E>>, RPCError<Types<E>>> {
        self.ask_vote(Kind::Vote, rpc, option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types<E>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<E>>, RPCError<Types<E>>> {
        self.ask_vote(Kind::PreVote, rpc, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<Types<E>, Snapshot>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types<E>>, StreamingError<Types<E>>> {
        let failed = |why: String| {
            tracing::warn!(
                member = %self.link.peer.member,
                "the state was not sent: {why}"
            );
            StreamingError::Unreachable(Unreachable::new(&anyerror::AnyError::error(why)))
        };
        let Snapshot::Pinned(held) = snapshot.snapshot else {
            return Err(failed("there is none to send yet".into()));
        };
        let transfer = Use::begin(held.clone(), E::now());
        let peer = self.link.peer.clone();
        let sending = pin!(image::send(&peer, &vote, &held));
        // No timeout here: a transfer ends when the receiver asks for nothing any more.
        match select(pin!(cancel), sending).await {
            Either::Left((closed, _)) => Err(StreamingError::Closed(closed)),
            Either::Right((Err(why), _)) => Err(failed(why)),
            Either::Right((Ok(answered), _)) => {
                if answered <= vote {
                    transfer.sent();
                }
                Ok(SnapshotResponse::new(answered))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types<E>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<E>>, RPCError<Types<E>>> {
        let frame = self
            .call(Kind::Transfer, TransferBody::new(&req), option.hard_ttl())
            .await?;
        expect(&frame, Kind::TransferReply)?;
        let reply: TransferReplyBody = frame.parse().map_err(broken)?;
        if reply.refused.is_empty() {
            return Ok(Ok(()));
        }
        // openraft only logs this; which of the two reasons it was is in the target's log.
        Ok(Err(TransferLeaderError::LogNotFlushed {
            expected: req.last_log_id().copied(),
            actual: None,
        }))
    }
}

/// Kept beside the network: what openraft is told to wait between attempts.
pub fn backoff(config: &mut Config, heartbeat: Duration) {
    config.backoff = format!("{}ms", (heartbeat.as_millis() * 2).max(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_late_after_two_intervals() {
        let mut heartbeats = Heartbeats::default();
        let interval = Duration::from_millis(100);
        let mut begin = |ms| heartbeats.begin(Instant(0) + Duration::from_millis(ms), interval);
        assert!(!begin(5_000), "the first of a term");
        assert!(!begin(5_100));
        assert!(!begin(5_300), "an answer was waited for");
        assert!(begin(5_501));
        assert!(!begin(5_600));
    }
}
