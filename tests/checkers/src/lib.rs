//! Judges of recorded runs: were the registers linearizable, was every acknowledged write kept, did the watchers see
//! everything once and in order, was there ever more than one leader, did a lease end early, do revisions follow real time.
//! Promise: a checker that says yes has looked at every operation; it says no only with the evidence in hand.
//! Not here: recording. Times are whatever monotone numbers the recorder has, keys and values its own.

mod acknowledged;
mod leases;
mod lives;
mod orders;
mod registers;
mod watches;

pub use acknowledged::{Acknowledged, LostWrite, check_acknowledged};
pub use leases::{Claim, TwoHolders, check_claims};
pub use lives::{EndedEarly, Life, check_lives};
pub use orders::{OrderFault, Placed, check_orders};
pub use registers::{
    Action, Operation, Searched, Verdict, check_registers, check_registers_within,
};
pub use watches::{Delivered, History, WatchFault, Watched, check_history, check_watch};

#[cfg(test)]
mod chance;
