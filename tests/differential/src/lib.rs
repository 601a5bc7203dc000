//! The same random requests to a real etcd 3.5.16 and to Barque, every answer compared field by field.
//! Promise: one seed is one list of requests; what may differ stands in `accepted` and nowhere else.
//! Not here: faults and clusters (`tests/nemesis`), speed (`bench`).

pub mod accepted;
mod barrier;
pub mod call;
pub mod difference;
pub mod fields;
pub mod generate;
pub mod limits;
pub mod pair;
pub mod random;
pub mod run;
pub mod servers;
pub mod shrink;
pub mod step;
pub mod streams;
pub mod watches;
