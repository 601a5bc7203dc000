//! What all handlers of one core share.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use barque_store_env::{Env, Instant};
use barque_store_node::Store;
use barque_store_rpc::Status;
use barque_store_state::Revision;
use http::HeaderMap;
use tokio::sync::watch;

use crate::encode::Header;
use crate::limits::{NO_LEADER_ELECTIONS_MAX, REQUEST_TIMEOUT_BASE};
use crate::proposals::Proposals;
use crate::reads::{Large, Reads};
use crate::status::{INVALID_CLIENT_VERSION, invalid, not_proposed};

/// What the handlers need to know of the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub max_request_bytes: usize,
    pub election: Duration,
}

impl Rules {
    /// etcd's bound for one request.
    pub fn request_timeout(&self) -> Duration {
        REQUEST_TIMEOUT_BASE + 2 * self.election
    }
    /// etcd raises shorter TTLs: a lease must outlive an election and a half, or every failover would expire it.
    pub fn lease_ttl_min_s(&self) -> i64 {
        let millis = (self.election * 3 / 2).as_millis();
        i64::try_from(millis.div_ceil(1000)).unwrap_or(i64::MAX)
    }
}

pub(crate) struct Core<E: Env> {
    pub store: Store<E>,
    pub rules: Arc<Rules>,
    pub proposals: Rc<Proposals<E>>,
    pub reads: Rc<Reads<E>>,
    pub large: Large,
    /// Counts the times the leader was missed for so long that streams which ask for one are ended.
    leader_lost: watch::Receiver<u64>,
}

impl<E: Env> Core<E> {
    /// Must run on the core's thread: it starts the core's tasks.
    pub fn start(store: Store<E>, rules: Arc<Rules>) -> Rc<Self> {
        let (lost, leader_lost) = watch::channel(0);
        barque_store_rpc::spawn_local(watch_leader(store.clone(), rules.election, lost));
        Rc::new(Core {
            proposals: Proposals::start(store.clone(), rules.request_timeout()),
            reads: Reads::start(store.clone(), rules.request_timeout()),
            large: Large::default(),
            store,
            rules,
            leader_lost,
        })
    }

    pub fn deadline(&self) -> Instant {
        E::now() + self.rules.request_timeout()
    }

    /// A response header as of now, for answers at `revision`.
    pub fn header(&self, revision: Revision) -> Header {
        header_of(&self.store).at(revision)
    }

    pub fn leader_lost(&self) -> watch::Receiver<u64> {
        self.leader_lost.clone()
    }

    /// Refuses at once what the client wants answered only where there is a leader.
    pub fn require_leader(&self, metadata: &HeaderMap) -> Result<(), Status> {
        if wants_leader(metadata) && self.store.leader().is_none() {
            return Err(not_proposed(&barque_store_node::ProposeError::NoLeader));
        }
        Ok(())
    }
}

/// etcd counts requests by this, so it must be text.
pub(crate) fn check_client_version(metadata: &HeaderMap) -> Result<(), Status> {
    match metadata.get("client-api-version") {
        Some(version) if std::str::from_utf8(version.as_bytes()).is_err() => {
            Err(invalid(INVALID_CLIENT_VERSION))
        }
        _ => Ok(()),
    }
}

/// etcd's `hasleader` metadata.
pub(crate) fn wants_leader(metadata: &HeaderMap) -> bool {
    metadata
        .get("hasleader")
        .is_some_and(|value| value.as_bytes() == b"true")
}

pub(crate) fn header_of<E: Env>(store: &Store<E>) -> Header {
    let (member, cluster_id) = store.ids();
    Header {
        cluster_id,
        member_id: member.0,
        revision: store.revision(),
        raft_term: store.term(),
    }
}

async fn watch_leader<E: Env>(store: Store<E>, election: Duration, lost: watch::Sender<u64>) {
    let mut missed = 0;
    loop {
        barque_store_rpc::sleep(election).await;
        if store.leader().is_some() {
            missed = 0;
            continue;
        }
        missed += 1;
        if missed == NO_LEADER_ELECTIONS_MAX {
            lost.send_modify(|times| *times += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_version_that_is_not_text_is_refused() {
        let mut metadata = HeaderMap::new();
        assert_eq!(check_client_version(&metadata), Ok(()));
        metadata.insert("client-api-version", "3.5.16".parse().unwrap());
        assert_eq!(check_client_version(&metadata), Ok(()));
        let broken = http::HeaderValue::from_bytes(b"3.\xff").unwrap();
        metadata.insert("client-api-version", broken);
        let status = check_client_version(&metadata).unwrap_err();
        assert_eq!(
            (status.code as i32, status.message.as_ref()),
            (3, "etcdserver: invalid client api version")
        );
    }

    #[test]
    fn the_shortest_ttl_is_one_and_a_half_elections_rounded_up() {
        let ttl = |millis| {
            Rules {
                max_request_bytes: 0,
                election: Duration::from_millis(millis),
            }
            .lease_ttl_min_s()
        };
        assert_eq!([ttl(1000), ttl(100), ttl(4000), ttl(5000)], [2, 1, 6, 8]);
    }
}
