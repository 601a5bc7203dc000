//! The guards of membership changes and of handing leadership over (7 and 12), each with its scene as in `guards.rs`.

use std::time::Duration;

use barque_store_consensus::Guards;
use barque_store_env::sim::{self, Link, NodeId};
use barque_store_state::MemberChange;
use barque_tests_sim::scene::{ELECTION, HEARTBEAT, LEASE, Scene, never, shows};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// A fourth member becomes a voter, and the leader dies between the two entries that make it one. Whoever leads next has a
/// membership that is half-way, and no caller who would write the second entry.
async fn a_leader_dies_half_way_through_a_change(guards: Guards) -> bool {
    let mut scene = Scene::three(guards).await;
    // Slow enough that the followers have the first entry long before the leader knows that they have.
    let delay = (10 * MS, 10 * MS);
    sim::set_default_link(Link {
        delay,
        ..Link::default()
    });
    let leader = scene.leader().await;
    let followers: [NodeId; 2] = scene.others(leader);
    let added = scene.add(NodeId(4), false).await;
    let half_way = |scene: &Scene| followers.iter().all(|n| scene.membership(*n).joint);
    let end = sim::elapsed() + 20 * S;
    while !half_way(&scene) {
        assert!(sim::elapsed() < end, "the newcomer never becomes a voter");
        sim::sleep(MS).await;
    }
    scene.kill(leader);
    sim::sleep(4 * ELECTION).await;
    scene.start(leader).await.expect("it starts again");
    sim::sleep(10 * S).await;
    // Nothing about the members can be changed while a change is under way.
    let removal = MemberChange::Remove { id: added };
    !scene.change(removal, 5 * S).await
}

#[test]
fn guard_7_a_change_of_members_that_was_left_half_way_is_ended() {
    shows(&["flatten"], a_leader_dies_half_way_through_a_change);
}

/// A lone member has a learner, which is lost; and before anybody can be sure of that, it is to become a voter.
async fn a_learner_is_lost_and_becomes_a_voter(guards: Guards) -> bool {
    let mut scene = Scene::with(1, guards, |_| {}).await;
    let first = scene.leader().await;
    let second = NodeId(2);
    let id = scene.add(second, true).await;
    assert!(scene.catch_up(second).await, "it learns");
    // It says who it is.
    sim::sleep(S).await;
    sim::partition(first, second);
    // Longer than a lease; in less than an election timeout etcd, too, takes a member for one that is there.
    sim::sleep(LEASE + HEARTBEAT).await;
    let promotion = MemberChange::Promote { id };
    assert!(
        scene.change(promotion, S).await,
        "it was to be carried out later"
    );
    sim::sleep(S).await;
    !scene.write(first, "alone", 2 * S).await
}

#[test]
fn guard_7_a_member_that_has_not_caught_up_does_not_count() {
    shows(&["caught-up"], a_learner_is_lost_and_becomes_a_voter);
}

/// One of three is down, and another one, which is up, is to go (the leader does not ask whether that is wise): with it gone
/// nobody could write until the first is back.
async fn a_removal_takes_the_majority_away(guards: Guards) -> bool {
    let mut scene = Scene::with(3, guards, |config| config.strict_reconfig = false).await;
    let leader = scene.leader().await;
    let [down, leaving] = scene.others(leader);
    let id = scene.id(leaving);
    // The members are told by the first leader, soon after its election.
    sim::sleep(S).await;
    scene.kill(down);
    sim::sleep(2 * LEASE).await;
    let done = scene.change(MemberChange::Remove { id }, S).await;
    assert!(!done, "whoever asked may take the machine away");
    let wanted = scene.wanted(leader);
    assert!(!wanted.contains(&id), "it is to be carried out later");
    let served = scene.write(leader, "meanwhile", 2 * S).await;
    // And once it can be done, it is.
    scene.start(down).await.expect("it starts again");
    let end = sim::elapsed() + 10 * S;
    while served && scene.membership(leader).nodes.contains_key(&id) {
        assert!(sim::elapsed() < end, "it is never removed");
        sim::sleep(10 * MS).await;
    }
    !served
}

#[test]
fn guard_12_a_removal_waits_until_the_rest_is_a_majority() {
    shows(&["live-majority"], a_removal_takes_the_majority_away);
}

/// Leadership is to go to a member that is down.
async fn leadership_is_given_to_nobody(guards: Guards) -> bool {
    let mut scene = Scene::three(guards).await;
    let leader = scene.leader().await;
    let [down, _] = scene.others(leader);
    let id = scene.id(down);
    scene.kill(down);
    sim::sleep(2 * HEARTBEAT).await;
    let given = scene.hand_over(leader, id, HEARTBEAT).await;
    assert!(given.is_err(), "nobody is there to take it");
    !scene.write(leader, "afterwards", 2 * HEARTBEAT).await
}

#[test]
fn guard_12_leadership_is_given_only_to_one_that_is_there() {
    shows(&["heard-successor"], leadership_is_given_to_nobody);
}

/// The other one of two voters dies just when leadership was given to it. openraft does not resume what it gave away.
async fn a_successor_dies_as_it_takes_over(guards: Guards) -> bool {
    let mut scene = Scene::with(2, guards, |_| {}).await;
    let leader = scene.leader().await;
    let [other] = scene.others(leader);
    let to = scene.id(other);
    let writes: Vec<_> = (0..8).map(|n| scene.begin_write(leader, n)).collect();
    let killed_after = sim::between(Duration::ZERO, 4 * MS);
    // Nothing is awaited here but the time: the hand-over goes on by itself.
    let _ = scene.hand_over(leader, to, killed_after).await;
    scene.cut_power(other);
    sim::sleep(2 * S).await;
    scene.start(other).await.expect("it starts again");
    drop(writes);
    !scene.write_somewhere("afterwards").await
}

#[test]
fn a_hand_over_that_was_not_finished_does_not_end_the_cluster() {
    never(&[], a_successor_dies_as_it_takes_over);
}
