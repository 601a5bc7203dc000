//! The order of a start: check the flags, lock the directory and clear it of leftovers, claim it, recover through consensus, then serve.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use barque_store_consensus::{self as consensus, Consensus};
use barque_store_env::{Env, Task};
use barque_store_state::*;

use crate::anew::{self, Found, Located, Opening};
use crate::flags::Named;
use crate::from_peers::FromPeers;
use crate::identity::{Claim, Owner, has_log};
use crate::machine::{Machine, Setting};
use crate::marks::Fenced;
use crate::persister::Persister;
use crate::queue::Queue;
use crate::space::{Gate, Keeper, check_disk, with_advice};
use crate::staging::Depot;
use crate::{
    Config, Shared, StartError, Store, auto_compaction, ids, integrity, join, leases, lock,
    membership, peers as addresses, progress, reads, refetch, sweep, versions, worker::Worker,
};

pub(crate) async fn start<E: Env>(
    config: Config,
    disk: E::Disk,
    net: E::Net,
) -> Result<Store<E>, StartError> {
    config.check_timing()?;
    let dir = config.data_dir.join("member");
    // Looked at before the directory is made: flags that are refused leave nothing behind.
    let owner = Claim::<E>::owner(&disk, &dir).await?;
    let named = Named::by(&config, owner)?;
    if config.force_new_cluster && owner.is_none() {
        config.check_force(&disk, &dir).await?;
    }
    // Name by name, each synced: a directory lost with the power would be a member that forgot its votes.
    barque_store_wal::create_dir(&disk, &dir)
        .await
        .map_err(|cause| StartError::DataDir {
            dir: dir.clone(),
            reason: with_advice(format!("cannot create it: {cause}")),
        })?;
    let dir_error = |reason: String| StartError::DataDir {
        dir: dir.clone(),
        reason: with_advice(reason),
    };
    let held = lock::lock(&disk, &dir).await.map_err(dir_error)?;
    let mut located = Located::find(&config, &disk, &dir).await?;
    let fresh = !has_log(&disk, &dir.join("wal"))
        .await
        .map_err(|cause| dir_error(format!("cannot look for the log: {cause}")))?;
    if let Err(why) = check_disk(&disk, &dir, fresh).await {
        match located.make_room().await.map_err(dir_error)? {
            true => check_disk(&disk, &dir, fresh).await.map_err(dir_error)?,
            false => return Err(dir_error(why)),
        }
    }

    let owner = match owner {
        // As etcd: what a directory says of itself counts, and the flags for a first start no longer do.
        Some(owner) => owner,
        None if config.joins => {
            let (known, member) = join::find::<E>(&config, &net).await?;
            tracing::info!(
                %member,
                cluster = format!("{:x}", known.cluster_id),
                "joining a cluster"
            );
            Owner {
                cluster_id: known.cluster_id,
                member,
            }
        }
        None => Owner {
            cluster_id: ids::cluster_id(named.founders.iter().map(|m| m.id)),
            member: named.own.expect("a new directory's flags name this member"),
        },
    };
    let Owner { cluster_id, member } = owner;
    tracing::info!(
        name = config.name,
        %member,
        cluster = format!("{cluster_id:x}"),
        data_dir = %config.data_dir.display(),
        version = env!("CARGO_PKG_VERSION"),
        "this member starts"
    );
    let opening = Opening::<E> {
        config: &config,
        owner,
        disk: &disk,
        net: &net,
        dir: &dir,
    };
    let Found {
        restored,
        depot,
        rows,
        renewed,
    } = opening.state(located).await?;
    let in_rows = |reason| StartError::DataDir {
        dir: rows.clone(),
        reason: with_advice(reason),
    };
    let mut state = restored.state;
    let in_dir = |reason: String| StartError::DataDir {
        dir: dir.clone(),
        reason,
    };
    named.fits(&config, owner, &state).map_err(in_dir)?;
    let claim = Claim::<E>::begin(owner, &disk, &dir).await?;
    let incarnation = claim.incarnation;
    let founds = !config.joins && !config.force_new_cluster && named.own == Some(member);
    let founders = if founds { named.founders } else { Vec::new() };
    let mut peers = peers(&state, &founders);
    if config.force_new_cluster {
        // Nobody else is spoken to but those that Raft names in the end.
        peers.retain(|id, _| *id == member);
    }
    // Only a member that has neither a state nor founded the cluster asks there: it may have been removed before it heard anything.
    let elsewhere = match peers.is_empty() && !config.force_new_cluster {
        true => addresses::known(&config, &disk, &dir).await?,
        false => BTreeSet::new(),
    };
    let no_members = state.cluster().wanted().is_empty();
    versions::check(&state).map_err(in_rows)?;
    state.set_cache_budget(config.value_cache_bytes);
    let persisted = state.applied();
    let gate = Arc::new(Gate::new(config.space.quota_bytes));
    let setting = Setting {
        member,
        founders: founders.clone(),
        gate: gate.clone(),
        rules: config.images,
        depot: depot.clone(),
        progress_interval: config.progress_interval,
    };
    let mark = restored.mark.clone();
    let machine = Arc::new(Machine::<E>::new(setting, state, mark, &restored.engine));
    let queue = Arc::new(Queue::new(gate));
    let started = Consensus::<E>::start(
        consensus::Config {
            member,
            cluster_id,
            incarnation,
            dir: dir.join("wal"),
            listen: config.listen_peer.clone(),
            peers,
            addresses: elsewhere,
            address_of: |urls| membership::peer(urls).map(|peer| peer.addr),
            if_wiped: config.if_wiped(member),
            alone: config.force_new_cluster.then(|| config.own_peer_urls()),
            // A state that knows its members has been founded.
            founds: founds && no_members,
            heartbeat: config.heartbeat,
            election: config.election,
            guards: config.guards,
            newest: config.program.newest,
            log: config.sizes.log,
            restored: restored.mark,
            installed: restored.installed,
            images: config.images,
        },
        disk.clone(),
        net,
        machine.clone(),
        Arc::new(FromPeers {
            queue: queue.clone(),
        }),
    )
    .await;
    let consensus = match started {
        Ok(consensus) => consensus,
        Err(error) => {
            let lost = match (machine.marks.fence_now(), error) {
                // Carrying out the rest of the log came upon it; nobody who would mark the directory runs yet.
                (Some(Fenced::Damaged(why)), _) => why,
                (_, consensus::StartError::Behind(why)) => why,
                (_, consensus::StartError::Listen { addr, cause }) => {
                    return Err(StartError::Listen { addr, cause });
                }
                (_, consensus::StartError::Log(reason)) => return Err(dir_error(reason)),
                (_, consensus::StartError::Alone(why)) => {
                    return Err(StartError::Config(format!("--force-new-cluster: {why}")));
                }
                (_, consensus::StartError::Other(reason)) => return Err(StartError::Other(reason)),
            };
            anew::give_up(&config, &disk, &dir, &rows, &lost).await?;
            return Err(in_rows(refetch::damage(&lost)));
        }
    };
    if let Err(e) = claim.finish().await {
        consensus.shutdown().await;
        return Err(e);
    }

    let shared = Arc::new(Shared {
        member,
        cluster_id,
        cluster_token: config.cluster_token.clone(),
        request_timeout: Duration::from_secs(5) + config.election * 2,
        machine: machine.clone(),
        queue: queue.clone(),
        readers: Arc::new(reads::Readers::default()),
        keep_alives: leases::KeepAlives::default(),
        consensus: consensus.clone(),
        program: config.program,
        renewed,
        tasks: parking_lot::Mutex::new(Vec::new()),
        persister: parking_lot::Mutex::new(None),
        held: parking_lot::Mutex::new(Some(held)),
    });
    // The worker is not aborted at a stop: it answers what is in flight and ends by itself once the queue is closed.
    E::spawn(
        "proposals",
        Worker {
            member,
            boot: E::random(),
            queue,
            machine: machine.clone(),
            consensus: consensus.clone(),
            strict_reconfig: config.strict_reconfig,
            election: config.election,
            guards: config.guards,
            program: config.program,
        }
        .run(),
    );
    let persister = Persister::new(
        restored.engine,
        machine.clone(),
        consensus.clone(),
        depot.clone(),
        persisted,
    );
    *shared.persister.lock() = Some(E::spawn("persister", persister.run()));
    let tasks = background(&shared, config, disk, dir, depot, founders, incarnation);
    *shared.tasks.lock() = tasks;
    Ok(Store { shared })
}

/// Everything that a member does by itself, beside its persister and whoever proposes.
fn background<E: Env>(
    shared: &Arc<Shared<E>>,
    config: Config,
    disk: E::Disk,
    dir: PathBuf,
    depot: Arc<Depot<E>>,
    founders: Vec<MemberInfo>,
    incarnation: u64,
) -> Vec<Task<()>> {
    let machine = shared.machine.clone();
    let (broken, unkept, uncleared) = (machine.clone(), machine.clone(), machine.clone());
    let left = depot.clone();
    let others = addresses::keep(shared.clone(), disk.clone(), dir.clone());
    let readers = shared.readers.clone().run(shared.consensus.clone());
    let mut tasks = vec![
        E::spawn("peers", async move { unkept.fail(&others.await) }),
        E::spawn("staging", async move { broken.fail(&depot.failed().await) }),
        E::spawn("left-rows", async move {
            let applied = || uncleared.state.read().applied();
            uncleared.fail(&left.clear_up(applied).await)
        }),
        E::spawn("read-index", readers),
        E::spawn("keep-alives", leases::coalesce(shared.clone())),
        E::spawn("lease-expiry", leases::expire(shared.clone())),
        E::spawn("sweep", sweep::sweep(shared.clone())),
        E::spawn("membership", membership::follow(shared.clone(), founders)),
        E::spawn("leader-changes", count_leaders(shared.clone())),
        E::spawn("integrity", integrity::compare_states(shared.clone())),
        E::spawn(
            "fence",
            integrity::end_fenced(shared.clone(), disk.clone(), dir.clone()),
        ),
        E::spawn("cluster-version", versions::raise(shared.clone())),
        E::spawn(
            "space",
            Keeper {
                shared: shared.clone(),
                rules: config.space,
                disk,
                dir,
            }
            .run(),
        ),
        E::spawn("watch-progress", progress::tell(machine)),
        E::spawn(
            "publish",
            publish(
                shared.clone(),
                config.name,
                config.advertise_client_urls,
                incarnation,
            ),
        ),
    ];
    tasks.extend(config.auto_compaction.map(|rule| {
        let follow = auto_compaction::follow(shared.clone(), rule);
        E::spawn("auto-compaction", follow)
    }));
    tasks
}

/// Where the others are, as far as this member knows.
fn peers(state: &State, founders: &[MemberInfo]) -> BTreeMap<MemberId, consensus::Peer> {
    let wanted = state.cluster().wanted();
    let at = |id: MemberId, urls| Some((id, membership::peer(urls)?));
    match wanted.is_empty() {
        true => founders
            .iter()
            .filter_map(|m| at(m.id, &m.peer_urls))
            .collect(),
        false => wanted
            .iter()
            .filter_map(|(id, m)| at(*id, &m.peer_urls))
            .collect(),
    }
}

/// Counts the leaders this member has seen. As in etcd, one that was lost and found again, or elected anew, is another one.
async fn count_leaders<E: Env>(shared: Arc<Shared<E>>) {
    let mut changes = shared.consensus.changes();
    let mut known = None;
    loop {
        let view = shared.consensus.view();
        let leader = view.leader.map(|leader| (leader, view.term));
        if leader.is_some() && leader != known {
            shared.machine.counters.leader_changed();
        }
        known = leader;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Tells the cluster this member's client URLs, until they stand in the replicated state (etcd's "publish").
/// Until its incarnation is among them, a wiped directory of this member is not recognised.
async fn publish<E: Env>(
    shared: Arc<Shared<E>>,
    name: String,
    client_urls: Vec<String>,
    incarnation: u64,
) {
    loop {
        let known = shared
            .machine
            .state
            .read()
            .published()
            .get(&shared.member)
            .cloned()
            .unwrap_or_default();
        if known.incarnation != 0 && known.incarnation != incarnation {
            // Publishing cannot help: the first one stands. The peers refuse this member and say so.
            tracing::error!("the cluster knows this member with another data directory");
            return;
        }
        let told = PublishedMember {
            name: name.clone(),
            client_urls: client_urls.clone(),
            incarnation,
        };
        if known == told {
            return;
        }
        // One that is to go, or that does not know yet that it was added, would be ignored.
        let wanted = shared.machine.members();
        let ignored = !wanted.is_empty() && wanted.iter().all(|m| m.id != shared.member);
        if !ignored {
            let command = Command::MemberPublish {
                member: shared.member,
                name: name.clone(),
                client_urls: client_urls.clone(),
                incarnation,
            };
            let deadline = E::now() + shared.request_timeout;
            // The next look tells what became of it.
            drop(shared.propose(command, deadline).await);
        }
        E::sleep(crate::limits::PUBLISH_PAUSE).await;
    }
}
