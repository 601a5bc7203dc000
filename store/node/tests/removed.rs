//! Members that are removed while nobody can reach them.

mod common;

use barque_store_env::Env;
use barque_store_env::sim::{self, NodeId, SimEnv};
use barque_store_node::{Config, Store};
use barque_store_state::{MemberChange, MemberId};
use common::{MS, S, on, simulated, start, until};

const FOUNDER: NodeId = NodeId(1);
const LEARNER: NodeId = NodeId(2);

async fn founder() -> Store<SimEnv> {
    start(FOUNDER, simulated(FOUNDER, &[FOUNDER], "removed")).await
}

fn joining() -> Config {
    Config {
        joins: true,
        ..simulated(LEARNER, &[FOUNDER, LEARNER], "removed")
    }
}

/// Adds the learner, which does not run yet.
async fn add(founder: &Store<SimEnv>) -> MemberId {
    let store = founder.clone();
    on(FOUNDER, async move {
        let urls = vec![format!("http://{LEARNER}:2380")];
        // Refused as unhealthy until the founder has written itself down.
        loop {
            let soon = SimEnv::now() + 10 * S;
            let added = store.member_add(urls.clone(), true, soon).await;
            match added.expect("there is a leader") {
                Ok((id, _)) => return id,
                Err(_) => SimEnv::sleep(MS * 10).await,
            }
        }
    })
    .await
}

async fn remove(founder: &Store<SimEnv>, id: MemberId) {
    let store = founder.clone();
    let removed = on(FOUNDER, async move {
        let change = MemberChange::Remove { id };
        store.member_change(change, SimEnv::now() + 10 * S).await
    });
    removed
        .await
        .expect("there is a leader")
        .expect("it may go");
}

async fn hears_of_it(learner: Store<SimEnv>) {
    on(LEARNER, async move {
        let told = SimEnv::timeout(10 * S, learner.removed());
        told.await.expect("it is told that it was removed");
    })
    .await;
}

/// Voters hear it when they campaign. A learner never campaigns, and the leader has forgotten it. (The simulator's seed 31
/// found one that stayed for ever: its last connection had ended before, and it had nothing to ask anybody.)
#[test]
fn a_learner_that_was_removed_while_it_was_cut_off_hears_of_it() {
    sim::run(1, async {
        let founder = founder().await;
        let id = add(&founder).await;
        let learner = start(LEARNER, joining()).await;
        // It has told the cluster of itself, and has nothing to ask anybody any more.
        let published = until(20 * S, || {
            let members = learner.members();
            learner.is_learner() && members.iter().all(|m| !m.client_urls.is_empty())
        });
        assert!(published.await, "the learner is in");
        sim::sleep(2 * S).await;
        sim::partition(FOUNDER, LEARNER);
        remove(&founder, id).await;
        // What was on its way, the removal with it, does not come through now, and the learner believes in its connections.
        sim::forget_connections(FOUNDER, LEARNER);
        sim::heal(FOUNDER, LEARNER);
        hears_of_it(learner).await;
    });
}

/// It had neither a state nor a membership, and so nobody whom it could ask: it ran for ever.
#[test]
fn a_learner_that_was_removed_before_it_heard_anything_hears_of_it() {
    for restarted in [false, true] {
        sim::run(1, async move {
            let founder = founder().await;
            let id = add(&founder).await;
            // The leader does not find it there.
            let apart = Config {
                listen_peer: "0.0.0.0:2381".into(),
                ..joining()
            };
            let learner = start(LEARNER, apart).await;
            let learner = match restarted {
                false => {
                    remove(&founder, id).await;
                    learner
                }
                true => {
                    sim::kill(LEARNER);
                    sim::enter(LEARNER, || drop(learner));
                    remove(&founder, id).await;
                    start(LEARNER, joining()).await
                }
            };
            hears_of_it(learner).await;
        });
    }
}
