//! Every bound of the scheduler: its derivation, and what happens when it is reached.

use std::time::Duration;

/// Bindings under way at once. A binding waits for a commit (1-10 ms): 64 of them are more than the masters take from one client.
/// When full: no further pod is scheduled until one is answered.
pub const BINDINGS_MAX: usize = 64;

/// Wait of a pod that fits nowhere before it is tried again after something changed: doubled with each failed try, so that many
/// such pods do not keep the scheduler from those that fit.
pub const UNSCHEDULABLE_DELAY_MIN: Duration = Duration::from_millis(200);
pub const UNSCHEDULABLE_DELAY_MAX: Duration = Duration::from_secs(10);

/// A pod that fits nowhere is tried again after this long even if nothing seems to have changed.
pub const UNSCHEDULABLE_FLUSH: Duration = Duration::from_secs(300);
