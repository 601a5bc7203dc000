//! Which version of the program is the first that reads each command: the one table that a leader asks before it proposes,
//! and that the header of an entry follows.
//! Promise: a kind, or a field whose absence would make two members differ, is never said to be read by a version that was
//! shipped without it. A new kind does not compile without a row.
//! Not here: whether every member is that far (`store/node`, `versions`), the bytes (`wire`).

use crate::command::{Command, MemberChange};
use crate::types::MemberId;
use crate::version::ClusterVersion;

/// The first cluster version whose programs read the command; [`ClusterVersion::EVERY`] where all do that were ever shipped.
/// Of a kind that has grown a field this is the version of the newest field that is set.
pub fn read_since(command: &Command) -> ClusterVersion {
    const EVERY: ClusterVersion = ClusterVersion::EVERY;
    match command {
        Command::Put(_) | Command::DeleteRange(_) | Command::Txn(_) => EVERY,
        Command::Compact { .. } => EVERY,
        Command::LeaseGrant { .. } | Command::LeaseRevoke { .. } => EVERY,
        Command::LeaseKeepAlive { .. } | Command::LeaseExpire { .. } => EVERY,
        Command::MemberPublish { .. } => EVERY,
        Command::Members(change) => match change {
            MemberChange::Found { .. } | MemberChange::Add { .. } => EVERY,
            // Or an old member that never comes back would be in the way of its own removal.
            MemberChange::Remove { .. } => EVERY,
            MemberChange::Update { .. } | MemberChange::Promote { .. } => EVERY,
            // Nobody is asked; members that join later read it in the log.
            MemberChange::Only { .. } => EVERY,
        },
        Command::AlarmRaise(_) | Command::AlarmClear { .. } => EVERY,
        Command::IntegrityMark => EVERY,
        // Whatever is newer waits for it, so it can wait for nothing.
        Command::ClusterVersionSet(_) => EVERY,
    }
}

/// Why a command is not proposed: not every member's program reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooOld {
    /// The first version that reads it.
    pub needs: ClusterVersion,
    /// Those that are not known to, by id. Empty: all do, and the cluster's version is about to say so.
    pub members: Vec<OldMember>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldMember {
    pub id: MemberId,
    /// Empty until the member was started.
    pub name: String,
    /// The newest version its program can work in; `None`: it has not said.
    pub newest: Option<ClusterVersion>,
}

impl std::fmt::Display for TooOld {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let needs = self.needs;
        write!(
            f,
            "every member must be of version {needs} or newer for this"
        )?;
        for (at, member) in self.members.iter().enumerate() {
            let before = if at == 0 { ": " } else { ", " };
            let todo = match member.newest {
                Some(_) => "upgrade",
                None => "start",
            };
            write!(f, "{before}{todo} member {:x} (", member.id.0)?;
            if !member.name.is_empty() {
                write!(f, "{}, ", member.name)?;
            }
            match member.newest {
                Some(newest) => write!(f, "works up to {newest})")?,
                None => write!(f, "not heard from yet)")?,
            }
        }
        match self.members.is_empty() {
            true => f.write_str("; all are, and the cluster is being told so: try again"),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_every_member_that_is_in_the_way() {
        let version = |minor| ClusterVersion { major: 3, minor };
        let member = |id, name: &str, newest| OldMember {
            id: MemberId(id),
            name: name.to_owned(),
            newest,
        };
        let mut too_old = TooOld {
            needs: version(8),
            members: vec![member(0x2a, "m2", Some(version(7))), member(3, "", None)],
        };
        assert_eq!(
            too_old.to_string(),
            "every member must be of version 3.8 or newer for this: upgrade member 2a (m2, works up to 3.7), \
             start member 3 (not heard from yet)"
        );
        too_old.members.clear();
        assert_eq!(
            too_old.to_string(),
            "every member must be of version 3.8 or newer for this; all are, and the cluster is being told so: try again"
        );
    }
}
