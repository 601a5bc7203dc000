//! Calls to one peer over one standing connection: many in flight, answered by id in any order.
//! Promise: a call that fails tells whether the peer can have seen it; a peer that stops answering costs its
//! connection, not the callers' patience; reconnects back off, but not from a peer that has just connected to this member.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use barque_store_env::{Env, Instant, WriteHalf};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::future::FutureExt;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{mpsc, oneshot};

use super::Peer;
use super::frame::{Frame, FrameError, Kind};
use super::wire::Lane;
use crate::limits;
use crate::tasks::Tasks;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The peer never got it.
    #[error("not sent: {0}")]
    NotSent(String),
    /// The peer may have got it.
    #[error("no answer: {0}")]
    Lost(String),
}

const QUEUED: u8 = 0;
const SENT: u8 = 1;
const GIVEN_UP: u8 = 2;

struct Call {
    kind: Kind,
    /// Encodes the frame once its id is known.
    encode: Box<dyn FnOnce(u64) -> Bytes + Send>,
    reply: oneshot::Sender<Result<Frame, CallError>>,
    state: Arc<AtomicU8>,
}

/// Calls one peer on one lane.
pub struct Caller<E: Env> {
    calls: mpsc::Sender<Call>,
    world: std::marker::PhantomData<fn() -> E>,
}

impl<E: Env> Caller<E> {
    pub fn start(peer: Arc<Peer<E>>, lane: Lane, tasks: &Tasks<E>) -> Self {
        let (calls, queue) = mpsc::channel(limits::CALLS_MAX);
        tasks.spawn("peer calls", run(peer, lane, queue));
        Caller {
            calls,
            world: std::marker::PhantomData,
        }
    }

    /// Calls and waits for the answer until the deadline.
    pub async fn call<M>(&self, kind: Kind, body: M, deadline: Instant) -> Result<Frame, CallError>
    where
        M: Message + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let state = Arc::new(AtomicU8::new(QUEUED));
        let call = Call {
            kind,
            encode: Box::new(move |id| Frame::encode(kind, id, &body)),
            reply,
            state: state.clone(),
        };
        // Who drops the call wants it no more.
        let _abandoned = GiveUp(state.clone());
        self.calls.try_send(call).map_err(|e| {
            CallError::NotSent(match e {
                mpsc::error::TrySendError::Full(_) => "too many calls are waiting".into(),
                mpsc::error::TrySendError::Closed(_) => "this member stops".into(),
            })
        })?;
        match E::timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => {
                let unsent = state
                    .compare_exchange(QUEUED, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire)
                    .is_ok();
                Err(if unsent {
                    CallError::NotSent("deadline passed".into())
                } else {
                    CallError::Lost("deadline passed".into())
                })
            }
        }
    }
}

/// Has what is still queued stay here.
struct GiveUp(Arc<AtomicU8>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        // One that is on the wire, or answered, is neither.
        let _ = self
            .0
            .compare_exchange(QUEUED, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// Calls on the wire, by id.
type Pending = BTreeMap<u64, (Instant, oneshot::Sender<Result<Frame, CallError>>)>;

async fn run<E: Env>(peer: Arc<Peer<E>>, lane: Lane, mut queue: mpsc::Receiver<Call>) {
    let mut backoff = limits::RECONNECT_MIN;
    let mut not_before = E::now();
    let mut knocks = peer.knocks();
    let mut next_id = 1;
    // The text of the last failure, logged once until it changes.
    let mut complained = String::new();
    while let Some(call) = queue.recv().await {
        let mut first = VecDeque::from([call]);
        let knocked = knocks != peer.knocks();
        if knocked {
            knocks = peer.knocks();
            backoff = limits::RECONNECT_MIN;
        }
        let failure = if E::now() < not_before && !knocked {
            "reconnecting".to_string()
        } else {
            match peer.connect(lane).await {
                Ok((read, write)) => {
                    if !complained.is_empty() {
                        tracing::info!(member = %peer.member, ?lane, "peer is back");
                        complained.clear();
                    }
                    backoff = limits::RECONNECT_MIN;
                    let frames = read.frames();
                    let why =
                        converse(&peer, frames, write, &mut first, &mut queue, &mut next_id).await;
                    tracing::debug!(member = %peer.member, ?lane, why, "connection ended");
                    not_before = E::now() + limits::RECONNECT_MIN;
                    why
                }
                Err(e) => {
                    let text = e.to_string();
                    if text != complained {
                        tracing::warn!(?lane, "{text}");
                        complained.clone_from(&text);
                    }
                    not_before = E::now() + backoff;
                    backoff = (backoff * 2).min(limits::RECONNECT_MAX);
                    text
                }
            }
        };
        // What queued up behind a failed connect fails with it: its callers decide what to do.
        while let Some(call) = first.pop_front().or_else(|| queue.try_recv().ok()) {
            let _ = call.reply.send(Err(CallError::NotSent(failure.clone())));
        }
    }
}

/// Runs one connection until it ends; returns why. Calls on the wire are lost then, calls still queued stay queued.
async fn converse<E: Env>(
    peer: &Peer<E>,
    frames: impl futures::Stream<Item = Result<Frame, FrameError>> + Send,
    mut write: super::WriteOf<E>,
    first: &mut VecDeque<Call>,
    queue: &mut mpsc::Receiver<Call>,
    next_id: &mut u64,
) -> String {
    let pending: Mutex<Pending> = Mutex::default();
    let heard = Mutex::new(E::now());
    let writing = async {
        loop {
            let call = match first.pop_front() {
                Some(call) => call,
                None => match queue.recv().await {
                    Some(call) => call,
                    None => return "this member stops".to_string(),
                },
            };
            let mut out = BytesMut::new();
            let mut next = Some(call);
            let mut single = None;
            while let Some(call) = next {
                if let Some(bytes) = send::<E>(call, next_id, &pending) {
                    // One call alone goes out without another copy.
                    if out.is_empty() && single.is_none() {
                        single = Some(bytes);
                    } else {
                        if let Some(single) = single.take() {
                            out.extend_from_slice(&single);
                        }
                        out.extend_from_slice(&bytes);
                    }
                }
                if out.len() >= limits::WRITE_BATCH_BYTES {
                    break;
                }
                next = queue.try_recv().ok();
            }
            let bytes = single.unwrap_or_else(|| out.freeze());
            if pending.lock().len() > limits::CALLS_MAX {
                return "too many calls are unanswered".to_string();
            }
            if !bytes.is_empty()
                && let Err(e) = write.write_all(bytes).await
            {
                return format!("the connection broke: {e}");
            }
        }
    };
    let reading = async {
        futures::pin_mut!(frames);
        while let Some(frame) = frames.next().await {
            match frame {
                Ok(frame) => {
                    let now = E::now();
                    *heard.lock() = now;
                    let waiting = pending.lock().remove(&frame.id);
                    if let Some((sent, reply)) = waiting {
                        // A heartbeat's: other calls wait for disks.
                        if frame.kind == Kind::AppendReply {
                            let took = now.saturating_since(sent);
                            peer.traffic.round_trips.note(took);
                        }
                        // A caller that is gone has stopped waiting.
                        let _ = reply.send(Ok(frame));
                    }
                }
                Err(e) => return e.to_string(),
            }
        }
        "the peer closed the connection".to_string()
    };
    let watching = async {
        loop {
            E::sleep(peer.patience.answer / 4).await;
            let now = E::now();
            let mut pending = pending.lock();
            let oldest = pending.values().map(|(sent, _)| *sent).min();
            if let Some(oldest) = oldest
                && now.saturating_since(oldest.max(*heard.lock())) > peer.patience.answer
            {
                return format!("no answer for {:?}", peer.patience.answer);
            }
            pending.retain(|_, (sent, reply)| {
                !reply.is_closed() || now.saturating_since(*sent) <= peer.patience.answer
            });
        }
    };
    let why = {
        let (mut writing, mut reading, mut watching) = (
            Box::pin(writing.fuse()),
            Box::pin(reading.fuse()),
            Box::pin(watching.fuse()),
        );
        futures::select_biased! {
            why = reading => why,
            why = writing => why,
            why = watching => why,
        }
    };
    let pending = pending.into_inner();
    peer.traffic.failed(pending.len());
    for (_, reply) in pending.into_values() {
        let _ = reply.send(Err(CallError::Lost(why.clone())));
    }
    why
}

/// Registers the call as sent and gives its bytes; `None` when its caller gave up first.
fn send<E: Env>(call: Call, next_id: &mut u64, pending: &Mutex<Pending>) -> Option<Bytes> {
    call.state
        .compare_exchange(QUEUED, SENT, Ordering::AcqRel, Ordering::Acquire)
        .ok()?;
    let id = *next_id;
    *next_id += 1;
    let bytes = (call.encode)(id);
    tracing::trace!(kind = ?call.kind, id, bytes = bytes.len(), "call");
    pending.lock().insert(id, (E::now(), call.reply));
    Some(bytes)
}
