//! Members at rest hold the same: everything a client can read of each, and for Barque the hash over all that is replicated.

use std::time::{Duration, Instant};

use barque_proto::etcdserverpb::HashRequest;
use barque_proto::etcdserverpb::maintenance_client::MaintenanceClient;

use crate::Failure;
use crate::limits::{REQUEST, SETTLE};
use crate::member::{Member, Program, connect};
use crate::picture::{difference, picture};

/// How long reading everything of one member may take.
const PICTURE: Duration = Duration::from_secs(60);

/// Compares all members; none may be written to meanwhile. A member may still be catching up: it has `SETTLE` for it.
pub async fn alike(members: &[Member]) -> Result<(), Failure> {
    if let Some(Program::Barque(_)) = members.first().map(Member::program) {
        whole_hashes(members).await?;
    }
    let of = async |member: &Member| {
        let picture = picture(member.addr(), PICTURE).await;
        picture.map_err(|why| member.failure(format!("at rest: {why}")))
    };
    let (first, others) = members.split_first().expect("a cluster has members");
    let truth = of(first).await?;
    for other in others {
        let seen = of(other).await?;
        if seen != truth {
            return Err(Failure::violated(format!(
                "at rest {} differs from {}: {}",
                other.name,
                first.name,
                difference(&truth, &seen)
            )));
        }
    }
    Ok(())
}

/// etcd hashes its database file with this request, whose pages differ from member to member; Barque its state.
async fn whole_hashes(members: &[Member]) -> Result<(), Failure> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let mut hashes = Vec::with_capacity(members.len());
        for member in members {
            hashes.push(whole_hash(member.addr()).await);
        }
        if hashes[0].is_ok() && hashes.iter().all(|h| *h == hashes[0]) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::violated(format!(
                "members at rest have different hashes of their whole state: {hashes:?}"
            )));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn whole_hash(addr: &str) -> Result<u32, String> {
    let ask = async {
        let channel = connect(addr).await.map_err(|e| e.to_string())?;
        let mut client = MaintenanceClient::new(channel);
        let answer = client.hash(HashRequest {}).await;
        answer
            .map(|a| a.into_inner().hash)
            .map_err(|e| e.to_string())
    };
    tokio::time::timeout(REQUEST, ask)
        .await
        .unwrap_or_else(|_| Err("no answer".to_owned()))
}
