//! The simulated network: TCP as programs see it. Bytes arrive late, in other pieces than they were sent, not at all
//! for a while, or the connection breaks; they never arrive twice, out of order or altered.
//! Promise: a partition holds what is under way; after it ends, TCP's retransmission delivers it some time later.
//! A killed process's kernel resets its connections; a machine without power says nothing until it is back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::task::Waker;
use std::time::Duration;

use bytes::{Buf, Bytes};

use super::NodeId;
use super::node::Death;
use super::world::{Event, World, nanos};

mod ends;
pub use ends::{SimConn, SimListener, SimNet, SimRead, SimWrite};

/// Bytes sent and not yet read, per direction, before writers wait: both kernels' buffers together.
pub(super) const WINDOW: usize = 256 * 1024;
/// Connections not yet accepted; further ones are not answered, as by Linux.
pub(super) const BACKLOG: usize = 128;
/// Wait before the n-th repetition of an unanswered connection attempt is 2^n times this.
pub(super) const SYN_RETRY: Duration = Duration::from_secs(1);
pub(super) const SYN_RETRIES: u32 = 6;
/// TCP's shortest retransmission timer.
const RTO_MIN: Duration = Duration::from_millis(200);
/// And the longest considered here (Linux goes to 120 s: nothing is learned by waiting so long).
const RTO_MAX: Duration = Duration::from_secs(3);
const LOOPBACK: (Duration, Duration) = (Duration::from_micros(5), Duration::from_micros(30));

/// How one direction between two machines behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Between the two, at random for each segment.
    pub delay: (Duration, Duration),
    /// Chance that a segment is lost, so that it and all behind it wait for TCP's retransmission.
    pub loss: f64,
    /// Chance that the connection breaks instead of carrying a segment.
    pub reset: f64,
    /// Bytes per second of each connection; 0: no bound.
    pub rate: u64,
}

impl Default for Link {
    /// A quiet local network.
    fn default() -> Self {
        Link {
            delay: (Duration::from_micros(100), Duration::from_micros(1_000)),
            loss: 0.0,
            reset: 0.0,
            rate: 0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConnId(u64);

/// 0: the end that connected, 1: the one that accepted.
pub(super) type Side = usize;

enum Segment {
    Data(Bytes),
    Fin,
    Reset,
}

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    flight: VecDeque<(u64, Segment)>,
    /// An event for the first segment is scheduled. Otherwise a partition or a dead machine holds the flight.
    moving: bool,
    held_since: u64,
    /// When a link with a bound rate has sent what was given to it.
    free_at: u64,
    arrived: VecDeque<Bytes>,
    /// Bytes in flight and arrived but unread.
    unread: usize,
    ended: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// One end of a connection.
#[derive(Clone, Copy)]
struct End {
    node: NodeId,
    reading: bool,
    writing: bool,
    /// The connection broke, as this end knows.
    reset: bool,
    /// Its kernel has forgotten the connection without a word to the other one.
    forgotten: bool,
}

impl End {
    fn closed(&self) -> bool {
        !self.reading && !self.writing
    }
}

struct Connection {
    /// Nothing of it arrives any more, and nobody says so.
    black: bool,
    ends: [End; 2],
    /// By writing side.
    pipes: [Pipe; 2],
}

struct Listening {
    number: u64,
    backlog: VecDeque<ConnId>,
    waker: Option<Waker>,
}

#[derive(Default)]
pub(super) struct NetState {
    default_link: Link,
    links: BTreeMap<(NodeId, NodeId), Link>,
    blocked: BTreeSet<(NodeId, NodeId)>,
    listening: BTreeMap<(NodeId, u16), Listening>,
    connections: BTreeMap<ConnId, Connection>,
    made: u64,
}

impl NetState {
    pub fn set_link(&mut self, from: NodeId, to: NodeId, link: Link) {
        self.links.insert((from, to), link);
    }
    pub fn set_default_link(&mut self, link: Link) {
        self.default_link = link;
        self.links.clear();
    }
    pub fn block(&mut self, from: NodeId, to: NodeId) {
        assert_ne!(from, to, "a machine cannot be cut off from itself");
        self.blocked.insert((from, to));
    }
    pub fn unblock(&mut self, from: NodeId, to: NodeId) {
        self.blocked.remove(&(from, to));
    }
    pub fn unblock_all(&mut self) {
        self.blocked.clear();
    }
    fn link(&self, from: NodeId, to: NodeId) -> Link {
        if from == to {
            return Link {
                delay: LOOPBACK,
                ..Link::default()
            };
        }
        *self.links.get(&(from, to)).unwrap_or(&self.default_link)
    }
    fn number(&mut self) -> u64 {
        self.made += 1;
        self.made
    }
}

impl World {
    fn net_delay(&mut self, from: NodeId, to: NodeId) -> u64 {
        let (low, high) = self.net.link(from, to).delay;
        self.rng.between(nanos(low), nanos(high))
    }

    /// Whether a packet sent now from one machine would reach the other's kernel.
    fn net_reaches(&mut self, from: NodeId, to: NodeId) -> bool {
        !self.net.blocked.contains(&(from, to)) && self.node(to).powered
    }

    fn net_connect(&mut self, client: NodeId, server: NodeId, port: u16) -> Option<ConnId> {
        let id = ConnId(self.net.number());
        let listening = self.net.listening.get_mut(&(server, port))?;
        if listening.backlog.len() >= BACKLOG {
            return None;
        }
        listening.backlog.push_back(id);
        let waker = listening.waker.take();
        let end = |node| End {
            node,
            reading: true,
            writing: true,
            reset: false,
            forgotten: false,
        };
        let connection = Connection {
            black: false,
            ends: [end(client), end(server)],
            pipes: Default::default(),
        };
        self.net.connections.insert(id, connection);
        if let Some(waker) = waker {
            waker.wake();
        }
        Some(id)
    }

    /// Puts a segment on its way.
    fn net_send(&mut self, id: ConnId, side: Side, segment: Segment) {
        let Some(connection) = self.net.connections.get(&id) else {
            return;
        };
        let (from, to) = (connection.ends[side].node, connection.ends[1 - side].node);
        let link = self.net.link(from, to);
        let mut at = self.now.saturating_add(self.net_delay(from, to));
        if let (Segment::Data(data), true) = (&segment, link.rate > 0) {
            let pipe = &self.net.connections[&id].pipes[side];
            let begins = pipe.free_at.max(self.now);
            let ends = begins + data.len() as u64 * 1_000_000_000 / link.rate;
            at = at.saturating_add(ends - self.now);
            let connection = self.net.connections.get_mut(&id).expect("looked up above");
            connection.pipes[side].free_at = ends;
        }
        if matches!(segment, Segment::Data(_)) {
            if self.rng.chance(link.reset) {
                return self.net_reset(id);
            }
            if self.rng.chance(link.loss) {
                let wait = self.rng.between(nanos(RTO_MIN), nanos(2 * RTO_MIN));
                at = at.saturating_add(wait);
            }
        }
        let Some(connection) = self.net.connections.get_mut(&id) else {
            return;
        };
        let pipe = &mut connection.pipes[side];
        let at = pipe.flight.back().map_or(at, |(last, _)| at.max(*last));
        if let Segment::Data(data) = &segment {
            pipe.unread += data.len();
        }
        let first = pipe.flight.is_empty();
        pipe.flight.push_back((at, segment));
        if first {
            pipe.moving = true;
            self.schedule(at, Event::Arrive(id, side));
        }
    }

    /// The first segment written by `side` reaches the other end's kernel, if anything lets it.
    pub fn net_arrive(&mut self, id: ConnId, side: Side) {
        let now = self.now;
        let Some(connection) = self.net.connections.get_mut(&id) else {
            return;
        };
        let (from, to) = (connection.ends[side].node, connection.ends[1 - side].node);
        let black = connection.black;
        if black || !self.net_reaches(from, to) {
            let connection = self.net.connections.get_mut(&id).expect("looked up above");
            let pipe = &mut connection.pipes[side];
            pipe.moving = false;
            pipe.held_since = now;
            return;
        }
        let connection = self.net.connections.get_mut(&id).expect("looked up above");
        let there = connection.ends[1 - side];
        let pipe = &mut connection.pipes[side];
        let Some((_, segment)) = pipe.flight.pop_front() else {
            return;
        };
        let mut answer_reset = false;
        let mut wake = Vec::new();
        match segment {
            Segment::Data(data) if there.reading && !there.reset => {
                self.trace.note((id.0 << 20) ^ data.len() as u64);
                pipe.arrived.push_back(data);
                wake.extend(pipe.reader.take());
            }
            // Nobody reads there any more: TCP answers that with a reset. What was sent is gone.
            Segment::Data(data) => {
                pipe.unread -= data.len();
                answer_reset = !there.reset || there.forgotten;
            }
            Segment::Fin => {
                pipe.ended = true;
                wake.extend(pipe.reader.take());
            }
            Segment::Reset => {
                // The kernel may or may not still hand out what came before.
                if self.rng.chance(0.5) {
                    pipe.arrived.clear();
                }
                connection.ends[1 - side].reset = true;
                wake.extend(connection.pipes[side].reader.take());
                wake.extend(connection.pipes[1 - side].writer.take());
            }
        }
        let pipe = &mut connection.pipes[side];
        match pipe.flight.front() {
            Some(&(at, _)) => drop(self.schedule(at, Event::Arrive(id, side))),
            None => pipe.moving = false,
        }
        for waker in wake {
            waker.wake();
        }
        if answer_reset {
            self.net_send(id, 1 - side, Segment::Reset);
        }
    }

    /// Both ends learn at once that the connection broke.
    fn net_reset(&mut self, id: ConnId) {
        let Some(connection) = self.net.connections.get_mut(&id) else {
            return;
        };
        self.trace.note(id.0 ^ 0x7e5e_7000_0000_0000);
        let mut wake = Vec::new();
        for side in [0, 1] {
            connection.ends[side].reset = true;
            let pipe = &mut connection.pipes[side];
            pipe.flight.clear();
            pipe.arrived.clear();
            wake.extend(pipe.reader.take());
            wake.extend(pipe.writer.take());
        }
        for waker in wake {
            waker.wake();
        }
    }

    fn net_between(&self, a: NodeId, b: NodeId) -> Vec<ConnId> {
        let between = |c: &Connection| {
            let (x, y) = (c.ends[0].node, c.ends[1].node);
            (x, y) == (a, b) || (x, y) == (b, a)
        };
        let connections = self.net.connections.iter();
        connections
            .filter(|(_, c)| between(c))
            .map(|(id, _)| *id)
            .collect()
    }

    pub fn net_break(&mut self, a: NodeId, b: NodeId) {
        for id in self.net_between(a, b) {
            self.net_reset(id);
        }
    }

    /// Connections of now carry nothing any more; both ends believe in them. New ones work.
    pub fn net_blacken(&mut self, a: NodeId, b: NodeId) {
        for id in self.net_between(a, b) {
            self.trace.note(id.0 ^ 0xb1ac_0000_0000_0000);
            let connection = self.net.connections.get_mut(&id).expect("listed above");
            connection.black = true;
        }
    }

    /// One machine's kernel forgets its connections with another, which learns of it when it sends something.
    pub fn net_forget(&mut self, on: NodeId, with: NodeId) {
        let mut wake = Vec::new();
        for id in self.net_between(on, with) {
            self.trace.note(id.0 ^ 0xf049_0000_0000_0000);
            let connection = self.net.connections.get_mut(&id).expect("listed above");
            let side = usize::from(connection.ends[0].node != on);
            let end = &mut connection.ends[side];
            end.reset = true;
            end.forgotten = true;
            let arriving = &mut connection.pipes[1 - side];
            arriving.arrived.clear();
            wake.extend(arriving.reader.take());
            wake.extend(connection.pipes[side].writer.take());
        }
        for waker in wake {
            waker.wake();
        }
    }

    /// What a partition or a dead machine held moves again, each connection when its retransmission timer says so.
    pub fn net_resume(&mut self) {
        let mut held = Vec::new();
        for (id, connection) in &self.net.connections {
            for side in [0, 1] {
                let pipe = &connection.pipes[side];
                if !pipe.moving && !pipe.flight.is_empty() && !connection.black {
                    let (from, to) = (connection.ends[side].node, connection.ends[1 - side].node);
                    held.push((*id, side, from, to, pipe.held_since));
                }
            }
        }
        for (id, side, from, to, since) in held {
            if !self.net_reaches(from, to) {
                continue;
            }
            // The timer has doubled since the first loss: about as long again as it has lasted.
            let most = (self.now - since).clamp(nanos(RTO_MIN), nanos(RTO_MAX));
            let at = self.now + self.rng.between(0, most);
            let connection = self.net.connections.get_mut(&id).expect("listed above");
            let pipe = &mut connection.pipes[side];
            pipe.moving = true;
            for (when, _) in &mut pipe.flight {
                *when = at.max(*when);
            }
            self.schedule(at, Event::Arrive(id, side));
        }
    }

    /// Closes one half of an end; both halves closed, what still comes is answered with a reset.
    fn net_close(&mut self, id: ConnId, side: Side, reading: bool, writing: bool) {
        let Some(connection) = self.net.connections.get_mut(&id) else {
            return;
        };
        let end = &mut connection.ends[side];
        let ends_writing = writing && end.writing;
        end.writing &= !writing;
        end.reading &= !reading;
        let broken = end.reset;
        if connection.ends.iter().all(End::closed) {
            self.net.connections.remove(&id);
        } else if ends_writing && !broken {
            self.net_send(id, side, Segment::Fin);
        }
    }

    /// A machine's processes die. After kill -9 its kernel tells the peers; without power nothing does.
    pub fn net_die(&mut self, node: NodeId, death: Death) {
        self.net.listening.retain(|(on, _), _| *on != node);
        let mine = |c: &Connection, side: Side| c.ends[side].node == node && !c.ends[side].closed();
        let mut ends: Vec<(ConnId, Side)> = Vec::new();
        for (id, connection) in &self.net.connections {
            ends.extend(
                [0, 1]
                    .into_iter()
                    .filter(|s| mine(connection, *s))
                    .map(|s| (*id, s)),
            );
        }
        for (id, side) in ends {
            let unread = {
                let connection = self.net.connections.get_mut(&id).expect("listed above");
                let end = &mut connection.ends[side];
                end.reading = false;
                end.writing = false;
                end.reset = true;
                !connection.pipes[1 - side].arrived.is_empty()
            };
            match death {
                // Unread data makes the kernel's goodbye a reset.
                Death::Killed if unread => self.net_send(id, side, Segment::Reset),
                Death::Killed => self.net_send(id, side, Segment::Fin),
                Death::PowerLoss => {
                    let connection = self.net.connections.get_mut(&id).expect("listed above");
                    let pipe = &mut connection.pipes[side];
                    if !pipe.moving {
                        pipe.flight.clear();
                    }
                }
            }
            let connection = self.net.connections.get_mut(&id).expect("listed above");
            // From now on the peer's data is answered with a reset: this end has forgotten the connection.
            connection.ends[side].reset = false;
            if connection.ends.iter().all(End::closed) {
                self.net.connections.remove(&id);
            }
        }
    }
}
