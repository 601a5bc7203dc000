//! One append stream to one follower: a connection of its own, requests pipelined, answers in order.
//! Promise (guard 6): the first request is taken before anything can fail, because openraft sleeps its backoff there;
//! pump and answers are one object, so neither outlives the other; a follower that stops answering ends the stream.
//! Promise (guard 4): openraft never takes an answer for that to a later request (see [`Unanswered`]).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use barque_store_env::{Env, Instant, Sleep, WriteHalf};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, Unreachable};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::Peer;
use super::frame::{Frame, FrameError, Kind};
use super::traffic::Traffic;
use super::wire::{AppendBody, AppendReplyBody, ErrorBody, Lane};
use crate::limits;
use crate::purge::Cut;
use crate::types::{LogId, Types};

type RpcError<E> = RPCError<Types<E>>;
type Answer<E> = Result<StreamAppendResult<Types<E>>, RpcError<E>>;

pub fn broken<E: Env>(why: impl ToString) -> RpcError<E> {
    RPCError::Network(NetworkError::new(&anyerror::AnyError::error(
        why.to_string(),
    )))
}
pub fn unreachable<E: Env>(why: impl ToString) -> RpcError<E> {
    RPCError::Unreachable(Unreachable::new(&anyerror::AnyError::error(
        why.to_string(),
    )))
}

/// Permits are bytes; an append costs at least its share of `WINDOW_APPENDS`.
const APPEND_COST_MIN: usize = limits::WINDOW_BYTES / limits::WINDOW_APPENDS;

/// What a request covers: the log ids before its entries and of the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    prev: Option<LogId>,
    last: Option<LogId>,
}

impl Span {
    fn of<E: Env>(request: &AppendEntriesRequest<Types<E>>) -> Self {
        let prev = request.prev_log_id;
        let last = request.entries.last().map(|e| e.log_id).or(prev);
        Span { prev, last }
    }
}

/// Requests taken from openraft and not answered.
///
/// openraft tells the time of an acknowledgement by log ids: it credits an answer to the *newest* request taken from it
/// that the answer's log id covers. A request without entries (it only carries a newer commit index) ends where the one
/// before it ends, so the older one's answer would prove that the follower answered a request which it may never have
/// seen: a leader that was paused or cut off in between would hold its lease, and confirm reads, on the strength of an
/// old answer. So such an answer is held back; the newer request's own answer says as much and more.
#[derive(Default)]
struct Unanswered(VecDeque<Span>);

impl Unanswered {
    /// The oldest was answered with this log id. Whether openraft may hear of it now.
    fn answered(&mut self, matching: Option<LogId>) -> bool {
        self.0.pop_front();
        let taken_for_a_later = |span: &Span| matching >= span.last || matching > span.prev;
        !self.0.iter().any(taken_for_a_later)
    }
}

/// Appends sent and not answered.
struct Window {
    free: Semaphore,
    unanswered: Mutex<Unanswered>,
    /// What each costs and when it left, in order.
    sent: Mutex<VecDeque<(u32, Instant)>>,
}

impl Window {
    async fn open(&self, bytes: usize) -> u32 {
        let cost = u32::try_from(bytes.clamp(APPEND_COST_MIN, limits::WINDOW_BYTES))
            .expect("the window is far below 4 GiB");
        self.free
            .acquire_many(cost)
            .await
            .expect("the window is never closed")
            .forget();
        cost
    }
    /// The oldest was answered; false when none was sent.
    fn answered(&self) -> bool {
        let Some((cost, _)) = self.sent.lock().pop_front() else {
            return false;
        };
        self.free.add_permits(cost as usize);
        true
    }
    fn oldest(&self) -> Option<Instant> {
        self.sent.lock().front().map(|(_, at)| *at)
    }
}

pub async fn open<E, S>(
    peer: Arc<Peer<E>>,
    mut input: S,
    cut: Arc<Cut>,
) -> Result<BoxStream<'static, Answer<E>>, RpcError<E>>
where
    E: Env,
    S: Stream<Item = AppendEntriesRequest<Types<E>>> + OptionalSend + Unpin + 'static,
{
    let mut connected = None;
    if !peer.patience.guards.input_first {
        connected = Some(peer.connect(Lane::Append).await.map_err(unreachable)?);
    }
    let Some(first) = input.next().await else {
        return Ok(futures::stream::empty().boxed());
    };
    let (read, mut write) = match connected {
        Some(connected) => connected,
        None => peer.connect(Lane::Append).await.map_err(unreachable)?,
    };
    let window = Arc::new(Window {
        free: Semaphore::new(limits::WINDOW_BYTES),
        unanswered: Mutex::default(),
        sent: Mutex::default(),
    });
    let pumped = window.clone();
    let pump = async move {
        let mut next = Some(first);
        let mut id = 0;
        while let Some(request) = next {
            id += 1;
            pumped.unanswered.lock().0.push_back(Span::of(&request));
            let bytes = Frame::encode(Kind::Append, id, &AppendBody::new(&request));
            drop(request);
            let cost = pumped.open(bytes.len()).await;
            pumped.sent.lock().push_back((cost, E::now()));
            write.write_all(bytes).await.map_err(FrameError::Io)?;
            next = input.next().await;
        }
        // Kept until all is answered: dropping it would close the connection.
        Ok::<_, FrameError>(Box::new(write))
    };
    let pump: BoxFuture<'static, Result<Box<_>, FrameError>> = match peer.patience.guards.pump_tied
    {
        true => Box::pin(pump),
        false => {
            let loose = E::spawn("pump", pump);
            Box::pin(async move { loose.await.unwrap_or(Err(FrameError::Cut)) })
        }
    };
    Ok(Session::<E, _> {
        pump: Some(pump),
        write: None,
        frames: read.frames().boxed(),
        window,
        patience: peer.patience.answer * 2,
        in_order: peer.patience.guards.answers_in_order,
        alarm: None,
        cut,
        over: false,
        traffic: peer.traffic.clone(),
        world: std::marker::PhantomData,
    }
    .boxed())
}

struct Session<E: Env, W> {
    /// `None`: the input has ended and all of it is sent.
    pump: Option<BoxFuture<'static, Result<Box<W>, FrameError>>>,
    /// Boxed, so that a session can be moved whatever the world's connections are.
    write: Option<Box<W>>,
    frames: BoxStream<'static, Result<Frame, FrameError>>,
    window: Arc<Window>,
    patience: Duration,
    /// Off only to show what holding answers back is for.
    in_order: bool,
    alarm: Option<(Instant, Sleep)>,
    /// Guard 11: while this stream may want them, openraft purges no entries.
    cut: Arc<Cut>,
    over: bool,
    traffic: Arc<Traffic>,
    world: std::marker::PhantomData<fn() -> E>,
}

impl<E: Env, W> Session<E, W> {
    fn end(&mut self, answer: Answer<E>) -> Poll<Option<Answer<E>>> {
        self.over = true;
        if answer.is_err() {
            self.traffic.failed(1);
        }
        Poll::Ready(Some(answer))
    }
    /// Ready when the oldest unanswered append has waited too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(oldest) = self.window.oldest() else {
                self.alarm = None;
                return Poll::Pending;
            };
            match &mut self.alarm {
                Some((at, sleep)) => match sleep.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) if oldest + self.patience <= *at => return Poll::Ready(()),
                    Poll::Ready(()) => self.alarm = None,
                },
                None => {
                    let at = oldest + self.patience;
                    self.alarm = Some((at, E::sleep_until(at)));
                }
            }
        }
    }
}

fn read_answer<E: Env>(frame: &Frame) -> Answer<E> {
    match frame.kind {
        Kind::AppendReply => frame
            .parse::<AppendReplyBody>()
            .map_err(broken)?
            .result()
            .map_err(broken),
        Kind::Error => Err(broken(frame.parse::<ErrorBody>().map_err(broken)?.text)),
        other => Err(broken(FrameError::Kind(other as u8))),
    }
}

impl<E: Env, W: Send> Stream for Session<E, W> {
    type Item = Answer<E>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Answer<E>>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        if let Some(pump) = &mut this.pump {
            match pump.as_mut().poll(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(write)) => {
                    this.pump = None;
                    this.write = Some(write);
                }
                Poll::Ready(Err(e)) => return this.end(Err(broken(e))),
            }
        }
        if this.pump.is_none() && this.window.oldest().is_none() {
            this.over = true;
            return Poll::Ready(None);
        }
        loop {
            match this.frames.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if !this.window.answered() {
                        return this.end(Err(broken("an answer to nothing")));
                    }
                    let answer = read_answer(&frame);
                    // After a conflict, a higher vote or an error the follower says no more.
                    let Ok(Ok(matching)) = &answer else {
                        return this.end(answer);
                    };
                    if matching.is_some_and(|id| this.cut.leaves_behind(id.index)) {
                        return this.end(Err(broken("too far behind: it is to be sent the state")));
                    }
                    let now = this.window.unanswered.lock().answered(*matching);
                    if now || !this.in_order {
                        return Poll::Ready(Some(answer));
                    }
                }
                Poll::Ready(Some(Err(e))) => return this.end(Err(broken(e))),
                Poll::Ready(None) => {
                    return this.end(Err(broken("the peer closed the connection")));
                }
                Poll::Pending => break,
            }
        }
        if this.poll_silence(cx).is_ready() {
            let silence = format!("no answer to an append for {:?}", this.patience);
            return this.end(Err(broken(silence)));
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::log_id;

    fn span(prev: u64, last: u64) -> Span {
        let [prev, last] = [prev, last].map(|index| Some(log_id(1, index)));
        Span { prev, last }
    }
    fn upto(index: u64) -> Option<LogId> {
        Some(log_id(1, index))
    }

    #[test]
    fn an_answer_is_never_taken_for_a_later_requests() {
        let mut requests = Unanswered(VecDeque::from([span(0, 3), span(3, 5), span(5, 5)]));
        assert!(requests.answered(upto(3)), "the next one goes further");
        assert!(
            !requests.answered(upto(5)),
            "the commit-only one ends there too"
        );
        assert!(requests.answered(upto(5)), "its own answer");
        requests.0.extend([span(5, 5), span(5, 5), span(5, 9)]);
        assert!(!requests.answered(upto(5)));
        assert!(requests.answered(upto(5)));
        assert!(requests.answered(upto(7)), "a part of the last one");
    }
}
