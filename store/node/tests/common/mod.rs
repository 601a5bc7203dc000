//! What the tests of whole members share: the flags of the members of a simulated cluster.

use std::time::Duration;

use barque_store_env::sim::NodeId;
use barque_store_node::Config;

const MS: Duration = Duration::from_millis(1);

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
