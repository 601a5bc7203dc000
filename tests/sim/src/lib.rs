//! The deterministic simulator of the store: whole members on virtual machines, clients, faults, judges.
//! Promise: a seed is a run; a failing one is repeated by its seed. What runs above the simulated disk, network and
//! clock is the code that ships.
//! Not here: the world itself (`store/env`'s sim), the judging of histories (`tests/checkers`).

mod cluster;
mod faults;
pub mod guards;
mod journal;
mod look;
mod plan;
mod resolve;
mod run;
mod runner;
pub mod scene;
mod settle;
mod truth;
mod work;

pub use faults::Kind;
pub use journal::Counts;
pub use plan::Plan;
pub use run::{Failure, Options, Report, simulate};
pub use runner::{Batch, Outcome, run_seeds};
