//! Keys, revisions and rows. One write transaction is one main revision; its operations are sub-revisions; a row is what
//! one operation left behind. `index` finds the versions of a key, `store` holds rows and is the only one that adds or
//! removes them.

mod cache;
mod changes;
mod compact;
mod hash;
mod image;
mod index;
mod range;
mod range_run;
mod store;
mod txn;

pub use changes::Changes;
pub use compact::{Pass, Sweep};
pub use hash::{HashKv, HashRun};
pub use image::{Expected, Restoring};
pub use range::{AtOnce, Outline};
pub use range_run::{RangeRun, Reading};
pub use store::{Rows, Store};
pub use txn::{Write, read_txn, write_txn};
