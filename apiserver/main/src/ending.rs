//! Why a member that can be trusted ends, and how its process does then: as etcd's.
//! Not here: a member that can no longer be trusted, or that cannot start, which is a failure.

use barque_store_node::StartError;
use tracing::error;

use crate::Failure;
use crate::signals::StopSignal;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Signal(StopSignal),
    /// It was removed from the cluster. As etcd's, it ends with success: starting it again would be of no use.
    Removed,
}

impl Ending {
    /// The ending of a member that hears it was removed; says so.
    pub fn removed() -> Self {
        error!(
            "the member has been permanently removed from the cluster; the data-dir used by this member must be removed"
        );
        Ending::Removed
    }

    /// The ending of a member that did not come to run. An error: that is a failure.
    pub fn of_start(error: StartError) -> Result<Self, Failure> {
        match error {
            StartError::Removed(_) => Ok(Ending::removed()),
            other => Err(Failure::new(other.to_string())),
        }
    }

    /// Ends the process as it was asked to, after everything was stopped in order.
    pub fn die(self) {
        if let Ending::Signal(signal) = self {
            signal.die();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member that took its state anew, and was removed meanwhile, ended with status 1.
    #[test]
    fn a_member_that_hears_before_it_runs_that_it_was_removed_has_not_failed() {
        let removed = StartError::Removed("member 1 was removed from the cluster".to_owned());
        assert_eq!(Ending::of_start(removed).ok(), Some(Ending::Removed));
        let wiped = StartError::Other("a wiped member must not vote".to_owned());
        assert!(Ending::of_start(wiped).is_err());
    }
}
