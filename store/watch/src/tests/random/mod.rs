//! Random clients over a random history: every watcher is told exactly the events it should be, in order, once, whatever
//! its client's pace, whatever is compacted, however late the hub hears of what was applied, and whatever happens between
//! asking for history, reading it, and handing it in.
//! Not here: what a client should have been told (`judge`).

use std::collections::BTreeMap;

use barque_store_state::Event;

use super::*;

mod judge;

struct Dice(u64);
impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What a client was told of one watch.
struct Told {
    spec: WatchSpec,
    start: Revision,
    created: bool,
    cancelled: bool,
    events: Vec<Event>,
}

#[derive(Default)]
struct Client {
    /// By id; the live ones.
    watches: BTreeMap<WatchId, Told>,
    flag: Arc<Flag>,
    /// Its last poll brought nothing, and it has not been woken since.
    asleep: bool,
    progress_asked: bool,
    /// Its turn, where one has begun.
    turn: Option<(Turn, Reading)>,
}

/// How far a turn is with a piece of history.
enum Reading {
    No,
    Asked(Ask),
    Done(Piece),
}

impl Client {
    /// Without anybody to answer for, a request lapses.
    fn lapse(&mut self) {
        self.progress_asked &= self.watches.values().any(|told| !told.cancelled);
    }
}

struct World {
    seed: u64,
    dice: Dice,
    m: Member,
    /// Everything that ever happened.
    history: Vec<RevisionEvents>,
    /// Applied, not yet published.
    unpublished: Vec<RevisionEvents>,
    clients: BTreeMap<StreamId, Client>,
    /// Pieces that are, or will be, handed in by somebody else too.
    copies: Vec<(StreamId, Piece)>,
    /// Times that something was published between asking for history and handing it in; that rows before a change were
    /// left out.
    races: usize,
    left_out: usize,
    /// Deliveries seen, by kind, to see that the test tests something.
    seen: [usize; 6],
}

const KEYS: [&str; 6] = ["a", "b", "b/1", "b/2", "c", "d"];

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let limits = Limits {
            watches: 1_000,
            stream_events: 1 + dice.below(12) as usize,
            stream_bytes: 1 + dice.below(60) as usize,
            all_events: 1 + dice.below(20) as usize,
            all_bytes: 1 + dice.below(100) as usize,
            poll_events: 1 + dice.below(6) as usize,
            poll_bytes: 1 + dice.below(60) as usize,
            catch_up_revisions: 1 + dice.below(6) as usize,
            catch_up_reads: 1 + dice.below(3) as usize,
            stream_answers: 8,
        };
        let mut world = World {
            seed,
            m: Member::new(limits),
            dice,
            history: Vec::new(),
            unpublished: Vec::new(),
            clients: BTreeMap::new(),
            copies: Vec::new(),
            races: 0,
            left_out: 0,
            seen: [0; 6],
        };
        // Some members have a past before their hub begins.
        if world.dice.one_in(2) {
            for _ in 0..world.dice.below(20) {
                world.write();
            }
            world.unpublished.clear();
            // And some hubs are not told so.
            if world.dice.one_in(2) {
                world.m.hub = Hub::after(limits, world.m.state.revision());
            }
        }
        for _ in 0..3 {
            let s = world.m.hub.open();
            world.clients.insert(s, Client::default());
        }
        world
    }

    fn key_range(&mut self) -> KeyRange {
        let key = KEYS[self.dice.below(6) as usize];
        match self.dice.below(5) {
            0 => everything(),
            1 => KeyRange::prefix(b"b"),
            2 => KeyRange {
                key: bytes(key),
                end: bytes("\0"),
            },
            _ => point(key),
        }
    }

    fn write(&mut self) {
        let command = match self.dice.below(6) {
            0 => delete(self.key_range()),
            1 => {
                let keys: Vec<&str> = KEYS.into_iter().filter(|_| self.dice.one_in(2)).collect();
                put_all(&keys)
            }
            _ => {
                let key = KEYS[self.dice.below(6) as usize];
                put(key, &self.dice.below(1000).to_string())
            }
        };
        let at_once = self.unpublished.is_empty() && self.dice.one_in(3);
        let leave_out = at_once && !self.m.hub.wants_previous();
        let mut events = self.m.apply(command);
        self.history.extend(events.clone());
        if leave_out {
            for revision in &mut events {
                self.left_out += revision.events.iter().filter(|e| e.prev.is_some()).count();
                let bare = |event: &Event| Event {
                    prev: None,
                    ..event.clone()
                };
                revision.events = revision.events.iter().map(bare).collect();
            }
        }
        if at_once {
            self.tell(&events);
        } else {
            self.unpublished.extend(events);
        }
    }

    fn tell(&mut self, events: &[RevisionEvents]) {
        let readers = self.clients.values();
        let reading =
            readers.filter(|c| matches!(c.turn, Some((_, Reading::Asked(_) | Reading::Done(_)))));
        self.races += reading.count() * usize::from(!events.is_empty());
        self.m.hub.publish(events);
    }

    fn publish(&mut self) {
        let n = self.dice.below(self.unpublished.len() as u64 + 1) as usize;
        let events: Vec<_> = self.unpublished.drain(..n).collect();
        self.tell(&events);
    }

    fn step(&mut self) {
        let ids: Vec<StreamId> = self.clients.keys().copied().collect();
        let s = ids[self.dice.below(3) as usize];
        match self.dice.below(20) {
            0..=5 => self.write(),
            6..=9 => self.publish(),
            10 if self.dice.one_in(3) => {
                let (low, high) = (self.m.state.compact_revision(), self.m.state.revision());
                self.m
                    .apply(compact(low.0 + self.dice.below(high.0 + 1 - low.0)));
            }
            11 if self.dice.one_in(4) => {
                // The state came another way: the hub hears so, or hears of a later revision next.
                self.unpublished.clear();
                if self.dice.one_in(2) {
                    self.m.hub.jump(self.m.state.revision());
                }
            }
            12 | 13 => self.create(s),
            14 if self.dice.one_in(3) => self.cancel(s),
            15 => {
                self.m.ask_progress(s);
                let client = self.clients.get_mut(&s).unwrap();
                client.progress_asked |= client.watches.values().any(|told| !told.cancelled);
            }
            16 => {
                self.m.hub.tick_progress(s, self.m.state.revision());
            }
            17 => self.hand_in_a_copy(),
            _ => self.poll(s),
        }
        self.sleepers_miss_nothing();
        self.sums_are_right();
    }

    fn create(&mut self, s: StreamId) {
        // Sometimes from a reading of the revision that is old by now.
        let current = self.m.state.revision();
        let lag = self.dice.below(3).min(current.0 - 1);
        let current = Revision(current.0 - lag);
        let start = match self.dice.below(3) {
            0 => None,
            _ => Some(Revision(1 + self.dice.below(current.0 + 4))),
        };
        let spec = WatchSpec {
            range: self.key_range(),
            start,
            prev_kv: self.dice.one_in(2),
            no_put: self.dice.one_in(6),
            no_delete: self.dice.one_in(6),
            progress_notify: self.dice.one_in(2),
        };
        let chosen = self
            .dice
            .one_in(3)
            .then(|| WatchId(1 + self.dice.below(5) as i64));
        let client = self.clients.get_mut(&s).unwrap();
        match self.m.hub.create(s, chosen, spec.clone(), current) {
            Err(CreateError::DuplicateId) => {
                let chosen = chosen.expect("a free id was taken");
                assert!(client.watches.contains_key(&chosen));
            }
            Err(other) => panic!("seed {}: {other}", self.seed),
            Ok(id) => {
                let told = Told {
                    spec,
                    // "Now" is told by Created.
                    start: start.unwrap_or_default(),
                    created: false,
                    cancelled: false,
                    events: Vec::new(),
                };
                let before = client.watches.insert(id, told);
                assert!(
                    before.is_none_or(|before| before.cancelled),
                    "id given twice"
                );
            }
        }
    }

    fn cancel(&mut self, s: StreamId) {
        let client = self.clients.get_mut(&s).unwrap();
        let open: Vec<WatchId> = client
            .watches
            .iter()
            .filter(|(_, told)| told.created && !told.cancelled)
            .map(|(id, _)| *id)
            .collect();
        if let Some(id) = open.first() {
            client.watches.get_mut(id).unwrap().cancelled = true;
            client.lapse();
            self.m.hub.cancel(s, *id, self.m.state.revision());
        }
    }

    /// One step of a client's turn: a poll of the hub, a read, or handing in what was read.
    fn poll(&mut self, s: StreamId) {
        let client = self.clients.get_mut(&s).unwrap();
        let (mut turn, reading) = client
            .turn
            .take()
            .unwrap_or_else(|| (self.m.hub.turn(), Reading::No));
        let next = match reading {
            Reading::No => {
                client.flag.take();
                let waker = Waker::from(client.flag.clone());
                match self.m.hub.poll(s, &mut turn, &waker) {
                    Step::Read(ask) => Some(Reading::Asked(ask)),
                    Step::Send => None,
                    Step::Sleep => {
                        client.asleep = true;
                        None
                    }
                }
            }
            Reading::Asked(ask) => {
                let piece = ask.read(&self.m.state);
                if self.dice.one_in(4) && self.copies.len() < 20 {
                    self.copies.push((s, piece.clone()));
                }
                Some(Reading::Done(piece))
            }
            Reading::Done(piece) => {
                self.m.hub.supply(piece, &mut turn);
                Some(Reading::No)
            }
        };
        let deliveries = std::mem::take(&mut turn.deliveries);
        let client = self.clients.get_mut(&s).unwrap();
        client.asleep &= deliveries.is_empty() && next.is_none();
        // Now and then a turn is given up in the middle: what was asked is never handed in.
        client.turn = next
            .filter(|_| !self.dice.one_in(20))
            .map(|reading| (turn, reading));
        for delivery in deliveries {
            self.take(s, delivery);
        }
    }

    fn hand_in_a_copy(&mut self) {
        if self.copies.is_empty() {
            return;
        }
        let n = self.dice.below(self.copies.len() as u64) as usize;
        let (s, piece) = self.copies.swap_remove(n);
        if self.dice.one_in(2) {
            self.copies.push((s, piece.clone()));
        }
        let mut turn = self.m.hub.turn();
        self.m.hub.supply(piece, &mut turn);
        for delivery in turn.deliveries {
            self.take(s, delivery);
        }
    }
}

#[test]
fn every_watcher_is_told_exactly_what_it_should_be() {
    let mut seen = [0; 6];
    let (mut races, mut left_out) = (0, 0);
    for seed in 0..3_000 {
        let mut world = World::new(seed);
        for _ in 0..400 {
            world.step();
        }
        world.settle();
        for (sum, n) in seen.iter_mut().zip(world.seen) {
            *sum += n;
        }
        races += world.races;
        left_out += world.left_out;
    }
    assert!(
        races > 2_000,
        "history was hardly read while something was published: {races}"
    );
    assert!(left_out > 200, "rows were hardly left out: {left_out}");
    // created, events, progress of streams and of watches, canceled, compacted
    assert!(seen.iter().all(|n| *n > 200), "hardly tested: {seen:?}");
}
