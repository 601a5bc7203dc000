//! The three members: starting and ending them, reaching them as a client does, and looking into them from outside.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use barque_store_env::sim::{self, NodeId, SimEnv};
use barque_store_env::{Env, Instant};
use barque_store_node::{Config, Status, Store};
use barque_tests_checkers::{Claim, check_claims};
use parking_lot::Mutex;

use crate::journal::Journal;
use crate::run::Options;

pub const MEMBERS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

/// How a member's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Killed,
    PowerLoss,
}

#[derive(Default)]
enum Life {
    #[default]
    Down,
    Starting,
    Up(Store<SimEnv>),
}

#[derive(Default)]
struct Seen {
    /// Who led each term.
    leaders: BTreeMap<u64, NodeId>,
    /// The state's hash at each applied index, and who had it first.
    hashes: BTreeMap<u64, (u64, NodeId)>,
}

pub struct Cluster {
    pub options: Options,
    pub journal: Arc<Journal>,
    pub heartbeat: Duration,
    pub election: Duration,
    lives: Mutex<BTreeMap<NodeId, Life>>,
    seen: Mutex<Seen>,
    /// No more faults.
    calm: Mutex<bool>,
}

/// A request that got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It reached nobody.
    NotSent,
    /// It may have been carried out.
    Unknown,
}

impl Cluster {
    pub fn new(options: Options, journal: Arc<Journal>) -> Self {
        // The pairs of flags the elections are tested at, the middle ones.
        let (heartbeat, election) = [(20, 200), (50, 500), (100, 1_000)][sim::below(3) as usize];
        Cluster {
            options,
            journal,
            heartbeat: Duration::from_millis(heartbeat),
            election: Duration::from_millis(election),
            lives: Mutex::new(MEMBERS.map(|node| (node, Life::Down)).into()),
            seen: Mutex::default(),
            calm: Mutex::new(false),
        }
    }

    /// How long a follower waits for a leader it has heard from.
    pub fn lease(&self) -> Duration {
        self.election / 2
    }

    pub fn calm_down(&self) {
        *self.calm.lock() = true;
    }
    pub fn is_calm(&self) -> bool {
        *self.calm.lock()
    }

    fn config(&self, node: NodeId) -> Config {
        let url = |n: NodeId| format!("http://{n}:2380");
        Config {
            name: node.to_string(),
            data_dir: "/var/lib/barque".into(),
            cluster_token: format!("sim-{}", self.options.seed),
            listen_peer: "0.0.0.0:2380".into(),
            advertise_client_urls: vec![format!("http://{node}:2379")],
            initial_cluster: MEMBERS.map(|n| (n.to_string(), vec![url(n)])).into(),
            heartbeat: self.heartbeat,
            election: self.election,
            progress_interval: Duration::from_secs(1),
            space: barque_store_node::SpaceRules::default(),
            guards: self.options.guards,
            engine: Default::default(),
            // Next to nothing: reads go to the engine.
            value_cache_bytes: 2 << 10,
            ..Default::default()
        }
    }

    /// Starts the member's process, if it does not run.
    pub fn start(self: &Arc<Self>, node: NodeId) {
        {
            let mut lives = self.lives.lock();
            match &lives[&node] {
                Life::Down => lives.insert(node, Life::Starting),
                Life::Starting | Life::Up(_) => return,
            };
        }
        if !sim::is_powered(node) {
            sim::power_on(node);
        }
        self.journal.event(node, "starts");
        let cluster = self.clone();
        sim::spawn_on(node, "member", async move {
            let config = cluster.config(node);
            let store = match Store::start(config, sim::disk(node), sim::net(node)).await {
                Ok(store) => store,
                Err(e) => {
                    return cluster
                        .journal
                        .violation(format!("{node} cannot start: {e}"));
                }
            };
            let revision = store.revision();
            cluster
                .journal
                .event(node, format!("up at revision {}", revision.0));
            cluster.lives.lock().insert(node, Life::Up(store.clone()));
            // No fault of a run is a reason to give up: disks stall but do not fail.
            let why = store.failed().await;
            cluster.journal.violation(format!("{node} stopped: {why}"));
        });
    }

    /// Ends the member's process, if it runs.
    pub fn end(&self, node: NodeId, how: End) {
        let life = self.lives.lock().insert(node, Life::Down);
        if matches!(life, Some(Life::Down)) {
            return;
        }
        match how {
            End::Killed => {
                self.journal.event(node, "✗ killed");
                sim::kill(node);
            }
            End::PowerLoss => {
                self.journal.event(node, "✗ power lost");
                sim::power_off(node);
            }
        }
        // What the harness still held of the process.
        sim::enter(node, || drop(life));
    }

    pub fn store(&self, node: NodeId) -> Option<Store<SimEnv>> {
        match &self.lives.lock()[&node] {
            Life::Up(store) => Some(store.clone()),
            Life::Down | Life::Starting => None,
        }
    }

    /// The member's status, by its own clock.
    pub fn status(&self, node: NodeId) -> Option<Status> {
        let store = self.store(node)?;
        Some(sim::enter(node, || store.status()))
    }

    /// Who says that it leads.
    pub fn leader(&self) -> Option<NodeId> {
        let leads = |node: &NodeId| self.status(*node).is_some_and(|s| s.leads_until.is_some());
        MEMBERS.into_iter().find(leads)
    }

    /// A client's request to a member: travels there, is carried out in the member's process, and its answer travels
    /// back; the client waits a little longer than the member does.
    pub async fn request<T, F>(
        &self,
        node: NodeId,
        timeout: Duration,
        work: impl FnOnce(Store<SimEnv>, Instant) -> F + Send + 'static,
    ) -> Result<T, Lost>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        sim::sleep(travel()).await;
        let store = self.store(node).ok_or(Lost::NotSent)?;
        let task = sim::spawn_on(node, "request", async move {
            work(store, SimEnv::now() + timeout).await
        });
        let answer = SimEnv::timeout(timeout + Duration::from_millis(50), task).await;
        let answer = answer
            .map_err(|_| Lost::Unknown)?
            .map_err(|_| Lost::Unknown)?;
        sim::sleep(travel()).await;
        Ok(answer)
    }

    /// Looks at all members at this instant: at most one holds the lease, a term has one leader, and equal logs gave
    /// equal states.
    pub fn inspect(&self) {
        let now = sim::elapsed();
        let mut claims = Vec::new();
        for node in MEMBERS {
            let Some(store) = self.store(node) else {
                continue;
            };
            let status = sim::enter(node, || store.status());
            if let Some(until) = status.leads_until {
                let claim = Claim {
                    member: u64::from(node.0),
                    term: status.term,
                    until: sim::virtual_time(node, until).as_nanos() as u64,
                };
                claims.push(claim);
                self.led(node, status.term);
            }
            let (applied, hash) = store.whole_hash();
            let mut seen = self.seen.lock();
            let (first, by) = *seen.hashes.entry(applied.0).or_insert((hash, node));
            if first != hash {
                drop(seen);
                self.journal.violation(format!(
                    "states differ at index {}: {by} had {first:016x}, {node} has {hash:016x}",
                    applied.0
                ));
            }
        }
        if let Err(two) = check_claims(now.as_nanos() as u64, &claims) {
            self.journal.violation(format!("two lease holders: {two}"));
        }
    }

    fn led(&self, node: NodeId, term: u64) {
        let mut seen = self.seen.lock();
        match seen.leaders.get(&term) {
            None => {
                seen.leaders.insert(term, node);
                self.journal.count(|c| c.leaders += 1);
                self.journal.event(node, format!("▲ leads term {term}"));
            }
            Some(other) if *other != node => {
                let other = *other;
                drop(seen);
                self.journal
                    .violation(format!("{other} and {node} both led term {term}"));
            }
            Some(_) => {}
        }
    }
}

/// The way between a client and a member.
pub fn travel() -> Duration {
    sim::between(Duration::from_micros(50), Duration::from_millis(1))
}

pub fn any_member() -> NodeId {
    MEMBERS[sim::below(MEMBERS.len() as u64) as usize]
}
