//! The deciding half: what a pod needs next, what its status says, what the node tells of itself. Pure; time is an argument.

pub mod addresses;
pub mod node;
pub mod pod;
pub mod status;
pub mod view;

pub use addresses::Addresses;
pub use pod::{Action, Next, next};
pub use view::{ContainerView, PodView, RestartPolicy};
