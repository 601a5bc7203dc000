//! Random clients over a random history: every watcher is told exactly the events it should be, in order, once, whatever
//! its client's pace, whatever is compacted, however late the hub hears of what was applied, and whatever happens between
//! asking for history, reading it, and handing it in.

use std::collections::BTreeMap;

use barque_store_state::Event;

use super::*;

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

    fn sums_are_right(&self) {
        let hub = &self.m.hub;
        let mut queued = crate::stream::Load::default();
        let mut with_prev = 0;
        for stream in hub.streams.values() {
            queued += stream.queued();
            with_prev += stream.watchers.values().filter(|w| w.spec.prev_kv).count();
            for (id, watcher) in &stream.watchers {
                let in_line = stream.line.iter().filter(|other| *other == id).count();
                assert_eq!(
                    in_line,
                    usize::from(watcher.catching_up),
                    "seed {}",
                    self.seed
                );
            }
        }
        assert_eq!(hub.queued, queued, "seed {}", self.seed);
        assert_eq!(hub.wants_previous(), with_prev > 0, "seed {}", self.seed);
        assert!(hub.published <= hub.known);
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

    /// Who sleeps and was not woken would be told nothing by a poll. Except progress, while something applied is yet to be
    /// published: that will wake them.
    fn sleepers_miss_nothing(&mut self) {
        let ids: Vec<StreamId> = self.clients.keys().copied().collect();
        for s in ids {
            let client = &self.clients[&s];
            if !client.asleep || client.flag.raised() {
                continue;
            }
            let mut turn = self.m.hub.turn();
            let waker = Waker::from(client.flag.clone());
            let step = self.m.hub.poll(s, &mut turn, &waker);
            assert!(
                !matches!(step, Step::Read(_)),
                "seed {}: {s:?} sleeps on history",
                self.seed
            );
            self.clients.get_mut(&s).unwrap().asleep = turn.deliveries.is_empty();
            for delivery in turn.deliveries {
                let progress = matches!(delivery, Delivery::Progress { id: None, .. });
                let behind = self.m.hub.published < self.m.state.revision();
                assert!(
                    progress && behind,
                    "seed {}: {s:?} sleeps on {delivery:?}",
                    self.seed
                );
                self.take(s, delivery);
            }
        }
    }

    fn take(&mut self, s: StreamId, delivery: Delivery) {
        let seed = self.seed;
        let (state, history) = (&self.m.state, &self.history);
        let client = self.clients.get_mut(&s).unwrap();
        match delivery {
            Delivery::Created { id, revision } => {
                self.seen[0] += 1;
                assert!(revision <= state.revision());
                let told = client.watches.get_mut(&id).unwrap();
                assert!(!told.created, "seed {seed}: created twice");
                told.created = true;
                if told.spec.start.is_none() {
                    told.start = Revision(revision.0 + 1);
                }
            }
            Delivery::Events {
                id,
                revision,
                events,
            } => {
                self.seen[1] += 1;
                let told = client.watches.get_mut(&id).expect("of no watch");
                assert!(told.created, "seed {seed}: events before created");
                assert!(!told.cancelled, "seed {seed}: events after cancel");
                let last = events.last().expect("an empty delivery").kv.mod_revision;
                assert!(last <= revision && revision <= state.revision());
                let before = told.events.len();
                told.events
                    .extend(events.into_iter().map(WatchEvent::into_event));
                let expected = expected(history, told, Revision(u64::MAX));
                let n = told.events.len();
                assert!(n <= expected.len(), "seed {seed}: too many events");
                for (event, expected) in told.events.iter().zip(&expected).skip(before) {
                    same(seed, &told.spec, event, expected, state.compact_revision());
                }
                // A delivery ends where a revision ends.
                let next = expected.get(n).map(|event| event.kv.mod_revision);
                assert!(
                    next != Some(last),
                    "seed {seed}: revision {last:?} was split"
                );
            }
            Delivery::Progress { id: None, revision } => {
                self.seen[2] += 1;
                assert!(client.progress_asked, "seed {seed}: nobody asked");
                client.progress_asked = false;
                for told in client.watches.values().filter(|told| !told.cancelled) {
                    told_all(seed, history, told, revision);
                }
            }
            Delivery::Progress {
                id: Some(id),
                revision,
            } => {
                self.seen[3] += 1;
                let told = &client.watches[&id];
                assert!(told.spec.progress_notify && !told.cancelled);
                told_all(seed, history, told, revision);
            }
            Delivery::Canceled { id, .. } => {
                self.seen[4] += 1;
                let told = &client.watches[&id];
                if told.cancelled {
                    client.watches.remove(&id);
                }
            }
            Delivery::Compacted {
                id,
                compact_revision,
            } => {
                self.seen[5] += 1;
                assert!(compact_revision <= state.compact_revision());
                let told = client.watches.remove(&id).unwrap();
                // Rightly so: something at or after its place, before the compaction, was not read yet.
                let last = told.events.last().map(|event| event.kv.mod_revision);
                assert!(last.unwrap_or(told.start) < compact_revision);
            }
            Delivery::Refused { .. } => panic!("seed {seed}: nothing was refused"),
            Delivery::Failed { .. } => panic!("seed {seed}: history failed"),
        }
        client.lapse();
    }

    /// Everybody reads everything; nothing is left out.
    fn settle(&mut self) {
        let events = self.m.apply(put("a", "last"));
        self.history.extend(events.clone());
        self.unpublished.extend(events);
        while !self.unpublished.is_empty() {
            self.publish();
        }
        while !self.copies.is_empty() {
            self.hand_in_a_copy();
        }
        let ids: Vec<StreamId> = self.clients.keys().copied().collect();
        for s in ids {
            for round in 0.. {
                assert!(round < 20_000, "seed {}: never comes to rest", self.seed);
                self.poll(s);
                let client = &self.clients[&s];
                if client.turn.is_none() && client.asleep && !client.flag.raised() {
                    break;
                }
            }
            let revision = self.m.state.revision();
            let client = &self.clients[&s];
            for told in client.watches.values() {
                assert!(told.created && !told.cancelled);
                let expected = expected(&self.history, told, revision);
                assert_eq!(
                    told.events.len(),
                    expected.len(),
                    "seed {}: events missing",
                    self.seed
                );
            }
            let all_started = client
                .watches
                .values()
                .all(|told| told.start.0 <= revision.0 + 1);
            assert!(
                !client.progress_asked || !all_started,
                "seed {}: no progress",
                self.seed
            );
        }
        let watches = self.clients.values().map(|client| client.watches.len());
        assert_eq!(self.m.hub.counts().watchers, watches.sum::<usize>());
    }
}

/// The events a watch should have been told of up to `upto`.
fn expected<'a>(history: &'a [RevisionEvents], told: &Told, upto: Revision) -> Vec<&'a Event> {
    let spec = &told.spec;
    history
        .iter()
        .filter(|revision| told.start <= revision.revision && revision.revision <= upto)
        .flat_map(|revision| revision.events.iter())
        .filter(|event| spec.range.contains(&event.kv.key))
        .filter(|event| spec.wants(event.kind))
        .collect()
}

fn same(seed: u64, spec: &WatchSpec, event: &Event, expected: &Event, compacted: Revision) {
    assert_eq!(event.kind, expected.kind, "seed {seed}");
    assert_eq!(event.kv, expected.kv, "seed {seed}");
    let prev = expected.prev.as_ref().filter(|_| spec.prev_kv);
    // Compaction may have taken the row before an event that is not after it.
    if event.prev.is_some() || event.kv.mod_revision > compacted {
        assert_eq!(event.prev.as_ref(), prev, "seed {seed}: previous row");
    }
}

fn told_all(seed: u64, history: &[RevisionEvents], told: &Told, revision: Revision) {
    assert!(told.created, "seed {seed}: progress before created");
    assert!(
        told.start.0 <= revision.0 + 1,
        "seed {seed}: progress before the start"
    );
    let due = expected(history, told, revision).len();
    assert!(
        due <= told.events.len(),
        "seed {seed}: progress before events"
    );
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
