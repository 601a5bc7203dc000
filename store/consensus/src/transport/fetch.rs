//! A member that must not use its state asks another one for its: whoever leads, or, when nobody does, anybody. It is offered on
//! the asker's own connection; from there on it is a transfer like any other (`image`).
//! Promise: what is offered is committed (a persisted state is), and has at least what the asker's log begins behind.
//! Not here: whom to ask and how often (`refetch`), what is done with the state (the machine's staging).

use std::sync::Arc;

use barque_store_env::{Env, Instant, WriteHalf};
use barque_store_state::MemberId;
use openraft_rt::WatchReceiver;
use prost::Message;

use super::frame::{Frame, FrameError, Kind, Reader};
use super::serve::Served;
use super::wire::*;
use super::{Identity, ReadOf, WriteOf, image, join};
use crate::machine::stored;
use crate::pins::{Held, Use};
use crate::record::VoteRecord;
use crate::types::{LogId, inner, outer};
use crate::{ImageRules, Mark, Offer, ProposeError, Staging, Working, limits, reads};

#[derive(Clone, PartialEq, Message)]
pub struct FetchBody {
    /// The last entry that the asker's log has given up: the state must have it. 0: none.
    #[prost(uint64, tag = "1")]
    pub least: u64,
    /// The asker has found no leader for a while: one that knows none either may give its state.
    #[prost(bool, tag = "2")]
    pub anybody: bool,
}

// ---- who has a state

/// Serves one connection: one state.
pub async fn serve<E: Env>(
    served: &Arc<Served<E>>,
    from: MemberId,
    mut read: Reader<ReadOf<E>>,
    mut write: WriteOf<E>,
) -> Result<(), FrameError> {
    let Some(frame) = read.next(limits::HELLO_BYTES_MAX).await? else {
        return Ok(());
    };
    if frame.kind != Kind::Fetch {
        return Err(FrameError::Kind(frame.kind as u8));
    }
    let ask = frame.parse::<FetchBody>()?;
    let held = match find(served, &ask).await {
        Ok(held) => held,
        Err(error) => {
            let error = Frame::encode(Kind::Error, frame.id, &error);
            write.write_all(error).await?;
            return Ok(());
        }
    };
    // Never said to be sent: the log behind it stays until the pin ends, so that the asker, which starts only then, goes on there.
    let _transfer = Use::begin(held.clone(), E::now());
    let vote = served.raft.metrics().borrow_watched().vote;
    tracing::info!(
        member = %from,
        index = held.mark.index.0,
        bytes = held.bytes,
        "offering the state to a member that takes it anew"
    );
    if let Err(why) = image::hand_over::<E>(&mut read, &mut write, &vote, &held).await {
        tracing::warn!(member = %from, "the state was not fetched: {why}");
    }
    Ok(())
}

async fn find<E: Env>(served: &Served<E>, ask: &FetchBody) -> Result<Arc<Held>, ErrorBody> {
    let wait = served.lease.min(limits::FETCH_ASK_MAX / 2);
    match reads::leader_read_index(&served.raft, wait).await {
        Ok(_) => {}
        Err(stopped @ ProposeError::Stopped) => return Err(ErrorBody::propose(&stopped)),
        Err(_) => {
            let leader = heard(served, E::now());
            if leader.is_some() || !ask.anybody {
                return Err(ErrorBody::propose(&ProposeError::NotLeader { leader }));
            }
        }
    }
    let needed = inner(ask.least);
    let held = served.pins.get(served.log.purged().max(needed));
    let held = held.map_err(|damage| ErrorBody::new(ErrorCode::Stopped, damage))?;
    match held {
        Some(held) if Some(held.id.index) >= needed => Ok(held),
        other => {
            let has = other.map_or(0, |held| outer(held.id.index));
            let text = format!(
                "it has persisted entries up to {has}, and the asker's log begins behind {}",
                ask.least
            );
            Err(ErrorBody::new(ErrorCode::Busy, text))
        }
    }
}

/// The leader that this member still hears.
fn heard<E: Env>(served: &Served<E>, now: Instant) -> Option<MemberId> {
    let metrics = served.raft.metrics();
    let leader = metrics.borrow_watched().current_leader;
    let fresh = now.saturating_since(served.heard.last()) <= served.lease * 2;
    leader
        .filter(|id| fresh && *id != served.me.member.0)
        .map(MemberId)
}

// ---- who needs one

/// Why a state was not had from a member.
#[derive(Debug)]
pub enum NotTaken {
    /// It does not lead; whom it hears as the leader.
    NotLeader(Option<MemberId>),
    /// This member was removed from the cluster.
    Removed(String),
    /// The cluster knows this member with another directory: none will ever give it anything.
    Refused(String),
    Other(String),
}
impl From<String> for NotTaken {
    fn from(why: String) -> Self {
        NotTaken::Other(why)
    }
}

/// Makes the place for an offered state.
pub type Stage<'a> = &'a (dyn Fn(Offer) -> Working<'static, Box<dyn Staging>> + Send + Sync);

/// The last entry in an offered state. An error: it is not to be taken, which is a matter between this member and the one that
/// offers it.
fn acceptable(mark: &Mark, least: u64) -> Result<LogId, String> {
    if mark.index.0 < least {
        return Err(format!(
            "it offers entry {}, asked for {least}",
            mark.index.0
        ));
    }
    let (last, _) = stored(mark)
        .map_err(|e| format!("what it offers cannot be used: {e}"))?
        .ok_or("it offers a state of nothing")?;
    Ok(last)
}

/// Asks the member `to` at `addr`, and takes what it offers, which is then all there and durable; and the last entry in it.
pub async fn take<E: Env>(
    net: &E::Net,
    me: &Identity,
    (to, addr): (MemberId, &str),
    ask: FetchBody,
    rules: &ImageRules,
    stage: Stage<'_>,
) -> Result<(LogId, Box<dyn Staging>), NotTaken> {
    let least = ask.least;
    let asked = E::timeout(limits::FETCH_ASK_MAX, ask_for::<E>(net, me, to, addr, ask)).await;
    let (mut read, mut write, frame) =
        asked.map_err(|_| format!("no answer in {:?}", limits::FETCH_ASK_MAX))??;
    let (vote, offer) = image::offered(to, &frame)?;
    let last = acceptable(&offer.mark, least)?;
    let bytes = offer.bytes;
    tracing::info!(
        from = %to,
        index = offer.mark.index.0,
        bytes,
        "the state is taken anew from another member"
    );
    let mut staging = image::telling::<E, _>(&mut write, stage(offer)).await?;
    let (mut asked, mut taken, mut told) = (0, 0, E::now());
    while let Some(place) = staging.next() {
        let begun = E::now();
        asked += 1;
        let piece = image::ask_piece::<E>(&mut read, &mut write, asked, place).await?;
        let length = piece.body.len() as u64;
        image::telling::<E, _>(&mut write, staging.take(piece)).await?;
        taken += length;
        let now = E::now();
        if now.saturating_since(told) >= limits::FETCH_TELL {
            told = now;
            tracing::info!(taken, bytes, "the state is being taken anew");
        }
        E::sleep(image::pause(rules, length, now.saturating_since(begun))).await;
    }
    // It need not wait any longer. Whether it hears that changes nothing here.
    let vote = Some(VoteRecord::from(&vote));
    let done = Frame::encode(Kind::OfferReply, 0, &OfferReplyBody { vote });
    if let Err(why) = image::say::<E>(&mut write, done).await {
        tracing::debug!("the sender was not told that all is here: {why}");
    }
    Ok((last, staging))
}

/// A connection on which a state was offered, and the offer.
async fn ask_for<E: Env>(
    net: &E::Net,
    me: &Identity,
    to: MemberId,
    addr: &str,
    ask: FetchBody,
) -> Result<(Reader<ReadOf<E>>, WriteOf<E>, Frame), NotTaken> {
    let hello = me.hello(to, Lane::Fetch);
    let (mut read, mut write) =
        join::greet::<E>(net, addr, hello)
            .await
            .map_err(|error| match error {
                join::JoinError::Refused {
                    reason,
                    code: Refusal::Removed,
                    ..
                } => NotTaken::Removed(reason),
                join::JoinError::Refused {
                    reason,
                    code: Refusal::Wiped,
                    ..
                } => NotTaken::Refused(reason),
                other => NotTaken::Other(other.to_string()),
            })?;
    image::say::<E>(&mut write, Frame::encode(Kind::Fetch, 1, &ask)).await?;
    let frame = image::hear::<E>(&mut read, limits::FETCH_ASK_MAX).await?;
    match frame.kind {
        Kind::Offer => Ok((read, write, frame)),
        Kind::Error => {
            let error = frame.parse::<ErrorBody>().map_err(|e| e.to_string())?;
            Err(match error.propose_error() {
                ProposeError::NotLeader { leader } => NotTaken::NotLeader(leader),
                _ => NotTaken::Other(error.text),
            })
        }
        other => Err(format!("{other:?} has no place here").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barque_store_state::LogIndex;
    use bytes::Bytes;

    /// It counted as an error of this member's own log, and ended the start where another member could have given a state.
    #[test]
    fn an_offered_membership_that_does_not_parse_is_no_fault_of_this_members_log() {
        let offered = |membership: &'static [u8]| Mark {
            index: LogIndex(7),
            term: 2,
            membership: Bytes::from_static(membership),
        };
        let last = acceptable(&offered(b""), 7).expect("it may be taken");
        assert_eq!((outer(last.index), last.leader_id.term), (7, 2));
        let why = |mark: &Mark, least| acceptable(mark, least).expect_err("not to be taken");
        assert!(why(&offered(b"\xff"), 7).contains("cannot be used"));
        assert!(why(&offered(b""), 8).contains("asked for 8"));
        let nothing = Mark {
            index: LogIndex(0),
            ..offered(b"")
        };
        assert!(why(&nothing, 0).contains("of nothing"));
    }
}
