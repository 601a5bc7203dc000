//! openraft's runtime over `Env` (guard 9): time, tasks, chance and channels come from one world, so that the Raft
//! core that is simulated is the one that runs.
//! Promise: nothing here asks the operating system for anything; wake order is the order of registration.

use std::fmt::{self, Debug};
use std::future::Future;
use std::marker::PhantomData;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use barque_store_env as env;
use barque_store_env::{Elapsed, Env, Killed, Task};
use openraft_rt as rt;
use openraft_rt::{OptionalSend, OptionalSync};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync;

use crate::runtime_watch::RaftWatch;

/// `Env` as openraft wants it.
pub struct Runtime<E>(PhantomData<fn() -> E>);

impl<E> Debug for Runtime<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runtime")
    }
}

impl<E: Env> rt::AsyncRuntime for Runtime<E> {
    type JoinError = Killed;
    type JoinHandle<T: OptionalSend + 'static> = Task<T>;
    type Sleep = env::Sleep;
    type Instant = Moment<E>;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = SmallRng;
    type Mpsc = RaftMpsc;
    type Watch = RaftWatch;
    type Oneshot = RaftOneshot;
    type Mutex<T: OptionalSend + 'static> = RaftMutex<T>;

    fn spawn<T>(future: T) -> Task<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        E::spawn("raft", future)
    }
    fn sleep(duration: Duration) -> env::Sleep {
        E::sleep(duration)
    }
    fn sleep_until(deadline: Moment<E>) -> env::Sleep {
        E::sleep_until(deadline.0)
    }
    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Timeout<F> {
        Timeout {
            future: Box::pin(future),
            sleep: E::sleep(duration),
        }
    }
    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Moment<E>,
        future: F,
    ) -> Timeout<F> {
        Timeout {
            future: Box::pin(future),
            sleep: E::sleep_until(deadline.0),
        }
    }
    /// A world does not tell a panic from a kill; both end the member.
    fn is_panic(_: &Killed) -> bool {
        false
    }
    fn thread_rng() -> SmallRng {
        SmallRng::seed_from_u64(E::random())
    }
    fn new(_threads: usize) -> Self {
        Runtime(PhantomData)
    }
    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        futures::executor::block_on(future)
    }
}

/// A point of the member's own clock.
pub struct Moment<E>(pub env::Instant, PhantomData<fn() -> E>);

impl<E> Moment<E> {
    pub fn at(instant: env::Instant) -> Self {
        Moment(instant, PhantomData)
    }
}
impl<E> Clone for Moment<E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<E> Copy for Moment<E> {}
impl<E> PartialEq for Moment<E> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<E> Eq for Moment<E> {}
impl<E> PartialOrd for Moment<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<E> Ord for Moment<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
impl<E> Debug for Moment<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl<E> Add<Duration> for Moment<E> {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Moment::at(self.0 + d)
    }
}
impl<E> AddAssign<Duration> for Moment<E> {
    fn add_assign(&mut self, d: Duration) {
        self.0 = self.0 + d;
    }
}
impl<E> Sub<Duration> for Moment<E> {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        Moment::at(self.0 - d)
    }
}
impl<E> SubAssign<Duration> for Moment<E> {
    fn sub_assign(&mut self, d: Duration) {
        self.0 = self.0 - d;
    }
}
impl<E> Sub for Moment<E> {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_since(earlier.0)
    }
}
impl<E: Env> rt::Instant for Moment<E> {
    fn now() -> Self {
        Moment::at(E::now())
    }
}

/// The future, or the end of the time it was given.
pub struct Timeout<F> {
    future: Pin<Box<F>>,
    sleep: env::Sleep,
}
impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(out) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(out));
        }
        self.sleep.as_mut().poll(cx).map(|()| Err(Elapsed))
    }
}

/// tokio's bounded channel: first in, first out, and free of any runtime.
pub struct RaftMpsc;
pub struct Sender<T>(sync::mpsc::Sender<T>);
pub struct Receiver<T>(sync::mpsc::Receiver<T>);
pub struct WeakSender<T>(sync::mpsc::WeakSender<T>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender(self.0.clone())
    }
}
impl<T> Clone for WeakSender<T> {
    fn clone(&self) -> Self {
        WeakSender(self.0.clone())
    }
}
impl rt::Mpsc for RaftMpsc {
    type Sender<T: OptionalSend> = Sender<T>;
    type Receiver<T: OptionalSend> = Receiver<T>;
    type WeakSender<T: OptionalSend> = WeakSender<T>;
    fn channel<T: OptionalSend>(buffer: usize) -> (Sender<T>, Receiver<T>) {
        let (tx, rx) = sync::mpsc::channel(buffer);
        (Sender(tx), Receiver(rx))
    }
}
impl<T: OptionalSend> rt::MpscSender<RaftMpsc, T> for Sender<T> {
    async fn send(&self, msg: T) -> Result<(), rt::SendError<T>> {
        self.0.send(msg).await.map_err(|e| rt::SendError(e.0))
    }
    fn downgrade(&self) -> WeakSender<T> {
        WeakSender(self.0.downgrade())
    }
}
impl<T: OptionalSend> rt::MpscReceiver<T> for Receiver<T> {
    async fn recv(&mut self) -> Option<T> {
        self.0.recv().await
    }
    fn try_recv(&mut self) -> Result<T, rt::TryRecvError> {
        self.0.try_recv().map_err(|e| match e {
            sync::mpsc::error::TryRecvError::Empty => rt::TryRecvError::Empty,
            sync::mpsc::error::TryRecvError::Disconnected => rt::TryRecvError::Disconnected,
        })
    }
}
impl<T: OptionalSend> rt::MpscWeakSender<RaftMpsc, T> for WeakSender<T> {
    fn upgrade(&self) -> Option<Sender<T>> {
        self.0.upgrade().map(Sender)
    }
}

pub struct RaftOneshot;
pub struct OneshotSender<T>(sync::oneshot::Sender<T>);
impl rt::Oneshot for RaftOneshot {
    type Sender<T: OptionalSend> = OneshotSender<T>;
    type Receiver<T: OptionalSend> = sync::oneshot::Receiver<T>;
    type ReceiverError = sync::oneshot::error::RecvError;
    fn channel<T: OptionalSend>() -> (OneshotSender<T>, sync::oneshot::Receiver<T>) {
        let (tx, rx) = sync::oneshot::channel();
        (OneshotSender(tx), rx)
    }
}
impl<T: OptionalSend> rt::OneshotSender<T> for OneshotSender<T> {
    fn send(self, t: T) -> Result<(), T> {
        self.0.send(t)
    }
}

pub struct RaftMutex<T>(sync::Mutex<T>);
impl<T: OptionalSend + 'static> rt::Mutex<T> for RaftMutex<T> {
    type Guard<'a> = sync::MutexGuard<'a, T>;
    fn new(value: T) -> Self {
        RaftMutex(sync::Mutex::new(value))
    }
    async fn lock(&self) -> Self::Guard<'_> {
        self.0.lock().await
    }
}

/// Nothing in a channel of ours is less shareable than what it carries.
const _: fn() = || {
    fn shareable<T: OptionalSend + OptionalSync>() {}
    shareable::<Sender<u8>>();
    shareable::<WeakSender<u8>>();
};

#[cfg(test)]
mod tests {
    use super::*;
    use barque_store_env::real::RealEnv;
    use openraft_rt::AsyncRuntime;

    #[test]
    fn passes_openrafts_own_suite() {
        let world = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime for the test");
        let _entered = world.enter();
        rt::testing::Suite::<Runtime<RealEnv>>::test_all_on(&mut Runtime::new(1));
    }
}
