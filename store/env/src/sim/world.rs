//! The executor: virtual time, events in order, tasks in a seeded order.
//! Promise: nothing here depends on addresses, threads, real time or hash seeds.
//! Rule of this module: foreign code (a task's poll or drop) never runs while the world is borrowed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{Instant, Task};

use super::disk::Handle;
use super::net::{ConnId, NetState, Side};
use super::node::{Death, Node};
use super::rng::Rng;
use super::{HARNESS, NodeId};

/// Virtual nanoseconds one poll takes. Not zero, so that code which spins until a deadline gets there.
const POLL_COST: u64 = 500;
/// Events at or after this time never come (an `Instant` saturated).
const NEVER: u64 = 1 << 62;

type Future_ = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Slot {
    /// `None` while it is being polled.
    future: Option<Future_>,
    node: NodeId,
    name: &'static str,
    waker: Waker,
}

/// Tasks that want to run. Shared with the wakers, which may be called at any moment.
#[derive(Default)]
struct Ready {
    queue: Vec<usize>,
    queued: Vec<bool>,
}

struct TaskWaker {
    id: usize,
    ready: Arc<Mutex<Ready>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        let mut ready = self.ready.lock();
        if !ready.queued[self.id] {
            ready.queued[self.id] = true;
            ready.queue.push(self.id);
        }
    }
}

/// What happens at a point of virtual time.
pub(super) enum Event {
    Wake(Waker),
    /// The running operation of an open file reaches its next phase.
    Disk(Handle),
    /// The oldest segment of a connection's direction (named by its writer) arrives.
    Arrive(ConnId, Side),
}

/// A rolling digest.
pub(super) struct Trace(u64);

impl Trace {
    pub fn note(&mut self, fact: u64) {
        self.0 = (self.0 ^ fact)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(23);
    }
    pub fn value(&self) -> u64 {
        self.0
    }
}

/// Orders events of one instant by their making.
pub(super) type EventKey = (u64, u64);

pub(super) struct World {
    pub now: u64,
    pub rng: Rng,
    pub trace: Trace,
    pub polls: u64,
    /// The machine whose code is running.
    pub ambient: NodeId,
    pub net: NetState,
    nodes: Vec<Node>,
    events: BTreeMap<EventKey, Event>,
    event_count: u64,
    tasks: Vec<Option<Slot>>,
    free: Vec<usize>,
    ready: Arc<Mutex<Ready>>,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Access to this thread's world.
pub(super) fn with<T>(f: impl FnOnce(&mut World) -> T) -> T {
    try_with(f).expect("the simulated world exists only inside sim::run")
}

/// As [`with`], for destructors: `None` when the run is over.
pub(super) fn try_with<T>(f: impl FnOnce(&mut World) -> T) -> Option<T> {
    WORLD
        .try_with(|world| world.borrow_mut().as_mut().map(f))
        .ok()
        .flatten()
}

pub(super) fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

impl World {
    fn new(seed: u64) -> Self {
        World {
            now: 0,
            rng: Rng::new(seed),
            trace: Trace(seed),
            polls: 0,
            ambient: HARNESS,
            net: NetState::default(),
            nodes: Vec::new(),
            events: BTreeMap::new(),
            event_count: 0,
            tasks: Vec::new(),
            free: Vec::new(),
            ready: Arc::default(),
        }
    }

    pub fn node(&mut self, id: NodeId) -> &mut Node {
        let at = id.0 as usize;
        while self.nodes.len() <= at {
            self.nodes.push(Node::default());
        }
        &mut self.nodes[at]
    }

    pub fn local(&mut self, id: NodeId) -> Instant {
        let now = self.now;
        self.node(id).clock.local(now)
    }

    pub fn schedule(&mut self, at: u64, event: Event) -> EventKey {
        self.event_count += 1;
        let key = (at.max(self.now), self.event_count);
        self.events.insert(key, event);
        key
    }

    pub fn cancel(&mut self, key: EventKey) -> Option<Event> {
        self.events.remove(&key)
    }

    /// Whether anything was due.
    fn fire_due(&mut self) -> bool {
        let mut fired = false;
        while let Some(next) = self.events.first_entry() {
            if next.key().0 > self.now {
                break;
            }
            fired = true;
            match next.remove() {
                Event::Wake(waker) => waker.wake(),
                Event::Disk(handle) => self.disk_event(handle),
                Event::Arrive(conn, side) => self.net_arrive(conn, side),
            }
        }
        fired
    }

    fn add_task(&mut self, node: NodeId, name: &'static str, future: Future_) {
        let id = self.free.pop().unwrap_or_else(|| {
            self.tasks.push(None);
            self.ready.lock().queued.push(false);
            self.tasks.len() - 1
        });
        let waker: Waker = Arc::new(TaskWaker {
            id,
            ready: self.ready.clone(),
        })
        .into();
        waker.wake_by_ref();
        self.tasks[id] = Some(Slot {
            future: Some(future),
            node,
            name,
            waker,
        });
    }

    fn end_task(&mut self, id: usize) -> Option<Slot> {
        let slot = self.tasks[id].take()?;
        let mut ready = self.ready.lock();
        if std::mem::take(&mut ready.queued[id]) {
            ready.queue.retain(|other| *other != id);
        }
        drop(ready);
        self.free.push(id);
        Some(slot)
    }

    /// Takes the next task to poll, letting time pass when there is none.
    fn next_task(&mut self) -> Step {
        if self.fire_due() {
            // The harness may have been woken, and comes first.
            return Step::Passed;
        }
        let id = {
            let mut ready = self.ready.lock();
            if ready.queue.is_empty() {
                drop(ready);
                return match self.events.first_key_value() {
                    Some((&(at, _), _)) if at < NEVER => {
                        self.now = self.now.max(at);
                        Step::Passed
                    }
                    _ => Step::Deadlock,
                };
            }
            let at = self.rng.below(ready.queue.len() as u64) as usize;
            let id = ready.queue.swap_remove(at);
            ready.queued[id] = false;
            id
        };
        let Some(slot) = self.tasks[id].as_mut() else {
            return Step::Passed;
        };
        let (node, waker) = (slot.node, slot.waker.clone());
        let paused_until = self.node(node).paused_until;
        if paused_until > self.now {
            self.schedule(paused_until, Event::Wake(waker));
            return Step::Passed;
        }
        let Some(future) = self.tasks[id].as_mut().and_then(|s| s.future.take()) else {
            return Step::Passed;
        };
        self.now += POLL_COST;
        self.polls += 1;
        self.trace
            .note(self.now ^ ((id as u64) << 40) ^ (u64::from(node.0) << 56));
        self.ambient = node;
        Step::Poll(id, future, waker)
    }

    fn names(&self) -> Vec<String> {
        let slots = self.tasks.iter().flatten();
        slots.map(|s| format!("{} {}", s.node, s.name)).collect()
    }
}

enum Step {
    Poll(usize, Future_, Waker),
    Passed,
    Deadlock,
}

struct RootWaker(AtomicBool);
impl Wake for RootWaker {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Takes the world away at the end, also when the run panics.
struct Installed;

impl Installed {
    fn new(seed: u64) -> Self {
        WORLD.with(|world| {
            let mut world = world.borrow_mut();
            assert!(world.is_none(), "a simulation runs already on this thread");
            *world = Some(World::new(seed));
        });
        Installed
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // Destructors of tasks see the world they lived in; what they spawn dies with it.
            let nodes = with(|w| w.nodes.len());
            for node in 0..nodes.max(1) {
                drop_tasks(NodeId(node as u32));
            }
        }
        let world = WORLD.with(|world| world.borrow_mut().take());
        if std::thread::panicking() {
            // A second panic in some destructor would abort and hide the first: leak instead.
            std::mem::forget(world);
        }
    }
}

/// Runs `root` in a new world made from the seed, until it gives its result; every task still alive is dropped then.
/// Panics when nothing can ever happen again.
pub fn run<F: Future>(seed: u64, root: F) -> F::Output {
    let installed = Installed::new(seed);
    let mut root = Box::pin(root);
    let woken = Arc::new(RootWaker(AtomicBool::new(true)));
    let root_waker: Waker = woken.clone().into();
    let out = loop {
        // The harness comes first: what it samples and injects is not blurred by the schedule.
        if woken.0.swap(false, Ordering::Relaxed) {
            with(|w| w.ambient = HARNESS);
            if let Poll::Ready(out) = root.as_mut().poll(&mut Context::from_waker(&root_waker)) {
                break out;
            }
            continue;
        }
        match with(World::next_task) {
            Step::Passed => {}
            Step::Poll(id, future, waker) => {
                poll_task(id, future, &waker);
                with(|w| w.ambient = HARNESS);
            }
            Step::Deadlock => {
                let names = with(|w| w.names());
                panic!("deadlock: nothing is ready and no timer runs; tasks: {names:?}");
            }
        }
    };
    drop(root);
    drop(installed);
    out
}

fn poll_task(id: usize, mut future: Future_, waker: &Waker) {
    match future.as_mut().poll(&mut Context::from_waker(waker)) {
        Poll::Pending => with(|w| {
            let slot = w.tasks[id].as_mut();
            slot.expect("a task cannot kill its own machine").future = Some(future);
        }),
        Poll::Ready(()) => {
            drop(future);
            let slot = with(|w| w.end_task(id));
            drop(slot);
        }
    }
}

pub(super) fn spawn<F>(node: NodeId, name: &'static str, task: F) -> Task<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let (tx, rx) = oneshot::channel();
    let (task, abort) = futures::future::abortable(task);
    let future: Future_ = Box::pin(async move {
        if let Ok(out) = task.await {
            // The handle may be gone: the task was detached.
            let _ = tx.send(out);
        }
    });
    let refused = with(|w| {
        let machine = w.node(node);
        assert!(machine.powered, "{node} is switched off");
        if machine.dying {
            return Some(future);
        }
        w.add_task(node, name, future);
        None
    });
    drop(refused);
    Task::new(rx, abort)
}

pub(super) fn enter<T>(node: NodeId, f: impl FnOnce() -> T) -> T {
    struct Back(NodeId);
    impl Drop for Back {
        fn drop(&mut self) {
            try_with(|w| w.ambient = self.0);
        }
    }
    let _back = Back(with(|w| std::mem::replace(&mut w.ambient, node)));
    f()
}

fn drop_tasks(node: NodeId) {
    let dead: Vec<Slot> = with(|w| {
        w.node(node).dying = true;
        let ids: Vec<usize> = (0..w.tasks.len())
            .filter(|id| w.tasks[*id].as_ref().is_some_and(|t| t.node == node))
            .collect();
        ids.into_iter().filter_map(|id| w.end_task(id)).collect()
    });
    enter(node, || drop(dead));
    with(|w| w.node(node).dying = false);
}

pub(super) fn kill(node: NodeId, death: Death) {
    assert_ne!(node, HARNESS, "the harness cannot be killed");
    assert_ne!(
        with(|w| w.ambient),
        node,
        "a task cannot kill its own machine"
    );
    // Before its tasks go: their destructors must not say goodbye to anybody.
    with(|w| {
        w.trace.note(u64::from(node.0) + 1_000);
        w.node(node).life += 1;
        w.net_die(node, death);
        w.disk_die(node, death);
    });
    drop_tasks(node);
    with(|w| {
        let now = w.now;
        w.node(node).paused_until = 0;
        if death == Death::PowerLoss {
            let shown = w.rng.below(10_000_000_000);
            let machine = w.node(node);
            machine.powered = false;
            let rate = machine.clock.rate_ppm();
            machine.clock.set(now, shown, rate);
        }
    });
}

pub(super) fn set_clock(node: NodeId, shows: Duration, rate_ppm: i32) {
    with(|w| {
        let now = w.now;
        let busy = w.tasks.iter().flatten().any(|t| t.node == node);
        assert!(!busy, "{node}'s clock cannot jump under its tasks");
        w.node(node).clock.set(now, nanos(shows), rate_ppm);
    });
}
