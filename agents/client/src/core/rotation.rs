//! Which master to talk to. Owns the choice, not the connections.
//! Promise: as long as one endpoint works it is found after at most one try of each; a failed one is passed over for a while.

use std::time::Duration;

/// The choice among `n` endpoints.
#[derive(Debug)]
pub struct Rotation {
    current: usize,
    /// Raised each time the current endpoint is left, so that late reports about an old choice change nothing.
    epoch: u64,
    /// Per endpoint: passed over until then.
    cooling: Vec<Duration>,
    cooldown: Duration,
}

impl Rotation {
    /// `start` spreads the agents over the masters.
    pub fn new(endpoints: usize, start: usize, cooldown: Duration) -> Rotation {
        assert!(endpoints > 0, "a rotation without endpoints");
        Rotation {
            current: start % endpoints,
            epoch: 0,
            cooling: vec![Duration::ZERO; endpoints],
            cooldown,
        }
    }

    pub fn current(&self) -> (usize, u64) {
        (self.current, self.epoch)
    }

    /// The choice of `epoch` failed. Moves on unless that was already done. Says whether it moved.
    pub fn failed(&mut self, epoch: u64, now: Duration) -> bool {
        if epoch != self.epoch {
            return false;
        }
        self.cooling[self.current] = now + self.cooldown;
        let count = self.cooling.len();
        let order = (1..=count).map(|step| (self.current + step) % count);
        // The first one that is not cooling; else the one whose cooling ends first.
        let next = order
            .clone()
            .find(|index| self.cooling[*index] <= now)
            .or_else(|| order.min_by_key(|index| self.cooling[*index]));
        self.current = next.unwrap_or(self.current);
        self.epoch += 1;
        true
    }

    /// The choice of `epoch` answered.
    pub fn worked(&mut self, epoch: u64) {
        if epoch == self.epoch {
            self.cooling[self.current] = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOL: Duration = Duration::from_secs(5);

    #[test]
    fn each_endpoint_is_tried_before_one_is_tried_again() {
        let mut rotation = Rotation::new(3, 1, COOL);
        let mut tried = vec![];
        for second in 0..6 {
            let (index, epoch) = rotation.current();
            tried.push(index);
            assert!(rotation.failed(epoch, Duration::from_secs(second)));
        }
        assert_eq!(tried, [1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn an_old_report_changes_nothing() {
        let mut rotation = Rotation::new(2, 0, COOL);
        let (_, epoch) = rotation.current();
        assert!(rotation.failed(epoch, Duration::ZERO));
        assert!(!rotation.failed(epoch, Duration::ZERO));
        assert_eq!(rotation.current().0, 1);
    }

    #[test]
    fn a_failed_endpoint_is_passed_over_while_it_cools() {
        let mut rotation = Rotation::new(3, 0, COOL);
        let (_, epoch) = rotation.current();
        rotation.failed(epoch, Duration::ZERO); // 0 cools until 5 s
        let (_, epoch) = rotation.current();
        rotation.failed(epoch, Duration::from_secs(1)); // 1 cools until 6 s
        let (index, epoch) = rotation.current();
        assert_eq!(index, 2);
        rotation.worked(epoch);
        rotation.failed(epoch, Duration::from_secs(6));
        assert_eq!(
            rotation.current().0,
            0,
            "0 has cooled, and comes next in turn"
        );
    }

    #[test]
    fn the_only_endpoint_is_always_the_choice() {
        let mut rotation = Rotation::new(1, 7, COOL);
        let (_, epoch) = rotation.current();
        assert!(rotation.failed(epoch, Duration::ZERO));
        assert_eq!(rotation.current().0, 0);
    }
}
