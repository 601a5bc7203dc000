//! Lessees: each takes a lease, hangs a key on it, keeps it alive for a while through any member, then gives it back or
//! forgets it. The key must stay until then and must go afterwards.

use std::time::Duration;

use barque_store_env::sim;
use barque_store_state::{Answer, Command, LeaseId, Put};
use barque_tests_checkers::Life;

use super::{Desk, always, never, now, patience};

pub const PREFIX: &str = "lease/";
/// The longest lease. Short enough that some run out in every run.
pub const TTL_MAX_S: u64 = 3;

pub fn key(lease: i64) -> String {
    format!("{PREFIX}{lease}")
}

const S: u64 = 1_000_000_000;

pub async fn run(desk: Desk) {
    let mut turn = desk.client as usize;
    let mut made = 0;
    while !desk.cluster.is_calm() {
        desk.pause().await;
        made += 1;
        let id = LeaseId((desk.client * 1_000_000 + made) as i64);
        if let Some(life) = one(&desk, &mut turn, id).await {
            desk.told.lives.lock().push(life);
        }
    }
}

async fn one(desk: &Desk, turn: &mut usize, id: LeaseId) -> Option<Life> {
    let ttl_s = 1 + sim::below(TTL_MAX_S);
    let called = now();
    let node = desk.next_member(turn);
    let grant = Command::LeaseGrant { id, ttl_s };
    let granted = desk.propose(node, patience(), grant, never).await;
    let Ok((_, Answer::LeaseGranted { ttl_s, .. })) = granted else {
        // If it was granted all the same, it must run out by itself, which the end of the run sees.
        return None;
    };
    desk.cluster.journal.count(|c| c.leases += 1);
    let mut life = Life {
        lease: id.0,
        ttl: ttl_s * S,
        renewed: called,
        revoke_called: None,
        gone: None,
    };
    let put = Put {
        key: key(id.0).into(),
        value: "held".into(),
        lease: id,
        ..Put::default()
    };
    let node = desk.next_member(turn);
    // Refused, it may be because the lease has run out, which no rule forbids after this time.
    let hung = desk
        .propose(node, patience(), Command::Put(put), always)
        .await;
    if let Ok((revision, _)) = hung {
        desk.acknowledged(revision, key(id.0), Some("held".into()));
    }
    let renewals = sim::below(8);
    for _ in 0..renewals {
        let pause = Duration::from_nanos(sim::below(life.ttl * 6 / 5));
        sim::sleep(pause).await;
        let called = now();
        let node = desk.next_member(turn);
        match renew(desk, node, id).await {
            None => {}
            Some(Some(ttl_s)) => {
                desk.cluster.journal.count(|c| c.renewals += 1);
                if let Some(gone) = desk.cluster.truth.gone(&key(id.0))
                    && gone < called
                {
                    desk.cluster.journal.violation(format!(
                        "lease {} was renewed at {called}, but its key was seen to go at {gone}",
                        id.0
                    ));
                }
                life.renewed = called;
                life.ttl = ttl_s * S;
            }
            Some(None) => {
                life.gone = Some(now());
                return Some(life);
            }
        }
        if desk.cluster.is_calm() {
            return Some(life);
        }
    }
    if sim::chance(0.4) {
        life.revoke_called = Some(now());
        let node = desk.next_member(turn);
        // Whatever the answer: it was asked for.
        let _ = desk
            .propose(node, patience(), Command::LeaseRevoke { id }, never)
            .await;
    }
    Some(life)
}

/// `None`: no answer. `Some(None)`: there is no such lease.
async fn renew(desk: &Desk, node: sim::NodeId, id: LeaseId) -> Option<Option<u64>> {
    let answer = desk
        .cluster
        .request(node, patience(), async move |store, deadline| {
            store.lease_keep_alive(id, deadline).await
        });
    match answer.await {
        Ok(Ok((_, ttl_s))) => Some(ttl_s),
        Ok(Err(_)) | Err(_) => None,
    }
}
