//! openraft's state machine over [`crate::Machine`]: at a start it is as far as it was restored, and the log is carried out
//! from there up to the committed mark. The engine is the snapshot: a mark in the log up to which it has the state, and,
//! where it is to be sent, the state pinned there (`pins`). No bytes are made of it before they are asked for.
//! Promise: entries are applied in log order, each once, and one that cannot be read stops the member. A state that was
//! received replaces the present one only when everything the log did before is durable (guard 10).

use std::fmt;
use std::io;
use std::sync::Arc;

use barque_store_env::{Env, others_first, watch};
use barque_store_state::LogIndex;
use futures::{Stream, TryStreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;

use crate::image::Staged;
use crate::log_store::{Gap, LogStore};
use crate::pins::{Held, Pins};
use crate::record::RecordError;
use crate::types::{CommittedLeaderId, LogId, Payload, Types, inner, log_id, log_index, outer_of};
use crate::{Machine, Mark, Peer, limits, record};

pub type StoredMembership = openraft::StoredMembership<CommittedLeaderId, u64, Peer>;

/// Up to where the engine has the state: what openraft takes for the newest snapshot. Shared with whoever persists.
#[derive(Clone, Debug, Default)]
pub struct Persisted(Arc<Mutex<Option<(LogId, StoredMembership)>>>);

impl Persisted {
    /// Only moves on: whoever persists may tell of a batch from before a state was installed.
    pub fn set(&self, at: (LogId, StoredMembership)) {
        let mut held = self.0.lock();
        if held
            .as_ref()
            .is_none_or(|(last, _)| last.index < at.0.index)
        {
            *held = Some(at);
        }
    }
    fn snapshot<E: Env>(&self) -> Option<SnapshotOf<Types<E>, Snapshot>> {
        let (last, membership) = self.0.lock().clone()?;
        Some(snapshot::<E>(last, membership, Snapshot::Mark))
    }
}

/// What a snapshot of openraft's carries.
pub enum Snapshot {
    /// Nothing: it says how far the engine is.
    Mark,
    /// The state to be sent.
    Pinned(Arc<Held>),
    /// The state to be installed.
    Staged(Box<dyn Staged>),
}
impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Snapshot::Mark => "mark",
            Snapshot::Pinned(_) => "pinned",
            Snapshot::Staged(_) => "staged",
        })
    }
}

pub fn snapshot<E: Env>(
    last: LogId,
    membership: StoredMembership,
    snapshot: Snapshot,
) -> SnapshotOf<Types<E>, Snapshot> {
    openraft::Snapshot {
        meta: openraft::SnapshotMeta {
            last_log_id: Some(last),
            last_membership: membership,
        },
        snapshot,
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

/// Why log and restored state do not go together.
pub enum Unjoined {
    /// The state lacks entries that the log has given up; the log itself may be whole.
    Behind(Gap),
    Other(String),
}
impl From<String> for Unjoined {
    fn from(why: String) -> Self {
        Unjoined::Other(why)
    }
}

/// Sees that the log goes on where the restored state ends. `installed`: see [`crate::Config::installed`].
pub async fn join<E: Env>(
    log: &LogStore<E>,
    restored: Option<LogId>,
    installed: bool,
) -> Result<(), Unjoined> {
    if let Some(state) = restored
        && let Some(term) = log.term_at(state.index)
        && term != state.leader_id.term
    {
        return Err(Unjoined::Other(format!(
            "entry {} is of term {term} in the log, but of term {} in the persisted state: one of the two is not this member's",
            outer_of(Some(&state)),
            state.leader_id.term
        )));
    }
    match (log.fits(restored), restored) {
        (Err(gap), Some(state)) if installed && gap.is_behind() => {
            Ok(log.begin_behind(state).await?)
        }
        (Err(gap), _) if gap.is_ahead() => Err(Unjoined::Behind(gap)),
        (Err(gap), _) => Err(Unjoined::Other(gap.to_string())),
        (Ok(()), _) => Ok(()),
    }
}

pub struct Applier<E: Env> {
    machine: Arc<dyn Machine>,
    last: Option<LogId>,
    membership: StoredMembership,
    /// Index of the last entry applied, as the rest of the store counts; 0 for none.
    applied: watch::Sender<u64>,
    persisted: Persisted,
    pins: Arc<Pins<E>>,
    log: LogStore<E>,
}

impl<E: Env> Applier<E> {
    /// `restored`: how far the machine's state goes already.
    pub fn new(
        machine: Arc<dyn Machine>,
        applied: watch::Sender<u64>,
        restored: Option<(LogId, StoredMembership)>,
        persisted: Persisted,
        pins: Arc<Pins<E>>,
        log: LogStore<E>,
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
            pins,
            log,
        }
    }
}

impl<E: Env> RaftStateMachine<Types<E>> for Applier<E> {
    type SnapshotData = Snapshot;
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
        snapshot: Snapshot,
    ) -> Result<(), io::Error> {
        let Snapshot::Staged(staged) = snapshot else {
            // openraft installs the current snapshot at a start when it is ahead of the state: the two are the same here.
            return match meta.last_log_id <= self.last {
                true => Ok(()),
                false => Err(io::Error::other("a snapshot without a state")),
            };
        };
        let last = meta
            .last_log_id
            .ok_or_else(|| io::Error::other("a snapshot of nothing"))?;
        // Guard 10: a tail that conflicts with the state was truncated just now. Should the state be durable without that, the
        // tail would come back after a power cut, and the member would never start again.
        if self.log.guards.install_barrier {
            self.log.barrier().await.map_err(io::Error::other)?;
        }
        staged.install().await.map_err(io::Error::other)?;
        tracing::info!(
            index = outer_of(Some(&last)),
            term = last.leader_id.term,
            "the state of another member was installed"
        );
        self.pins.clear();
        self.last = Some(last);
        self.membership = meta.last_membership.clone();
        self.persisted.set((last, meta.last_membership.clone()));
        self.applied.send(outer_of(Some(&last)));
        Ok(())
    }
    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Types<E>, Snapshot>>, io::Error> {
        let pinned = self.pins.get(self.log.purged()).map_err(io::Error::other)?;
        Ok(match pinned {
            Some(held) => Some(snapshot::<E>(
                held.id,
                held.membership.clone(),
                Snapshot::Pinned(held),
            )),
            None => self.persisted.snapshot::<E>(),
        })
    }
}

/// The engine is the snapshot: building one is saying how far it goes.
pub struct Builder(Persisted);

impl<E: Env> RaftSnapshotBuilder<Types<E>> for Builder {
    type SnapshotData = Snapshot;
    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types<E>, Snapshot>, io::Error> {
        self.0
            .snapshot::<E>()
            .ok_or_else(|| io::Error::other("nothing was persisted yet"))
    }
}
