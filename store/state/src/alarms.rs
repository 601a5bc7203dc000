//! Alarms: what an operator must know and what is refused meanwhile. Replicated, so every member refuses alike.
//! Promise: with NOSPACE up nothing that adds data is carried out, while deletes, compactions, revocations and reads go on;
//! with CORRUPT up nothing is written at all, unless it is about a member that was fenced.
//! Not here: when an alarm is due (`store/node`'s space keeper decides), how clients ask (`store/server`).

use std::collections::BTreeMap;

use crate::command::*;
use crate::digest;
use crate::limits::{LEASE_OVERHEAD_BYTES, ROW_OVERHEAD_BYTES};
use crate::types::MemberId;

/// etcd's kinds of alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlarmKind {
    /// There is no room for more data.
    NoSpace,
    /// The member's data differs from the others'.
    Corrupt,
}

/// Who takes an alarm back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlarmCause {
    /// Raised through the API: it stays until it is disarmed there.
    Operator,
    /// Live bytes reached the quota: the leader clears it when they are well below again.
    Quota,
    /// The member's file system is nearly full: the member itself clears it when it is not.
    Disk,
    /// The member's state differs from a majority's and it was fenced. It harms nobody any more, so nothing is refused for
    /// it; the leader clears it when the member's state is the others' again.
    Fenced,
    /// Members' states differ, and there is no majority that would tell who is right. The leader clears it when there is one.
    Undecided,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    pub kind: AlarmKind,
    /// As told by whoever raised it; through the API it may be any number.
    pub member: MemberId,
    pub cause: AlarmCause,
}

impl Alarm {
    /// Whether `member` is to be taken for unfit because of it: an alarm about a member that was fenced is that member's own.
    pub fn concerns(&self, member: MemberId) -> bool {
        self.cause != AlarmCause::Fenced || self.member == member
    }
}

/// Which kinds are up on any member, but for members that were fenced: all that refusing needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActiveAlarms {
    pub no_space: bool,
    pub corrupt: bool,
}

impl ActiveAlarms {
    /// Why `command` must not be carried out now.
    pub fn refusal(self, command: &Command) -> Option<Refusal> {
        if self.corrupt && changes_data(command) {
            return Some(Refusal::Corrupt);
        }
        if self.no_space && growth(command) > 0 {
            return Some(Refusal::NoSpace);
        }
        None
    }
}

/// Bytes that carrying out `command` may add to the live ones; 0 when it adds none. etcd's estimate: of a transaction the
/// costlier branch counts, inner transactions included.
pub fn growth(command: &Command) -> u64 {
    match command {
        Command::Put(put) => put_growth(put),
        Command::Txn(txn) => txn_growth(txn),
        Command::LeaseGrant { .. } => LEASE_OVERHEAD_BYTES,
        Command::DeleteRange(_)
        | Command::Compact { .. }
        | Command::LeaseRevoke { .. }
        | Command::LeaseKeepAlive { .. }
        | Command::LeaseExpire { .. }
        | Command::MemberPublish { .. }
        | Command::Members(_)
        | Command::AlarmRaise(_)
        | Command::AlarmClear { .. }
        | Command::IntegrityMark
        | Command::ClusterVersionSet(_) => 0,
    }
}

fn put_growth(put: &Put) -> u64 {
    (put.key.len() + put.value.len()) as u64 + ROW_OVERHEAD_BYTES
}

/// Nesting is bounded by the check of every transaction, and so is this recursion.
fn txn_growth(txn: &Txn) -> u64 {
    let branch = |ops: &[TxnOp]| -> u64 {
        ops.iter()
            .map(|op| match op {
                TxnOp::Put(put) => put_growth(put),
                TxnOp::Txn(inner) => txn_growth(inner),
                TxnOp::Range(_) | TxnOp::DeleteRange(_) => 0,
            })
            .sum()
    };
    branch(&txn.success).max(branch(&txn.failure))
}

/// What etcd refuses while data is corrupt. The end of a lease deletes keys, so an expiry waits as well; renewals go on.
fn changes_data(command: &Command) -> bool {
    match command {
        Command::Put(_)
        | Command::DeleteRange(_)
        | Command::Txn(_)
        | Command::Compact { .. }
        | Command::LeaseGrant { .. }
        | Command::LeaseRevoke { .. }
        | Command::LeaseExpire { .. } => true,
        Command::LeaseKeepAlive { .. }
        | Command::MemberPublish { .. }
        | Command::Members(_)
        | Command::AlarmRaise(_)
        | Command::AlarmClear { .. }
        | Command::IntegrityMark
        | Command::ClusterVersionSet(_) => false,
    }
}

/// The alarms that are up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    raised: BTreeMap<(AlarmKind, MemberId), AlarmCause>,
}

impl Alarms {
    pub fn active(&self) -> ActiveAlarms {
        let up = |kind| {
            let refuses = |cause| cause != AlarmCause::Fenced;
            let mut raised = self.raised.iter();
            raised.any(|((k, _), cause)| *k == kind && refuses(*cause))
        };
        ActiveAlarms {
            no_space: up(AlarmKind::NoSpace),
            corrupt: up(AlarmKind::Corrupt),
        }
    }

    /// By kind, then member.
    pub fn iter(&self) -> impl Iterator<Item = Alarm> + '_ {
        self.raised.iter().map(|((kind, member), cause)| Alarm {
            kind: *kind,
            member: *member,
            cause: *cause,
        })
    }

    pub fn get(&self, kind: AlarmKind, member: MemberId) -> Option<Alarm> {
        let cause = *self.raised.get(&(kind, member))?;
        Some(Alarm {
            kind,
            member,
            cause,
        })
    }

    /// Raises an alarm and returns how it now stands. One that is up keeps its cause, but an operator's wish outlives the
    /// reasons a member found by itself.
    pub(crate) fn raise(&mut self, alarm: Alarm) -> Alarm {
        let cause = self
            .raised
            .entry((alarm.kind, alarm.member))
            .or_insert(alarm.cause);
        if alarm.cause == AlarmCause::Operator {
            *cause = AlarmCause::Operator;
        }
        Alarm {
            cause: *cause,
            ..alarm
        }
    }

    /// Takes an alarm back and returns it; nothing when it is not up, or up for another reason than `only`.
    pub(crate) fn clear(
        &mut self,
        kind: AlarmKind,
        member: MemberId,
        only: Option<AlarmCause>,
    ) -> Option<Alarm> {
        let alarm = self.get(kind, member)?;
        if only.is_some_and(|cause| cause != alarm.cause) {
            return None;
        }
        self.raised.remove(&(kind, member));
        Some(alarm)
    }

    /// For `State::whole_hash`.
    pub(crate) fn digest(&self) -> u64 {
        let mut words = Vec::with_capacity(self.raised.len() * 3);
        for alarm in self.iter() {
            words.extend([alarm.kind as u64, alarm.member.0, alarm.cause as u64]);
        }
        digest::words(&words)
    }
}
