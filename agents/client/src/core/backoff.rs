//! How long to wait after the n-th failure. Owns nothing but the count.

use std::time::Duration;

/// Doubles from `min` to `max`; a success starts over.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub fn new(min: Duration, max: Duration) -> Backoff {
        Backoff {
            min,
            max,
            failures: 0,
        }
    }

    /// The delay after one more failure.
    pub fn fail(&mut self) -> Duration {
        let delay = delay(self.min, self.max, self.failures);
        self.failures = self.failures.saturating_add(1);
        delay
    }

    pub fn succeed(&mut self) {
        self.failures = 0;
    }
}

/// The delay before the next try after `failures` earlier ones.
pub fn delay(min: Duration, max: Duration, failures: u32) -> Duration {
    // 2^20 times any sensible minimum is beyond any sensible maximum: the shift cannot overflow.
    min.saturating_mul(1 << failures.min(20)).min(max)
}

/// Spreads a delay over [delay/2, delay], so that agents that failed together do not return together. `chance` is in [0, 1).
pub fn spread(delay: Duration, chance: f64) -> Duration {
    delay.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_maximum_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(30));
        let delays: Vec<u128> = (0..5).map(|_| backoff.fail().as_millis()).collect();
        assert_eq!(delays, [5, 10, 20, 30, 30]);
        backoff.succeed();
        assert_eq!(backoff.fail().as_millis(), 5);
        assert_eq!(
            delay(Duration::from_secs(1), Duration::from_secs(60), u32::MAX).as_secs(),
            60
        );
    }
}
