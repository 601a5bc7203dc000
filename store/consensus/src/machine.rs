//! openraft's state machine over [`crate::Machine`]: at a start it is as far as it was restored, and the log is carried out
//! from there up to the committed mark. A snapshot is a mark in the log up to which the engine has the state; no bytes
//! are made of it in this version, so members do not send each other any.
//! Promise: entries are applied in log order, each once, and one that cannot be read stops the member.

use std::io;
use std::sync::Arc;

use barque_store_env::{Env, others_first, watch};
use barque_store_state::LogIndex;
use futures::{Stream, TryStreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;

use crate::record::RecordError;
use crate::types::{CommittedLeaderId, LogId, Payload, Types, inner, log_id, log_index, outer_of};
use crate::{Machine, Mark, Peer, limits, record};

type StoredMembership = openraft::StoredMembership<CommittedLeaderId, u64, Peer>;

/// Up to where the engine has the state: what openraft takes for the newest snapshot. Shared with whoever persists.
#[derive(Clone, Debug, Default)]
pub struct Persisted(Arc<Mutex<Option<(LogId, StoredMembership)>>>);

impl Persisted {
    pub fn set(&self, at: (LogId, StoredMembership)) {
        *self.0.lock() = Some(at);
    }
    fn snapshot<E: Env>(&self) -> Option<SnapshotOf<Types<E>, ()>> {
        let (last, membership) = self.0.lock().clone()?;
        Some(openraft::Snapshot {
            meta: openraft::SnapshotMeta {
                last_log_id: Some(last),
                last_membership: membership,
            },
            snapshot: (),
        })
    }
}

/// A mark in openraft's words.
pub fn stored(mark: &Mark) -> Result<Option<(LogId, StoredMembership)>, RecordError> {
    let Some(index) = inner(mark.index.0) else {
        return Ok(None);
    };
    let membership = match mark.membership.is_empty() {
        true => StoredMembership::default(),
        false => {
            let (id, membership) = record::parse_stored_membership(mark.membership.clone())?;
            StoredMembership::new(Some(id), membership)
        }
    };
    Ok(Some((log_id(mark.term, index), membership)))
}

pub struct Applier {
    machine: Arc<dyn Machine>,
    last: Option<LogId>,
    membership: StoredMembership,
    /// Index of the last entry applied, as the rest of the store counts; 0 for none.
    applied: watch::Sender<u64>,
    persisted: Persisted,
}

impl Applier {
    /// `restored`: how far the machine's state goes already. `persisted`: empty as long as the log is kept whole.
    pub fn new(
        machine: Arc<dyn Machine>,
        applied: watch::Sender<u64>,
        restored: Option<(LogId, StoredMembership)>,
        persisted: Persisted,
    ) -> Self {
        let (last, membership) = match restored {
            Some((last, membership)) => (Some(last), membership),
            None => (None, StoredMembership::default()),
        };
        applied.send(outer_of(last.as_ref()));
        Applier {
            machine,
            last,
            membership,
            applied,
            persisted,
        }
    }
}

impl<E: Env> RaftStateMachine<Types<E>> for Applier {
    type SnapshotData = ();
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId>, StoredMembershipOf<Types<E>>), io::Error> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types<E>>, io::Error>> + Unpin + OptionalSend,
    {
        let mut turn = 0;
        while let Some((entry, responder)) = entries.try_next().await? {
            // What is not persisted is bounded: the answers of what waits here wait too, and with them the clients.
            while self.machine.is_busy() {
                E::sleep(limits::BUSY_POLL).await;
            }
            let index: LogIndex = log_index(&entry.log_id);
            let term = entry.log_id.leader_id.term;
            let outcomes = match entry.payload {
                Payload::Blank => self.machine.apply(index, term, None),
                Payload::Membership(m) => {
                    let stored = record::stored_membership(entry.log_id, &m);
                    self.machine.membership(stored);
                    self.membership = StoredMembership::new(Some(entry.log_id), m);
                    self.machine.apply(index, term, None)
                }
                Payload::Normal(data) => {
                    let proposed = match data.take_proposed() {
                        Some(entry) => entry,
                        None => record::entry(data.record()).map_err(|e| {
                            io::Error::other(format!("entry {} cannot be applied: {e}", index.0))
                        })?,
                    };
                    self.machine.apply(index, term, Some(&proposed))
                }
            };
            let outcomes = outcomes.map_err(io::Error::other)?;
            self.last = Some(entry.log_id);
            self.applied.send(index.0);
            if let Some(responder) = responder {
                responder.send(outcomes);
            }
            turn += 1;
            if turn % limits::APPLY_TURN_ENTRIES == 0 {
                others_first().await;
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(Builder(self.persisted.clone()))
    }
    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(self.persisted.clone())
    }
    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types<E>>,
        _snapshot: (),
    ) -> Result<(), io::Error> {
        // openraft installs the current snapshot at a start when it is ahead of the state: the two are the same here.
        match meta.last_log_id <= self.last {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this version takes no snapshots of other members",
            )),
        }
    }
    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Types<E>, ()>>, io::Error> {
        Ok(self.persisted.snapshot::<E>())
    }
}

/// The engine is the snapshot: building one is saying how far it goes.
pub struct Builder(Persisted);

impl<E: Env> RaftSnapshotBuilder<Types<E>> for Builder {
    type SnapshotData = ();
    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types<E>, ()>, io::Error> {
        self.0
            .snapshot::<E>()
            .ok_or_else(|| io::Error::other("nothing was persisted yet"))
    }
}
