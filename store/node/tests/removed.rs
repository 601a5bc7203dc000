//! Members that are removed while nobody can reach them.

mod common;

use barque_store_env::Env;
use barque_store_env::sim::{self, NodeId, SimEnv};
use barque_store_node::Config;
use barque_store_state::MemberChange;
use common::{MS, S, on, simulated, start, until};

const FOUNDER: NodeId = NodeId(1);
const LEARNER: NodeId = NodeId(2);

/// Voters hear it when they campaign. A learner never campaigns, and the leader has forgotten it. (The simulator's seed 31
/// found one that stayed for ever: its last connection had ended before, and it had nothing to ask anybody.)
#[test]
fn a_learner_that_was_removed_while_it_was_cut_off_hears_of_it() {
    sim::run(1, async {
        let nodes = [FOUNDER, LEARNER];
        let founder = start(FOUNDER, simulated(FOUNDER, &nodes[..1], "removed")).await;
        let soon = || SimEnv::now() + 10 * S;
        let store = founder.clone();
        let id = on(FOUNDER, async move {
            let urls = vec![format!("http://{LEARNER}:2380")];
            // Refused as unhealthy until the founder has written itself down.
            loop {
                let added = store.member_add(urls.clone(), true, soon()).await;
                match added.expect("there is a leader") {
                    Ok((id, _)) => return id,
                    Err(_) => SimEnv::sleep(MS * 10).await,
                }
            }
        })
        .await;
        let joining = Config {
            joins: true,
            ..simulated(LEARNER, &nodes, "removed")
        };
        let learner = start(LEARNER, joining).await;
        // It has told the cluster of itself, and has nothing to ask anybody any more.
        let published = until(20 * S, || {
            let members = learner.members();
            learner.is_learner() && members.iter().all(|m| !m.client_urls.is_empty())
        });
        assert!(published.await, "the learner is in");
        sim::sleep(2 * S).await;
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
            let told = SimEnv::timeout(10 * S, learner.removed());
            told.await.expect("it is told that it was removed");
        })
        .await;
    });
}
