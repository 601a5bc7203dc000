//! The deciding half of the client: pure functions and state machines over what the shells saw and the time they pass in.
//! Not here: tasks, sockets, clocks. Monotonic time is a `Duration` since any fixed origin.

pub mod backoff;
pub mod election;
pub mod events;
pub mod quantity;
pub mod queue;
pub mod reflector;
pub mod rotation;
pub mod selector;
