//! A cluster whose members are killed, lose their power and start again, under writes that the log soon gives up.

use std::time::Duration;

use barque_store_env::Env;
use barque_store_env::sim::{self, NodeId, SimEnv};
use barque_store_node::{Config, Store};
use barque_store_state::*;

use crate::common::{MS, S, leads, start};

pub type Member = Option<Store<SimEnv>>;

/// `members`: `None`, where the process does not run.
pub struct Cluster {
    pub config: Box<dyn Fn(NodeId) -> Config + Send + Sync>,
    pub nodes: Vec<NodeId>,
    pub members: Vec<Member>,
    /// How long there may be no leader.
    pub patience: Duration,
    written: u64,
}

impl Cluster {
    /// With every member up.
    pub async fn new(
        nodes: &[NodeId],
        patience: Duration,
        config: impl Fn(NodeId) -> Config + Send + Sync + 'static,
    ) -> Self {
        let mut cluster = Cluster {
            config: Box::new(config),
            nodes: nodes.to_vec(),
            members: vec![None; nodes.len()],
            patience,
            written: 0,
        };
        for at in 0..nodes.len() {
            cluster.boot(at).await;
        }
        cluster
    }

    pub async fn boot(&mut self, at: usize) {
        let node = self.nodes[at];
        self.members[at] = Some(start(node, (self.config)(node)).await);
    }

    fn drop_store(&mut self, at: usize) {
        let store = self.members[at].take();
        sim::enter(self.nodes[at], || drop(store));
    }
    pub fn kill(&mut self, at: usize) {
        sim::kill(self.nodes[at]);
        self.drop_store(at);
    }
    pub fn cut_power(&mut self, at: usize) {
        sim::power_off(self.nodes[at]);
        self.drop_store(at);
        sim::power_on(self.nodes[at]);
    }

    pub async fn leader(&self) -> usize {
        let end = sim::elapsed() + self.patience;
        while sim::elapsed() < end {
            let mut members = self.nodes.iter().zip(&self.members);
            let leading = |(node, store): (&NodeId, &Member)| {
                store.as_ref().is_some_and(|store| leads(*node, store))
            };
            if let Some(at) = members.position(leading) {
                return at;
            }
            sim::sleep(MS).await;
        }
        panic!("no leader in {:?}", self.patience);
    }

    /// Writes so many rows of 200 bytes over a hundred keys, wherever the leader is; compacts now and then.
    pub async fn write(&mut self, rows: u64) {
        for _ in 0..rows {
            let at = self.leader().await;
            self.written += 1;
            let n = self.written;
            let store = self.members[at].clone().expect("it leads");
            let put = Command::Put(Put {
                key: format!("key-{}", n % 100).into(),
                value: vec![n as u8; 200].into(),
                ..Put::default()
            });
            let write = async move {
                let deadline = SimEnv::now() + 2 * S;
                let written = store.propose(put, deadline).await;
                if n.is_multiple_of(50) && n > 300 {
                    let revision = Revision(store.revision().0 - 250);
                    let compact = Command::Compact { revision };
                    drop(store.propose(compact, deadline).await);
                }
                written.is_ok()
            };
            // A write may fail: the leader may just have gone.
            let _ = sim::spawn_on(self.nodes[at], "write", write).await;
        }
    }
}
