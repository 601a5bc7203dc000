//! What a client is told, against what it should be: exactly its events, in order, once, no revision split; progress only when
//! everything before it was told; and whoever sleeps has nothing to be told.

use super::*;

impl World {
    pub(super) fn sums_are_right(&self) {
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

    /// Who sleeps and was not woken would be told nothing by a poll. Except progress, while something applied is yet to be
    /// published: that will wake them.
    pub(super) fn sleepers_miss_nothing(&mut self) {
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

    pub(super) fn take(&mut self, s: StreamId, delivery: Delivery) {
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
    pub(super) fn settle(&mut self) {
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
