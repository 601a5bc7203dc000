//! Which accepted connections are served: a few of each member on each lane, the newest.
//! Promise: connections whose other end is gone without a word (it lost its power, the network forgot them) do not pile up
//! until nobody is let in any more; whoever comes back is let in, and what it left behind ends.
//! Not here: how many connections there may be in all, known or not (`serve::accept`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use barque_store_state::MemberId;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::wire::Lane;
use crate::limits;

type Key = (MemberId, Lane);

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// Oldest first, with what ends it when it is dropped.
    seats: BTreeMap<Key, VecDeque<(u64, oneshot::Sender<()>)>>,
}

#[derive(Clone, Debug, Default)]
pub struct Seats(Arc<Mutex<Taken>>);

impl Seats {
    /// A place for a connection that was admitted; the oldest one of the same member and lane ends when there are too many.
    pub fn take(&self, member: MemberId, lane: Lane) -> Seat {
        let (end, ended) = oneshot::channel();
        let mut taken = self.0.lock();
        taken.next += 1;
        let number = taken.next;
        let key = (member, lane);
        let seats = taken.seats.entry(key).or_default();
        seats.push_back((number, end));
        if seats.len() > limits::CONNECTIONS_PER_LANE_MAX {
            seats.pop_front();
        }
        Seat {
            seats: self.clone(),
            key,
            number,
            ended,
        }
    }
}

/// One connection's place.
#[derive(Debug)]
pub struct Seat {
    seats: Seats,
    key: Key,
    number: u64,
    ended: oneshot::Receiver<()>,
}

impl Seat {
    /// Resolves when newer connections have taken its place.
    pub async fn lost(&mut self) {
        // Nothing is ever sent: it is dropped.
        let _ = (&mut self.ended).await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.lock();
        if let Some(seats) = taken.seats.get_mut(&self.key) {
            seats.retain(|(number, _)| *number != self.number);
            if seats.is_empty() {
                taken.seats.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn the_newest_of_each_member_and_lane_stay() {
        let seats = Seats::default();
        let take = |member, lane| seats.take(MemberId(member), lane);
        let mut other = take(1, Lane::Control);
        let mut all: Vec<Seat> = (0..limits::CONNECTIONS_PER_LANE_MAX + 2)
            .map(|_| take(1, Lane::Append))
            .collect();
        let mut elsewhere = take(2, Lane::Append);
        let lost: Vec<bool> = all
            .iter_mut()
            .map(|seat| seat.lost().now_or_never().is_some())
            .collect();
        assert_eq!(lost.iter().filter(|lost| **lost).count(), 2);
        assert!(lost[0] && lost[1], "the oldest go");
        assert!(other.lost().now_or_never().is_none());
        assert!(elsewhere.lost().now_or_never().is_none());
        drop((all, other, elsewhere));
        assert!(seats.0.lock().seats.is_empty());
    }
}
