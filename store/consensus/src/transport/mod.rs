//! The peer transport: length-framed protobuf over `Env`'s byte streams (PROTOCOL.md). Each pair of members keeps one
//! connection for votes and heartbeats, one for forwarded requests, and one per append stream or state sent, so that
//! nothing big delays a heartbeat.
//! Not here: what Raft does with a message.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use barque_store_env::{Conn, Env, Net, WriteHalf};
use barque_store_state::MemberId;
use parking_lot::Mutex;

use crate::directories::Directories;
use crate::integrity::Abilities;
use crate::tasks::Tasks;
use crate::{Guards, limits};

pub mod call;
pub mod fetch;
pub mod frame;
pub mod heard;
pub mod image;
pub mod join;
pub mod network;
pub mod seats;
pub mod serve;
pub mod session;
pub mod traffic;
pub mod wire;

use call::Caller;
use frame::{Frame, FrameError, Kind, Reader};
use traffic::{Counted, Traffic};
use wire::{Hello, Lane, Refusal, Refused, Welcome};

/// Who this member is to its peers.
#[derive(Clone, Debug)]
pub struct Identity {
    pub cluster_id: u64,
    pub member: MemberId,
    /// Of its data directory (guard 5).
    pub incarnation: u64,
}

impl Identity {
    /// How it introduces itself to `to`.
    pub fn hello(&self, to: MemberId, lane: Lane) -> Hello {
        Hello {
            cluster_id: self.cluster_id,
            from: self.member.0,
            to: to.0,
            incarnation: self.incarnation,
            ..Hello::of_nobody(lane)
        }
    }
}

/// How long a peer may stay silent, by what is waiting for it.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub connect: Duration,
    /// Unanswered calls or appends older than this end their connection.
    pub answer: Duration,
    /// For the guards that live in an append session.
    pub guards: Guards,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot connect to member {member:x} at {addr}: {cause}")]
    Unreachable {
        member: u64,
        addr: String,
        cause: std::io::Error,
    },
    #[error("member {member:x} at {addr} did not answer in {timeout:?}")]
    Silent {
        member: u64,
        addr: String,
        timeout: Duration,
    },
    #[error("member {member:x} at {addr} refuses this one: {reason}")]
    Refused {
        member: u64,
        addr: String,
        reason: String,
    },
    /// Guard 5.
    #[error("{reason}")]
    Stranger { reason: String },
    #[error("handshake with member {member:x} at {addr}: {cause}")]
    Handshake {
        member: u64,
        addr: String,
        cause: FrameError,
    },
}

type ReadOf<E> = <<<E as Env>::Net as Net>::Conn as Conn>::Read;
type BareWriteOf<E> = <<<E as Env>::Net as Net>::Conn as Conn>::Write;
type WriteOf<E> = Counted<BareWriteOf<E>>;

/// Reaches one other member.
pub struct Peer<E: Env> {
    pub member: MemberId,
    /// Where the next connection goes.
    addr: Mutex<String>,
    pub abilities: Abilities,
    /// Counts the connections it has made to this member: it is there.
    knocks: AtomicU64,
    pub traffic: Arc<Traffic>,
    net: E::Net,
    me: Identity,
    directories: Arc<Directories>,
    patience: Patience,
}

impl<E: Env> Peer<E> {
    pub fn addr(&self) -> String {
        self.addr.lock().clone()
    }
    pub fn told_removed(&self) {
        self.directories.told_removed();
    }
    /// It has connected to this member.
    pub fn knocked(&self) {
        self.knocks.fetch_add(1, Ordering::Relaxed);
    }
    pub fn knocks(&self) -> u64 {
        self.knocks.load(Ordering::Relaxed)
    }
    /// A fresh connection that has said hello.
    pub async fn connect(
        &self,
        lane: Lane,
    ) -> Result<(Reader<ReadOf<E>>, WriteOf<E>), ConnectError> {
        let timeout = self.patience.connect;
        let connected = match E::timeout(timeout, self.greet(lane)).await {
            Ok(connected) => connected,
            Err(_) => Err(ConnectError::Silent {
                member: self.member.0,
                addr: self.addr(),
                timeout,
            }),
        };
        connected.inspect_err(|_| self.traffic.failed(1))
    }

    async fn greet(&self, lane: Lane) -> Result<(Reader<ReadOf<E>>, WriteOf<E>), ConnectError> {
        let at = self.addr();
        let (member, addr) = (self.member.0, || at.clone());
        let unreachable = |cause| ConnectError::Unreachable {
            member,
            addr: addr(),
            cause,
        };
        let handshake = |cause| ConnectError::Handshake {
            member,
            addr: addr(),
            cause,
        };
        let conn = self.net.connect(&at).await.map_err(unreachable)?;
        let (read, write) = conn.split();
        let (mut read, mut write) = (Reader::new(read), Counted::new(write));
        let hello = self.me.hello(self.member, lane);
        write
            .write_all(Frame::encode(Kind::Hello, 0, &hello))
            .await
            .map_err(unreachable)?;
        let answer = read
            .next(limits::HELLO_BYTES_MAX)
            .await
            .map_err(handshake)?
            .ok_or_else(|| handshake(FrameError::Cut))?;
        match answer.kind {
            Kind::Welcome => {
                let welcome = answer.parse::<Welcome>().map_err(handshake)?;
                match self.directories.stranger(self.member, welcome.incarnation) {
                    Some(reason) => Err(ConnectError::Stranger { reason }),
                    None => {
                        self.abilities.told(&welcome);
                        self.traffic.attach(&mut read, &mut write);
                        Ok((read, write))
                    }
                }
            }
            Kind::Refused => {
                let refused = answer.parse::<Refused>().map_err(handshake)?;
                match Refusal::try_from(refused.code) {
                    Ok(Refusal::Wiped) => self.directories.told_wiped(),
                    Ok(Refusal::Removed) => self.directories.told_removed(),
                    Ok(Refusal::Unspecified) | Err(_) => {}
                }
                Err(ConnectError::Refused {
                    member,
                    addr: addr(),
                    reason: refused.reason,
                })
            }
            other => Err(handshake(FrameError::Kind(other as u8))),
        }
    }
}

/// The standing ways to one other member.
pub struct Link<E: Env> {
    pub peer: Arc<Peer<E>>,
    pub control: Caller<E>,
    pub requests: Caller<E>,
}

/// The ways to all other members. They come and go with the membership.
pub struct Links<E: Env> {
    net: E::Net,
    me: Identity,
    directories: Arc<Directories>,
    patience: Patience,
    tasks: Tasks<E>,
    links: Mutex<BTreeMap<MemberId, Arc<Link<E>>>>,
}

impl<E: Env> Links<E> {
    pub fn new(
        net: E::Net,
        me: Identity,
        directories: Arc<Directories>,
        patience: Patience,
        tasks: Tasks<E>,
    ) -> Self {
        Links {
            net,
            me,
            directories,
            patience,
            tasks,
            links: Mutex::default(),
        }
    }
    pub fn get(&self, member: MemberId) -> Option<Arc<Link<E>>> {
        self.links.lock().get(&member).cloned()
    }
    pub fn all(&self) -> Vec<(MemberId, Arc<Link<E>>)> {
        let links = self.links.lock();
        links.iter().map(|(id, link)| (*id, link.clone())).collect()
    }
    /// The way to a member that is at this address (now).
    pub fn to(&self, member: MemberId, addr: &str) -> Arc<Link<E>> {
        let mut links = self.links.lock();
        if let Some(link) = links.get(&member) {
            let mut at = link.peer.addr.lock();
            if *at != addr {
                addr.clone_into(&mut at);
            }
            return link.clone();
        }
        let peer = Arc::new(Peer {
            member,
            addr: Mutex::new(addr.to_owned()),
            abilities: Abilities::default(),
            knocks: AtomicU64::new(0),
            traffic: Arc::default(),
            net: self.net.clone(),
            me: self.me.clone(),
            directories: self.directories.clone(),
            patience: self.patience,
        });
        let link = Arc::new(Link {
            control: Caller::start(peer.clone(), Lane::Control, &self.tasks),
            requests: Caller::start(peer.clone(), Lane::Requests, &self.tasks),
            peer,
        });
        links.insert(member, link.clone());
        link
    }
    /// The other members of this cluster, and where they are, as whoever is at `addr` (`host:port`) tells; none, when nobody of this
    /// cluster answers there in time.
    pub async fn told_at(
        &self,
        addr: &str,
        timeout: Duration,
        address_of: fn(&[String]) -> Option<String>,
    ) -> BTreeMap<MemberId, String> {
        match join::ask::<E>(&self.net, addr, timeout).await {
            Ok(known) if known.cluster_id == self.me.cluster_id => {
                known.others(self.me.member, address_of)
            }
            Ok(_) | Err(_) => BTreeMap::new(),
        }
    }
    /// These are the others now.
    pub fn follow(&self, others: &BTreeMap<MemberId, String>) {
        self.links.lock().retain(|id, _| others.contains_key(id));
        for (member, addr) in others {
            self.to(*member, addr);
        }
    }
}
