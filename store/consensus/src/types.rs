//! openraft's types as this store fills them in. The log's indexes start at 1 outside of openraft (0 means "none", as
//! in the Raft paper); openraft's own start at 0. Only this file and the codecs know.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use barque_store_env::Env;
use barque_store_state::{Entry, LogIndex, Outcome};
use bytes::Bytes;
use openraft::impls::InlineBatch;
use openraft::raft::responder::Responder;
use openraft::vote::leader_id_std;
use openraft::{EntryPayload, OptionalSend, RaftTypeConfig};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::admission::Held;
use crate::runtime::Runtime;
use crate::{Peer, record};

/// Guard 3: one leader per term.
pub type LeaderId = leader_id_std::LeaderId<u64, u64>;
pub type CommittedLeaderId = leader_id_std::CommittedLeaderId<u64>;
pub type Vote = openraft::Vote<LeaderId>;
pub type LogId = openraft::LogId<CommittedLeaderId>;
pub type Payload = EntryPayload<Data, u64, Peer>;
pub type LogEntry = openraft::Entry<CommittedLeaderId, Payload>;
pub type Membership = openraft::Membership<u64, Peer>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Types<E>(PhantomData<E>);

impl<E: Env> RaftTypeConfig for Types<E> {
    type D = Data;
    type R = Vec<Outcome>;
    type NodeId = u64;
    type Node = Peer;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = LogEntry;
    type AsyncRuntime = Runtime<E>;
    type Responder<T>
        = Reply<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// An index as the rest of the store counts.
pub fn outer(index: u64) -> u64 {
    index + 1
}
/// The reverse of [`outer`]; 0 is no index.
pub fn inner(index: u64) -> Option<u64> {
    index.checked_sub(1)
}
pub fn outer_of(id: Option<&LogId>) -> u64 {
    id.map_or(0, |id| outer(id.index))
}
pub fn log_index(id: &LogId) -> LogIndex {
    LogIndex(outer(id.index))
}
pub fn log_id(term: u64, inner_index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), inner_index)
}

/// What a normal entry carries: the record of it that goes, byte for byte, to the log and to the peers; and on the
/// member that proposed it, what it was made from, until it is applied.
#[derive(Clone)]
pub struct Data {
    record: Bytes,
    proposed: Option<Arc<Mutex<Option<Entry>>>>,
}

impl Data {
    pub fn propose(entry: Entry) -> Self {
        Data {
            record: record::normal(&entry),
            proposed: Some(Arc::new(Mutex::new(Some(entry)))),
        }
    }
    pub fn recorded(record: Bytes) -> Self {
        Data {
            record,
            proposed: None,
        }
    }
    pub fn record(&self) -> &Bytes {
        &self.record
    }
    /// What it was made from; the memory is given back with it.
    pub fn take_proposed(&self) -> Option<Entry> {
        self.proposed.as_ref()?.lock().take()
    }
}
impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.record.len())
    }
}
impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
impl PartialEq for Data {
    fn eq(&self, other: &Self) -> bool {
        self.record == other.record
    }
}

/// Where a proposal's answer goes. Its bytes count as uncommitted until then, even when nobody waits any more.
pub struct Reply<T> {
    to: oneshot::Sender<T>,
    held: Option<Held>,
}

impl<T> Reply<T> {
    pub fn new(to: oneshot::Sender<T>, held: Held) -> Self {
        Reply {
            to,
            held: Some(held),
        }
    }
}

impl<E: Env, T: OptionalSend + 'static> Responder<Types<E>, T> for Reply<T> {
    fn on_complete(self, result: T) {
        drop(self.held);
        // Nobody waits any more: the proposal's deadline has passed.
        let _ = self.to.send(result);
    }
}
