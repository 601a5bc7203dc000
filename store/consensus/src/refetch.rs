//! The state taken anew from the other members, before this one runs: its rows are not to be used, while its log, its vote and
//! its identity are.
//! Why that breaks no promise of this member's: what a member persists is committed, so any state is a beginning of the one
//! history. The log stays whole behind it, but for entries that contradict it and so were never committed; and a state that
//! ends before what the log has given up is not taken. So nothing that this member acknowledged, and that may count, is
//! forgotten. While it takes a state its Raft does not run: it grants nothing and acknowledges nothing.
//! A damaged log is another matter, and ends this at once.
//! Not here: one transfer (`transport/fetch`), where the state is put, and the mark that says it is needed (`store/node`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use barque_store_env::{Env, Instant};
use barque_store_state::MemberId;
use barque_store_wal::Wal;

use crate::log_store::LogStore;
use crate::transport::fetch::{self, FetchBody, NotTaken, Stage};
use crate::transport::{Identity, join};
use crate::types::outer;
use crate::{Guards, ImageRules, Staged, limits};

/// Who takes its state anew, and where to look for one.
#[derive(Clone, Debug)]
pub struct Refetch {
    pub member: MemberId,
    pub cluster_id: u64,
    /// Of the data directory, which the others know.
    pub incarnation: u64,
    /// Directory of the log, which must be there.
    pub dir: PathBuf,
    pub log: barque_store_wal::Options,
    pub images: ImageRules,
    /// `host:port` where members may be: any of them tells where the others are. Those that the log names are asked as well.
    pub addresses: BTreeSet<String>,
    /// `host:port` of a member with these peer URLs.
    pub address_of: fn(&[String]) -> Option<String>,
}

/// Why there will be no state.
#[derive(Debug, thiserror::Error)]
pub enum RefetchError {
    /// Its log is damaged, or does not go with what the others have.
    #[error("log: {0}")]
    Log(String),
    /// It was removed from the cluster.
    #[error("{0}")]
    Removed(String),
    /// The cluster knows this member with another directory.
    #[error("{0}")]
    Refused(String),
}

fn log_error(cause: impl ToString) -> RefetchError {
    RefetchError::Log(cause.to_string())
}

pub async fn run<E: Env>(
    config: &Refetch,
    disk: E::Disk,
    net: &E::Net,
    stage: Stage<'_>,
) -> Result<Box<dyn Staged>, RefetchError> {
    let (wal, recovered) = Wal::<E>::open(disk, &config.dir, config.log)
        .await
        .map_err(log_error)?;
    let log = LogStore::new(wal.clone(), recovered, Guards::default()).map_err(log_error)?;
    let mut addresses = config.addresses.clone();
    addresses.extend(log.addresses(config.member.0));
    let seeker = Seeker::<E> {
        config,
        net,
        stage,
        me: Identity {
            cluster_id: config.cluster_id,
            member: config.member,
            incarnation: config.incarnation,
        },
        addresses,
        least: log.purged().map_or(0, outer),
        log,
    };
    let found = seeker.seek().await;
    // The start that follows opens it again.
    wal.close().await;
    found
}

struct Seeker<'a, E: Env> {
    config: &'a Refetch,
    net: &'a E::Net,
    stage: Stage<'a>,
    me: Identity,
    addresses: BTreeSet<String>,
    /// The state must have this entry, the last one that the log has given up.
    least: u64,
    log: LogStore<E>,
}

/// What asking everybody once has come to, when nobody gave a state.
#[derive(Default)]
struct Vain {
    /// Whom somebody hears as the leader.
    leader: Option<MemberId>,
    /// Somebody said that it knows no leader.
    leaderless: bool,
    /// By member or address.
    why: BTreeMap<String, String>,
}

impl<E: Env> Seeker<'_, E> {
    async fn seek(&self) -> Result<Box<dyn Staged>, RefetchError> {
        let mut hint = None;
        let mut leaderless_since: Option<Instant> = None;
        let mut told: Option<(String, Instant)> = None;
        loop {
            let leaderless =
                |at: Instant| E::now().saturating_since(at) >= limits::FETCH_LEADERLESS;
            let anybody = leaderless_since.is_some_and(leaderless);
            let vain = match self.round(hint, anybody).await? {
                Ok(staged) => return Ok(staged),
                Err(vain) => vain,
            };
            hint = vain.leader;
            if hint.is_some() {
                leaderless_since = None;
            } else if vain.leaderless {
                leaderless_since.get_or_insert(E::now());
            }
            let why: Vec<String> = vain
                .why
                .iter()
                .map(|(at, why)| format!("{at}: {why}"))
                .collect();
            let why = why.join("; ");
            let due = |(last, at): &(String, Instant)| {
                *last != why || E::now().saturating_since(*at) >= limits::FETCH_TELL * 2
            };
            if told.as_ref().is_none_or(due) {
                tracing::warn!(
                    least = self.least,
                    "no state can be taken yet, it is tried again ({why}). This member neither votes nor serves until it has one; \
                     if no other member will come back, restore the cluster from a backup"
                );
                told = Some((why, E::now()));
            }
            E::sleep(limits::FETCH_RETRY).await;
        }
    }

    /// Asks everybody once, the one that is said to lead first.
    async fn round(
        &self,
        hint: Option<MemberId>,
        anybody: bool,
    ) -> Result<Result<Box<dyn Staged>, Vain>, RefetchError> {
        let mut vain = Vain::default();
        let others = self.others(&mut vain).await;
        let mut order: Vec<(&MemberId, &String)> = others.iter().collect();
        order.sort_by_key(|(id, _)| hint != Some(**id));
        for (id, addr) in order {
            let ask = FetchBody {
                least: self.least,
                anybody,
            };
            let rules = &self.config.images;
            let taken = fetch::take::<E>(
                self.net,
                &self.me,
                (*id, addr.as_str()),
                ask,
                rules,
                self.stage,
            )
            .await;
            let why = match taken {
                Ok((state, staging)) => match staging.finish().await {
                    Ok(staged) => {
                        // As where a running member installs one (guard 10): before the state counts.
                        self.log.give_way(state).await.map_err(log_error)?;
                        return Ok(Ok(staged));
                    }
                    Err(why) => why,
                },
                Err(NotTaken::NotLeader(Some(leader))) => {
                    vain.leader = Some(leader);
                    format!("{:x} leads", leader.0)
                }
                Err(NotTaken::NotLeader(None)) => {
                    vain.leaderless = true;
                    "it knows no leader".to_owned()
                }
                Err(NotTaken::Removed(why)) => return Err(RefetchError::Removed(why)),
                Err(NotTaken::Refused(why)) => return Err(RefetchError::Refused(why)),
                Err(NotTaken::Other(why)) => why,
            };
            vain.why.insert(format!("{:x}", id.0), why);
        }
        Ok(Err(vain))
    }

    /// The other members and where they are, as far as anybody tells.
    async fn others(&self, vain: &mut Vain) -> BTreeMap<MemberId, String> {
        const ASK: Duration = limits::FETCH_ASK_MAX;
        let asked = self
            .addresses
            .iter()
            .map(|addr| async move { (addr, join::ask::<E>(self.net, addr, ASK).await) });
        let mut others = BTreeMap::new();
        for (addr, known) in futures::future::join_all(asked).await {
            match known {
                Ok(known) if known.cluster_id == self.me.cluster_id => {
                    for (id, at) in known.others(self.me.member, self.config.address_of) {
                        others.entry(id).or_insert(at);
                    }
                }
                Ok(known) => {
                    let why = format!("it is of another cluster ({:x})", known.cluster_id);
                    vain.why.insert(addr.clone(), why);
                }
                Err(why) => {
                    vain.why.insert(addr.clone(), why.to_string());
                }
            }
        }
        others
    }
}
