//! How somebody who is to join, or knows no other member, learns who the cluster is: one question to any member.

use std::collections::BTreeMap;
use std::time::Duration;

use barque_store_env::{Conn, Env, Net, WriteHalf};
use barque_store_state::{MemberId, MemberInfo};
use futures::StreamExt;

use super::frame::{Frame, FrameError, Kind, Reader};
use super::traffic::Counted;
use super::wire::{Hello, Lane, MembersBody, MembersReplyBody, Refusal, Refused};
use super::{ReadOf, WriteOf};
use crate::limits;

/// A cluster, as one of its members knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub cluster_id: u64,
    pub members: Vec<MemberInfo>,
}

impl Known {
    /// The members other than `me`, and where they are: without those whose peer URLs `address_of` makes no address of.
    pub(crate) fn others(
        &self,
        me: MemberId,
        address_of: fn(&[String]) -> Option<String>,
    ) -> BTreeMap<MemberId, String> {
        let others = self.members.iter().filter(|member| member.id != me);
        others
            .filter_map(|member| Some((member.id, address_of(&member.peer_urls)?)))
            .collect()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("{addr}: {cause}")]
    Unreachable { addr: String, cause: std::io::Error },
    #[error("{addr}: no answer in {timeout:?}")]
    Silent { addr: String, timeout: Duration },
    #[error("{addr} refuses: {reason}")]
    Refused {
        addr: String,
        reason: String,
        /// What the asker has to act on; a code unknown to this program is `Unspecified`.
        code: Refusal,
    },
    #[error("{addr} does not speak this protocol: {cause}")]
    Protocol { addr: String, cause: FrameError },
}

impl JoinError {
    fn unreachable(addr: &str) -> impl Fn(std::io::Error) -> JoinError + Copy {
        move |cause| JoinError::Unreachable {
            addr: addr.to_owned(),
            cause,
        }
    }
    fn protocol(addr: &str) -> impl Fn(FrameError) -> JoinError + Copy {
        move |cause| JoinError::Protocol {
            addr: addr.to_owned(),
            cause,
        }
    }
}

/// Asks the member at `addr` (`host:port`).
pub async fn ask<E: Env>(net: &E::Net, addr: &str, timeout: Duration) -> Result<Known, JoinError> {
    match E::timeout(timeout, asked::<E>(net, addr)).await {
        Ok(known) => known,
        Err(_) => Err(JoinError::Silent {
            addr: addr.to_owned(),
            timeout,
        }),
    }
}

/// A connection to the member at `addr` that has said this hello, for somebody who is no running member.
pub async fn greet<E: Env>(
    net: &E::Net,
    addr: &str,
    hello: Hello,
) -> Result<(Reader<ReadOf<E>>, WriteOf<E>), JoinError> {
    let (unreachable, protocol) = (JoinError::unreachable(addr), JoinError::protocol(addr));
    let conn = net.connect(addr).await.map_err(unreachable)?;
    let (read, write) = conn.split();
    let (mut read, mut write) = (Reader::new(read), Counted::new(write));
    let hello = Frame::encode(Kind::Hello, 0, &hello);
    write.write_all(hello).await.map_err(unreachable)?;
    let greeted = read.next(limits::HELLO_BYTES_MAX).await.map_err(protocol)?;
    let greeted = greeted.ok_or_else(|| protocol(FrameError::Cut))?;
    match greeted.kind {
        Kind::Welcome => Ok((read, write)),
        Kind::Refused => {
            let refused = greeted.parse::<Refused>().map_err(protocol)?;
            Err(JoinError::Refused {
                addr: addr.to_owned(),
                reason: refused.reason,
                code: Refusal::try_from(refused.code).unwrap_or(Refusal::Unspecified),
            })
        }
        other => Err(protocol(FrameError::Kind(other as u8))),
    }
}

async fn asked<E: Env>(net: &E::Net, addr: &str) -> Result<Known, JoinError> {
    let (unreachable, protocol) = (JoinError::unreachable(addr), JoinError::protocol(addr));
    let (read, mut write) = greet::<E>(net, addr, Hello::of_nobody(Lane::Join)).await?;
    let question = Frame::encode(Kind::Members, 1, &MembersBody {});
    write.write_all(question).await.map_err(unreachable)?;
    let frames = read.frames();
    futures::pin_mut!(frames);
    let answer = frames
        .next()
        .await
        .ok_or_else(|| protocol(FrameError::Cut))?;
    let answer = answer.map_err(protocol)?;
    if answer.kind != Kind::MembersReply {
        return Err(protocol(FrameError::Kind(answer.kind as u8)));
    }
    let reply = answer.parse::<MembersReplyBody>().map_err(protocol)?;
    let members = reply.members.into_iter().map(|member| MemberInfo {
        id: MemberId(member.id),
        name: member.name,
        peer_urls: member.peer_urls,
        client_urls: Vec::new(),
        learner: member.learner,
    });
    Ok(Known {
        cluster_id: reply.cluster_id,
        members: members.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_those_that_can_be_reached() {
        let member = |id, url: &str| MemberInfo {
            id: MemberId(id),
            peer_urls: vec![url.to_owned()],
            ..MemberInfo::default()
        };
        let known = Known {
            cluster_id: 1,
            members: vec![member(1, "at a:1"), member(2, "at b:1"), member(3, "none")],
        };
        let others = known.others(MemberId(1), |urls| {
            Some(urls.first()?.strip_prefix("at ")?.to_owned())
        });
        assert_eq!(others, BTreeMap::from([(MemberId(2), "b:1".to_owned())]));
    }
}
