//! Keys, revisions and rows. One write transaction is one main revision; its operations are sub-revisions; a row is what
//! one operation left behind. `index` finds the versions of a key, `store` holds rows and is the only one that adds or
//! removes them.

mod changes;
mod compact;
mod hash;
mod index;
mod range;
mod store;
mod txn;

pub use changes::Changes;
pub use hash::{HashKv, HashRun};
pub use store::Store;
pub use txn::{Write, read_txn, write_txn};
