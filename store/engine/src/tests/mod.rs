//! Tests of whole engines. `conformance` holds all of them to one script; `power` cuts the power and fails the disk in
//! the simulator; `damage` flips bits; `images` pins them; `real` runs on files with threads beside it; `sled` spoils that engine's files.

mod conformance;
mod damage;
mod images;
mod model;
mod power;
mod real;
#[cfg(feature = "sled")]
mod sled;
