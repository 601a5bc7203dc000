//! The only writer. Takes committed entries in log order and carries their commands out, one after another.
//! Promise: total (any entry that decodes can be applied) and deterministic; a refused command leaves no trace.

use crate::alarms::AlarmKind;
use crate::archive::{ReadError, Unreadable};
use crate::limits::{CACHE_TURN_KEYS, SWEEP_WORK};
use crate::mvcc::{Write, write_txn};
use crate::state::{Applied, State};
use crate::{command::*, types::*};

impl State {
    /// Carries the entry's commands out. An error: a row that a command needs cannot be read. The member must stop; its
    /// state is no longer to be used.
    pub fn apply(
        &mut self,
        index: LogIndex,
        entry: &Entry,
        previous: Previous,
    ) -> Result<Applied, Unreadable> {
        self.advance(index);
        self.time = self.time.max(entry.time);
        let mut applied = Applied {
            outcomes: Vec::with_capacity(entry.commands.len()),
            events: Vec::new(),
        };
        for command in &entry.commands {
            let result = match self.carry_out(command, previous, &mut applied.events) {
                Ok(answer) => Ok(answer),
                Err(ReadError::Refused(refusal)) => Err(refusal),
                Err(ReadError::Unreadable(row)) => return Err(row),
            };
            applied.outcomes.push(Outcome {
                revision: self.store.revision(),
                result,
            });
        }
        self.keep_house();
        Ok(applied)
    }

    /// Notes an entry that carries no commands (membership, empty).
    pub fn skip(&mut self, index: LogIndex) {
        self.advance(index);
        self.keep_house();
    }

    fn keep_house(&mut self) {
        self.store.sweep(SWEEP_WORK);
        self.store.trim_cache(CACHE_TURN_KEYS);
    }

    fn advance(&mut self, index: LogIndex) {
        assert!(self.applied < index, "an entry was applied again");
        self.applied = index;
    }

    fn carry_out(
        &mut self,
        command: &Command,
        previous: Previous,
        events: &mut Vec<RevisionEvents>,
    ) -> Result<Answer, ReadError> {
        if let Some(refusal) = self.alarms.active().refusal(command) {
            return Err(refusal.into());
        }
        match command {
            Command::Put(put) => {
                let mut write = Write::begin(&mut self.store, &mut self.lessor, previous);
                let prev = write.try_put(put)?;
                events.extend(write.finish());
                Ok(Answer::Put { prev })
            }
            Command::DeleteRange(delete) => {
                let mut write = Write::begin(&mut self.store, &mut self.lessor, previous);
                let (deleted, prev) = write.delete_range(delete)?;
                events.extend(write.finish());
                Ok(Answer::DeleteRange { deleted, prev })
            }
            Command::Txn(txn) => {
                let (result, revision) =
                    write_txn(&mut self.store, &mut self.lessor, txn, previous)?;
                events.extend(revision);
                Ok(Answer::Txn(result))
            }
            Command::Compact { revision } => {
                self.store.compact(*revision)?;
                Ok(Answer::Compacted)
            }
            Command::LeaseGrant { id, ttl_s } => {
                self.lessor.grant(*id, *ttl_s, self.time)?;
                Ok(Answer::LeaseGranted {
                    id: *id,
                    ttl_s: *ttl_s,
                })
            }
            Command::LeaseRevoke { id } => {
                if !self.end_lease(*id, previous, events)? {
                    return Err(Refusal::LeaseNotFound.into());
                }
                Ok(Answer::LeaseRevoked)
            }
            Command::LeaseKeepAlive { ids } => {
                let renew = |id: &LeaseId| self.lessor.renew(*id, self.time);
                Ok(Answer::LeaseRenewed {
                    ttls_s: ids.iter().map(renew).collect(),
                })
            }
            Command::LeaseExpire { id, deadline_seen } => {
                // A renewal may have come first in the log; it wins. And whatever the leader saw, a lease does not end
                // before its deadline on cluster time.
                let over = self.lessor.get(*id).is_some_and(|lease| {
                    lease.deadline <= *deadline_seen && lease.deadline <= self.time
                });
                let removed = over && self.end_lease(*id, previous, events)?;
                Ok(Answer::LeaseExpired { removed })
            }
            Command::MemberPublish {
                member,
                name,
                client_urls,
                incarnation,
            } => {
                let known = self.published.get(member).map_or(0, |m| m.incarnation);
                // Another directory in this member's name is one that was wiped: it must not become the known one.
                if (known == 0 || known == *incarnation) && !self.cluster.is_removed(*member) {
                    let told = PublishedMember {
                        name: name.clone(),
                        client_urls: client_urls.clone(),
                        incarnation: *incarnation,
                    };
                    self.published.insert(*member, told);
                    self.dirty_members.insert(*member);
                }
                Ok(Answer::Published)
            }
            Command::Members(change) => {
                let gone = self.cluster.gone_with(change);
                self.cluster.change(change, self.applied)?;
                self.dirty_cluster = true;
                for id in gone {
                    self.published.remove(&id);
                    self.dirty_members.insert(id);
                    for kind in [AlarmKind::NoSpace, AlarmKind::Corrupt] {
                        self.alarms.clear(kind, id, None);
                    }
                }
                Ok(Answer::Members(self.members()))
            }
            // Its last word came after its removal; nobody would take it back.
            Command::AlarmRaise(alarm) if self.cluster.is_removed(alarm.member) => {
                Ok(Answer::Alarms(Vec::new()))
            }
            Command::AlarmRaise(alarm) => Ok(Answer::Alarms(vec![self.alarms.raise(*alarm)])),
            Command::AlarmClear { kind, member, only } => {
                let cleared = self.alarms.clear(*kind, *member, *only);
                Ok(Answer::Alarms(cleared.into_iter().collect()))
            }
            Command::IntegrityMark => Ok(Answer::Marked),
            Command::ClusterVersionSet(version) => {
                self.version = self.version.max(*version);
                Ok(Answer::ClusterVersion(self.version))
            }
        }
    }

    /// Takes the lease and, in one revision, its keys.
    fn end_lease(
        &mut self,
        id: LeaseId,
        previous: Previous,
        events: &mut Vec<RevisionEvents>,
    ) -> Result<bool, Unreadable> {
        let Some(keys) = self.lessor.remove(id) else {
            return Ok(false);
        };
        let mut write = Write::begin(&mut self.store, &mut self.lessor, previous);
        write.delete_keys(keys)?;
        events.extend(write.finish());
        Ok(true)
    }
}
