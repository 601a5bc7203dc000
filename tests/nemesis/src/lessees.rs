//! Clients of leases: each takes one, hangs a key on it, renews it for a while, and gives it back or lets it end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use barque_proto::etcdserverpb::lease_client::LeaseClient;
use barque_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, PutRequest,
};
use barque_tests_checkers::{Acknowledged, Life};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::chance::Chance;
use crate::clients::revision;
use crate::history::Plain;
use crate::journal::{Journal, nanos};
use crate::line::{Line, Outcome};
use crate::member::kv;
use crate::value;

/// etcd grants no less than 2 s with its usual timings.
const TTL_SECONDS: i64 = 3;
const PREFIX: &str = "l/";

pub struct Lessee {
    id: u64,
    journal: Arc<Journal>,
    line: Line,
    chance: Chance,
    taken: i64,
}

/// The key that hangs on a lease.
pub fn key(lease: i64) -> String {
    format!("{PREFIX}{lease}")
}

/// The lease that a key hangs on.
pub fn lease_of(key: &str) -> Option<i64> {
    key.strip_prefix(PREFIX)?.parse().ok()
}

impl Lessee {
    pub fn new(id: u64, seed: u64, journal: Arc<Journal>) -> Self {
        Lessee {
            id,
            line: Line::new(journal.clone(), id as usize),
            journal,
            chance: Chance::new(seed, id + 1),
            taken: 0,
        }
    }

    pub async fn run(mut self) {
        while !self.journal.is_calm() {
            tokio::time::sleep(
                self.chance
                    .between(Duration::ZERO, Duration::from_millis(300)),
            )
            .await;
            self.life().await;
        }
    }

    async fn life(&mut self) {
        self.taken += 1;
        let lease = (self.id as i64 + 1) * 1_000_000 + self.taken;
        let Some(channel) = self.line.channel().await else {
            return;
        };
        let mut leases = LeaseClient::new(channel.clone());
        let called = self.journal.now();
        let grant = leases.lease_grant(LeaseGrantRequest {
            ttl: TTL_SECONDS,
            id: lease,
        });
        let granted = match self.line.outcome(grant).await {
            Outcome::Done(response) => response,
            Outcome::Refused(status) => return self.refused("grant", lease, &status),
            Outcome::Unknown => return self.unknown(None),
        };
        let ttl = nanos(Duration::from_secs(u64::try_from(granted.ttl).unwrap_or(0)));
        let mut life = Life {
            lease,
            ttl,
            renewed: called,
            revoke_called: None,
            gone: None,
        };
        self.put(channel, &mut life).await;
        let renewals = self.chance.below(8);
        for _ in 0..renewals {
            if life.gone.is_some() || self.journal.is_calm() {
                break;
            }
            let pause = self
                .chance
                .between(Duration::from_millis(100), Duration::from_millis(1500));
            tokio::time::sleep(pause).await;
            self.renew(&mut life).await;
        }
        if life.gone.is_none() && self.chance.below(3) == 0 {
            self.revoke(&mut life).await;
        }
        self.journal.told.lock().lives.push(life);
    }

    async fn put(&mut self, channel: Channel, life: &mut Life) {
        let n = self.journal.made[self.id as usize].fetch_add(1, Ordering::SeqCst);
        let number = value::number(self.id, n);
        let request = PutRequest {
            key: key(life.lease).into(),
            value: value::value(number),
            lease: life.lease,
            ..PutRequest::default()
        };
        match self.line.outcome(kv(channel).put(request)).await {
            Outcome::Done(response) => {
                let revision = revision(&response.header);
                self.journal.saw_revision(revision);
                let change = Plain {
                    key: key(life.lease).into(),
                    value: Some(number),
                };
                self.journal
                    .told
                    .lock()
                    .acknowledged
                    .push(Acknowledged { revision, change });
            }
            Outcome::Refused(status) if status.code() == Code::NotFound => {
                life.gone = Some(self.journal.now());
            }
            Outcome::Refused(status) => self.refused("put on", life.lease, &status),
            Outcome::Unknown => self.unknown(Some(number)),
        }
    }

    async fn renew(&mut self, life: &mut Life) {
        let Some(channel) = self.line.channel().await else {
            return;
        };
        let mut leases = LeaseClient::new(channel);
        let called = self.journal.now();
        let request = LeaseKeepAliveRequest { id: life.lease };
        let ask = async {
            let answers = leases.lease_keep_alive(tokio_stream::once(request)).await?;
            let answer = answers.into_inner().message().await?;
            let answer = answer.ok_or_else(|| Status::unavailable("the stream ended"))?;
            Ok(tonic::Response::new(answer))
        };
        match self.line.outcome(ask).await {
            Outcome::Done(answer) if answer.ttl > 0 => life.renewed = called,
            // "There is no such lease."
            Outcome::Done(_) => life.gone = Some(self.journal.now()),
            Outcome::Refused(status) => self.refused("renew", life.lease, &status),
            Outcome::Unknown => {}
        }
    }

    async fn revoke(&mut self, life: &mut Life) {
        let Some(channel) = self.line.channel().await else {
            return;
        };
        let mut leases = LeaseClient::new(channel);
        life.revoke_called = Some(self.journal.now());
        let request = LeaseRevokeRequest { id: life.lease };
        match self.line.outcome(leases.lease_revoke(request)).await {
            Outcome::Done(response) => {
                life.gone = Some(self.journal.now());
                self.journal.saw_revision(revision(&response.header));
            }
            // It has ended by itself meanwhile.
            Outcome::Refused(status) if status.code() == Code::NotFound => {}
            Outcome::Refused(status) => self.refused("revoke", life.lease, &status),
            Outcome::Unknown => self.unknown(None),
        }
    }

    fn refused(&self, what: &str, lease: i64, status: &Status) {
        self.journal
            .violation(format!("{what} lease {lease} was refused: {status}"));
    }

    fn unknown(&self, number: Option<u64>) {
        let mut told = self.journal.told.lock();
        match number {
            Some(number) => {
                told.unknown_values.insert(number);
            }
            None => told.unknown_others += 1,
        }
    }
}
