//! One state on a connection of its own: the leader offers what it has pinned, the receiver asks for piece after piece,
//! and says at last what became of it.
//! Promise: the receiver sets the pace, so that nothing it does not take is under way; it goes on where it was when the
//! same state is offered again; openraft hears of a state only when all of it is on disk and put together (guard 10).
//! Each frame's checksum covers the piece in it; that the pieces make the state that was offered is the machine's to see.

use std::sync::Arc;
use std::time::Duration;

use barque_store_env::{Env, WriteHalf, watch};
use barque_store_state::{LogIndex, MemberId};
use futures::future::{Either, select};
use openraft_rt::WatchReceiver;
use parking_lot::Mutex;

use super::frame::{Frame, FrameError, Kind, Reader};
use super::serve::Served;
use super::wire::*;
use super::{Peer, ReadOf, WriteOf};
use crate::machine::{Snapshot, snapshot, stored};
use crate::pins::Held;
use crate::record::VoteRecord;
use crate::types::Vote;
use crate::{ImageRules, Machine, Mark, Offer, Piece, Staging, limits};

// ---- the sender

/// Sends the state and waits until it is installed; the receiver's vote.
pub async fn send<E: Env>(peer: &Peer<E>, vote: &Vote, held: &Held) -> Result<Vote, String> {
    let connected = peer.connect(Lane::Image).await;
    let (mut read, mut write) = connected.map_err(|e| e.to_string())?;
    tracing::info!(
        member = %peer.member,
        index = held.mark.index.0,
        bytes = held.bytes,
        "offering the state to a member that the log does not reach any more"
    );
    hand_over::<E>(&mut read, &mut write, vote, held).await
}

/// Offers the state on this connection and gives what is asked of it, until the other end says what became of it: its vote.
pub async fn hand_over<E: Env>(
    read: &mut Reader<ReadOf<E>>,
    write: &mut WriteOf<E>,
    vote: &Vote,
    held: &Held,
) -> Result<Vote, String> {
    let offer = OfferBody {
        vote: Some(VoteRecord::from(vote)),
        last: Some(id_body(&held.id)),
        membership: held.mark.membership.clone(),
        bytes: held.bytes,
    };
    say::<E>(write, Frame::encode(Kind::Offer, 0, &offer)).await?;
    let mut patience = limits::IMAGE_IDLE_MAX;
    loop {
        let frame = {
            let mut heard = std::pin::pin!(hear::<E>(read, patience));
            loop {
                match select(&mut heard, E::sleep(limits::IMAGE_PROBE)).await {
                    Either::Left((frame, _)) => break frame?,
                    // A receiver that lost its power while it put the state together is silent, unless it is spoken to when it is
                    // back.
                    Either::Right(_) if patience == limits::IMAGE_INSTALL_MAX => {
                        say::<E>(write, Frame::encode(Kind::Waiting, 0, &())).await?;
                    }
                    Either::Right(_) => {}
                }
            }
        };
        match frame.kind {
            Kind::Waiting => {}
            Kind::AskPiece => {
                held.touch(E::now());
                let ask = frame.parse::<AskPieceBody>().map_err(|e| e.to_string())?;
                let Some(Piece { body, next }) = held.piece(&ask.from)? else {
                    let error = ErrorBody::new(ErrorCode::Malformed, "no piece begins there");
                    say::<E>(write, Frame::encode(Kind::Error, frame.id, &error)).await?;
                    return Err("the member asked for a piece that begins nowhere".into());
                };
                patience = match next {
                    Some(_) => limits::IMAGE_IDLE_MAX,
                    None => limits::IMAGE_INSTALL_MAX,
                };
                let piece = PieceBody { body, next };
                say::<E>(write, Frame::encode(Kind::Piece, frame.id, &piece)).await?;
            }
            Kind::OfferReply => {
                let reply = frame.parse::<OfferReplyBody>().map_err(|e| e.to_string())?;
                return vote_of(&reply.vote).map_err(|e| e.to_string());
            }
            Kind::Error => {
                let error = frame.parse::<ErrorBody>().map_err(|e| e.to_string())?;
                return Err(format!("the member refuses it: {}", error.text));
            }
            other => return Err(format!("{other:?} has no place here")),
        }
    }
}

pub async fn say<E: Env>(write: &mut WriteOf<E>, frame: bytes::Bytes) -> Result<(), String> {
    match E::timeout(limits::IMAGE_IDLE_MAX, write.write_all(frame)).await {
        Ok(written) => written.map_err(|e| e.to_string()),
        Err(_) => Err(silence(limits::IMAGE_IDLE_MAX)),
    }
}

pub async fn hear<E: Env>(
    read: &mut Reader<ReadOf<E>>,
    patience: Duration,
) -> Result<Frame, String> {
    match E::timeout(patience, read.next(limits::FRAME_BYTES_MAX)).await {
        Ok(Ok(Some(frame))) => Ok(frame),
        Ok(Ok(None)) => Err("the connection was closed".into()),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err(silence(patience)),
    }
}

fn silence(patience: Duration) -> String {
    format!("nothing went on for {patience:?}")
}

// ---- the receiver

/// What a member receives states with. There is one at a time: a newer leader's, or the same one's next attempt, ends the
/// one that is under way.
pub struct Receiving {
    machine: Arc<dyn Machine>,
    rules: ImageRules,
    /// Whose state is being received: votes only go up. Counts the attempts.
    newest: Mutex<(u64, Option<Vote>)>,
    attempt: watch::Sender<u64>,
    /// Held by the attempt that has the directory, and by Raft while it installs what came of it.
    directory: Arc<tokio::sync::Mutex<()>>,
}

impl Receiving {
    pub fn new(machine: Arc<dyn Machine>, rules: ImageRules) -> Self {
        Receiving {
            machine,
            rules,
            newest: Mutex::default(),
            attempt: watch::channel(0).0,
            directory: Arc::default(),
        }
    }

    /// A new attempt under this vote; `None` when a newer leader's is under way.
    fn begin(&self, vote: Vote) -> Option<(u64, watch::Receiver<u64>)> {
        let mut newest = self.newest.lock();
        if newest.1.is_some_and(|newest| vote < newest) {
            return None;
        }
        *newest = (newest.0 + 1, Some(vote));
        // Subscribed after it was told: the attempt must not hear of itself.
        self.attempt.send(newest.0);
        Some((newest.0, self.attempt.subscribe()))
    }
}

/// Serves one connection: one offer.
pub async fn serve<E: Env>(
    served: &Arc<Served<E>>,
    from: MemberId,
    mut read: Reader<ReadOf<E>>,
    mut write: WriteOf<E>,
) -> Result<(), FrameError> {
    let Some(frame) = read.next(limits::FRAME_BYTES_MAX).await? else {
        return Ok(());
    };
    let answer = match receive(served, from, &frame, &mut read, &mut write).await {
        Ok(vote) => {
            let vote = Some(VoteRecord::from(&vote));
            Frame::encode(Kind::OfferReply, frame.id, &OfferReplyBody { vote })
        }
        Err(text) => {
            tracing::warn!(%from, "a state was not received: {text}");
            let error = ErrorBody::new(ErrorCode::Unspecified, text);
            Frame::encode(Kind::Error, frame.id, &error)
        }
    };
    write.write_all(answer).await?;
    Ok(())
}

/// Receives the state of the offer and has it installed; this member's vote.
async fn receive<E: Env>(
    served: &Arc<Served<E>>,
    from: MemberId,
    frame: &Frame,
    read: &mut Reader<ReadOf<E>>,
    write: &mut WriteOf<E>,
) -> Result<Vote, String> {
    if frame.kind != Kind::Offer {
        return Err(format!("{:?} has no place here", frame.kind));
    }
    let (vote, offer) = offered(from, frame)?;
    let own = served.raft.metrics().borrow_watched().vote;
    if own > vote {
        return Ok(own);
    }
    let (id, membership) = stored(&offer.mark)
        .map_err(|e| e.to_string())?
        .ok_or("an offer of nothing")?;
    // The answer to an earlier transfer was lost, or the log has come this far meanwhile.
    let applied = served.raft.metrics().borrow_watched().last_applied;
    if applied.is_some_and(|applied| applied >= id) {
        return Ok(own);
    }
    let receiving = &served.receiving;
    let newer = || "a newer offer came".to_owned();
    let (attempt, mut attempts) = receiving.begin(vote).ok_or_else(newer)?;
    // The one before ends at its next step.
    let directory = receiving.directory.clone().lock_owned().await;
    if attempts.get() != attempt {
        return Err(newer());
    }
    tracing::info!(
        %from,
        index = offer.mark.index.0,
        bytes = offer.bytes,
        "receiving the state of another member"
    );
    let mut staging = telling::<E, _>(write, receiving.machine.stage(offer)).await?;
    let mut asked = 0;
    while let Some(place) = staging.next() {
        let begun = E::now();
        asked += 1;
        let piece = {
            let answer = std::pin::pin!(ask_piece::<E>(read, write, asked, place));
            match select(answer, std::pin::pin!(attempts.changed())).await {
                Either::Left((piece, _)) => piece?,
                Either::Right(_) => return Err(newer()),
            }
        };
        let bytes = piece.body.len() as u64;
        telling::<E, _>(write, staging.take(piece)).await?;
        let took = E::now().saturating_since(begun);
        E::sleep(pause(&receiving.rules, bytes, took)).await;
        if attempts.get() != attempt {
            return Err(newer());
        }
    }
    // Not ended with this connection: Raft would go on, and another attempt clear the directory under it.
    let served = served.clone();
    let installing = E::spawn("install state", async move {
        let _directory = directory;
        install(&served, vote, id, membership, staging).await
    });
    let installed = telling::<E, _>(write, installing).await;
    installed.unwrap_or_else(|_| Err("the member stops".to_owned()))
}

/// Does something that takes its time, and tells the other end again and again that it is not for nothing that it waits: it could not
/// tell this from a connection that is dead.
pub async fn telling<E: Env, F: Future>(write: &mut WriteOf<E>, work: F) -> F::Output {
    let mut work = std::pin::pin!(work);
    loop {
        match select(&mut work, E::sleep(limits::IMAGE_PROBE)).await {
            Either::Left((done, _)) => return done,
            // One that is gone does not matter: what was done so far is found again.
            Either::Right(_) => {
                let waiting = Frame::encode(Kind::Waiting, 0, &());
                let _ = E::timeout(limits::IMAGE_PROBE, write.write_all(waiting)).await;
            }
        }
    }
}

/// The offer in the frame, and the vote it is made under.
pub fn offered(from: MemberId, frame: &Frame) -> Result<(Vote, Offer), String> {
    let offer = frame.parse::<OfferBody>().map_err(|e| e.to_string())?;
    let vote = vote_of(&offer.vote).map_err(|e| e.to_string())?;
    let last = offer.last.as_ref().ok_or("an offer of nothing")?;
    let mark = Mark {
        index: LogIndex(last.index),
        term: last.term,
        membership: offer.membership,
    };
    if mark.term > vote.leader_id.term {
        return Err("a state of a later term than its sender's".into());
    }
    let bytes = offer.bytes;
    Ok((vote, Offer { from, mark, bytes }))
}

/// Asks for the piece that begins at this place, the `asked`th.
pub async fn ask_piece<E: Env>(
    read: &mut Reader<ReadOf<E>>,
    write: &mut WriteOf<E>,
    asked: u64,
    place: bytes::Bytes,
) -> Result<Piece, String> {
    let ask = AskPieceBody { from: place };
    say::<E>(write, Frame::encode(Kind::AskPiece, asked, &ask)).await?;
    let answer = hear::<E>(read, limits::IMAGE_IDLE_MAX).await?;
    if answer.kind != Kind::Piece || answer.id != asked {
        return Err(format!("{:?} is no answer to that", answer.kind));
    }
    let PieceBody { body, next } = answer.parse().map_err(|e| e.to_string())?;
    Ok(Piece { body, next })
}

async fn install<E: Env>(
    served: &Served<E>,
    vote: Vote,
    id: crate::types::LogId,
    membership: crate::machine::StoredMembership,
    staging: Box<dyn Staging>,
) -> Result<Vote, String> {
    let staged = staging.finish().await?;
    let whole = snapshot::<E>(id, membership, Snapshot::Staged(staged));
    let installed = served.raft.install_full_snapshot(vote, whole).await;
    Ok(installed.map_err(|e| e.to_string())?.vote)
}

/// How long the receiver leaves disks and network to others after a piece of so many bytes that took so long.
pub fn pause(rules: &ImageRules, bytes: u64, took: Duration) -> Duration {
    let paced =
        Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rules.bytes_per_second.max(1));
    paced
        .saturating_sub(took)
        .max(took * limits::IMAGE_PAUSE_FACTOR)
        .min(limits::IMAGE_IDLE_MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_keeps_to_its_share() {
        let rules = ImageRules::default();
        let ms = Duration::from_millis;
        let piece = limits::IMAGE_PIECE_BYTES as u64;
        // Fast disks and links: the rate counts. 256 KiB at 64 MiB/s are 3.9 ms.
        let us = Duration::from_micros;
        let fast = us(500) + pause(&rules, piece, us(500));
        assert!(fast > us(3_900) && fast < us(3_910), "{fast:?}");
        // Slow ones: a quarter of the time.
        assert_eq!(pause(&rules, piece, ms(80)), ms(240));
        // Never so long that the sender gives up.
        assert!(pause(&rules, piece, ms(9_000)) < limits::IMAGE_IDLE_MAX);
    }
}
