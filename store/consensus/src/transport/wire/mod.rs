//! Bodies of the peer protocol's frames and what they mean in openraft's types and ours. PROTOCOL.md documents the fields.
//! A body's meaning stands beside it: who a peer is (`hello`), what Raft says to Raft (`raft`), what members ask of the leader
//! and are answered (`requests`), whole states (`image`).
//! Not here: bytes of a frame (`frame`), what is done with a message (`serve`, `network`).

mod hello;
mod image;
mod raft;
mod requests;

pub use hello::*;
pub use image::*;
pub use raft::*;
pub use requests::*;
