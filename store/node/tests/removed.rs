//! Members that are removed while nobody can reach them.

mod common;

use std::time::Duration;

use barque_store_env::Env;
use barque_store_env::sim::{self, NodeId, SimEnv};
use barque_store_node::{Config, Store};
use barque_store_state::MemberChange;
use common::simulated;

const FOUNDER: NodeId = NodeId(1);
const LEARNER: NodeId = NodeId(2);

async fn on<T: Send + 'static>(node: NodeId, task: impl Future<Output = T> + Send + 'static) -> T {
    sim::spawn_on(node, "test", task)
        .await
        .expect("nobody kills it")
}

async fn boot(config: Config, node: NodeId) -> Store<SimEnv> {
    let start = Store::start(config, sim::disk(node), sim::net(node));
    on(node, start).await.expect("it starts")
}

/// Voters hear it when they campaign. A learner never campaigns, and the leader has forgotten it. (The simulator's seed 31
/// found one that stayed for ever: its last connection had ended before, and it had nothing to ask anybody.)
#[test]
fn a_learner_that_was_removed_while_it_was_cut_off_hears_of_it() {
    sim::run(1, async {
        let nodes = [FOUNDER, LEARNER];
        let founder = boot(simulated(FOUNDER, &nodes[..1], "removed"), FOUNDER).await;
        let soon = || SimEnv::now() + Duration::from_secs(10);
        let store = founder.clone();
        let id = on(FOUNDER, async move {
            let urls = vec![format!("http://{LEARNER}:2380")];
            // Refused as unhealthy until the founder has written itself down.
            loop {
                let added = store.member_add(urls.clone(), true, soon()).await;
                match added.expect("there is a leader") {
                    Ok((id, _)) => return id,
                    Err(_) => SimEnv::sleep(Duration::from_millis(10)).await,
                }
            }
        })
        .await;
        let joining = Config {
            joins: true,
            ..simulated(LEARNER, &nodes, "removed")
        };
        let learner = boot(joining, LEARNER).await;
        while !learner.is_learner() {
            sim::sleep(Duration::from_millis(10)).await;
        }
        sim::partition(FOUNDER, LEARNER);
        let removed = on(FOUNDER, async move {
            let change = MemberChange::Remove { id };
            founder.member_change(change, soon()).await
        });
        removed
            .await
            .expect("there is a leader")
            .expect("it may go");
        // What was on its way, the removal with it, does not come through now, and the learner believes in its connections.
        sim::forget_connections(FOUNDER, LEARNER);
        sim::heal(FOUNDER, LEARNER);
        on(LEARNER, async move {
            let told = SimEnv::timeout(Duration::from_secs(10), learner.removed());
            told.await.expect("it is told that it was removed");
        })
        .await;
    });
}
