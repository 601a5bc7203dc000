//! Calls and their answers: votes, heartbeats, transfers, read indexes, what is sent on, who the members are.
//! Promise: calls are begun in the order they arrive, and answered as they are done.
//! Not here: what forwarded commands and hashes are answered (`forward`, `integrity`).

use std::sync::Arc;
use std::time::Duration;

use barque_store_env::{Env, WriteHalf};
use barque_store_state::MemberId;
use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use openraft::raft::{AppendEntriesResponse, StreamAppendError};
use tokio::sync::mpsc;

use super::Served;
use crate::transport::frame::{Frame, FrameError, Kind, Reader};
use crate::transport::wire::{
    AppendBody, AppendReplyBody, ErrorBody, ErrorCode, Lane, MemberBody, MembersReplyBody,
    ReadIndexBody, ReadIndexReplyBody, TransferBody, TransferReplyBody, VoteBody, VoteReplyBody,
};
use crate::transport::{ReadOf, WriteOf};
use crate::{forward, integrity, limits, reads};

/// Calls in any order: each is begun as it arrives and answered when it is done.
pub async fn serve<E: Env>(
    served: &Arc<Served<E>>,
    from: MemberId,
    lane: Lane,
    read: Reader<ReadOf<E>>,
    mut write: WriteOf<E>,
) -> Result<(), FrameError> {
    let (answers, mut queue) = mpsc::channel::<Bytes>(limits::CALLS_SERVED_MAX);
    let working = async move {
        let frames = read.frames().fuse();
        futures::pin_mut!(frames);
        let mut calls: FuturesUnordered<BoxFuture<'static, Bytes>> = FuturesUnordered::new();
        loop {
            if calls.len() >= limits::CALLS_SERVED_MAX
                && let Some(answer) = calls.next().await
            {
                if answers.send(answer).await.is_err() {
                    return Ok(());
                }
                continue;
            }
            futures::select_biased! {
                answer = calls.select_next_some() => {
                    if answers.send(answer).await.is_err() {
                        return Ok(());
                    }
                }
                frame = frames.next() => match frame {
                    None => return Ok(()),
                    Some(frame) => calls.push(handle(served.clone(), from, lane, frame?).boxed()),
                },
            }
        }
    };
    let writing = async move {
        while let Some(first) = queue.recv().await {
            let mut out = first;
            if let Ok(second) = queue.try_recv() {
                let mut more = BytesMut::from(&out[..]);
                more.extend_from_slice(&second);
                while more.len() < limits::WRITE_BATCH_BYTES
                    && let Ok(next) = queue.try_recv()
                {
                    more.extend_from_slice(&next);
                }
                out = more.freeze();
            }
            write.write_all(out).await?;
        }
        Ok(())
    };
    either(working, writing).await
}

/// Runs both directions until one ends; the other ends with it.
async fn either(
    a: impl Future<Output = Result<(), FrameError>> + Send,
    b: impl Future<Output = Result<(), FrameError>> + Send,
) -> Result<(), FrameError> {
    futures::pin_mut!(a, b);
    futures::future::select(a, b).await.factor_first().0
}

pub fn error(id: u64, code: ErrorCode, text: impl ToString) -> Bytes {
    Frame::encode(Kind::Error, id, &ErrorBody::new(code, text.to_string()))
}

async fn handle<E: Env>(served: Arc<Served<E>>, from: MemberId, lane: Lane, frame: Frame) -> Bytes {
    let id = frame.id;
    // Its connection is older than its removal, and nobody sends it the entry that says so.
    if lane == Lane::Control && served.is_gone(from) {
        return error(id, ErrorCode::Removed, "removed from the cluster");
    }
    let answered = match (lane, frame.kind) {
        (Lane::Control, Kind::Vote | Kind::PreVote) => vote(&served, &frame).await,
        (Lane::Control, Kind::Append) => heartbeat(&served, &frame).await,
        (Lane::Control, Kind::Transfer) => transfer(&served, &frame).await,
        (Lane::Requests, Kind::ReadIndex) => read_index(&served, &frame).await,
        (Lane::Requests, Kind::Forward | Kind::Numbered) => {
            forward::serve(&served, from, &frame).await
        }
        (Lane::Join, Kind::Members) => Ok(members(&served, &frame)),
        (Lane::Requests, Kind::Hash) => integrity::serve_hash(&served, &frame),
        (Lane::Requests, Kind::Fence) => integrity::serve_fence(&served, &frame),
        (_, other) => Err((ErrorCode::Malformed, format!("{other:?} has no place here"))),
    };
    answered.unwrap_or_else(|(code, text)| error(id, code, text))
}

pub type Answered = Result<Bytes, (ErrorCode, String)>;

pub fn malformed(e: impl ToString) -> (ErrorCode, String) {
    (ErrorCode::Malformed, e.to_string())
}
fn stopped(e: impl ToString) -> (ErrorCode, String) {
    (ErrorCode::Stopped, e.to_string())
}

async fn vote<E: Env>(served: &Served<E>, frame: &Frame) -> Answered {
    let request = frame
        .parse::<VoteBody>()
        .map_err(malformed)?
        .request::<E>()
        .map_err(malformed)?;
    if served.directories.is_wiped() {
        return Err((ErrorCode::Guarded, "its data directory was wiped".into()));
    }
    if served.guard.refuses(E::now(), request.leadership_transfer) {
        return Err((
            ErrorCode::Guarded,
            "started so recently that its leader's lease may still count".into(),
        ));
    }
    let response = match frame.kind {
        Kind::PreVote => served.raft.pre_vote(request).await,
        _ => served.raft.vote(request).await,
    }
    .map_err(stopped)?;
    Ok(Frame::encode(
        Kind::VoteReply,
        frame.id,
        &VoteReplyBody::new(&response),
    ))
}

async fn heartbeat<E: Env>(served: &Served<E>, frame: &Frame) -> Answered {
    let request = frame
        .parse::<AppendBody>()
        .map_err(malformed)?
        .request::<E>()
        .map_err(malformed)?;
    let prev = request.prev_log_id;
    let last = request.entries.last().map(|e| e.log_id).or(prev);
    let response = served.raft.append_entries(request).await.map_err(stopped)?;
    let result = match response {
        AppendEntriesResponse::Success => Ok(last),
        AppendEntriesResponse::PartialSuccess(upto) => Ok(upto),
        AppendEntriesResponse::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote)),
        AppendEntriesResponse::Conflict => {
            Err(StreamAppendError::Conflict(prev.ok_or_else(|| {
                malformed("nothing conflicts with an empty log")
            })?))
        }
    };
    if !matches!(result, Err(StreamAppendError::HigherVote(_))) {
        served.heard.now(E::now());
    }
    Ok(Frame::encode(
        Kind::AppendReply,
        frame.id,
        &AppendReplyBody::new::<E>(&result),
    ))
}

async fn transfer<E: Env>(served: &Served<E>, frame: &Frame) -> Answered {
    let request = frame
        .parse::<TransferBody>()
        .map_err(malformed)?
        .request::<E>()
        .map_err(malformed)?;
    let response = served
        .raft
        .handle_transfer_leader(request)
        .await
        .map_err(stopped)?;
    let refused = response.err().map(|e| e.to_string()).unwrap_or_default();
    Ok(Frame::encode(
        Kind::TransferReply,
        frame.id,
        &TransferReplyBody { refused },
    ))
}

async fn read_index<E: Env>(served: &Served<E>, frame: &Frame) -> Answered {
    let body = frame.parse::<ReadIndexBody>().map_err(malformed)?;
    let wait = Duration::from_millis(body.timeout_ms).min(served.lease);
    Ok(match reads::leader_read_index(&served.raft, wait).await {
        Ok(index) => Frame::encode(
            Kind::ReadIndexReply,
            frame.id,
            &ReadIndexReplyBody { index: index.0 },
        ),
        Err(e) => Frame::encode(Kind::Error, frame.id, &ErrorBody::propose(&e)),
    })
}

fn members<E: Env>(served: &Served<E>, frame: &Frame) -> Bytes {
    let members = served
        .machine
        .members()
        .into_iter()
        .map(|member| MemberBody {
            id: member.id.0,
            name: member.name,
            peer_urls: member.peer_urls,
            learner: member.learner,
        });
    let reply = MembersReplyBody {
        cluster_id: served.me.cluster_id,
        members: members.collect(),
    };
    Frame::encode(Kind::MembersReply, frame.id, &reply)
}
