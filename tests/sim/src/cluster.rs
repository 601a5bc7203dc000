//! The members: starting and ending them, reaching them as a client does, and which end of a member is nobody's fault but
//! the fault's.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use barque_store_consensus::limits::DISK_HANG_ELECTIONS;
use barque_store_env::sim::{self, NodeId, SimEnv};
use barque_store_env::{Env, Instant};
use barque_store_node::{Config, Sizes, SpaceRules, StartError, Status, Store, ids};
use barque_store_state::{MemberId, MemberInfo};
use futures::future::Either;
use parking_lot::Mutex;

use crate::journal::Journal;
use crate::look::Seen;
use crate::plan::Plan;
use crate::run::Options;
use crate::truth::Truth;

/// Machines that a run may use: those of the first cluster, and others that could join it later. Each has a name, a data
/// directory and addresses from the start ([`Cluster::peer_url`]).
pub const MACHINES: u32 = 7;

/// Why a removed member's process ends.
const REMOVED: &str = "it was removed from the cluster";
/// How a start is refused whose flags name other members than the cluster has by now, as etcd's is.
const NAMES_OTHERS: &str = "cannot start: --initial-cluster-state existing: cannot join";
/// How a start is refused on a disk that is full.
const NO_ROOM: &str = "has too little room";
/// How a leader ends whose disk hangs.
const DISK_HANGS: &str = "the disk hangs: a write to the log has taken over";
/// Between two hangs so close to each other the disk gets nothing done.
const HANGS_APART: Duration = Duration::from_millis(250);
/// After so long whoever looks after a member starts it again.
const RESTARTED_AFTER: Duration = Duration::from_secs(1);

/// How a member's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Killed,
    PowerLoss,
}

/// What was done to a member's machine that may rightly end it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// So many faults are planted in its disk: it fails operations.
    pub failing_disk: u32,
    /// Bits of its log or identity were flipped: it may refuse to start or stop, and must not come back for good.
    pub flipped: bool,
    /// Bits of its persisted state were flipped: it may stop and refuse to start, must take the state anew, and return.
    pub rotten: bool,
    /// Its disk was emptied: it must be refused.
    pub wiped: bool,
    /// Its disk is full: it may stop, and may be refused until there is room.
    pub full: bool,
}

impl Condition {
    fn excuses(self) -> bool {
        self != Condition::default()
    }
    /// A row that nobody has read since may be damaged.
    pub fn may_be_unreadable(self) -> bool {
        self.flipped || self.rotten
    }
    /// No repair brings this one back.
    fn lasting(self) -> bool {
        self.flipped || self.wiped
    }
}

#[derive(Default)]
enum Life {
    #[default]
    Down,
    Starting,
    Up(Store<SimEnv>),
}

#[derive(Default)]
struct Machine {
    life: Life,
    /// Its disk was full when its process began: there may be room again when that is told.
    began_full: bool,
    /// Counts starts, so that the end of an older process is not taken for the present one's.
    starts: u64,
    condition: Condition,
    /// It ended for a lasting reason and stays away.
    ruined: bool,
    /// How many times its process has ended by itself.
    ends: u64,
    /// It was taken for a member that was to join; perhaps it did.
    used: bool,
    /// Its member id, and whom its flags name, if it joined later.
    joined: Option<(MemberId, Vec<NodeId>)>,
    /// It was removed from the cluster.
    left: bool,
    /// The start before which its rows rotted last: a later one that took its state anew has sound rows.
    rotted_before: u64,
    /// Since when its log has been hanging without a break, and until when: faults that overlap make one long one.
    hangs: Option<(Duration, Duration)>,
}

pub struct Cluster {
    pub options: Options,
    pub plan: Plan,
    pub journal: Arc<Journal>,
    pub truth: Arc<Truth>,
    pub seen: Mutex<Seen>,
    /// In the order they joined; the first cluster's to begin with.
    members: Mutex<Vec<NodeId>>,
    machines: Mutex<BTreeMap<NodeId, Machine>>,
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
    pub fn new(options: Options, plan: Plan, journal: Arc<Journal>) -> Self {
        let founders = plan.nodes();
        let machine = |n| {
            let used = founders.contains(&NodeId(n));
            let machine = Machine {
                used,
                ..Machine::default()
            };
            (NodeId(n), machine)
        };
        let machines = (1..=MACHINES).map(machine);
        Cluster {
            options,
            truth: Arc::new(Truth::new(journal.clone())),
            members: Mutex::new(founders.clone()),
            plan,
            journal,
            seen: Mutex::default(),
            machines: Mutex::new(machines.collect()),
            calm: Mutex::new(false),
        }
    }

    pub fn calm_down(&self) {
        *self.calm.lock() = true;
    }
    pub fn is_calm(&self) -> bool {
        *self.calm.lock()
    }

    /// All members, whatever became of them.
    pub fn members(&self) -> Vec<NodeId> {
        self.members.lock().clone()
    }
    /// Those that are not lost for good, and cannot become so by what was done to them.
    pub fn sound(&self) -> Vec<NodeId> {
        let machines = self.machines.lock();
        let members = self.members();
        let sound = |node: &NodeId| !machines[node].ruined && !machines[node].condition.lasting();
        members.into_iter().filter(sound).collect()
    }
    pub fn any_member(&self) -> NodeId {
        let members = self.members.lock();
        members[sim::below(members.len() as u64) as usize]
    }
    /// The other members, in a random order.
    pub fn others(&self, node: NodeId) -> Vec<NodeId> {
        let mut others: Vec<NodeId> = self.members();
        others.retain(|other| *other != node);
        for i in (1..others.len()).rev() {
            others.swap(i, sim::below(i as u64 + 1) as usize);
        }
        others
    }

    /// A machine that nothing was ever done with; it is taken.
    pub fn unused(&self) -> Option<NodeId> {
        let members = self.members();
        let mut machines = self.machines.lock();
        let free =
            |(node, machine): &(&NodeId, &mut Machine)| !machine.used && !members.contains(node);
        let (node, machine) = machines.iter_mut().find(free)?;
        machine.used = true;
        Some(*node)
    }
    /// It was certainly not added.
    pub fn give_back(&self, node: NodeId) {
        self.machine(node, |machine| machine.used = false);
    }
    /// The machine is the member with this id from now on; `all` were told when it was added.
    pub fn joins(&self, node: NodeId, id: MemberId, all: &[MemberInfo]) {
        let named = Self::named(all);
        self.machine(node, |machine| machine.joined = Some((id, named)));
        self.members.lock().push(node);
    }
    /// The machines of these members.
    fn named(all: &[MemberInfo]) -> Vec<NodeId> {
        let named = |n: &NodeId| {
            all.iter()
                .any(|m| m.peer_urls.contains(&Self::peer_url(*n)))
        };
        (1..=MACHINES).map(NodeId).filter(named).collect()
    }
    /// Whether the members have changed while it was on its way; then its flags name those of now. Who that is, the leader is
    /// asked, or who runs; where nobody does, it may be.
    fn is_told_anew(&self, node: NodeId) -> bool {
        let asked = self.leader().into_iter().chain(self.members());
        let Some(store) = asked.into_iter().find_map(|n| self.store(n)) else {
            return true;
        };
        let named = Self::named(&store.members());
        // It was removed meanwhile, or whoever was asked is behind.
        if !named.contains(&node) {
            return true;
        }
        let mut changed = false;
        self.machine(node, |machine| {
            if let Some((_, before)) = &mut machine.joined
                && *before != named
            {
                *before = named;
                changed = true;
            }
        });
        changed
    }
    /// It is no member any more, and its process ends by itself.
    pub fn leaves(&self, node: NodeId) {
        self.machine(node, |machine| machine.left = true);
        self.members.lock().retain(|member| *member != node);
    }
    pub fn id(&self, node: NodeId) -> Option<MemberId> {
        match &self.machines.lock()[&node].joined {
            Some((id, _)) => Some(*id),
            None => {
                let token = format!("sim-{}", self.options.seed);
                Some(ids::member_id(&[Self::peer_url(node)], &token))
            }
        }
    }
    fn machine(&self, node: NodeId, change: impl FnOnce(&mut Machine)) {
        change(self.machines.lock().get_mut(&node).expect("a machine"));
    }

    pub fn peer_url(node: NodeId) -> String {
        format!("http://{node}:2380")
    }

    pub fn config(&self, node: NodeId) -> Config {
        let joined = self.machines.lock()[&node].joined.clone();
        let joins = joined.is_some();
        let named = joined.map_or_else(|| self.plan.nodes(), |(_, named)| named);
        Config {
            joins,
            name: node.to_string(),
            data_dir: "/var/lib/barque".into(),
            cluster_token: format!("sim-{}", self.options.seed),
            listen_peer: "0.0.0.0:2380".into(),
            advertise_client_urls: vec![format!("http://{node}:2379")],
            initial_cluster: named
                .into_iter()
                .map(|n| (n.to_string(), vec![Self::peer_url(n)]))
                .collect(),
            heartbeat: self.plan.heartbeat,
            election: self.plan.election,
            progress_interval: Duration::from_secs(1),
            space: SpaceRules::default(),
            guards: self.options.guards,
            engine: self.plan.engine,
            value_cache_bytes: self.plan.value_cache_bytes,
            sizes: Sizes {
                log: self.plan.log,
                engine: self.plan.engine_sizes,
            },
            images: self.plan.images,
            ..Config::default()
        }
    }

    /// Starts the member's process, if it does not run and is not lost for good.
    pub fn start(self: &Arc<Self>, node: NodeId) {
        let number = {
            let mut machines = self.machines.lock();
            let machine = machines.get_mut(&node).expect("one of the machines");
            if !matches!(machine.life, Life::Down) || machine.ruined || machine.left {
                return;
            }
            machine.life = Life::Starting;
            machine.starts += 1;
            machine.began_full = machine.condition.full;
            machine.starts
        };
        if !sim::is_powered(node) {
            sim::power_on(node);
        }
        self.journal.event(node, "starts");
        let cluster = self.clone();
        sim::spawn_on(node, "member", async move {
            let config = cluster.config(node);
            let why = match Store::start(config, sim::disk(node), sim::net(node)).await {
                // One that takes its state anew hears it before it runs.
                Err(StartError::Removed(_)) => REMOVED.to_owned(),
                Err(e) => format!("cannot start: {e}"),
                Ok(store) => {
                    let revision = store.revision().0;
                    let up = format!("up at revision {revision}");
                    cluster.journal.event(node, up);
                    if store.is_renewed() {
                        cluster.journal.event(node, "took its state anew");
                        cluster.journal.count(|c| c.renewed += 1);
                    }
                    cluster.came_up(node, number, &store);
                    let (failed, removed) = (pin!(store.failed()), pin!(store.removed()));
                    match futures::future::select(failed, removed).await {
                        Either::Left((why, _)) => why,
                        Either::Right(_) => {
                            store.shutdown().await;
                            REMOVED.to_owned()
                        }
                    }
                }
            };
            // A process cannot clear away what is left of itself.
            sim::spawn_on(sim::HARNESS, "undertaker", async move {
                cluster.ended(node, number, &why);
                // What it says is to be done.
                let again = [NAMES_OTHERS, DISK_HANGS];
                let again = again.iter().any(|text| why.starts_with(text));
                if cluster.condition(node).rotten || again {
                    sim::sleep(RESTARTED_AFTER).await;
                    if sim::is_powered(node) {
                        cluster.start(node);
                    }
                }
            });
        });
    }

    fn came_up(self: &Arc<Self>, node: NodeId, number: u64, store: &Store<SimEnv>) {
        let mut machines = self.machines.lock();
        let machine = machines.get_mut(&node).expect("one of the machines");
        assert_eq!(machine.starts, number, "two processes of one member");
        machine.life = Life::Up(store.clone());
        if store.is_renewed() && machine.rotted_before <= number {
            machine.condition.rotten = false;
        }
        drop(machines);
        self.truth.tap(node, store);
    }

    /// The member's process has ended by itself. That is right only after some faults.
    fn ended(&self, node: NodeId, number: u64, why: &str) {
        let (condition, starting, began_full) = {
            let mut machines = self.machines.lock();
            let machine = machines.get_mut(&node).expect("one of the machines");
            if machine.starts != number || matches!(machine.life, Life::Down) {
                return;
            }
            machine.ends += 1;
            let starting = matches!(machine.life, Life::Starting);
            (machine.condition, starting, machine.began_full)
        };
        if why == REMOVED {
            self.journal.event(node, "✗ ends: it was removed");
            self.end(node, End::Killed);
            return self.leaves(node);
        }
        if why.starts_with(NAMES_OTHERS) && self.is_told_anew(node) {
            self.journal
                .event(node, "✗ ends: its flags name other members");
            return self.end(node, End::Killed);
        }
        let hung = why.starts_with(DISK_HANGS) && self.disk_hung(node);
        let no_room = starting && began_full && why.contains(NO_ROOM);
        if !condition.excuses() && !hung && !no_room {
            return self.journal.violation(format!("{node} stopped: {why}"));
        }
        self.journal.event(node, format!("✗ ends: {why}"));
        self.journal.count(|c| c.ended += 1);
        self.end(node, End::Killed);
        // What a start refuses is refused for good; what a running member meets, the next start decides on.
        if condition.wiped || (condition.lasting() && starting) {
            self.ruin(node);
        }
    }

    fn ruin(&self, node: NodeId) {
        let mut machines = self.machines.lock();
        let machine = machines.get_mut(&node).expect("one of the machines");
        machine.ruined = true;
        drop(machines);
        self.journal.event(node, "is lost for good");
    }

    /// Ends the member's process, if it runs.
    pub fn end(&self, node: NodeId, how: End) {
        let life = {
            let mut machines = self.machines.lock();
            let machine = machines.get_mut(&node).expect("one of the machines");
            std::mem::take(&mut machine.life)
        };
        if matches!(life, Life::Down) {
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

    pub fn condition(&self, node: NodeId) -> Condition {
        self.machines.lock()[&node].condition
    }
    pub fn set_condition(&self, node: NodeId, change: impl FnOnce(&mut Condition)) {
        let mut machines = self.machines.lock();
        change(&mut machines.get_mut(&node).expect("a machine").condition);
    }
    /// What has the member's log hangs from now on for so long.
    pub fn disk_hangs(&self, node: NodeId, length: Duration) {
        let (now, until) = (sim::elapsed(), sim::elapsed() + length);
        self.machine(node, |machine| {
            machine.hangs = Some(match machine.hangs {
                Some((since, last)) if now <= last + HANGS_APART => (since, until.max(last)),
                _ => (now, until),
            });
        });
    }
    /// Whether it hung without a break long enough for a leader to end.
    fn disk_hung(&self, node: NodeId) -> bool {
        let hangs = self.machines.lock()[&node].hangs;
        // Its clock may be fast.
        let limit = self.plan.election * DISK_HANG_ELECTIONS * 19 / 20;
        hangs.is_some_and(|(since, until)| {
            let end = sim::elapsed().min(until + HANGS_APART);
            end.saturating_sub(since) >= limit
        })
    }
    /// Bits of the member's persisted state were flipped; `renewed`: nothing of them is left once it took its state anew.
    pub fn rows_rot(&self, node: NodeId, renewed: bool) {
        let mut machines = self.machines.lock();
        let machine = machines.get_mut(&node).expect("one of the machines");
        machine.condition.rotten = true;
        let before = if renewed {
            machine.starts + 1
        } else {
            u64::MAX
        };
        machine.rotted_before = machine.rotted_before.max(before);
    }
    pub fn is_ruined(&self, node: NodeId) -> bool {
        self.machines.lock()[&node].ruined
    }
    pub fn ends(&self, node: NodeId) -> u64 {
        self.machines.lock()[&node].ends
    }
    pub fn starts(&self, node: NodeId) -> u64 {
        self.machines.lock()[&node].starts
    }
    pub fn is_down(&self, node: NodeId) -> bool {
        matches!(self.machines.lock()[&node].life, Life::Down)
    }
    /// Members that are lost, or may be, for good or for a while.
    pub fn doomed(&self) -> usize {
        let machines = self.machines.lock();
        // One that must take its state anew needs the others for it.
        let doomed = |m: &&Machine| m.ruined || m.condition.lasting() || m.condition.rotten;
        machines.values().filter(doomed).count()
    }

    pub fn store(&self, node: NodeId) -> Option<Store<SimEnv>> {
        match &self.machines.lock()[&node].life {
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
        self.members().into_iter().find(leads)
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
}

/// The way between a client and a member.
pub fn travel() -> Duration {
    sim::between(Duration::from_micros(50), Duration::from_millis(1))
}
