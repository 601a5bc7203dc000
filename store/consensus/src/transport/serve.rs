//! The accepting side: handshakes, then serves a connection's lane until it ends.
//! Promise: a stranger (other cluster, other member meant, other protocol) gets a reason and nothing else; calls are
//! begun in the order they arrive; a connection's two directions end together.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use barque_store_env::{Conn, Env, Instant, Listener, WriteHalf};
use barque_store_state::{ClusterVersion, MemberId};
use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, Either, FutureExt, select};
use futures::stream::{FuturesUnordered, StreamExt};
use openraft::ServerState;
use openraft::raft::{AppendEntriesResponse, StreamAppendError};
use openraft_rt::WatchReceiver;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::fetch;
use super::frame::{Frame, FrameError, Kind, Reader};
use super::heard::Heard;
use super::image::{self, Receiving};
use super::seats::Seats;
use super::wire::*;
use super::{Identity, Links, ReadOf, WriteOf};
use crate::directories::Directories;
use crate::forward;
use crate::guard::VoteGuard;
use crate::integrity;
use crate::limits;
use crate::log_store::LogStore;
use crate::member::{self, Raft};
use crate::pins::Pins;
use crate::tasks::Tasks;
use crate::types::Types;
use crate::{Forwarded, Machine};

/// What connections are served with.
pub struct Served<E: Env> {
    pub me: Identity,
    pub machine: Arc<dyn Machine>,
    pub raft: Raft<E>,
    pub guard: VoteGuard,
    pub directories: Arc<Directories>,
    pub links: Arc<Links<E>>,
    pub heard: Arc<Heard>,
    pub lease: Duration,
    pub forwarded: Arc<dyn Forwarded>,
    pub complaints: Complaints,
    pub seats: Seats,
    pub receiving: Receiving,
    pub pins: Arc<Pins<E>>,
    pub log: LogStore<E>,
}

impl<E: Env> Served<E> {
    /// Whether the member was removed, and Raft does without it: until then its vote may be needed to carry that out.
    fn is_gone(&self, member: MemberId) -> bool {
        // Raft first: it is asked with every heartbeat, which must not wait for an apply that holds the state.
        let metrics = self.raft.server_metrics();
        let without = {
            let metrics = metrics.borrow_watched();
            let both = [
                &metrics.membership_config,
                &metrics.committed_membership_config,
            ];
            // One that has just started knows none yet.
            both.iter()
                .all(|m| m.log_id().is_some() && m.get_node(&member.0).is_none())
        };
        without && self.machine.is_removed(member)
    }

    /// The member has connected, so it is there: nobody waits any more before trying to reach it. One that was restarted would
    /// otherwise hear its leader, and be sent what it lacks, only after all of that.
    async fn met(&self, member: MemberId) {
        if let Some(link) = self.links.get(member) {
            link.peer.knocked();
        }
        let leads = self.raft.server_metrics().borrow_watched().state == ServerState::Leader;
        if leads {
            let trigger = self.raft.trigger();
            // An error says that Raft has stopped, which is told elsewhere.
            drop(trigger.reset_backoff([member.0]).await);
            drop(trigger.heartbeat().await);
        }
    }
}

/// Strangers knock several times a second: each reason is told at once, then every ten seconds.
#[derive(Debug, Default)]
pub struct Complaints(Mutex<Option<(String, Instant)>>);
impl Complaints {
    fn tell(&self, hello: &Hello, reason: &str, now: Instant) {
        let mut last = self.0.lock();
        if last.as_ref().is_some_and(|(told, at)| {
            told == reason && now.saturating_since(*at) < Duration::from_secs(10)
        }) {
            return;
        }
        *last = Some((reason.to_string(), now));
        tracing::error!(
            from = hello.from,
            version = hello.version,
            "refused a peer's connection: {reason}"
        );
    }
}

/// Accepts connections for as long as it is polled.
pub async fn accept<E: Env, L: Listener>(mut listener: L, served: Arc<Served<E>>, tasks: Tasks<E>)
where
    L::Conn: Conn<Read = ReadOf<E>, Write = WriteOf<E>>,
{
    loop {
        match listener.accept().await {
            Ok(conn) if tasks.count() < limits::CONNECTIONS_MAX => {
                let served = served.clone();
                tasks.spawn("peer connection", async move {
                    let (read, write) = conn.split();
                    if let Err(e) = serve(&served, Reader::new(read), write).await {
                        tracing::debug!("a peer's connection ended: {e}");
                    }
                });
            }
            Ok(conn) => {
                tracing::warn!("too many peer connections; a new one is closed");
                drop(conn);
            }
            Err(e) => {
                // Out of file descriptors, most likely: others will close.
                tracing::warn!("cannot accept a peer's connection: {e}");
                E::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve<E: Env>(
    served: &Arc<Served<E>>,
    mut read: Reader<ReadOf<E>>,
    mut write: WriteOf<E>,
) -> Result<(), FrameError> {
    let hello = match E::timeout(
        limits::HANDSHAKE_TIMEOUT,
        read.next(limits::HELLO_BYTES_MAX),
    )
    .await
    {
        Ok(frame) => match frame? {
            None => return Ok(()),
            Some(frame) if frame.kind == Kind::Hello => frame.parse::<Hello>()?,
            Some(frame) => return Err(FrameError::Kind(frame.kind as u8)),
        },
        Err(_) => return Err(FrameError::Cut),
    };
    let lane = match admit(served, &hello) {
        Ok(lane) => lane,
        Err(refused) => {
            served.complaints.tell(&hello, &refused.reason, E::now());
            write
                .write_all(Frame::encode(Kind::Refused, 0, &refused))
                .await?;
            return Ok(());
        }
    };
    let welcome = Welcome {
        protocol: hello.protocol.min(PROTOCOL),
        features: hello.features & FEATURES,
        version: env!("CARGO_PKG_VERSION").to_string(),
        incarnation: served.me.incarnation,
        newest_major: ClusterVersion::NEWEST.major,
        newest_minor: ClusterVersion::NEWEST.minor,
    };
    write
        .write_all(Frame::encode(Kind::Welcome, 0, &welcome))
        .await?;
    let from = MemberId(hello.from);
    if matches!(lane, Lane::Control | Lane::Requests) {
        served.met(from).await;
    }
    let mut seat = served.seats.take(from, lane);
    let serving = async {
        match lane {
            Lane::Append => serve_appends(served, read, write).await,
            Lane::Image => image::serve(served, from, read, write).await,
            Lane::Fetch => fetch::serve(served, from, read, write).await,
            Lane::Control | Lane::Requests | Lane::Join | Lane::Unspecified => {
                serve_calls(served, from, lane, read, write).await
            }
        }
    };
    match select(pin!(serving), pin!(seat.lost())).await {
        Either::Left((served, _)) => served,
        Either::Right(_) => Err(FrameError::Cut),
    }
}

fn admit<E: Env>(served: &Served<E>, hello: &Hello) -> Result<Lane, Refused> {
    let lane = acquaint(served, hello).map_err(|reason| Refused {
        reason,
        code: Refusal::Unspecified as i32,
    })?;
    if lane == Lane::Join {
        return Ok(lane);
    }
    if served.is_gone(MemberId(hello.from)) {
        return Err(Refused {
            reason: format!("member {:x} was removed from the cluster", hello.from),
            code: Refusal::Removed as i32,
        });
    }
    match served
        .directories
        .stranger(MemberId(hello.from), hello.incarnation)
    {
        Some(reason) => Err(Refused {
            reason,
            code: Refusal::Wiped as i32,
        }),
        None => Ok(lane),
    }
}

fn acquaint<E: Env>(served: &Served<E>, hello: &Hello) -> Result<Lane, String> {
    let me = &served.me;
    let lane = match Lane::try_from(hello.lane) {
        Ok(Lane::Unspecified) | Err(_) => {
            return Err(format!("unknown kind of connection {}", hello.lane));
        }
        Ok(lane) => lane,
    };
    if hello.protocol < PROTOCOL_OLDEST || hello.protocol_oldest > PROTOCOL {
        return Err(format!(
            "protocol mismatch: this member speaks {PROTOCOL_OLDEST} to {PROTOCOL}, the peer {} to {}",
            hello.protocol_oldest, hello.protocol
        ));
    }
    // Knows nothing of the cluster yet, its own id included.
    if lane == Lane::Join {
        return Ok(lane);
    }
    if hello.cluster_id != me.cluster_id {
        return Err(format!(
            "cluster id mismatch: this member is of {:x}, not of {:x}",
            me.cluster_id, hello.cluster_id
        ));
    }
    if hello.to != me.member.0 {
        return Err(format!(
            "this is member {:x}, not {:x}",
            me.member.0, hello.to
        ));
    }
    // One that this member does not know yet may be the leader that tells it: only its own id is refused.
    if hello.from == me.member.0 || hello.from == 0 {
        return Err(format!("member {:x} is not a peer of this one", hello.from));
    }
    Ok(lane)
}

/// Calls in any order: each is begun as it arrives and answered when it is done.
async fn serve_calls<E: Env>(
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

fn error(id: u64, code: ErrorCode, text: impl ToString) -> Bytes {
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
    Ok(match member::leader_read_index(&served.raft, wait).await {
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

/// One append stream. openraft pipelines it; answers come back in order.
async fn serve_appends<E: Env>(
    served: &Arc<Served<E>>,
    read: Reader<ReadOf<E>>,
    mut write: WriteOf<E>,
) -> Result<(), FrameError> {
    // openraft reads its input in a task of its own: dropping `alive` ends it together with this connection.
    let (alive, ended) = oneshot::channel::<()>();
    let heard = served.heard.clone();
    let machine = served.machine.clone();
    let requests = read
        .frames()
        .map(move |frame| {
            let frame = frame?;
            let body = match frame.kind {
                Kind::Append => frame.parse::<AppendBody>()?,
                other => return Err(FrameError::Kind(other as u8)),
            };
            body.request::<E>().map_err(|e| {
                if e.is_too_new() {
                    // The leader would send it again for ever.
                    machine.unfit(&format!("the leader sent {e}"));
                }
                FrameError::Body {
                    kind: Kind::Append,
                    cause: e.to_string(),
                }
            })
        })
        .scan((), |(), request| {
            let request = request
                .inspect_err(|e| tracing::debug!("an append stream ended: {e}"))
                .ok();
            std::future::ready(request)
        })
        .take_until(ended);
    let replies = served.raft.stream_append(Box::pin(requests)).fuse();
    futures::pin_mut!(replies);
    let mut id = 0;
    let mut encode = |result: &Result<_, openraft::errors::Fatal<Types<E>>>| {
        id += 1;
        match result {
            Ok(result) => {
                if !matches!(result, Err(StreamAppendError::HigherVote(_))) {
                    heard.now(E::now());
                }
                Frame::encode(Kind::AppendReply, id, &AppendReplyBody::new::<E>(result))
            }
            Err(e) => error(id, ErrorCode::Stopped, e),
        }
    };
    while let Some(result) = replies.next().await {
        let mut out = encode(&result);
        if let Some(Some(second)) = replies.next().now_or_never() {
            let mut more = BytesMut::from(&out[..]);
            more.extend_from_slice(&encode(&second));
            while more.len() < limits::WRITE_BATCH_BYTES
                && let Some(Some(next)) = replies.next().now_or_never()
            {
                more.extend_from_slice(&encode(&next));
            }
            out = more.freeze();
        }
        write.write_all(out).await?;
    }
    drop(alive);
    Ok(())
}
