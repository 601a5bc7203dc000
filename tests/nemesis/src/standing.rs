//! What members say of themselves: who leads, and in which term.
//! Promise: a question that is not answered soon is no answer; nothing here waits for a member that stands still.
//! Not here: what clients ask (`clients`).

use std::time::{Duration, Instant};

use barque_proto::etcdserverpb::StatusRequest;
use barque_proto::etcdserverpb::maintenance_client::MaintenanceClient;

use crate::Failure;
use crate::limits::SETTLE;
use crate::member::{Member, connect};

/// A status is answered from memory; whoever takes longer stands still.
const ANSWER: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub member: u64,
    /// 0: it knows of none.
    pub leader: u64,
    pub term: u64,
}

pub async fn standing(addr: &str) -> Option<Standing> {
    let ask = async {
        let channel = connect(addr).await.ok()?;
        let mut client = MaintenanceClient::new(channel);
        let status = client.status(StatusRequest {}).await.ok()?.into_inner();
        Some(Standing {
            member: status.header?.member_id,
            leader: status.leader,
            term: status.raft_term,
        })
    };
    tokio::time::timeout(ANSWER, ask).await.ok().flatten()
}

/// One answer a member, in their order. Those that do not run or stand still are not asked.
pub async fn standings(members: &[Member]) -> Vec<Option<Standing>> {
    let mut all = Vec::with_capacity(members.len());
    for member in members {
        all.push(if member.runs() && !member.is_paused() {
            standing(member.addr()).await
        } else {
            None
        });
    }
    all
}

/// The member that leads, as those believe who are furthest; `None` while there is none or it does not answer.
pub async fn leader(members: &[Member]) -> Option<usize> {
    let all = standings(members).await;
    let known = all.iter().flatten().filter(|s| s.leader != 0);
    let furthest = known.max_by_key(|s| s.term)?;
    let leads = |s: &Option<Standing>| s.is_some_and(|s| s.member == furthest.leader);
    all.iter().position(leads)
}

/// The leader and the term that all members agree on; all must run.
pub async fn agreed(members: &[Member]) -> Result<(usize, u64), Failure> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let all = standings(members).await;
        if let Some(Some(first)) = all.first()
            && first.leader != 0
            && all
                .iter()
                .all(|s| s.is_some_and(|s| (s.leader, s.term) == (first.leader, first.term)))
            && let Some(leader) = all
                .iter()
                .position(|s| s.is_some_and(|s| s.member == first.leader))
        {
            return Ok((leader, first.term));
        }
        if Instant::now() > deadline {
            return Err(Failure::violated(format!(
                "members do not agree on a leader within {SETTLE:?}: {all:?}"
            )));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
