//! The accepting side: a connection's handshake, then its lane, until it ends.
//! Promise: a stranger (other cluster, other member meant, other protocol) gets a reason and nothing else (`admit`); a
//! connection's two directions end together.
//! Not here: the lanes of states (`image`, `fetch`), what a call or an append stream is answered (`calls`, `appends`).

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use barque_store_env::{Conn, Env, Listener, WriteHalf};
use barque_store_state::{ClusterVersion, MemberId};
use futures::future::{Either, select};
use openraft::ServerState;
use openraft_rt::WatchReceiver;

use super::frame::{Frame, FrameError, Kind, Reader};
use super::heard::Heard;
use super::image::{self, Receiving};
use super::seats::Seats;
use super::traffic::Counted;
use super::wire::{FEATURES, Hello, Lane, PROTOCOL, Welcome};
use super::{BareWriteOf, Identity, Links, ReadOf, WriteOf, fetch};
use crate::directories::Directories;
use crate::guard::VoteGuard;
use crate::limits;
use crate::log_store::LogStore;
use crate::member::Raft;
use crate::pins::Pins;
use crate::tasks::Tasks;
use crate::{Forwarded, Machine};

mod admit;
mod appends;
mod calls;

pub use admit::Complaints;
pub use calls::{Answered, malformed};

/// What connections are served with.
pub struct Served<E: Env> {
    pub me: Identity,
    pub machine: Arc<dyn Machine>,
    pub raft: Raft<E>,
    pub guard: VoteGuard,
    pub directories: Arc<Directories>,
    pub links: Arc<Links<E>>,
    pub heard: Arc<Heard>,
    pub lease: Duration,
    /// What this program can work in, as its peers are told.
    pub newest: ClusterVersion,
    pub forwarded: Arc<dyn Forwarded>,
    pub complaints: Complaints,
    pub seats: Seats,
    pub receiving: Receiving,
    pub pins: Arc<Pins<E>>,
    pub log: LogStore<E>,
}

impl<E: Env> Served<E> {
    /// Whether the member was removed, and Raft does without it: until then its vote may be needed to carry that out.
    fn is_gone(&self, member: MemberId) -> bool {
        // Raft first: it is asked with every heartbeat, which must not wait for an apply that holds the state.
        let metrics = self.raft.server_metrics();
        let without = {
            let metrics = metrics.borrow_watched();
            let both = [
                &metrics.membership_config,
                &metrics.committed_membership_config,
            ];
            // One that has just started knows none yet.
            both.iter()
                .all(|m| m.log_id().is_some() && m.get_node(&member.0).is_none())
        };
        without && self.machine.is_removed(member)
    }

    /// The member has connected, so it is there: nobody waits any more before trying to reach it. One that was restarted would
    /// otherwise hear its leader, and be sent what it lacks, only after all of that.
    async fn met(&self, member: MemberId) {
        if let Some(link) = self.links.get(member) {
            link.peer.knocked();
        }
        let leads = self.raft.server_metrics().borrow_watched().state == ServerState::Leader;
        if leads {
            let trigger = self.raft.trigger();
            // An error says that Raft has stopped, which is told elsewhere.
            drop(trigger.reset_backoff([member.0]).await);
            drop(trigger.heartbeat().await);
        }
    }
}

/// Accepts connections for as long as it is polled.
pub async fn accept<E: Env, L: Listener>(mut listener: L, served: Arc<Served<E>>, tasks: Tasks<E>)
where
    L::Conn: Conn<Read = ReadOf<E>, Write = BareWriteOf<E>>,
{
    loop {
        match listener.accept().await {
            Ok(conn) if tasks.count() < limits::CONNECTIONS_MAX => {
                let served = served.clone();
                tasks.spawn("peer connection", async move {
                    let (read, write) = conn.split();
                    if let Err(e) = serve(&served, Reader::new(read), Counted::new(write)).await {
                        tracing::debug!("a peer's connection ended: {e}");
                    }
                });
            }
            Ok(conn) => {
                tracing::warn!("too many peer connections; a new one is closed");
                drop(conn);
            }
            Err(e) => {
                // Out of file descriptors, most likely: others will close.
                tracing::warn!("cannot accept a peer's connection: {e}");
                E::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve<E: Env>(
    served: &Arc<Served<E>>,
    mut read: Reader<ReadOf<E>>,
    mut write: WriteOf<E>,
) -> Result<(), FrameError> {
    let hello = match E::timeout(
        limits::HANDSHAKE_TIMEOUT,
        read.next(limits::HELLO_BYTES_MAX),
    )
    .await
    {
        Ok(frame) => match frame? {
            None => return Ok(()),
            Some(frame) if frame.kind == Kind::Hello => frame.parse::<Hello>()?,
            Some(frame) => return Err(FrameError::Kind(frame.kind as u8)),
        },
        Err(_) => return Err(FrameError::Cut),
    };
    let lane = match admit::admit(served, &hello) {
        Ok(lane) => lane,
        Err(refused) => {
            served.complaints.tell(&hello, &refused.reason, E::now());
            write
                .write_all(Frame::encode(Kind::Refused, 0, &refused))
                .await?;
            return Ok(());
        }
    };
    let welcome = Welcome {
        protocol: hello.protocol.min(PROTOCOL),
        features: hello.features & FEATURES,
        version: env!("CARGO_PKG_VERSION").to_string(),
        incarnation: served.me.incarnation,
        newest_major: served.newest.major,
        newest_minor: served.newest.minor,
    };
    write
        .write_all(Frame::encode(Kind::Welcome, 0, &welcome))
        .await?;
    let from = MemberId(hello.from);
    if let Some(link) = served.links.get(from) {
        link.peer.traffic.attach(&mut read, &mut write);
    }
    if matches!(lane, Lane::Control | Lane::Requests) {
        served.met(from).await;
    }
    let mut seat = served.seats.take(from, lane);
    let serving = async {
        match lane {
            Lane::Append => appends::serve(served, read, write).await,
            Lane::Image => image::serve(served, from, read, write).await,
            Lane::Fetch => fetch::serve(served, from, read, write).await,
            Lane::Control | Lane::Requests | Lane::Join | Lane::Unspecified => {
                calls::serve(served, from, lane, read, write).await
            }
        }
    };
    match select(pin!(serving), pin!(seat.lost())).await {
        Either::Left((served, _)) => served,
        Either::Right(_) => Err(FrameError::Cut),
    }
}
