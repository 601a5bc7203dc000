//! Members that are to go, and what the rest of the cluster must do meanwhile and afterwards.

use std::time::Duration;

use barque_store_consensus::Guards;
use barque_store_env::Space;
use barque_store_env::sim::{self, NodeId};
use barque_store_state::MemberChange;
use barque_tests_sim::scene::{LEASE, Scene, never};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// One of two is asked to remove itself, and loses its power as soon as it has answered. Whether the other one is stuck.
async fn one_of_two_removes_itself(guards: Guards, leads: bool) -> bool {
    let mut scene = Scene::with(2, guards, |_| {}).await;
    // The members are told by the first leader, soon after its election.
    sim::sleep(S).await;
    let leader = scene.leader().await;
    let [follower] = scene.others(leader);
    let (leaving, stays) = match leads {
        true => (leader, follower),
        false => (follower, leader),
    };
    let id = scene.id(leaving);
    let removal = MemberChange::Remove { id };
    assert!(scene.change_at(leaving, removal, 5 * S).await, "it may go");
    scene.cut_power(leaving);
    !scene.write(stays, "alone", 5 * S).await
}

/// It answered at once, when Raft still counted it: the other one had no quorum any more, for good.
#[test]
fn a_member_that_has_removed_itself_can_be_taken_away() {
    never(&[], |guards| one_of_two_removes_itself(guards, true));
    never(&[], |guards| one_of_two_removes_itself(guards, false));
}

/// Of three one is lost, and before anybody can be sure of that another one is to go: that must wait for the lost one, unless
/// it is removed as well. `None`: it was found to be lost too soon or too late for the scene; else whether it is stuck.
async fn two_of_three_are_to_go() -> Option<bool> {
    let mut scene = Scene::three(Guards::default()).await;
    sim::sleep(S).await;
    let leader = scene.leader().await;
    let [lost, leaving] = scene.others(leader);
    let (lost_id, id) = (scene.id(lost), scene.id(leaving));
    scene.kill(lost);
    sim::sleep(LEASE + sim::between(Duration::ZERO, 100 * MS)).await;
    let done = scene.change(MemberChange::Remove { id }, S).await;
    let waits = !scene.wanted(leader).contains(&id) && !scene.membership(leader).joint;
    if done || !waits {
        return None;
    }
    let removal = MemberChange::Remove { id: lost_id };
    let freed = scene.change_at(leader, removal, 5 * S).await;
    let end = sim::elapsed() + 5 * S;
    while freed && scene.membership(leader).nodes.len() > 1 && sim::elapsed() < end {
        sim::sleep(10 * MS).await;
    }
    Some(scene.membership(leader).nodes.len() > 1)
}

#[test]
fn a_removal_that_waits_for_a_lost_member_is_freed_by_the_removal_of_that_one() {
    let outcomes = (1..=60).filter_map(|seed| sim::run(seed, two_of_three_are_to_go()));
    let outcomes: Vec<bool> = outcomes.collect();
    assert!(outcomes.len() >= 3, "the scene hardly ever came about");
    assert!(outcomes.iter().all(|stuck| !stuck), "{outcomes:?}");
}

/// A member's removal waits, and it is started again meanwhile. Whether the log grows and grows.
async fn a_leaving_member_starts_again(guards: Guards) -> bool {
    let mut scene = Scene::with(3, guards, |config| config.strict_reconfig = false).await;
    sim::sleep(S).await;
    let leader = scene.leader().await;
    let [down, leaving] = scene.others(leader);
    let id = scene.id(leaving);
    scene.kill(down);
    sim::sleep(2 * LEASE).await;
    assert!(!scene.change(MemberChange::Remove { id }, S).await);
    scene.kill(leaving);
    scene.start(leaving).await.expect("its vote is needed");
    sim::sleep(2 * S).await;
    let before = scene.last_log(leaving);
    sim::sleep(10 * S).await;
    scene.last_log(leaving) > before + 30
}

/// It published itself without pause, for that was answered and ignored.
#[test]
fn a_member_that_is_to_go_does_not_fill_the_log() {
    never(&[], a_leaving_member_starts_again);
}

/// A member's disk is nearly full, which stops growth on all; then it is gone. Whether growth stays stopped.
async fn a_member_with_a_full_disk_is_lost(guards: Guards) -> bool {
    let mut scene = Scene::three(guards).await;
    let leader = scene.leader().await;
    let [lost, other]: [NodeId; 2] = scene.others(leader);
    let low = Space {
        free: 40 << 20,
        total: 1 << 40,
    };
    sim::set_disk_space(lost, Some(low));
    let end = sim::elapsed() + 5 * S;
    while scene.write(other, "more", S).await {
        assert!(sim::elapsed() < end, "growth goes on");
        sim::sleep(50 * MS).await;
    }
    scene.cut_power(lost);
    sim::sleep(10 * S).await;
    !scene.write(other, "and more", S).await
}

/// Its alarm could be cleared by itself only.
#[test]
fn the_alarm_of_a_lost_member_about_its_disk_stops_nobody() {
    never(&[], a_member_with_a_full_disk_is_lost);
}
