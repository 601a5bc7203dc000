//! The deterministic simulator of the store: three whole members on virtual machines, clients, faults, judges.
//! Promise: a seed is a run; a failing one is repeated by its seed. What runs above the simulated disk, network and
//! clock is the code that ships.
//! Not here: the world itself (`store/env`'s sim), the judging of histories (`tests/checkers`).

mod clients;
mod cluster;
mod faults;
mod journal;
mod run;
mod runner;
mod settle;
mod watchers;

pub use run::{Failure, Options, Report, simulate};
pub use runner::{Batch, Outcome, run_seeds};
