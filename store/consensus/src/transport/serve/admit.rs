//! Who is let in: a peer is judged by its hello alone, before anything it asks is looked at.
//! Promise: one that is not let in is told why, and what to do about itself where it must stop.

use std::time::Duration;

use barque_store_env::{Env, Instant};
use barque_store_state::MemberId;
use parking_lot::Mutex;

use super::Served;
use crate::transport::wire::{Hello, Lane, PROTOCOL, PROTOCOL_OLDEST, Refusal, Refused};

/// Strangers knock several times a second: each reason is told at once, then every ten seconds.
#[derive(Debug, Default)]
pub struct Complaints(Mutex<Option<(String, Instant)>>);
impl Complaints {
    pub fn tell(&self, hello: &Hello, reason: &str, now: Instant) {
        let mut last = self.0.lock();
        if last.as_ref().is_some_and(|(told, at)| {
            told == reason && now.saturating_since(*at) < Duration::from_secs(10)
        }) {
            return;
        }
        *last = Some((reason.to_string(), now));
        tracing::error!(
            from = %MemberId(hello.from),
            version = hello.version,
            "refused a peer's connection: {reason}"
        );
    }
}

pub fn admit<E: Env>(served: &Served<E>, hello: &Hello) -> Result<Lane, Refused> {
    let lane = acquaint(served, hello).map_err(|reason| Refused {
        reason,
        code: Refusal::Unspecified as i32,
    })?;
    if lane == Lane::Join {
        return Ok(lane);
    }
    if served.is_gone(MemberId(hello.from)) {
        return Err(Refused {
            reason: format!("member {:x} was removed from the cluster", hello.from),
            code: Refusal::Removed as i32,
        });
    }
    match served
        .directories
        .stranger(MemberId(hello.from), hello.incarnation)
    {
        Some(reason) => Err(Refused {
            reason,
            code: Refusal::Wiped as i32,
        }),
        None => Ok(lane),
    }
}

fn acquaint<E: Env>(served: &Served<E>, hello: &Hello) -> Result<Lane, String> {
    let me = &served.me;
    let lane = match Lane::try_from(hello.lane) {
        Ok(Lane::Unspecified) | Err(_) => {
            return Err(format!("unknown kind of connection {}", hello.lane));
        }
        Ok(lane) => lane,
    };
    if hello.protocol < PROTOCOL_OLDEST || hello.protocol_oldest > PROTOCOL {
        return Err(format!(
            "protocol mismatch: this member speaks {PROTOCOL_OLDEST} to {PROTOCOL}, the peer {} to {}",
            hello.protocol_oldest, hello.protocol
        ));
    }
    // Knows nothing of the cluster yet, its own id included.
    if lane == Lane::Join {
        return Ok(lane);
    }
    if hello.cluster_id != me.cluster_id {
        return Err(format!(
            "cluster id mismatch: this member is of {:x}, not of {:x}",
            me.cluster_id, hello.cluster_id
        ));
    }
    if hello.to != me.member.0 {
        return Err(format!(
            "this is member {:x}, not {:x}",
            me.member.0, hello.to
        ));
    }
    // One that this member does not know yet may be the leader that tells it: only its own id is refused.
    if hello.from == me.member.0 || hello.from == 0 {
        return Err(format!("member {:x} is not a peer of this one", hello.from));
    }
    Ok(lane)
}
