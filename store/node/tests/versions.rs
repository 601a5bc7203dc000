//! Members of two versions, one after the other upgraded. Both are this program: what sets them apart is what they say they can
//! work in, and that the newer one takes adding a member for something that only its own version reads.

mod common;

use barque_store_env::Env;
use barque_store_env::sim::{self, NodeId, SimEnv};
use barque_store_node::{Config, Program, Store};
use barque_store_state::*;
use common::cluster::Cluster;
use common::{S, leads, on, simulated, until, write};

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
const OLD: ClusterVersion = ClusterVersion { major: 3, minor: 6 };
const NEW: ClusterVersion = ClusterVersion::NEWEST;

fn older(node: NodeId) -> Config {
    let program = Program {
        newest: OLD,
        ..Program::default()
    };
    Config {
        program,
        ..simulated(node, &NODES, "versions")
    }
}

fn newer(node: NodeId) -> Config {
    let program = Program {
        read_since: |command| match command {
            Command::Members(MemberChange::Add { .. }) => NEW,
            other => read_since(other),
        },
        ..Program::default()
    };
    Config {
        program,
        ..simulated(node, &NODES, "versions")
    }
}

fn store(cluster: &Cluster, at: usize) -> Store<SimEnv> {
    cluster.members[at].clone().expect("it runs")
}

/// Whether every member says that the cluster works in this version, soon.
async fn works_in(cluster: &Cluster, version: ClusterVersion) -> bool {
    let of_all = || {
        let mut members = cluster.members.iter().flatten();
        members.all(|store| store.status().cluster_version == Some(version))
    };
    until(10 * S, of_all).await
}

/// What this member answers to the wish for a learner.
async fn add(cluster: &Cluster, at: usize) -> Result<Vec<MemberInfo>, Refusal> {
    let store = store(cluster, at);
    on(cluster.nodes[at], async move {
        let urls = vec!["http://n9:2380".to_owned()];
        loop {
            let soon = SimEnv::now() + 10 * S;
            let added = store.member_add(urls.clone(), true, soon).await;
            match added.expect("there is a leader") {
                // One that was just started.
                Err(Refusal::Unhealthy) => SimEnv::sleep(S / 10).await,
                // The version is being raised.
                Err(Refusal::TooOld(too_old)) if too_old.members.is_empty() => {
                    SimEnv::sleep(S / 10).await;
                }
                answer => return answer.map(|(_, members)| members),
            }
        }
    })
    .await
}

/// It ends, and is started again, as the cluster's flags now say.
async fn restart(cluster: &mut Cluster, at: usize) {
    cluster.kill(at);
    cluster.leader().await;
    cluster.boot(at).await;
    // It hears from the leader and is heard.
    sim::sleep(2 * S).await;
    write(cluster.nodes[at], &store(cluster, at), "restarted").await;
}

/// The refusal that names the member.
fn too_old(cluster: &Cluster, at: usize) -> Refusal {
    Refusal::TooOld(TooOld {
        needs: NEW,
        members: vec![OldMember {
            id: store(cluster, at).ids().0,
            name: cluster.nodes[at].to_string(),
            newest: Some(OLD),
        }],
    })
}

#[test]
fn what_an_older_member_cannot_read_is_refused_until_it_is_upgraded() {
    sim::run(1, async {
        let mut cluster = Cluster::new(&NODES, 20 * S, older).await;
        let leader = cluster.leader().await;
        assert!(works_in(&cluster, OLD).await, "all are of the old version");

        // The first one that is upgraded is led by an old one, which it asks for nothing that is new.
        let (first, second) = ((leader + 1) % 3, (leader + 2) % 3);
        cluster.config = Box::new(newer);
        restart(&mut cluster, first).await;
        let led = leads(NODES[leader], &store(&cluster, leader));
        assert!(led, "nobody else has a reason to lead");
        assert_eq!(add(&cluster, first).await, Err(too_old(&cluster, leader)));

        // An old one that follows: the leader says whom it waits for, whoever is asked.
        restart(&mut cluster, second).await;
        cluster.config = Box::new(older);
        let old = leader;
        restart(&mut cluster, old).await;
        let refusal = too_old(&cluster, old);
        for (at, node) in NODES.into_iter().enumerate() {
            assert_eq!(add(&cluster, at).await, Err(refusal.clone()), "{at}");
            write(node, &store(&cluster, at), "meanwhile").await;
        }
        let id = store(&cluster, old).ids().0.0;
        assert_eq!(
            refusal.to_string(),
            format!(
                "etcdserver: every member must be of version 3.7 or newer for this: \
                 upgrade member {id:x} (n{}, works up to 3.6)",
                old + 1
            )
        );
        assert!(works_in(&cluster, OLD).await, "it is not raised yet");

        // The last one.
        cluster.config = Box::new(newer);
        restart(&mut cluster, old).await;
        assert_eq!(add(&cluster, old).await.map(|all| all.len()), Ok(4));
        assert!(works_in(&cluster, NEW).await, "raised for all");
    });
}
