//! One simulated machine: its clock, whether it runs, its disk.

use crate::Instant;

use super::disk::DiskState;

/// How a machine's processes end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    Killed,
    PowerLoss,
}

/// A clock that is off by a constant and runs at a rate of its own, but never jumps.
/// Invariant: at virtual time `anchor` it shows (showed) `shown`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    anchor: u64,
    shown: u64,
    rate_ppm: i32,
}

const MILLION: i128 = 1_000_000;

impl Clock {
    pub fn local(&self, now: u64) -> Instant {
        let passed = i128::from(now) - i128::from(self.anchor);
        let passed = passed + passed * i128::from(self.rate_ppm) / MILLION;
        Instant((i128::from(self.shown) + passed).clamp(0, i128::from(u64::MAX)) as u64)
    }

    /// The first virtual time at which the clock shows at least `at`.
    pub fn global(&self, at: Instant) -> u64 {
        let ahead = i128::from(at.0) - i128::from(self.shown);
        if ahead <= 0 {
            return self.anchor;
        }
        let real = ahead * MILLION / (MILLION + i128::from(self.rate_ppm));
        let mut when = (i128::from(self.anchor) + real).clamp(0, i128::from(u64::MAX)) as u64;
        // Rounding of the two divisions: at most one tick each.
        while when < u64::MAX && self.local(when) < at {
            when += 1;
        }
        when
    }

    pub fn set_rate(&mut self, now: u64, rate_ppm: i32) {
        self.set(now, self.local(now).0, rate_ppm);
    }

    pub fn set(&mut self, now: u64, shown: u64, rate_ppm: i32) {
        assert!(rate_ppm > -500_000, "a clock must run");
        *self = Clock {
            anchor: now,
            shown,
            rate_ppm,
        };
    }

    pub fn rate_ppm(&self) -> i32 {
        self.rate_ppm
    }
}

pub(super) struct Node {
    pub clock: Clock,
    /// No task runs before this virtual time.
    pub paused_until: u64,
    pub powered: bool,
    /// Counts deaths: what was made before one is void after it.
    pub life: u32,
    /// While its tasks are dropped, what they spawn dies at once.
    pub dying: bool,
    pub disk: DiskState,
}

impl Default for Node {
    fn default() -> Self {
        Node {
            clock: Clock::default(),
            paused_until: 0,
            powered: true,
            life: 0,
            dying: false,
            disk: DiskState::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_turn_back_and_forth() {
        for rate_ppm in [-200_000, -7, 0, 1, 333, 200_000] {
            let mut clock = Clock::default();
            clock.set(1_000, 5_000_000_000, rate_ppm);
            for at in [
                5_000_000_001u64,
                5_000_000_999,
                6_123_456_789,
                99_999_999_999,
            ] {
                let when = clock.global(Instant(at));
                assert!(clock.local(when) >= Instant(at));
                assert!(clock.local(when - 1) < Instant(at));
            }
        }
    }

    #[test]
    fn a_new_rate_does_not_make_the_clock_jump() {
        let mut clock = Clock::default();
        clock.set(0, 77, 100);
        let before = clock.local(1_000_000);
        clock.set_rate(1_000_000, -100);
        assert_eq!(clock.local(1_000_000), before);
    }
}
