//! openraft's state machine over [`crate::Machine`], which lives in memory: at a start it is empty and the log is
//! applied again up to the committed mark. There are no snapshots in this version (policy never; the log is kept).
//! Promise: entries are applied in log order, each once, and one that cannot be read stops the member.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;

use barque_store_env::{Env, watch};
use barque_store_state::LogIndex;
use futures::{Stream, TryStreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};

use crate::types::{CommittedLeaderId, LogId, Payload, Types, log_index};
use crate::{Machine, Peer, limits, record};

type StoredMembership = openraft::StoredMembership<CommittedLeaderId, u64, Peer>;

pub struct Applier {
    machine: Arc<dyn Machine>,
    last: Option<LogId>,
    membership: StoredMembership,
    /// Index of the last entry applied, as the rest of the store counts; 0 for none.
    applied: watch::Sender<u64>,
}

impl Applier {
    pub fn new(machine: Arc<dyn Machine>, applied: watch::Sender<u64>) -> Self {
        Applier {
            machine,
            last: None,
            membership: StoredMembership::default(),
            applied,
        }
    }
}

fn no_snapshots() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "this version keeps its whole log and makes no snapshots",
    )
}

impl<E: Env> RaftStateMachine<Types<E>> for Applier {
    type SnapshotData = ();
    type SnapshotBuilder = NoSnapshots;

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
            let index: LogIndex = log_index(&entry.log_id);
            let term = entry.log_id.leader_id.term;
            let outcomes = match entry.payload {
                Payload::Blank => self.machine.apply(index, term, None),
                Payload::Membership(m) => {
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

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<NoSnapshots> {
        None
    }
    async fn get_snapshot_builder(&mut self) -> NoSnapshots {
        NoSnapshots
    }
    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<Types<E>>,
        _snapshot: (),
    ) -> Result<(), io::Error> {
        Err(no_snapshots())
    }
    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Types<E>, ()>>, io::Error> {
        Ok(None)
    }
}

/// openraft asks for a builder's type; with the policy "never" none is made.
pub struct NoSnapshots;
impl<E: Env> RaftSnapshotBuilder<Types<E>> for NoSnapshots {
    type SnapshotData = ();
    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types<E>, ()>, io::Error> {
        Err(no_snapshots())
    }
}

/// Lets the other tasks of this thread run.
async fn others_first() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}
