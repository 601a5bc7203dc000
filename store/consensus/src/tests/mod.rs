//! One member and three, in the real world (loopback, files) and in the simulated one.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use barque_store_env::{Env, Instant};
use barque_store_state::{
    Answer, ClusterTime, Command, Entry, LogIndex, MemberId, Outcome, Put, Revision,
};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    Config, Consensus, Forwarded, Forwarding, Guards, Machine, Numbering, Peer, ProposeError,
};

mod real;
mod sim;
mod suite;
mod too_new;

/// Keeps what it was told, in order.
#[derive(Default)]
pub struct Book {
    /// Index, term, and the key of each put.
    pub applied: Mutex<Vec<(u64, u64, Vec<Bytes>)>>,
    /// The membership in force, unread.
    pub membership: Mutex<Bytes>,
    /// Why it must stop, where it was told so.
    pub unfit: Mutex<Option<String>>,
}

impl Book {
    pub fn keys(&self) -> Vec<Bytes> {
        let applied = self.applied.lock();
        applied
            .iter()
            .flat_map(|(_, _, keys)| keys.clone())
            .collect()
    }
    /// How far it is.
    pub fn mark(&self) -> crate::Mark {
        let applied = self.applied.lock();
        let (index, term, _) = applied.last().expect("something was applied");
        crate::Mark {
            index: LogIndex(*index),
            term: *term,
            membership: self.membership.lock().clone(),
        }
    }
    pub fn has(&self, key: &str) -> bool {
        self.keys().iter().any(|k| k == key.as_bytes())
    }
}

impl Machine for Book {
    fn apply(
        &self,
        index: LogIndex,
        term: u64,
        entry: Option<&Entry>,
    ) -> Result<Vec<Outcome>, String> {
        let mut applied = self.applied.lock();
        let last = applied.last().map_or(0, |(index, _, _)| *index);
        assert_eq!(index.0, last + 1, "entries are applied without a gap");
        let keys: Vec<Bytes> = entry
            .into_iter()
            .flat_map(|e| &e.commands)
            .map(|c| match c {
                Command::Put(put) => put.key.clone(),
                other => panic!("this test only puts, not {other:?}"),
            })
            .collect();
        let outcomes = keys
            .iter()
            .map(|_| Outcome {
                revision: Revision(index.0),
                result: Ok(Answer::Put { prev: None }),
            })
            .collect();
        applied.push((index.0, term, keys));
        Ok(outcomes)
    }
    fn membership(&self, membership: Bytes) {
        *self.membership.lock() = membership;
    }
    fn unfit(&self, reason: &str) {
        *self.unfit.lock() = Some(reason.to_owned());
    }
}

pub fn put(key: &str) -> Command {
    Command::Put(Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::from_static(b"value"),
        ..Put::default()
    })
}
pub fn entry(keys: &[&str]) -> Entry {
    Entry {
        time: ClusterTime(7),
        commands: keys.iter().map(|key| put(key)).collect(),
        origins: Vec::new(),
    }
}

/// Proposes what a follower forwarded, as `store/node` does.
pub struct Forward<E: Env>(Mutex<Option<Consensus<E>>>);
impl<E: Env> Forwarded for Forward<E> {
    fn propose(
        &self,
        commands: Vec<Command>,
        _: Option<Numbering>,
        deadline: Instant,
    ) -> Forwarding {
        let consensus = self.0.lock().clone();
        Box::pin(async move {
            let count = commands.len();
            let Some(consensus) = consensus else {
                return vec![Err(ProposeError::NotLeader { leader: None }); count];
            };
            let entry = Entry {
                time: ClusterTime(8),
                commands,
                origins: Vec::new(),
            };
            match E::timeout_at(deadline, consensus.propose(entry)).await {
                Ok(Ok(outcomes)) => outcomes.into_iter().map(Ok).collect(),
                Ok(Err(e)) => vec![Err(e); count],
                Err(_) => vec![Err(ProposeError::Unknown); count],
            }
        })
    }
}

/// A member and what it drives.
pub struct Member<E: Env> {
    pub id: MemberId,
    pub consensus: Consensus<E>,
    pub book: Arc<Book>,
}
impl<E: Env> Clone for Member<E> {
    fn clone(&self) -> Self {
        Member {
            id: self.id,
            consensus: self.consensus.clone(),
            book: self.book.clone(),
        }
    }
}

pub async fn start<E: Env>(config: Config, disk: E::Disk, net: E::Net) -> Member<E> {
    let book = Arc::new(Book::default());
    let forward = Arc::new(Forward(Mutex::new(None)));
    let id = config.member;
    let consensus = Consensus::<E>::start(config, disk, net, book.clone(), forward.clone())
        .await
        .expect("the member starts");
    *forward.0.lock() = Some(consensus.clone());
    Member {
        id,
        consensus,
        book,
    }
}

pub fn config(member: u64, peers: &[(u64, String)], dir: PathBuf) -> Config {
    let listen = peers
        .iter()
        .find(|(id, _)| *id == member)
        .map(|(_, addr)| addr.clone())
        .expect("a member is among its peers");
    Config {
        member: MemberId(member),
        cluster_id: 0xc1,
        incarnation: member,
        dir,
        listen,
        peers: peers
            .iter()
            .map(|(id, addr)| (MemberId(*id), Peer { addr: addr.clone() }))
            .collect::<BTreeMap<_, _>>(),
        addresses: Default::default(),
        address_of: |_| None,
        if_wiped: String::new(),
        alone: None,
        founds: true,
        heartbeat: Duration::from_millis(50),
        election: Duration::from_millis(500),
        guards: Guards::default(),
        newest: barque_store_state::ClusterVersion::NEWEST,
        log: Default::default(),
        restored: None,
        installed: false,
        images: Default::default(),
    }
}

/// Waits, looking every few milliseconds of this world, and fails after 20 s.
pub async fn eventually<E: Env, T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = E::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(E::now() < end, "never happened: {what}");
        E::sleep(Duration::from_millis(5)).await;
    }
}
