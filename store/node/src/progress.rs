//! When each stream of watches is told its progress: etcd's rule, a tick per stream from its opening on, every interval and
//! up to a tenth of it more, drawn once per stream so that streams opened together do not all speak together.
//! Not here: which watches of the stream are due (`store/watch`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use barque_store_env::{Env, Instant};
use barque_store_watch::StreamId;
use parking_lot::Mutex;

use crate::machine::Machine;

#[derive(Default)]
struct Due {
    /// Invariant: exactly the ticks of `streams`.
    order: BTreeSet<(Instant, StreamId)>,
    /// Period, and when the next tick comes.
    streams: BTreeMap<StreamId, (Duration, Instant)>,
}

pub(crate) struct Ticks {
    interval: Duration,
    due: Mutex<Due>,
}

impl Ticks {
    pub(crate) fn new(interval: Duration) -> Self {
        Ticks {
            interval,
            due: Mutex::default(),
        }
    }

    /// `chance`: any 32 bits.
    pub(crate) fn open(&self, stream: StreamId, chance: u32, now: Instant) {
        let jitter = self
            .interval
            .mul_f64(f64::from(chance) / f64::from(u32::MAX) / 10.0);
        let period = self.interval + jitter;
        let mut due = self.due.lock();
        due.order.insert((now + period, stream));
        due.streams.insert(stream, (period, now + period));
    }
    pub(crate) fn close(&self, stream: StreamId) {
        let mut due = self.due.lock();
        if let Some((_, at)) = due.streams.remove(&stream) {
            due.order.remove(&(at, stream));
        }
    }

    /// When to look again. A stream that opens meanwhile is due no sooner than an interval from then.
    fn next(&self, now: Instant) -> Instant {
        let due = self.due.lock();
        let latest = now + self.interval;
        due.order.first().map_or(latest, |(at, _)| latest.min(*at))
    }

    /// The streams whose tick has come; each has its next one a period from `now`.
    fn take(&self, now: Instant) -> Vec<StreamId> {
        let mut due = self.due.lock();
        let mut taken = Vec::new();
        while let Some((at, stream)) = due.order.first().copied()
            && at <= now
        {
            due.order.pop_first();
            if let Some((period, next)) = due.streams.get_mut(&stream) {
                // From the tick that was due, but ticks that were missed are left out, as those of Go's ticker are.
                *next = at + *period;
                if *next <= now {
                    *next = now + *period;
                }
                let next = *next;
                due.order.insert((next, stream));
            }
            taken.push(stream);
        }
        taken
    }
}

/// Tells progress for as long as the member runs.
pub(crate) async fn tell<E: Env>(machine: Arc<Machine<E>>) {
    loop {
        E::sleep_until(machine.ticks.next(E::now())).await;
        for stream in machine.ticks.take(E::now()) {
            let revision = machine.glance.revision();
            let wake = machine.hub.lock().tick_progress(stream, revision);
            // Waking runs other tasks' code: not under the lock.
            drop(wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn at(ms: u64) -> Instant {
        Instant(0) + Duration::from_millis(ms)
    }

    #[test]
    fn each_stream_ticks_from_its_opening_with_a_jitter_of_its_own() {
        let (mut hub, ticks) = (
            barque_store_watch::Hub::new(Default::default()),
            Ticks::new(10 * S),
        );
        let [a, b, c] = [hub.open(), hub.open(), hub.open()];
        ticks.open(a, 0, at(0));
        ticks.open(b, u32::MAX, at(0));
        assert_eq!(ticks.next(at(0)), at(10_000));
        assert!(ticks.take(at(9_999)).is_empty());
        assert_eq!(ticks.take(at(10_000)), [a]);
        assert_eq!(ticks.next(at(10_000)), at(11_000));
        ticks.open(c, 0, at(10_500));
        // Late: b's tick was due at 11.0 s; its next one is still counted from there.
        assert_eq!(ticks.take(at(11_200)), [b]);
        assert_eq!(ticks.take(at(20_500)), [a, c]);
        assert_eq!(ticks.next(at(20_500)), at(22_000));
        ticks.close(b);
        assert_eq!(ticks.next(at(20_500)), at(30_000));
        // Nobody looked for a minute: one tick, and the next a period later.
        assert_eq!(ticks.take(at(81_000)), [a, c]);
        assert_eq!(ticks.next(at(81_000)), at(91_000));
        ticks.close(a);
        ticks.close(c);
        assert_eq!(ticks.next(at(90_000)), at(100_000));
        assert!(ticks.due.lock().order.is_empty());
    }
}
