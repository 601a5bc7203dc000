//! Members ask each other for the hash of their whole state at one entry, tell one that differs to fence itself, and know
//! what each other's program is able to do (its handshake says so).
//! Promise: only what a peer said itself is told; a peer that does not know these calls is never sent them.
//! Not here: when states are compared and who is right (`store/node`), what a hash is over (`store/state`).

use std::collections::BTreeMap;

use barque_store_env::{Env, Instant};
use barque_store_state::{ClusterVersion, LogIndex, MemberId};
use parking_lot::Mutex;
use prost::Message;

use crate::member::Inner;
use crate::transport::frame::{Frame, Kind};
use crate::transport::serve::{Answered, Served, malformed};
use crate::transport::wire::Welcome;

/// Bit of the handshake's features: these calls are understood.
pub const FEATURE: u64 = 1 << 4;

/// A member's hash at an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashAt {
    Known(u64),
    /// It has not applied the entry: ask again later.
    NotYet,
    /// It has applied it and kept no hash (restarted since, or too many came after).
    Forgotten,
}

/// Tells a member that its state is not the one that a majority has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    pub index: LogIndex,
    /// What a majority has there.
    pub right: u64,
    /// What the member said it has.
    pub wrong: u64,
}

/// What a peer's program said of itself when it was last connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ability {
    features: u64,
    /// The newest cluster version it can work in; 0.0 from one that does not say.
    pub newest: ClusterVersion,
}

/// Kept beside a peer's connections; nothing until the first handshake.
#[derive(Debug, Default)]
pub struct Abilities(Mutex<Option<Ability>>);

impl Ability {
    /// Whether the program has this bit of the handshake's features.
    pub(crate) fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }
}

impl Abilities {
    pub fn told(&self, welcome: &Welcome) {
        let ability = Ability {
            features: welcome.features,
            newest: ClusterVersion {
                major: welcome.newest_major,
                minor: welcome.newest_minor,
            },
        };
        *self.0.lock() = Some(ability);
    }
    pub fn get(&self) -> Option<Ability> {
        *self.0.lock()
    }
    fn knows_these_calls(&self) -> bool {
        self.get().is_some_and(|a| a.has(FEATURE))
    }
}

#[derive(Clone, PartialEq, Message)]
struct HashBody {
    #[prost(uint64, tag = "1")]
    index: u64,
}
#[derive(Clone, PartialEq, Message)]
struct HashReplyBody {
    #[prost(enumeration = "HashState", tag = "1")]
    state: i32,
    #[prost(fixed64, tag = "2")]
    hash: u64,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum HashState {
    Unspecified = 0,
    Known = 1,
    NotYet = 2,
    Forgotten = 3,
}
#[derive(Clone, PartialEq, Message)]
struct FenceBody {
    #[prost(uint64, tag = "1")]
    index: u64,
    #[prost(fixed64, tag = "2")]
    right: u64,
    #[prost(fixed64, tag = "3")]
    wrong: u64,
}
#[derive(Clone, PartialEq, Message)]
struct FenceReplyBody {
    /// Whether it has what it was said to have there, and so fences itself.
    #[prost(bool, tag = "1")]
    obeyed: bool,
}

pub fn serve_hash<E: Env>(served: &Served<E>, frame: &Frame) -> Answered {
    let body = frame.parse::<HashBody>().map_err(malformed)?;
    let (state, hash) = match served.machine.hash_at(LogIndex(body.index)) {
        HashAt::Known(hash) => (HashState::Known, hash),
        HashAt::NotYet => (HashState::NotYet, 0),
        HashAt::Forgotten => (HashState::Forgotten, 0),
    };
    let reply = HashReplyBody {
        state: state as i32,
        hash,
    };
    Ok(Frame::encode(Kind::HashReply, frame.id, &reply))
}

pub fn serve_fence<E: Env>(served: &Served<E>, frame: &Frame) -> Answered {
    let body = frame.parse::<FenceBody>().map_err(malformed)?;
    let obeyed = served.machine.fence(Fence {
        index: LogIndex(body.index),
        right: body.right,
        wrong: body.wrong,
    });
    Ok(Frame::encode(
        Kind::FenceReply,
        frame.id,
        &FenceReplyBody { obeyed },
    ))
}

impl<E: Env> Inner<E> {
    /// What each other member's program can do; `None` where it is not known yet.
    pub fn abilities(&self) -> BTreeMap<MemberId, Option<Ability>> {
        let links = self.links.all().into_iter();
        links
            .map(|(member, link)| (member, link.peer.abilities.get()))
            .collect()
    }

    /// `None`: no answer, for whatever reason; it may be asked again.
    pub async fn ask_hash(
        &self,
        member: MemberId,
        index: LogIndex,
        deadline: Instant,
    ) -> Option<HashAt> {
        let body = HashBody { index: index.0 };
        let reply: HashReplyBody = self
            .ask(member, Kind::Hash, body, Kind::HashReply, deadline)
            .await?;
        match HashState::try_from(reply.state) {
            Ok(HashState::Known) => Some(HashAt::Known(reply.hash)),
            Ok(HashState::NotYet) => Some(HashAt::NotYet),
            Ok(HashState::Forgotten) => Some(HashAt::Forgotten),
            Ok(HashState::Unspecified) | Err(_) => None,
        }
    }

    /// Whether the member is known to fence itself now.
    pub async fn fence(&self, member: MemberId, fence: Fence, deadline: Instant) -> bool {
        let body = FenceBody {
            index: fence.index.0,
            right: fence.right,
            wrong: fence.wrong,
        };
        let reply: Option<FenceReplyBody> = self
            .ask(member, Kind::Fence, body, Kind::FenceReply, deadline)
            .await;
        reply.is_some_and(|reply| reply.obeyed)
    }

    async fn ask<M: Message + 'static, R: Message + Default>(
        &self,
        member: MemberId,
        kind: Kind,
        body: M,
        answered: Kind,
        deadline: Instant,
    ) -> Option<R> {
        let link = self.links.get(member)?;
        // A frame of a kind the peer does not know would cost the connection, and others' requests with it.
        if !link.peer.abilities.knows_these_calls() {
            return None;
        }
        let answer = link.requests.call(kind, body, deadline).await.ok()?;
        if answer.kind != answered {
            return None;
        }
        answer.parse().ok()
    }
}
