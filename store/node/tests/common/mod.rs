//! What the tests of whole members on simulated machines share: their flags, starting them, working on their machines.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use barque_store_env::Env;
use barque_store_env::sim::{self, NodeId, SimEnv};
use barque_store_node::{Config, StartError, Store};
use barque_store_state::{Command, Put};

pub mod cluster;

pub const MS: Duration = Duration::from_millis(1);
pub const S: Duration = Duration::from_secs(1);

/// Where a simulated member keeps its data.
pub const DATA: &str = "/var/lib/barque";

/// How `node` is started as one of the founders `nodes`, at the timing these tests are written for.
pub fn simulated(node: NodeId, nodes: &[NodeId], token: &str) -> Config {
    let named = |n: &NodeId| (n.to_string(), vec![format!("http://{n}:2380")]);
    Config {
        name: node.to_string(),
        data_dir: DATA.into(),
        cluster_token: token.to_owned(),
        listen_peer: "0.0.0.0:2380".into(),
        advertise_client_urls: vec![format!("http://{node}:2379")],
        initial_cluster: nodes.iter().map(named).collect(),
        heartbeat: MS * 50,
        election: MS * 500,
        progress_interval: Duration::from_secs(1),
        value_cache_bytes: 1 << 20,
        ..Config::default()
    }
}

pub fn in_member(name: &str) -> PathBuf {
    Path::new(DATA).join("member").join(name)
}

/// What comes of the task, on this machine; `None`: the machine's processes were killed.
pub async fn try_on<T: Send + 'static>(
    node: NodeId,
    task: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    sim::spawn_on(node, "test", task).await.ok()
}
pub async fn on<T: Send + 'static>(
    node: NodeId,
    task: impl Future<Output = T> + Send + 'static,
) -> T {
    try_on(node, task).await.expect("nobody kills it")
}

/// A start of the member, which is killed or loses its power if `None` comes out.
pub async fn try_start(node: NodeId, config: Config) -> Option<Result<Store<SimEnv>, StartError>> {
    let start = Store::start(config, sim::disk(node), sim::net(node));
    try_on(node, start).await
}
pub async fn start(node: NodeId, config: Config) -> Store<SimEnv> {
    let started = try_start(node, config).await;
    let started = started.expect("nobody kills it while it starts");
    started.unwrap_or_else(|e| panic!("{node} starts: {e}"))
}

pub fn leads(node: NodeId, store: &Store<SimEnv>) -> bool {
    sim::enter(node, || store.status().leads_until.is_some())
}

/// Looks every few milliseconds, for `at_most`.
pub async fn until(at_most: Duration, mut look: impl FnMut() -> bool) -> bool {
    let end = sim::elapsed() + at_most;
    while sim::elapsed() < end {
        if look() {
            return true;
        }
        sim::sleep(MS * 5).await;
    }
    look()
}

/// An acknowledged put of the key.
pub async fn write(node: NodeId, store: &Store<SimEnv>, key: &str) {
    let put = Command::Put(Put {
        key: key.to_owned().into(),
        ..Put::default()
    });
    let store = store.clone();
    on(node, async move {
        let deadline = SimEnv::now() + 10 * S;
        store.propose(put, deadline).await.expect("acknowledged");
    })
    .await;
}
