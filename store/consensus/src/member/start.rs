//! The start of a member: its log, its guards, its peers and Raft put together, and everything that runs beside them begun.
//! Promise: nothing is served before the log is read and fits the persisted state; the port is taken before the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use barque_store_env::{Env, Listener, Net, watch};
use barque_store_wal::Wal;
use openraft::errors::{InitializeError, RaftError};

use super::{Inner, Raft};
use crate::admission::Admission;
use crate::alone;
use crate::directories::Directories;
use crate::guard::{self, Timing, VoteGuard};
use crate::log_store::LogStore;
use crate::machine::{self, Applier, Persisted};
use crate::pins::Pins;
use crate::purge::{Cut, Purger};
use crate::tasks::Tasks;
use crate::transport::heard::Heard;
use crate::transport::image::Receiving;
use crate::transport::network::Factory;
use crate::transport::seats::Seats;
use crate::transport::serve::{self, Served};
use crate::transport::{Identity, Links, Patience};
use crate::{Config, Forwarded, Machine, Peer, StartError, View, limits};

fn other(e: impl ToString) -> StartError {
    StartError::Other(e.to_string())
}

impl<E: Env> Inner<E> {
    pub async fn start(
        config: Config,
        disk: E::Disk,
        net: E::Net,
        machine: Arc<dyn Machine>,
        forwarded: Arc<dyn Forwarded>,
    ) -> Result<Arc<Self>, StartError> {
        let settings = guard::settings(&config)?;
        if config.founds && !config.peers.contains_key(&config.member) {
            return Err(other(format!(
                "member {:x} is not among the cluster's members",
                config.member.0
            )));
        }
        let timing = Timing::new(&config);
        // The port before the log: a second process on one machine should hear of it first.
        let listener = net.listen(&config.listen).await;
        let listener = listener.map_err(|cause| StartError::Listen {
            addr: config.listen.clone(),
            cause,
        })?;
        let log = |e: &dyn std::fmt::Display| StartError::Log(e.to_string());
        let (wal, recovered) = Wal::<E>::open(disk, &config.dir, config.log)
            .await
            .map_err(|e| log(&e))?;
        let store = LogStore::new(wal.clone(), recovered, config.guards).map_err(|e| log(&e))?;
        let failed_log = store.failed();
        let restored = match &config.restored {
            Some(mark) => machine::stored(mark).map_err(|e| log(&e))?,
            None => None,
        };
        machine::join(
            &store,
            restored.as_ref().map(|(last, _)| *last),
            config.installed,
        )
        .await
        .map_err(|unjoined| match unjoined {
            machine::Unjoined::Behind(gap) => StartError::Behind(gap.to_string()),
            machine::Unjoined::Other(why) => StartError::Log(why),
        })?;
        if let Some(peer_urls) = &config.alone {
            let membership = restored.as_ref().map(|(_, membership)| membership);
            alone::go_on(&config, peer_urls, &net, &store, membership).await?;
        }
        let persisted = Persisted::default();
        if let Some(restored) = &restored {
            persisted.set(restored.clone());
        }
        let pins = Arc::new(Pins::new(machine.clone(), config.guards.image_pinned));
        let cut = Arc::new(Cut::default());
        let (voted, new) = (store.has_voted(), store.is_empty() && !store.has_voted());
        let me = config.member.0;
        let others = store.names_other_voters(me)
            || restored
                .as_ref()
                .is_some_and(|(_, membership)| membership.voter_ids().any(|id| id != me));
        let vote_guard = VoteGuard::new(&config, &timing, E::now(), voted, others);

        let tasks = Tasks::new();
        let identity = Identity {
            cluster_id: config.cluster_id,
            member: config.member,
            incarnation: config.incarnation,
        };
        let directories = Arc::new(Directories::new(&config, machine.clone()));
        let patience = Patience {
            connect: timing.lease,
            answer: timing.election,
            guards: config.guards,
        };
        let links = Arc::new(Links::new(
            net,
            identity.clone(),
            directories.clone(),
            patience,
            tasks.clone(),
        ));
        for (id, peer) in config.peers.iter().filter(|(id, _)| **id != config.member) {
            links.to(*id, &peer.addr);
        }

        let (applied_tx, applied) = watch::channel(0);
        let applier = Applier::new(
            machine.clone(),
            applied_tx,
            restored,
            persisted.clone(),
            pins.clone(),
            store.clone(),
        );
        let mut settings = settings;
        settings.enable_elect = vote_guard.until.is_none();
        let raft = Raft::<E>::new(
            config.member.0,
            Arc::new(settings),
            Factory(links.clone(), cut.clone()),
            store.clone(),
            applier,
        )
        .await
        .map_err(|e| log(&e))?;
        pins.open();

        let heard = Arc::new(Heard::new(timing.election));
        let (changes, _) = watch::channel(View::default());
        let (failure, _) = watch::channel(None);
        let inner = Arc::new(Inner {
            me: config.member,
            timing,
            metrics: raft.metrics(),
            raft: raft.clone(),
            wal,
            failed_log,
            applied,
            links,
            addresses: config.addresses.clone(),
            address_of: config.address_of,
            heard: heard.clone(),
            guard: vote_guard,
            admission: Admission::new(match config.guards.admission {
                true => limits::UNCOMMITTED_BYTES_MAX,
                false => usize::MAX,
            }),
            directories: directories.clone(),
            given_away: AtomicU64::new(0),
            guards: config.guards,
            persisted,
            persisted_upto: watch::channel(None).0,
            changes,
            failure,
            stopping: AtomicBool::new(false),
            tasks: tasks.clone(),
        });

        tracing::info!(addr = listener.local_addr(), "listening for peers");
        let served = Arc::new(Served {
            me: identity,
            machine: machine.clone(),
            raft: raft.clone(),
            guard: vote_guard,
            directories: directories.clone(),
            links: inner.links.clone(),
            heard,
            lease: timing.lease,
            newest: config.newest,
            forwarded,
            complaints: serve::Complaints::default(),
            seats: Seats::default(),
            receiving: Receiving::new(machine.clone(), config.images),
            pins: pins.clone(),
            log: store.clone(),
        });
        tasks.spawn(
            "peer listener",
            serve::accept(listener, served, tasks.clone()),
        );
        if let Some(until) = vote_guard.until {
            let raft = raft.clone();
            tasks.spawn("vote guard", async move {
                E::sleep_until(until).await;
                raft.runtime_config().elect(true);
            });
        }
        let purger = Purger {
            raft,
            log: store,
            pins,
            machine,
            rules: config.images,
            cut,
            persisted: inner.persisted_upto.subscribe(),
        };
        tasks.spawn("log purge", purger.run());
        tasks.spawn("leadership", inner.clone().watch_leadership());
        tasks.spawn("membership", inner.clone().follow_membership());
        tasks.spawn("without leader", inner.clone().ask_without_leader());
        tasks.spawn("wal failure", inner.clone().watch_wal());
        if config.guards.hung_disk {
            tasks.spawn("disk", inner.clone().watch_disk());
        }
        tasks.spawn(
            "wiped",
            inner
                .clone()
                .watch_directory(directories, config.if_wiped.clone()),
        );
        if new && config.founds {
            inner.initialize(&config).await?;
        }
        Ok(inner)
    }

    /// The first membership of a static cluster. Every member would write the same entry at index 1; the one with the
    /// smallest id does it at once, and the others only if they hear nothing, so that they do not split the first vote.
    async fn initialize(self: &Arc<Self>, config: &Config) -> Result<(), StartError> {
        let members: BTreeMap<u64, Peer> = config
            .peers
            .iter()
            .map(|(id, peer)| (id.0, peer.clone()))
            .collect();
        let rank = members.keys().take_while(|id| **id != self.me.0).count();
        let raft = self.raft.clone();
        let initialize = async move {
            match raft.initialize(members).await {
                // A leader was faster: the entry is already here.
                Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
                Err(e) => Err(other(e)),
            }
        };
        if rank == 0 {
            return initialize.await;
        }
        let rank = u32::try_from(rank).unwrap_or(u32::MAX);
        let wait = self.timing.election + self.timing.lease * rank;
        self.tasks.spawn("initialize", async move {
            E::sleep(wait).await;
            if let Err(e) = initialize.await {
                tracing::error!("cannot initialize the cluster: {e}");
            }
        });
        Ok(())
    }
}
