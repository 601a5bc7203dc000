//! The deciding half: `schedule(view, pod) → node | reasons`. Pure.

pub mod decide;
pub mod resources;
pub mod view;

pub use decide::{Unschedulable, schedule};
pub use resources::Resources;
pub use view::{ClusterView, NodeView, PodView};
