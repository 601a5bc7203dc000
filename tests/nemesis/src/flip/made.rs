//! The directory that is to be damaged: made by one member, with something of everything in it.

use barque_proto::etcdserverpb::lease_client::LeaseClient;
use barque_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RequestOp, TxnRequest,
    request_op::Request,
};
use tonic::Status;
use tonic::transport::Channel;

use super::Options;
use crate::Failure;
use crate::chance::Chance;
use crate::clients::revision;
use crate::member::{Member, connect, kv};
use crate::picture::{LAST, all};
use crate::value;

const LEASES: i64 = 5;
/// Far longer than any run.
const LEASE_SECONDS: i64 = 1_000_000;

/// A directory with puts, deletions, transactions, leases and a compaction in the middle. Its last revision.
pub async fn make(member: &mut Member, options: &Options) -> Result<u64, Failure> {
    member.start()?;
    member.ready().await?;
    let mut chance = Chance::new(options.seed, 0xda7a);
    let channel = connect(member.addr())
        .await
        .map_err(|e| member.failure(e))?;
    let made = fill(channel, &mut chance, options.writes).await;
    let last = made.map_err(|e| member.failure(format!("making a directory: {e}")))?;
    member.stop().await?;
    Ok(last)
}

async fn fill(channel: Channel, chance: &mut Chance, writes: u32) -> Result<u64, Status> {
    let mut client = kv(channel.clone());
    let mut leases = LeaseClient::new(channel);
    for id in 1..=LEASES {
        leases
            .lease_grant(LeaseGrantRequest {
                id,
                ttl: LEASE_SECONDS,
            })
            .await?;
    }
    let put = |key: u64, n: u64, lease: i64| PutRequest {
        key: format!("k/{key:04}").into(),
        value: value::value(value::number(1, n)),
        lease,
        ..PutRequest::default()
    };
    for n in 0..u64::from(writes) {
        let key = chance.below(u64::from(writes) / 3 + 1);
        match chance.below(10) {
            0 => {
                let request = DeleteRangeRequest {
                    key: format!("k/{key:04}").into(),
                    range_end: format!("k/{:04}", key + 3).into(),
                    ..DeleteRangeRequest::default()
                };
                client.delete_range(request).await?;
            }
            1 => {
                let puts = (0..3).map(|i| RequestOp {
                    request: Some(Request::RequestPut(put(key + i, n * 4 + i, 0))),
                });
                let txn = TxnRequest {
                    success: puts.collect(),
                    ..TxnRequest::default()
                };
                client.txn(txn).await?;
            }
            2 => {
                let lease = 1 + chance.below(LEASES as u64) as i64;
                client.put(put(key, n * 4, lease)).await?;
            }
            _ => {
                client.put(put(key, n * 4, 0)).await?;
            }
        }
        if n == u64::from(writes) / 2 {
            let at = client.range(all(0)).await?.into_inner();
            let half = revision(&at.header) / 2;
            let request = CompactionRequest {
                revision: i64::try_from(half).unwrap_or(i64::MAX),
                physical: true,
            };
            client.compact(request).await?;
        }
    }
    let request = PutRequest {
        key: LAST.into(),
        value: value::value(value::number(2, 0)),
        ..PutRequest::default()
    };
    let answer = client.put(request).await?.into_inner();
    Ok(revision(&answer.header))
}
